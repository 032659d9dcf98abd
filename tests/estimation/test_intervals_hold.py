"""The intervals of estimates hold: on fleets that are planned as well, the truth is within as many as promised.

Guards estimation/estimator.py, estimation/sizes.py, estimation/guest_sample.py, estimation/pricing.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from clumped_fleets import clumps, write, write_fleet
from filesystems import mounted
from notation import run

from batchdiff.estimation import estimator
from batchdiff.estimation.estimate import Estimate
from batchdiff.estimation.estimator import EstimateOptions, make_estimate
from batchdiff.manifest.file import read_manifest
from batchdiff.manifest.manifest import Manifest
from batchdiff.plan.earlier_plans import EarlierPlans
from batchdiff.plan.plan import Plan
from batchdiff.planning.planner import make_plan
from batchdiff.sampling.interval import Interval

LEAST = 0.93


@pytest.fixture(autouse=True)
def only_samples(monkeypatch):
    """These images are so small that a plan would usually read less than all samples."""
    monkeypatch.setattr(estimator, "plan_reads_less", lambda *_, **__: False)


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
    """Yield, for each guest that is not exact, whether its intervals hold."""
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


@pytest.mark.parametrize(
    "overlay",
    [
        "compat: '0.10', compression: zlib",
        "compat: '0.10', compression: zlib, cluster_size: auto",
        "compat: '0.10', encryption: {format: luks, secret_file: secret}",
        "compat: '0.10', cluster_size: 1KiB",
        "compat: '0.10'",
        "compression: zlib",
    ],
)
def test_what_a_guest_has_cleared_is_data_in_an_overlay_of_version_2(tmp_path, overlay: str):
    """There are no zero clusters. Zeros compress to next to nothing, and need no data if the template has them."""
    random = np.random.default_rng(1)
    template = random.integers(0, 256, 96 << 20, dtype=np.uint8)
    template[60 << 20 : 90 << 20] = 0
    guest = template.copy()
    guest[16 << 20 : 24 << 20] = random.integers(0, 256, 8 << 20, dtype=np.uint8)
    (tmp_path / "template.img").write_bytes(template.tobytes())
    (tmp_path / "secret").write_text("x")
    with (tmp_path / "guest.img").open("wb") as file:
        file.write(guest[: 24 << 20].tobytes())
        file.truncate(96 << 20)
    (tmp_path / "fleet.yaml").write_text(
        "version: 1\ntemplate: {path: template.img, format: raw}\nminimum_savings: none\n"
        f"guests: [{{path: guest.img, format: raw, overlay: {{{overlay}}}}}]\n"
    )
    manifest = read_manifest(str(tmp_path / "fleet.yaml"))
    savings = make_plan(manifest, jobs=1).guests[0].diff.savings
    for error in (0.2, 0.02):
        (guest,) = estimate_of(manifest, error).guests
        assert holds(guest.overlay, savings.overlay_disk_bytes)
        assert guest.overlay.half_width <= error * savings.allocated_bytes
        assert holds(guest.saved, savings.saved_bytes)


@pytest.mark.long
@pytest.mark.parametrize("filesystem", ["xfs", "btrfs"])
def test_reflink_copies(tmp_path, filesystem: str):
    """Each guest is a reflink copy of the one before it, with further clumps of differences."""
    guests: list[bool] = []
    totals: list[bool] = []
    with mounted(tmp_path, filesystem, 700 << 20) as folder:
        for number in range(10):
            manifest = reflink_fleet(folder / "fleet", number)
            run("sync", "-f", str(folder))
            plan, estimate = make_plan(manifest, jobs=1), estimate_of(manifest, seed=number)
            guests += guests_held(plan, estimate)
            if not estimate.totals.saved.is_exact:
                totals.append(holds(estimate.totals.saved, plan.totals.saved_bytes))
            shutil.rmtree(folder / "fleet")
    print(guests, totals)
    assert len(guests) >= 8
    assert sum(guests) >= len(guests) - 2
    assert sum(totals) >= len(totals) - 1


def reflink_fleet(folder: Path, number: int, size: int = 96 << 20) -> Manifest:
    folder.mkdir()
    random = np.random.default_rng(number)
    disk = random.integers(0, 256, size, dtype=np.uint8)
    write(folder / "template.img", disk)
    before = folder / "template.img"
    for name in ("one", "two", "three"):
        path = folder / f"{name}.img"
        run("cp", "--reflink=always", str(before), str(path))
        with path.open("r+b") as file:
            for start, end in clumps(random, size, random.choice([0.1, 0.4]), int(random.choice([8192, 1 << 20]))):
                file.seek(start)
                file.write(random.integers(0, 256, end - start, dtype=np.uint8).tobytes())
        before = path
    (folder / "fleet.yaml").write_text(
        "version: 1\ntemplate: {path: template.img, format: raw}\ndefaults: {format: raw}\n"
        "minimum_savings: none\nguests: [{path: one.img}, {path: two.img}, {path: three.img}]\n"
    )
    return read_manifest(str(folder / "fleet.yaml"))
