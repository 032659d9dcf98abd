"""Which plan has put an original into quarantine. Guards plan/earlier_plans.py."""

import json

import pytest

from batchdiff.plan.earlier_plans import EarlierPlans

ASIDE = "/images/web01.img.batchdiff-original"


def write_journal(path, *records):
    lines = [json.dumps({"time": "2026-11-29T10:00:00.000Z", "step": "begin", "plan": "sha256:0"})]
    path.write_text(
        "\n".join([*lines, *(each if isinstance(each, str) else json.dumps(each) for each in records)])
    )


def step(guest, minute, step="retired", **fields):
    return {"time": f"2026-11-29T10:{minute:02}:00.000Z", "guest": guest, "step": step, "goal": "apply", **fields}


def way(*folders, **options):
    return EarlierPlans(map(str, folders), **options).way_out_of_quarantine(ASIDE)


def test_a_name_that_begins_with_a_hyphen(tmp_path):
    write_journal(tmp_path / "m.plan.json.journal", step("-web", 1, aside=ASIDE))
    assert f"`batchdiff purge {tmp_path}/m.plan.json --guest=-web --used`" in way(tmp_path)


def test_the_plan_is_found_by_its_journal(tmp_path):
    write_journal(tmp_path / "fleet.plan.json.journal", step("web01", 1, "checked"), step("web01", 2, aside=ASIDE))
    assert way(tmp_path) == f"delete it with `batchdiff purge {tmp_path}/fleet.plan.json --guest web01 --used`"
    kept = {f"{tmp_path}/fleet.plan.json": "/kept it/old.json"}
    assert (
        way(tmp_path, renamed=kept) == "delete it with `batchdiff purge '/kept it/old.json' --guest web01 --used`"
    )


def test_of_several_plans_the_last_one_counts(tmp_path):
    write_journal(tmp_path / "a.json.journal", step("old", 5, aside=ASIDE))
    write_journal(tmp_path / "b.json.journal", step("new", 9, aside=ASIDE))
    write_journal(tmp_path / "c.json.journal", step("gone", 10, aside=ASIDE), step("gone", 11, "purged"))
    assert f"{tmp_path}/b.json --guest new" in way(tmp_path)


def test_a_failure_moves_no_original(tmp_path):
    """Its line has no place of the original, which is still where it was."""
    failed = {"time": "2026-11-29T11:00:00.000Z", "guest": "web01", "step": "failed", "reason": "no space"}
    write_journal(tmp_path / "a.json.journal", step("web01", 5, aside=ASIDE), failed)
    assert f"{tmp_path}/a.json --guest web01" in way(tmp_path)


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '["goal"]', '"goal"', "null", '{"goal": "apply"}', '{"goal": 1, "guest": [], "time": {}}', "\0"],
)
def test_a_damaged_journal_hides_no_other_one(tmp_path, line):
    write_journal(tmp_path / "a.json.journal", step("web01", 5, aside=ASIDE), line, step("web01", 6))
    (tmp_path / "b.json.journal").mkdir()
    write_journal(tmp_path / "c.json.journal", step("db", 7, aside=ASIDE))
    assert "c.json --guest db" in way(tmp_path)


def test_a_folder_without_such_a_plan_is_named(tmp_path):
    assert way(tmp_path, tmp_path / "gone") == (
        f"find out which plan put it there (no journal in {tmp_path} or {tmp_path}/gone names it), and purge it"
        " with that plan"
    )


def test_where_no_folder_was_searched_none_is_named():
    assert way() == "find out which plan put it there, and purge it with that plan"
