"""The table of a plan: totals add up with the rows above them, and outliers come first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import guest_plan, refused_guest, savings, small_plan

from batchdiff.applying.journal.records import Fate
from batchdiff.applying.results.conversion import Conversion
from batchdiff.choices import Verdict
from batchdiff.plan.plan import Similarity
from batchdiff.report.facts import PlanFacts
from batchdiff.report.figures import rounded
from batchdiff.report.plan.rows import guest_cells, is_rounded, other_rows, rows, total_cells
from batchdiff.report.plan.text import plan_text
from batchdiff.units import GIB, MIB, SUFFIXES

NOTE = "so the last digits may not add up"


def shown(cell):
    """The bytes that a cell stands for, and half of its last digit: by how much it may have been rounded."""
    number, unit = cell.split()
    scale = 1024 ** SUFFIXES.index(unit)
    return float(number) * scale, 0.05 * scale + 1


@given(st.lists(st.tuples(st.integers(0, 1 << 45), st.integers(0, 1 << 45)), min_size=2, max_size=8))
def test_totals_are_the_sums_of_what_stands_above_them(sizes):
    guests = [guest_plan(str(number), savings=savings(*pair)) for number, pair in enumerate(sizes)]
    skipped = guest_plan("skipped", verdict=Verdict.SKIP, reason="!", savings=savings(1 << 44, 1 << 43))
    facts = PlanFacts(small_plan(*guests, skipped, refused_guest()))
    above = [guest_cells(facts, guest) for guest in rows(facts)]
    for column in (1, 2, 3):
        parts = [shown(row[column]) for row in above]
        total, tolerance = shown(total_cells(facts)[column])
        assert abs(sum(value for value, _ in parts) - total) <= tolerance + sum(error for _, error in parts)
        exactly = rounded(round(sum(value for value, _ in parts))) == total
        assert exactly or NOTE in " ".join(plan_text(facts).split())


def test_rows_that_add_up_need_no_note():
    facts = PlanFacts(
        small_plan(guest_plan("a", savings=savings(GIB, GIB)), guest_plan("b", savings=savings(GIB, 0)))
    )
    assert not is_rounded(facts)
    assert NOTE not in plan_text(facts)


def test_rows_that_do_not_add_up_have_one():
    guests = [guest_plan(name, savings=savings(GIB + 45 * MIB, 0)) for name in "abc"]  # 1.04 GiB each
    assert is_rounded(PlanFacts(small_plan(*guests)))


@given(st.integers(-(1 << 60), 1 << 60))
def test_rounded_is_what_is_shown(count):
    assert rounded(round(rounded(count))) == rounded(count)
    assert abs(rounded(count) - count) <= max(abs(count) / 20, 0)


def test_only_guests_to_convert_stand_above_the_totals():
    web = guest_plan("web01")
    skipped = guest_plan("skipped", verdict=Verdict.SKIP, reason="!", savings=savings())
    done = refused_guest("done", verdict=Verdict.SKIP)
    facts = PlanFacts(small_plan(done, skipped, refused_guest("old"), web))
    assert [guest.name for guest in rows(facts)] == ["web01"]
    assert [guest.name for guest in other_rows(facts)] == ["old", "skipped"]
    lines = plan_text(facts).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("guest "))
    assert [line.split()[:1] for line in lines[start : start + 6]] == [
        ["guest"], ["web01"], ["total"], [], ["old"], ["skipped"],
    ]  # fmt: skip


def test_outliers_stand_first():
    usual = [guest_plan(name, similarity=Similarity(90, 100)) for name in "ab"]
    other = guest_plan("z", similarity=Similarity(0, 100))
    facts = PlanFacts(small_plan(*usual, other))
    assert [guest.name for guest in rows(facts)] == ["z", "a", "b"]


@pytest.mark.parametrize(("fate", "word"), [(Fate.DELETED, "deleted"), (None, "planned")])
def test_after_an_apply_predicted_and_actual_stand_side_by_side(fate, word):
    one, two = (guest_plan(name, savings=savings(2 * GIB, 100 * MIB)) for name in ("one", "two"))
    done = {"one": Conversion(Fate.KEPT, 101 * MIB, 90 * MIB, used=False, came_back_bytes=0)}
    if fate is not None:
        done["two"] = Conversion(fate, 99 * MIB, 90 * MIB, used=False, came_back_bytes=2 * GIB)
    facts = PlanFacts(small_plan(one, two), conversions=done)
    assert guest_cells(facts, one)[1:4] == ("2 GiB", "100 MiB", "101 MiB")
    assert guest_cells(facts, one)[6] == "kept"
    assert guest_cells(facts, two)[6] == word
    assert total_cells(facts)[2:4] == ("200 MiB", "200 MiB" if fate else "101 MiB")
    assert "predicted   actual" in plan_text(facts)
