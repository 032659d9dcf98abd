"""Fleets of which samples would be more than a plan reads: they get the figures of a plan.

Guards estimation/as_planned.py, estimation/plan_reading.py.
"""

from __future__ import annotations

import notation
import pytest
from commands import run_here
from filesystems import mounted
from notation import run

from batchdiff.choices import Verdict
from batchdiff.estimation import estimator
from batchdiff.estimation.estimate import Estimate
from batchdiff.estimation.estimator import EstimateOptions, make_estimate
from batchdiff.estimation.plan_reading import plan_reads_less
from batchdiff.image import files
from batchdiff.manifest.file import read_manifest
from batchdiff.plan.earlier_plans import EarlierPlans
from batchdiff.planning import planner
from batchdiff.planning.planner import make_plan
from batchdiff.planning.scan.reopening import Budget
from batchdiff.planning.sizes import compressed_estimate
from batchdiff.report.estimate.text import estimate_text
from batchdiff.units import KIB, MIB

TEMPLATE = "2M:A 2M:- 2M:B"
GUESTS = 6


@pytest.fixture
def manifest(tmp_path):
    return write_fleet(tmp_path)


def write_fleet(folder, more="", overlay=""):
    """Six copies of a template, one of which is the template's equal, and a guest that is too small."""
    notation.write_raw(folder / "template.img", TEMPLATE)
    for number in range(GUESTS):
        changed = "" if number == 0 else f"{64 * number}k:X "
        notation.write_raw(folder / f"vm{number}.img", f"{changed}{2048 - 64 * number}k:A 2M:- 2M:B")
    notation.write_raw(folder / "small.img", "1M:A")
    (folder / "fleet.yaml").write_text(
        "version: 1\ntemplate: {path: template.img, format: raw}\ndefaults: {format: raw"
        f"{overlay}}}\n{more}guests: [{{glob: 'vm*.img'}}, {{path: small.img}}]\n"
    )
    return read_manifest(str(folder / "fleet.yaml"))


def estimate_of(manifest, **options) -> Estimate:
    options = {"error": 0.02, "seed": 1, "jobs": 1} | options
    return make_estimate(manifest, EstimateOptions(**options), EarlierPlans())


def same_as(found: Estimate, plan) -> None:
    assert [(each.plan.name, each.plan.verdict, each.plan.reason) for each in found.guests] == [
        (each.name, each.verdict, each.reason) for each in plan.guests
    ]
    assert found.totals.saved.estimate == plan.totals.saved_bytes
    assert found.totals.saved.is_exact


@pytest.fixture
def read(monkeypatch) -> list[int]:
    """The bytes of each read of an image."""
    whole = files.read_into
    seen: list[int] = []

    def counted(fd, buffer, offset, path, observer=None):
        done = whole(fd, buffer, offset, path, observer)
        seen.append(len(buffer))
        return done

    monkeypatch.setattr(files, "read_into", counted)
    return seen


def test_it_reads_no_more_than_a_plan(manifest, read):
    seen: list[tuple[int, int]] = []
    found = estimate_of(manifest, progress=lambda done, total: seen.append((done, total)))
    assert found.read_bytes == found.whole_bytes == (4 + 4 * GUESTS) * MIB
    assert found.whole_bytes <= sum(read) <= found.whole_bytes + MIB, "the heads of the files, too"
    assert found.probes == 0
    same_as(found, make_plan(manifest, jobs=1))
    assert [each.plan.verdict for each in found.guests].count(Verdict.REFUSE) == 1
    assert all(each.is_exact for each in found.guests if each.saved)
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_the_template_is_read_once_for_each_batch_of_guests(manifest, monkeypatch, read):
    """With a limit of two files, there are three batches."""
    for module in (estimator, planner):
        monkeypatch.setattr(module, "budget", lambda *_: Budget(1, 2))
    found = estimate_of(manifest)
    assert found.read_bytes == found.whole_bytes == (3 * 4 + 4 * GUESTS) * MIB
    assert found.whole_bytes <= sum(read) <= found.whole_bytes + MIB


def test_samples_that_were_read_in_vain_count_too(manifest, monkeypatch, read):
    """A second round would bring them over two thirds of what a plan reads, and would not be the last one."""
    monkeypatch.setattr(estimator, "first_probes", lambda _guests: 16)
    found = estimate_of(manifest, error=0.0001)
    in_samples = GUESTS * 16 * 2 * 64 * KIB
    assert found.probes == GUESTS * 16
    assert found.read_bytes == in_samples + found.whole_bytes <= 5 / 3 * found.whole_bytes
    assert found.read_bytes <= sum(read) <= found.read_bytes + MIB
    same_as(found, make_plan(manifest, jobs=1))


def test_nothing_is_sampled_if_no_error_is_accepted(manifest, monkeypatch):
    monkeypatch.setattr(estimator, "first_probes", lambda _guests: 16)
    found = estimate_of(manifest, error=0.0)
    assert (found.probes, found.read_bytes) == (0, found.whole_bytes)
    same_as(found, make_plan(manifest, jobs=1))


@pytest.mark.parametrize(
    ("sampled", "left", "less"),
    [(60, 200, False), (61, 200, True), (61, 91, True), (61, 90, False), (150, 90, False)],
)
def test_samples_end_at_two_thirds_of_a_plan_unless_the_rest_is_less(sampled, left, less):
    assert plan_reads_less(sampled, left, 90) is less


@pytest.mark.parametrize("way", ["planned", "sampled"])
def test_a_compressed_overlay_is_as_uncertain_as_in_a_plan(tmp_path, monkeypatch, way):
    """Those of two guests are compressed as a whole to find their sizes, and of the others two clusters."""
    monkeypatch.setattr(compressed_estimate, "_FIRST_SAMPLE", 2)
    if way == "sampled":
        monkeypatch.setattr(estimator, "plan_reads_less", lambda *_, **__: False)
    manifest = write_fleet(tmp_path, overlay=", overlay: {compression: zlib}")
    found, plan = estimate_of(manifest), make_plan(manifest, jobs=1)
    errors = set()
    for guest, planned in zip(found.guests, plan.guests, strict=True):
        if planned.diff is not None:
            savings = planned.diff.savings
            error, saved = savings.overlay_error_bytes, savings.saved_bytes
            errors.add(error)
            assert (guest.saved.estimate, guest.saved.low) == (saved, saved - error)
            assert guest.overlay.high == savings.overlay_disk_bytes + error
            assert guest.is_exact is (error == 0)
            assert guest.is_complete
            assert not guest.is_undecided
    assert min(errors) == 0 < max(errors)
    text = " ".join(estimate_text(found).split())
    assert "the same figures. A plan, too, only estimates the sizes of compressed overlays" in text


def test_the_report_says_so(manifest):
    text = run_here("estimate", manifest.path, "-j", 1, expect=1)
    assert "100.0% of the roughly 28 MiB that a plan would read" in text
    assert "so a plan would give the same figures." in text


@pytest.mark.long
@pytest.mark.parametrize("filesystem", ["xfs", "btrfs"])
def test_guests_that_share_blocks_in_place(tmp_path, filesystem):
    with mounted(tmp_path, filesystem) as folder:
        manifest = write_fleet(folder, "strategy: share\n")
        run("sync", "-f", str(folder))
        found = estimate_of(manifest)
        same_as(found, make_plan(manifest, jobs=1))
        assert found.totals.saved.estimate > GUESTS * MIB
