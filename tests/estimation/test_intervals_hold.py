"""The intervals of estimates hold: on fleets that are planned as well, the truth is within as many as promised.

Guards estimation/estimator.py, estimation/sizes.py, estimation/guest_sample.py, estimation/pricing.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from clumped_fleets import write_fleet

from batchdiff.estimation.estimate import Estimate
from batchdiff.estimation.estimator import EstimateOptions, make_estimate
from batchdiff.plan.earlier_plans import EarlierPlans
from batchdiff.plan.plan import Plan
from batchdiff.planning.planner import make_plan
from batchdiff.sampling.interval import Interval

LEAST = 0.93


class Held(NamedTuple):
    """How many intervals of guests and of totals hold, and how many there are that are not exact."""

    guests: int
    totals: int
    of_guests: int
    of_totals: int


def estimate_of(manifest, error: float = 0.02, seed: int = 1, jobs: int = 1) -> Estimate:
    return make_estimate(manifest, EstimateOptions(error=error, seed=seed, jobs=jobs), EarlierPlans())


def holds(figure: Interval | None, truth: int) -> bool:
    return figure is not None and figure.low <= truth <= figure.high


def guests_held(plan: Plan, estimate: Estimate) -> Iterator[bool]:
    """Whether the intervals of each guest that is not exact hold."""
    for planned, guest in zip(plan.guests, estimate.guests, strict=True):
        savings = planned.diff.savings
        right = holds(guest.saved, savings.saved_bytes) and holds(guest.overlay, savings.overlay_disk_bytes)
        if guest.is_exact:
            assert right, f"{guest.plan.name} is not exact"
        else:
            yield right


def counted(folder: Path, numbers: range, **options) -> Held:
    guests: list[bool] = []
    totals: list[bool] = []
    for number in numbers:
        manifest = write_fleet(folder / "fleet", number, **options)
        plan, estimate = make_plan(manifest, jobs=1), estimate_of(manifest, seed=number)
        guests += guests_held(plan, estimate)
        if not estimate.totals.saved.is_exact:
            totals.append(holds(estimate.totals.saved, plan.totals.saved_bytes))
        shutil.rmtree(folder / "fleet")
    return Held(sum(guests), sum(totals), len(guests), len(totals))


def test_a_few_fleets(tmp_path):
    held = counted(tmp_path, range(1000, 1004))
    assert held.of_totals == held.totals == 4
    assert held.guests >= held.of_guests - 1
    assert held.of_guests >= 10


@pytest.mark.long
def test_two_hundred_fleets(tmp_path):
    held = counted(tmp_path, range(200))
    print(held)
    assert held.of_totals == 200
    assert held.totals >= LEAST * held.of_totals
    assert held.guests >= LEAST * held.of_guests


@pytest.mark.long
@pytest.mark.parametrize(
    ("overlay", "form"),
    [
        ("cluster_size: auto", "raw"),
        ("compression: zstd", "raw"),
        ("compression: zlib, cluster_size: auto", "qcow2"),
        ("extended_l2: true, cluster_size: 128KiB", "raw"),
        ("format: qed", "raw"),
        ("cluster_size: 16KiB", "qcow2"),
        ("cluster_size: 256KiB", "vmdk"),
        ("compat: '0.10'", "vdi"),
    ],
)
def test_fleets_of_other_formats_and_options(tmp_path, overlay: str, form: str):
    held = counted(tmp_path, range(300, 320), size=96 << 20, overlay=overlay, form=form)
    print(held)
    assert held.of_guests >= 20
    assert held.totals >= held.of_totals - 2
    assert held.guests >= 0.9 * held.of_guests
