"""What sharing in place and overlays save, side by side, and a report of the guests of one strategy."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math

import pytest
from plans import guest_plan, savings, shared_guest, small_plan, untouched

from batchdiff.applying.journal.records import Fate
from batchdiff.applying.results.conversion import Conversion, FreedSpace
from batchdiff.choices import Verdict
from batchdiff.image.storage.exactness import Exactness
from batchdiff.report.facts import PlanFacts
from batchdiff.report.plan.csv_form import plan_csv
from batchdiff.report.plan.json_form import plan_json
from batchdiff.report.plan.markdown_form import plan_markdown
from batchdiff.report.plan.strategies import strategy_rows
from batchdiff.report.plan.text import plan_text
from batchdiff.units import GIB, MIB


def test_the_total_is_as_exact_as_the_rows():
    one, other = shared_guest("one"), shared_guest("other")
    nothing = dataclasses.replace(other.sharing, saved_bytes=0, exactness=Exactness.AT_LEAST)
    rows = strategy_rows(PlanFacts(small_plan(one, other)))
    assert [row[2] for row in rows] == ["1 GiB", "1 GiB", "2 GiB"]
    rows = strategy_rows(PlanFacts(small_plan(one, dataclasses.replace(other, sharing=nothing))))
    assert [row[2] for row in rows] == ["1 GiB", "at least 0 B", "at least 1 GiB"]


def test_the_total_of_a_strategy_leaves_out_guests_that_it_would_skip():
    sharing = dataclasses.replace(shared_guest().sharing, saved_bytes=MIB)
    worth = guest_plan("worth", savings=savings(32 * MIB, 2 * MIB), sharing=sharing)
    costly = guest_plan("costly", savings=savings(MIB, 3 * MIB), sharing=sharing)
    skipped = untouched(costly, Verdict.SKIP, "its overlay would not be smaller than the guest is now")
    shared = shared_guest("shared", savings=savings(MIB, 2 * MIB), sharing=sharing)

    def compared(*guests):
        return [row[1:] for row in strategy_rows(PlanFacts(small_plan(*guests)))]

    assert compared(worth, skipped, shared) == [
        ("30 MiB", "1 MiB", "overlay"),
        ("-2 MiB", "1 MiB", "overlay (skip)"),
        ("-1 MiB", "1 MiB", "share"),
        ("30 MiB", "3 MiB", ""),
    ]
    assert compared(skipped, skipped)[-1] == ("0 B", "2 MiB", "")
    assert compared(costly, costly)[-1] == ("-4 MiB", "2 MiB", ""), "with `minimum_savings: none`"


@pytest.mark.parametrize(("minimum", "total"), [(0.0, "3 MiB"), (0.1, "0 B"), (-math.inf, "2 MiB")])
def test_the_total_of_a_strategy_heeds_the_minimum_savings_of_the_manifest(minimum, total):
    guests = [
        shared_guest(name, savings=savings(100 * MIB, overlay * MIB)) for name, overlay in (("a", 97), ("b", 101))
    ]
    plan = dataclasses.replace(small_plan(*guests), minimum_savings=minimum)
    assert strategy_rows(PlanFacts(plan))[-1][1] == total


@pytest.mark.parametrize(("minimum", "total"), [(0.0, "1 MiB"), (0.1, "0 B"), (-math.inf, "1 MiB")])
def test_the_total_of_sharing_leaves_out_what_cannot_be_shared(minimum, total):
    little = dataclasses.replace(shared_guest().sharing, allocated_bytes=100 * MIB, saved_bytes=MIB)
    nothing = dataclasses.replace(little, shareable_bytes=0, saved_bytes=0, exactness=Exactness.UNKNOWN)
    guests = [guest_plan("a", sharing=little), guest_plan("b", sharing=nothing)]
    plan = dataclasses.replace(small_plan(*guests), minimum_savings=minimum)
    assert strategy_rows(PlanFacts(plan))[-1][2] == total


@pytest.mark.parametrize(
    ("exactness", "back"),
    [
        (Exactness.EXACT, "3 GiB"),
        (Exactness.AT_MOST, "at most 3 GiB"),
        (Exactness.UNKNOWN, "an unknown amount of space"),
    ],
)
def test_the_space_that_came_back_is_as_exact_as_each_guest(exactness, back):
    freed = {"one": FreedSpace(GIB), "other": FreedSpace(2 * GIB, exactness)}
    facts = PlanFacts(small_plan(shared_guest("one"), shared_guest("other")), shared=freed)
    assert f"in place with the template: {back} came back (2 GiB predicted)." in " ".join(plan_text(facts).split())
    assert f"- came back: **{back.replace('an unknown amount of space', 'unknown')}**" in plan_markdown(facts)
    report = json.loads(plan_json(facts))
    assert [each["sharing"]["came_back_exactness"] for each in report["guests"]] == ["exact", exactness]
    totals = report["totals"]
    assert (totals["came_back_bytes"], totals["came_back_exactness"]) == (3 * GIB, exactness)
    rows = csv.DictReader(io.StringIO(plan_csv(facts)))
    assert [row["came_back_exactness"] for row in rows] == ["exact", exactness]


def test_originals_that_are_gone_and_shared_blocks_add_up():
    bounded = savings(2 * GIB, 256 * MIB, exactness=Exactness.AT_MOST)
    guests = guest_plan("gone", savings=bounded), guest_plan("kept", savings=bounded), shared_guest("shared")
    done = {
        "gone": Conversion(Fate.DELETED, MIB, MIB, used=False, came_back_bytes=GIB),
        "kept": Conversion(Fate.KEPT, MIB, MIB, used=False, came_back_bytes=0),
    }
    facts = PlanFacts(small_plan(*guests), conversions=done, shared={"shared": FreedSpace(GIB)})
    found = [(each.size, each.exactness.value) for each in map(facts.freed.get, ("gone", "kept", "shared"))]
    assert found == [(GIB, "at_most"), (0, "exact"), (GIB, "exact")]
    assert "- came back: **at most 2 GiB**" in plan_markdown(facts)
    said = " ".join(plan_text(facts).split())
    assert "At most 1 GiB has come back so far, net of the overlays." in said, "apart from sharing"
    assert "in place with the template: 1 GiB came back (1 GiB predicted)." in said


def test_data_that_cannot_be_shared_is_in_the_guest_or_in_one_of_several():
    sharing = dataclasses.replace(shared_guest().sharing, left_out_bytes=MIB)
    one, other = shared_guest("one", sharing=sharing), shared_guest("other", sharing=sharing)
    alone = " ".join(plan_text(PlanFacts(small_plan(one))).split())
    assert (
        "but cannot be shared: in the guest or in the template, that data is compressed or encrypted, at unaligned"
        " offsets, or in a file on a different filesystem."
    ) in alone
    both = " ".join(plan_text(PlanFacts(small_plan(one, other))).split())
    assert "Another 2 MiB is equal to the template's data but cannot be shared: in a guest or in the" in both


def test_only_the_guests_that_share_blocks_are_said_not_to_depend_on_the_template():
    one, other = shared_guest("one"), shared_guest("other")
    alone = " ".join(plan_text(PlanFacts(small_plan(one, guest_plan("converted")))).split())
    assert (
        "Its file, format and definition stay as they are, and the guest will not depend on the template." in alone
    )
    both = " ".join(plan_text(PlanFacts(small_plan(one, other))).split())
    assert (
        "Their files, formats and definitions stay as they are, and these guests will not depend on the template."
        in both
    )


def test_without_an_overlay_in_view_nothing_is_said_of_overlays():
    # Smaller clusters would do, the overlay has holes, and some of the guest is shared.
    planned = savings(
        2 * GIB, 256 * MIB, overlay_disk_bytes=200 * MIB, saved_bytes=GIB, exactness=Exactness.AT_LEAST,
        note="why not", overlay_bytes_by_cluster_size=((4096, 64 * MIB), (65536, 256 * MIB)),
    )  # fmt: skip
    converted, shared = guest_plan("one", savings=planned), shared_guest("other")
    plan = small_plan(converted, shared)
    notes = (
        "`cluster_size: 4KiB`",
        '"saved" is based on the disk space',
        "does not count space",
        'one: "saved"',
    )
    everything = " ".join(plan_text(PlanFacts(plan), 100).split())
    assert [note for note in notes if note not in everything] == []
    only_shared = " ".join(plan_text(PlanFacts(plan, selection=[shared]), 100).split())
    assert [note for note in notes if note in only_shared] == []
