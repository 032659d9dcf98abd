"""An estimate as text, from figures made up. Guards report/estimate/text.py."""

from __future__ import annotations

import dataclasses
import re

import pytest
from plans import guest_plan, planned_image, refused_guest, shared_guest

from batchdiff.choices import Verdict
from batchdiff.estimation.estimate import Estimate, GuestEstimate, totals_of_estimates
from batchdiff.image.storage.exactness import Exactness
from batchdiff.report.estimate.json_form import estimate_report
from batchdiff.report.estimate.text import estimate_text
from batchdiff.sampling.interval import Interval, exactly
from batchdiff.units import GIB, MIB


def estimate_of(*guests: GuestEstimate) -> Estimate:
    template = planned_image("/srv/t.img").source
    return Estimate(
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


def text_of(*guests: GuestEstimate) -> str:
    return estimate_text(estimate_of(*guests), 100)


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


def test_one_guest_has_no_total():
    about = Interval(GIB, GIB - MIB, GIB + MIB)
    guests = [GuestEstimate(shared_guest(name), None, about, read_bytes=MIB) for name in "ab"]
    assert "That interval extends" in " ".join(text_of(guests[0]).split())
    assert "The total's interval extends" in " ".join(text_of(*guests).split())


def test_an_undecided_guest_is_not_called_skipped():
    perhaps = Interval(MIB, 0, 4 * MIB)
    said = text_of(skipped("a", perhaps), skipped("b", perhaps), skipped("c", exactly(0)))
    assert "skipped   c: sharing would free nothing: why\n" in said
    assert "undecided a and b: the sample does not show whether a plan would work on them or skip them" in said
    assert "would work on it or skip it" in text_of(skipped("a", perhaps))


@pytest.mark.parametrize(
    ("exactness", "expected"),
    [
        (Exactness.EXACT, ["1 GiB", "50.0%", "exact"]),
        (Exactness.AT_MOST, ["at most 1 GiB", "50.0%", "-"]),
        (Exactness.AT_LEAST, ["at least 1 GiB", "50.0%", "-"]),
        (Exactness.UNKNOWN, ["unknown", "-", "-"]),
    ],
)
def test_savings_are_no_more_exact_than_in_a_plan(exactness, expected):
    sharing = dataclasses.replace(shared_guest().sharing, exactness=exactness)
    guests = [GuestEstimate(shared_guest(name, sharing=sharing), None, exactly(GIB)) for name in "ab"]
    rows = [re.split(r"  +", line) for line in text_of(*guests).splitlines() if line.startswith(("a ", "total"))]
    assert rows[0] == ["a", "2 GiB", "-", *expected]
    assert rows[1][3:] == [each.replace("1 GiB", "2 GiB") for each in expected]
    exact = [guest["exact"] for guest in estimate_report(estimate_of(*guests))["guests"]]
    assert exact == [exactness is Exactness.EXACT] * 2


def test_what_was_read_without_any_sample():
    """A plan's figures may need none."""
    guest = GuestEstimate(shared_guest(), None, exactly(GIB), read_bytes=MIB, is_complete=True)
    said = " ".join(text_of(guest).split())
    assert "Read 1 MiB in 1.0 s: 0.1% of the roughly 1 GiB that a plan would read. Everything" in said
