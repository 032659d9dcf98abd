"""The functions that make a report, by form."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from batchdiff.report.facts import PlanFacts
from batchdiff.report.form import Form
from batchdiff.report.plan.csv_form import plan_csv
from batchdiff.report.plan.json_form import plan_json
from batchdiff.report.plan.markdown_form import plan_markdown
from batchdiff.report.plan.text import plan_text

PlanForm = Callable[[PlanFacts, int | None], str]
"""A function that makes a report, with a newline at the end.

The number is the terminal's width in cells; None if there is no terminal."""


def _html(facts: PlanFacts, _width: int | None) -> str:
    from batchdiff.report.plan.html_form import plan_html  # noqa: PLC0415  # loads Jinja2 and numpy, which is slow

    return plan_html(facts)


PLAN_FORMS: Mapping[Form, PlanForm] = {
    Form.TEXT: plan_text,
    Form.JSON: lambda facts, _width: plan_json(facts),
    Form.HTML: _html,
    Form.MARKDOWN: lambda facts, _width: plan_markdown(facts),
    Form.CSV: lambda facts, _width: plan_csv(facts),
}
