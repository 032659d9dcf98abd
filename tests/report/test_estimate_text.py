"""An estimate as text, from figures made up. Guards report/estimate/text.py."""

from __future__ import annotations

from plans import guest_plan, planned_image, refused_guest, shared_guest

from batchdiff.choices import Verdict
from batchdiff.estimation.estimate import Estimate, GuestEstimate, totals_of_estimates
from batchdiff.report.estimate.text import estimate_text
from batchdiff.sampling.interval import Interval, exactly
from batchdiff.units import GIB, MIB


def text_of(*guests: GuestEstimate) -> str:
    template = planned_image("/srv/t.img").source
    estimate = Estimate(
        "batchdiff",
        "2026",
        "/srv/fleet.yaml",
        "",
        template,
        GIB,
        guests,
        totals_of_estimates(guests),
        0.02,
        1,
        GIB,
        1.0,
    )
    return estimate_text(estimate, 100)


def skipped(name: str, saved: Interval, reason: str = "sharing would free nothing: why") -> GuestEstimate:
    plan = guest_plan(name, verdict=Verdict.SKIP, reason=reason, sharing=shared_guest().sharing)
    return GuestEstimate(plan, None, saved, threshold=2 * MIB)


def test_a_guest_to_share_is_listed_once_and_above_the_total():
    said = text_of(GuestEstimate(shared_guest("a"), None, exactly(GIB)), skipped("b", exactly(0)))
    lines = [line.split()[0] for line in said.splitlines() if line and line.split()[0] in {"a", "b", "total"}]
    assert lines == ["a", "total", "b"]


def test_guests_that_are_refused_for_one_reason_are_each_named_in_one_line():
    """The table does not have them."""
    said = text_of(*(GuestEstimate(refused_guest(name), None, None) for name in ("aa", "bb", "cc", "dd")))
    assert "refused   aa, bb, cc, dd: each is in use\n" in said
    assert said.count("in use") == 1


def test_the_interval_is_written_as_all_percentages_are():
    assert "saved, 95% interval\n" in text_of(GuestEstimate(shared_guest("a"), None, exactly(GIB)))


def test_an_undecided_guest_is_not_called_skipped():
    perhaps = Interval(MIB, 0, 4 * MIB)
    said = text_of(skipped("a", perhaps), skipped("b", perhaps), skipped("c", exactly(0)))
    assert "skipped   c: sharing would free nothing: why\n" in said
    assert "undecided a and b: the sample does not show whether a plan would work on them or skip them" in said
    assert "would work on it or skip it" in text_of(skipped("a", perhaps))
