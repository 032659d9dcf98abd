"""What to look at first in a plan: guests of another template, and poor cluster sizes.

Guards report/plan/outliers.py, report/plan/remarks.py.
"""

import json

import pytest
from plans import guest_plan, savings, small_plan

from batchdiff.choices import Verdict
from batchdiff.plan.overlay_options import Compression, OverlayOptions, Preallocation
from batchdiff.plan.plan import Similarity, why_unlike
from batchdiff.report.facts import PlanFacts
from batchdiff.report.plan.html_form import plan_html
from batchdiff.report.plan.json_form import plan_json
from batchdiff.report.plan.outliers import cluster_advice
from batchdiff.report.plan.remarks import of_another_template
from batchdiff.report.plan.text import plan_text
from batchdiff.units import GIB, MIB

COPIES = [guest_plan(f"web{number}", similarity=Similarity(97, 100)) for number in range(3)]


def others(*shares):
    return [
        guest_plan(f"other{number}", similarity=Similarity(part, 10_000)) for number, part in enumerate(shares)
    ]


def test_a_copy_of_another_template_is_warned_of_with_its_share():
    (text,) = of_another_template(PlanFacts(small_plan(*COPIES, *others(31))))
    assert text == (
        "other0: it has next to nothing in common with the template, which has 0.31% of the guest's data. It was"
        " probably copied from another template."
    )


def test_many_of_them_are_one_warning():
    (text,) = of_another_template(PlanFacts(small_plan(*COPIES, *others(31, 0, 4, 5))))
    assert text == (
        "other0, other1 and 2 more: they have next to nothing in common with the template, which has 0.00% to"
        " 0.31% of their data. These 4 guests were probably copied from another template."
    )


def test_a_skipped_guest_is_warned_of_unless_its_own_reason_has_it():
    """``minimum_savings`` decides what to convert, not which template a guest was copied from."""
    skipped = {"similarity": Similarity(31, 10_000), "verdict": Verdict.SKIP}
    small = guest_plan("small", reason="it would save 0.4%, which is below the minimum of 10.0%", **skipped)
    (text,) = of_another_template(PlanFacts(small_plan(*COPIES, small)))
    assert text.startswith("small: it has next to nothing in common")
    unlike = guest_plan("unlike", reason=why_unlike(Similarity(31, 10_000)), **skipped)
    assert list(of_another_template(PlanFacts(small_plan(*COPIES, unlike)))) == []


@pytest.mark.parametrize("similarity", [None, Similarity(97, 100), Similarity(0, 0)])
def test_copies_are_not_warned_of(similarity):
    assert list(of_another_template(PlanFacts(small_plan(guest_plan(similarity=similarity))))) == []


def test_the_warning_stands_above_the_table_in_every_form():
    facts = PlanFacts(small_plan(*COPIES, *others(31)))
    text, page = plan_text(facts), plan_html(facts)
    assert 0 < text.index("warning other0: it has next to nothing") < text.index("guest ")
    assert 0 < page.index("other0: it has next to nothing") < page.index('id="table"')
    assert "it has 97.0% of the guest&#39;s data" in page
    guests = json.loads(plan_json(facts))["guests"]
    assert [(guest["looks_copied"], guest["similar_share"]) for guest in guests] == [(True, 0.97)] * 3 + [
        (False, 0.0031)
    ]


def guest_with_sizes(name, planned, **sizes):
    by_size = tuple((int(size[1:]), length) for size, length in sizes.items())
    return guest_plan(
        name, savings=savings(GIB, planned, overlay_disk_bytes=planned, overlay_bytes_by_cluster_size=by_size)
    )


def test_a_cluster_size_that_saves_more_than_a_tenth():
    guests = [guest_with_sizes(name, 100 * MIB, c4096=60 * MIB, c8192=62 * MIB, c65536=100 * MIB) for name in "ab"]
    found = cluster_advice(guests)
    assert (found.cluster_size, found.at_most, found.planned) == (4096, 120 * MIB, 200 * MIB)
    assert (
        "note With `cluster_size: 4KiB`, the overlays would take at most 120 MiB on disk instead of 200 MiB: at"
        " least 80 MiB less."
    ) in " ".join(plan_text(PlanFacts(small_plan(*guests))).split())
    totals = json.loads(plan_json(PlanFacts(small_plan(*guests))))["totals"]
    assert (totals["better_cluster_size"], totals["better_overlay_disk_bytes_at_most"]) == (4096, 120 * MIB)


PACKED = guest_plan("b", options=OverlayOptions(compression=Compression.ZSTD), savings=savings(GIB, MIB))


@pytest.mark.parametrize(("others", "of"), [((), ""), ((PACKED,), " of a")])
def test_a_cluster_size_for_one_guest(others, of):
    guest = guest_with_sizes("a", 100 * MIB, c4096=60 * MIB, c65536=100 * MIB)
    said = " ".join(plan_text(PlanFacts(small_plan(guest, *others))).split())
    assert f"`cluster_size: 4KiB`, the overlay{of} would take at most 60 MiB on disk instead of 100 MiB" in said


def test_no_more_than_a_tenth_is_no_remark():
    assert cluster_advice([guest_with_sizes("a", 100 * MIB, c4096=90 * MIB, c65536=100 * MIB)]) is None
    assert cluster_advice([]) is None


def test_holes_count():
    """The file is long, but takes little: shorter files would not save what their lengths suggest."""
    holey = savings(GIB, 100 * MIB, overlay_disk_bytes=62 * MIB)
    sizes = ((4096, 60 * MIB), (65536, 100 * MIB))
    guest = guest_plan(savings=savings(GIB, 100 * MIB, overlay_bytes_by_cluster_size=sizes))
    assert cluster_advice([guest]) is not None
    guest = guest_plan(
        savings=savings(
            GIB, 100 * MIB, overlay_disk_bytes=holey.overlay_disk_bytes, overlay_bytes_by_cluster_size=sizes
        )
    )
    assert cluster_advice([guest]) is None


@pytest.mark.parametrize(
    "options",
    [OverlayOptions(compression=Compression.ZSTD), OverlayOptions(preallocation=Preallocation.FULL)],
)
def test_overlays_whose_other_sizes_are_not_known_are_left_out(options):
    sizes = ((4096, MIB), (65536, 100 * MIB))
    guest = guest_plan(options=options, savings=savings(GIB, 100 * MIB, overlay_bytes_by_cluster_size=sizes))
    assert cluster_advice([guest]) is None
