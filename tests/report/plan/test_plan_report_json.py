"""The savings report of a plan for scripts.

Guards report/plan/json_form.py.
"""

import json
import os
import re
from pathlib import Path

from hypothesis import given, settings
from plans import guest_plan, plans, refused_guest, savings, small_plan

from batchdiff.plan.document import to_dict
from batchdiff.report.facts import PlanFacts
from batchdiff.report.plan import json_form as form

DOCS = Path(__file__).parents[3] / "docs/plan-format.md"


def plan_json(plan, **facts):
    return form.plan_json(PlanFacts(plan, **facts))


def report_of(plan, **options):
    return json.loads(plan_json(plan, **options))


def test_every_number_of_the_plan_is_there():
    plan = small_plan(guest_plan(savings=savings(1000, 250, 3)), refused_guest("old", "it is in use"))
    report, document = report_of(plan, stale=["x changed"]), to_dict(plan)
    same = ("generator", "created", "manifest", "template", "retire", "protect_template")
    assert {key: report[key] for key in same} == {key: document[key] for key in same}
    assert report["stale"] == ["x changed"]
    added = {"overlay_error_bytes": 3, "saved_share": 0.75, "converted": 0, "shared": 0, "came_back_bytes": 0}
    added["came_back_exactness"] = "exact"
    better = {"better_cluster_size": None, "better_overlay_disk_bytes_at_most": None}
    assert report["totals"] == document["totals"] | added | better
    found, written = report["guests"][0], document["guests"][0]
    assert found["savings"] == written["savings"]
    assert found["overlay"] == written["overlay"]
    assert (found["data_bytes"], found["zero_bytes"]) == (4 * 65536, 2 * 65536)
    assert (found["verdict"], found["virtual_size"], found["saved_share"]) == ("convert", 8 << 20, 0.75)


def test_what_does_not_exist_is_null():
    found = report_of(small_plan(refused_guest("old", "it is in use")))["guests"][0]
    assert (found["verdict"], found["reason"]) == ("refuse", "it is in use")
    nothing = ("virtual_size", "data_bytes", "zero_bytes", "savings", "saved_share")
    assert [found[key] for key in nothing] == [None] * 5


def test_the_extents_are_left_out():
    assert "extents" not in plan_json(small_plan())


def test_keys_stand_in_the_same_order_for_every_guest():
    first, second = report_of(small_plan(guest_plan(), refused_guest()))["guests"]
    assert list(first) == list(second)


def test_a_path_comes_back_byte_for_byte():
    name = os.fsdecode(b"/srv/\x1b\xe9.img")
    assert plan_json(small_plan(guest_plan(path=name))).isascii()
    assert report_of(small_plan(guest_plan(path=name)))["guests"][0]["path"] == name


@settings(max_examples=50)
@given(plans())
def test_any_plan_has_a_report(plan):
    text = plan_json(plan)
    assert text.endswith("}\n")
    assert len(json.loads(text)["guests"]) == len(plan.guests)


def test_every_key_is_documented():
    text = DOCS.read_text().split("## Fields", 1)[1]
    report = report_of(small_plan())
    for key in {*report, *report["guests"][0], *report["totals"]}:
        assert re.search(rf"[`.]{key}[`.]", text), f"docs/plan-format.md does not explain {key}"
