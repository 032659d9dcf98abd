"""The shipped schemas of reports and events are those that their types give, and they hold for real ones."""

import jsonschema
import pytest
import report_schemas
from plans import small_plan

from batchdiff.applying.results.finding import Finding, Health
from batchdiff.plan.json_schema import schema_of
from batchdiff.report.events import finding_event
from batchdiff.report.facts import PlanFacts
from batchdiff.report.plan.json_form import plan_report

TIME = "2026-01-02T03:04:05.678901Z"


def test_the_shipped_schemas_are_up_to_date():
    for file, text in report_schemas.TEXTS_OF_FILES.items():
        assert file.read_text() == text, "run `python tools/report_schemas.py`"


@pytest.mark.parametrize("name", ["manifest", "plan", "report", "events"])
def test_they_are_schemas(name):
    jsonschema.Draft202012Validator.check_schema(schema_of(name))


def test_a_report_has_no_field_that_the_schema_lacks():
    plan = small_plan()
    report = plan_report(PlanFacts(plan, older=plan))
    jsonschema.Draft202012Validator(schema_of("report")).validate(report)
    schema = schema_of("report")
    assert set(report) == set(schema["properties"])
    for guest in report["guests"]:
        assert set(guest) == set(schema["$defs"]["report_guest"]["properties"])
    assert set(report["against"]) == set(schema["properties"]["against"]["properties"])


def test_a_wrong_event_is_refused():
    validator = jsonschema.Draft202012Validator(schema_of("events"))
    event = {"event": "finding", "time": TIME} | finding_event(Finding("a", "/a", Health.SOUND, ""))
    assert validator.is_valid(event)
    assert validator.is_valid(event | {"of a later version": 1})
    for wrong in (
        event | {"event": "found"},
        event | {"health": "well"},
        event | {"time": "2026-01-02 03:04"},
        {name: value for name, value in event.items() if name != "why"},
    ):
        assert not validator.is_valid(wrong)
