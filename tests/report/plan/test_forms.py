"""report/plan/forms.py: every form that `show --format` offers has a function, and all are of the same facts."""

import json

import pytest
from plans import guest_plan, refused_guest, small_plan

from batchdiff.report.facts import PlanFacts
from batchdiff.report.form import WIDTH, Form
from batchdiff.report.plan.forms import PLAN_FORMS


@pytest.mark.parametrize("form", Form)
def test_every_form_has_guests_and_staleness(form):
    facts = PlanFacts(small_plan(guest_plan("web01"), refused_guest("old")), stale=["/srv/x.img: it is gone"])
    report = PLAN_FORMS[form](facts, WIDTH)
    assert all(text in report for text in ("web01", "old"))
    # CSV has a line for each guest, and no place for warnings.
    assert ("/srv/x.img: it is gone" in report) == (form is not Form.CSV)
    assert report.endswith("\n")


def test_no_form_is_left_over():
    assert set(PLAN_FORMS) == set(Form)


def test_json_has_no_width():
    facts = PlanFacts(small_plan(guest_plan()))
    assert json.loads(PLAN_FORMS[Form.JSON](facts, 1)) == json.loads(PLAN_FORMS[Form.JSON](facts, WIDTH))
