"""Estimates of guests that are to share blocks with the template in place, beside plans of them."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
from clumped_fleets import write_fleet
from commands import rarely, run_here
from filesystems import mounted
from notation import run
from plans import shared_guest

from batchdiff.choices import Verdict
from batchdiff.estimation import estimator
from batchdiff.estimation.estimator import EstimateOptions, make_estimate
from batchdiff.estimation.sizes import Sizes
from batchdiff.manifest.file import read_manifest
from batchdiff.manifest.manifest import Manifest
from batchdiff.plan.earlier_plans import EarlierPlans
from batchdiff.planning.planner import make_plan
from batchdiff.report.estimate.json_form import estimate_report
from batchdiff.report.estimate.text import estimate_text
from batchdiff.sampling.interval import Interval
from batchdiff.units import KIB, MIB


@pytest.fixture(autouse=True)
def only_samples(monkeypatch):
    """These images are so small that a plan would usually read less than all samples."""
    monkeypatch.setattr(estimator, "plan_reads_less", lambda *_, **__: False)


def to_share(manifest: Manifest) -> Manifest:
    with open(manifest.path, "a", encoding="utf-8") as file:
        file.write("strategy: share\n")
    return read_manifest(manifest.path)


def estimate_of(manifest: Manifest, error: float):
    return make_estimate(manifest, EstimateOptions(error, 1, 1), EarlierPlans())


@pytest.mark.parametrize(
    ("filesystem", "form"), [("xfs", "raw"), *rarely(("xfs", "qcow2"), ("btrfs", "raw"), ("btrfs", "qcow2"))]
)
def test_the_savings_of_guests_that_share_blocks(tmp_path, filesystem: str, form: str):
    with mounted(tmp_path, filesystem, 500 << 20) as folder:
        manifest = to_share(write_fleet(folder / "fleet", 9, size=40 * MIB, guests=2, form=form))
        run("sync", "-f", str(folder))
        plan = make_plan(manifest, jobs=1)
        assert [guest.verdict for guest in plan.guests] == [Verdict.SHARE] * 2
        whole, sampled = estimate_of(manifest, 0.0), estimate_of(manifest, 0.05)
        for planned, exact, guest in zip(plan.guests, whole.guests, sampled.guests, strict=True):
            saved = planned.sharing.saved_bytes
            assert (exact.saved.estimate, exact.is_exact, exact.overlay) == (saved, True, None)
            assert (guest.plan.verdict, guest.overlay, guest.is_exact) == (Verdict.SHARE, None, False)
            assert guest.saved.low <= saved <= guest.saved.high
        assert whole.totals.saved.estimate == plan.totals.saved_bytes
        assert "guest0" in estimate_text(sampled, 80)
        assert estimate_report(sampled)["totals"]["share"] == 2
        assert "Next: batchdiff plan" in run_here("estimate", manifest.path)


def test_a_guest_that_cannot_share_blocks_is_refused_as_by_a_plan(tmp_path):
    with mounted(tmp_path, "ext4", 64 << 20) as folder:
        manifest = to_share(write_fleet(folder / "fleet", 9, size=4 * MIB, guests=1))
        (guest,), (planned,) = estimate_of(manifest, 0.0).guests, make_plan(manifest, jobs=1).guests
        assert guest.plan.verdict is planned.verdict is Verdict.REFUSE
        assert guest.plan.reason == planned.reason


def test_sharing_never_costs_space():
    """However little the samples have found to be equal."""
    guest = shared_guest()
    sharing = dataclasses.replace(guest.sharing, saved_bytes=0, shareable_bytes=24 * KIB)
    facts = SimpleNamespace(manifest=SimpleNamespace(minimum_savings=0.05))
    sample = SimpleNamespace(
        is_complete=False, data_bytes=lambda: {"equal": Interval(0, 0, 40 * KIB)}, probes=1, read_bytes=1
    )
    saved = Sizes({}, facts, 1)._sharing(guest, sharing, sample).saved
    assert (saved.low, saved.estimate) == (0, 0)
    assert saved.high > 0
