"""What sharing in place and overlays save, side by side, and a report of the guests of one strategy."""

from __future__ import annotations

import dataclasses

from plans import guest_plan, savings, shared_guest, small_plan

from batchdiff.image.storage.exactness import Exactness
from batchdiff.report.facts import PlanFacts
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
        '"saved" counts what the overlay takes',
        "does not count space",
        'one: "saved"',
    )
    everything = " ".join(plan_text(PlanFacts(plan), 100).split())
    assert [note for note in notes if note not in everything] == []
    only_shared = " ".join(plan_text(PlanFacts(plan, selection=[shared]), 100).split())
    assert [note for note in notes if note in only_shared] == []
