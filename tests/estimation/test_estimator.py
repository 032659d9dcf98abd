"""Estimates beside plans of the same fleets.

Guards estimation/jobs.py, estimation/sampler.py, estimation/probe_reader.py, estimation/estimate.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os

import notation
import numpy as np
import pytest
import small_fleet
from clumped_fleets import write, write_fleet
from commands import rarely
from filesystems import mounted
from notation import run
from recorded_sidecars import write_sidecar

from batchdiff.choices import Verdict
from batchdiff.errors import ImageError, WorkerError
from batchdiff.estimation import estimator, jobs, pricing, sampler, sizes
from batchdiff.estimation.estimate import Estimate, GuestEstimate, totals_of_estimates
from batchdiff.estimation.estimator import EstimateOptions, make_estimate
from batchdiff.estimation.guest_sample import first_probes
from batchdiff.files.fingerprint import fingerprint_at
from batchdiff.image import files
from batchdiff.manifest.file import read_manifest
from batchdiff.plan.earlier_plans import EarlierPlans
from batchdiff.plan.plan import UntouchedGuest
from batchdiff.planning.planner import make_plan
from batchdiff.qcow2.geometry import Geometry
from batchdiff.sampling.interval import Interval
from batchdiff.units import KIB, MIB

OPTIONS = [
    "",
    "cluster_size: auto",
    "compression: zstd",
    "extended_l2: true, cluster_size: 128KiB",
    *rarely(
        "format: qed",
        "cluster_size: 512B, compat: '0.10'",
        "cluster_size: 2MiB",
        "extended_l2: true, preallocation: metadata",
        "extended_l2: true, preallocation: falloc",
        "extended_l2: auto",
        "compression: zlib, cluster_size: auto",
        "data_file: true",
    ),
]


@pytest.fixture(autouse=True)
def only_samples(monkeypatch):
    """These images are so small that a plan would usually read less than all samples."""
    monkeypatch.setattr(estimator, "plan_reads_less", lambda *_, **__: False)


def estimate_of(manifest, *, error: float = 0.02, seed: int = 1, jobs: int = 1, **more) -> Estimate:
    return make_estimate(manifest, EstimateOptions(error, seed, jobs, **more), EarlierPlans())


def figures(found: Estimate) -> list[tuple]:
    return [(each.overlay, each.saved, each.plan.verdict, each.probes) for each in found.guests]


def assert_exact(found: Estimate, plan) -> None:
    """The estimate is complete and exact, and has the numbers of the plan."""
    for guest, planned in zip(found.guests, plan.guests, strict=True):
        assert guest.is_complete
        assert guest.is_exact
        assert (guest.plan.verdict, guest.plan.name) == (planned.verdict, planned.name)
        assert guest.overlay.estimate == planned.diff.savings.overlay_disk_bytes
        assert guest.saved.estimate == planned.diff.savings.saved_bytes
    assert found.totals.saved.estimate == plan.totals.saved_bytes
    assert found.totals.error == 0


@pytest.mark.parametrize("overlay", OPTIONS)
def test_what_is_read_as_a_whole_is_exact(tmp_path, overlay: str):
    """Small guests at once, larger ones because no error is allowed."""
    for number, size in ((1, 4 * MIB), (2, 24 * MIB)):
        manifest = write_fleet(tmp_path / str(number), number, size=size, guests=2, overlay=overlay)
        assert_exact(estimate_of(manifest, error=0.0), make_plan(manifest, jobs=1))


@pytest.mark.parametrize("form", ["qcow2", *rarely("vmdk", "vpc", "vhdx", "qed")])
def test_images_of_any_format(tmp_path, form: str):
    manifest = write_fleet(tmp_path, 3, size=4 * MIB, guests=2, form=form)
    assert_exact(estimate_of(manifest, jobs=2), make_plan(manifest, jobs=1))


@pytest.mark.parametrize("filesystem", ["xfs", *rarely("btrfs")])
def test_reflink_copies(tmp_path, filesystem: str):
    with mounted(tmp_path, filesystem) as folder:
        template = notation.write_raw(folder / "template.img", "4M:A 2M:- 4M:B")
        for name, command in (("one", "write -P 1 1M 300k"), ("two", "write -P 0 9M 1M")):
            run("cp", "--reflink=always", str(template), str(folder / f"{name}.img"))
            notation.qemu_io(folder / f"{name}.img", command, image_format="raw")
        run("sync", "-f", str(folder))
        (folder / "fleet.yaml").write_text(
            "version: 1\ntemplate: {path: template.img, format: raw}\ndefaults: {format: raw}\n"
            "minimum_savings: none\nguests: [{path: one.img}, {path: two.img}]\n"
        )
        manifest = read_manifest(str(folder / "fleet.yaml"))
        found = estimate_of(manifest)
        assert_exact(found, make_plan(manifest, jobs=1))
        assert found.read_bytes <= 4 * MIB, "what is shared is not read"


@pytest.mark.parametrize("job", ["FrameJob", "ProbeJob", "SizeJob"])
def test_the_death_of_a_worker_leaves_no_estimate(tmp_path, monkeypatch, job):
    @contextlib.contextmanager
    def begin(_self):
        yield lambda _task: os._exit(3)

    monkeypatch.setattr(getattr(jobs, job), "begin", begin)
    monkeypatch.setattr(sizes, "_SIZES_OF_A_WORKER", 1)
    with pytest.raises(WorkerError, match=r"\. No estimate was made\. Check"):
        estimate_of(write_fleet(tmp_path, 4, guests=2), jobs=2)


def test_the_number_of_jobs_changes_nothing_and_the_seed_does(tmp_path):
    manifest = write_fleet(tmp_path, 4, guests=2)
    one = figures(estimate_of(manifest))
    assert figures(estimate_of(manifest, jobs=2)) == one
    assert figures(estimate_of(manifest, seed=2)) != one
    assert any(not saved.is_exact for _, saved, *_ in one)


def test_a_smaller_error_takes_more_samples(tmp_path):
    manifest = write_fleet(tmp_path, 5, size=64 * MIB, guests=2)
    found = [estimate_of(manifest, error=error) for error in (0.5, 0.015, 0.006)]
    assert [each.totals.error <= each.wanted_error for each in found] == [True] * 3
    assert found[0].probes < found[1].probes < found[2].probes
    assert found[0].probes <= 2 * first_probes(2) + 4 * 16
    assert found[0].read_bytes <= found[0].probes * 128 * KIB
    assert found[0].read_bytes < found[0].whole_bytes / 2


def test_differences_imputed_to_holes_count_as_much_as_where_they_were_found(tmp_path):
    """Half of each cluster is a hole, the first half or the second; half of the other half differs."""
    random = np.random.default_rng(1)
    template = np.zeros((400, 2, 8, 4 * KIB), dtype=np.uint8)
    guest = template.copy()
    for cluster in range(400):
        half, units = cluster * 7919 % 5 % 2, random.permutation(8)[:4]
        template[cluster, half] = guest[cluster, half] = 7
        guest[cluster, half, units] = 9
    write(tmp_path / "template.img", template.reshape(-1))
    write(tmp_path / "guest.img", guest.reshape(-1))
    (tmp_path / "fleet.yaml").write_text(
        "version: 1\ntemplate: {path: template.img, format: raw}\nminimum_savings: none\n"
        "guests: [{path: guest.img, format: raw, overlay: {cluster_size: 4KiB}}]\n"
    )
    manifest = read_manifest(str(tmp_path / "fleet.yaml"))
    truth = make_plan(manifest, jobs=1).guests[0].diff.savings.overlay_disk_bytes
    (guest,) = estimate_of(manifest, error=0.5).guests
    assert not guest.is_exact
    assert abs(guest.overlay.estimate - truth) < 0.02 * truth


@pytest.mark.parametrize("overlay", ["", "format: qed", "extended_l2: true", "cluster_size: 4KiB"])
def test_tables_are_counted_as_in_samples(tmp_path, monkeypatch, overlay):
    """Each of the differences is in a part of a disk of its own; all of them are read."""
    counts = []
    of = sizes._Doubt.of

    def counted(candidate, diff, sample, tables):
        coverage, _ = pricing.table_coverage(candidate.entry.options, diff.geometry, diff.savings.allocation_unit)
        counts.append((*sample.tables(coverage), tables))
        return of(candidate, diff, sample, tables)

    monkeypatch.setattr(sizes._Doubt, "of", counted)
    notation.write_raw(tmp_path / "template.img", "640M:-")
    notation.write_raw(tmp_path / "guest.img", "64k:A 100M:- 64k:B 460M:- 64k:C 33M:- 4k:D")
    os.truncate(tmp_path / "guest.img", 640 * MIB)
    (tmp_path / "fleet.yaml").write_text(
        "version: 1\ntemplate: {path: template.img, format: raw}\n"
        f"guests: [{{path: guest.img, format: raw, overlay: {{{overlay}}}}}]\n"
    )
    estimate_of(read_manifest(str(tmp_path / "fleet.yaml")))
    ((least, most, tables),) = counts
    assert least == most == tables > 1


def test_a_geometry_is_chosen_again_once_more_is_known(tmp_path, monkeypatch):
    """At first another one seems best; the estimate has the one that is best in the end."""
    known: list[int] = []

    def best(candidate, sample):
        known.append(sample.probes)
        return Geometry(64 * KIB if sample.probes == known[0] else 4 * KIB)

    monkeypatch.setattr(estimator, "best_geometry", best)
    manifest = write_fleet(tmp_path, 5, size=96 * MIB, guests=1, overlay="cluster_size: auto")
    (guest,) = estimate_of(manifest, error=0.0).guests
    assert known[-1] > known[0]
    assert guest.plan.diff.geometry.cluster_size == 4 * KIB


def test_progress_begins_with_nothing_and_ends_with_all(tmp_path):
    seen: list[tuple[int, int]] = []
    manifest = write_fleet(tmp_path, 5, guests=1)
    estimate_of(manifest, error=0.01, progress=lambda done, total: seen.append((done, total)))
    assert seen[0][0] == 0 < seen[0][1]
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_guests_that_are_not_sampled_keep_the_reason_of_a_plan(small_fleet_folder):
    manifest = small_fleet.manifest(small_fleet_folder)
    os.truncate(small_fleet_folder / "one.img", 6 * MIB)
    found, plan = estimate_of(manifest), make_plan(manifest, jobs=1)
    assert [(each.plan.verdict, each.plan.reason) for each in found.guests] == [
        (each.verdict, each.reason) for each in plan.guests
    ]
    assert found.guests[0].plan.verdict is Verdict.REFUSE
    assert found.guests[0].saved is None
    assert found.totals.verdicts[Verdict.REFUSE] == 1
    assert found.totals.saved.estimate == plan.totals.saved_bytes


@pytest.fixture
def small_fleet_folder(tmp_path):
    small_fleet.write_fleet(tmp_path)
    return tmp_path


def test_a_guest_that_cannot_be_read_is_refused_and_the_others_are_estimated(small_fleet_folder, monkeypatch):
    fail_reads_of("two.img", monkeypatch)
    found = estimate_of(small_fleet.manifest(small_fleet_folder))
    assert [each.plan.verdict for each in found.guests] == [Verdict.CONVERT, Verdict.REFUSE, Verdict.CONVERT]
    assert "two.img" in found.guests[1].plan.reason


def test_a_template_that_cannot_be_read_ends_the_estimate(small_fleet_folder, monkeypatch):
    fail_reads_of("template.img", monkeypatch)
    with pytest.raises(ImageError, match=r"template\.img"):
        estimate_of(small_fleet.manifest(small_fleet_folder))


def test_a_template_whose_data_cannot_be_found_ends_the_estimate(small_fleet_folder, monkeypatch):
    template = str(small_fleet_folder / "template.img")

    def broken(_template, _guest, _size, *, sharing):
        raise ImageError(f"cannot read {template}", why="Input/output error", path=template)

    monkeypatch.setattr(jobs, "frame_of", broken)
    with pytest.raises(ImageError, match=r"template\.img"):
        estimate_of(small_fleet.manifest(small_fleet_folder))


def fail_reads_of(name: str, monkeypatch) -> None:
    """As a disk with bad sectors does."""
    whole = files.read_into

    def read(fd, buffer, offset, path, observer=None):
        if path.endswith(name):
            raise ImageError(f"cannot read {path}", why="Input/output error")
        return whole(fd, buffer, offset, path, observer)

    monkeypatch.setattr(files, "read_into", read)


def test_a_guest_that_changes_meanwhile_is_refused(small_fleet_folder, monkeypatch):
    change_before(monkeypatch, small_fleet_folder / "three.qcow2")
    found = estimate_of(small_fleet.manifest(small_fleet_folder))
    assert found.guests[2].plan.verdict is Verdict.REFUSE
    assert "changed" in found.guests[2].plan.reason


def test_a_template_that_changes_meanwhile_ends_the_estimate(small_fleet_folder, monkeypatch):
    change_before(monkeypatch, small_fleet_folder / "template.img")
    with pytest.raises(ImageError, match="the template changed while it was sampled"):
        estimate_of(small_fleet.manifest(small_fleet_folder))


def test_a_template_that_another_plans_apply_protects_meanwhile_has_not_changed(small_fleet_folder, monkeypatch):
    template = small_fleet_folder / "template.img"
    read = sampler.Sampler.read

    def protected(self, samples):
        if os.stat(template).st_mode & 0o200:
            before = (fingerprint_at(str(template)),)
            template.chmod(0o444)
            write_sidecar(template, {}, earlier=(before,))
        return read(self, samples)

    monkeypatch.setattr(estimator.Sampler, "read", protected)
    found = estimate_of(small_fleet.manifest(small_fleet_folder))
    assert [each.plan.verdict for each in found.guests] == [Verdict.CONVERT] * 3


def test_a_guest_whose_extents_cannot_be_found_does_not_stay_open(tmp_path, monkeypatch):
    manifest = write_fleet(tmp_path, 4, guests=1)
    is_open = []

    class Reader:
        def __init__(self, *_):
            is_open.append(len(os.listdir("/proc/self/fd")))
            raise ImageError("cannot find the extents", why="Input/output error")

    monkeypatch.setattr(jobs, "ProbeReader", Reader)
    monkeypatch.setattr(sampler, "_PROBES_OF_A_TASK", 8)
    (guest,) = estimate_of(manifest).guests
    assert guest.plan.verdict is Verdict.REFUSE
    assert len(is_open) > 3
    assert len(set(is_open)) == 1


def change_before(monkeypatch, path) -> None:
    """The file is written to after the frames were found, and before probes are read."""
    read = sampler.Sampler.read

    def changed(self, samples):
        os.utime(path, (1, 1))
        return read(self, samples)

    monkeypatch.setattr(estimator.Sampler, "read", changed)


def test_guests_near_the_minimum_are_undecided(tmp_path):
    manifest = write_fleet(tmp_path, 6, guests=1, size=64 * MIB)
    planned = make_plan(manifest, jobs=1).guests[0].diff.savings
    share = planned.saved_bytes / planned.allocated_bytes
    found = estimate_of(dataclasses.replace(manifest, minimum_savings=share), error=0.5)
    assert found.guests[0].is_undecided
    assert found.totals.saved.low <= 0 <= planned.saved_bytes <= found.totals.saved.high
    assert found.totals.undecided == 1


@pytest.mark.parametrize("minimum", ["0%", "none"])
def test_an_overlay_that_surely_stays_is_decided_by_few_samples(tmp_path, minimum):
    """A plan never replaces it by a larger one, nor for savings that may be due to chance."""
    notation.write_raw(tmp_path / "template.img", "64M:A")
    guest = notation.write_qcow2(tmp_path / "guest.qcow2", "64M:-", backing=tmp_path / "template.img")
    notation.qemu_io(guest, *(f"write -c -P 7 {number * MIB} 1M" for number in range(64)))
    (tmp_path / "fleet.yaml").write_text(
        f"version: 1\ntemplate: {{path: template.img, format: raw}}\nminimum_savings: {minimum}\n"
        "retire: quarantine\nguests:\n  - path: guest.qcow2\n    format: qcow2\n    rethin: true\n"
        "    backing: [{path: template.img, format: raw}]\n  - {path: copy.img, format: raw}\n"
    )
    notation.write_raw(tmp_path / "copy.img", "64M:A")
    manifest = read_manifest(str(tmp_path / "fleet.yaml"))
    found = estimate_of(manifest, error=0.2)
    guest = found.guests[0]
    assert guest.plan.verdict is make_plan(manifest, jobs=1).guests[0].verdict is Verdict.SKIP
    assert guest.threshold > 4096
    assert not guest.is_complete
    assert not guest.is_undecided
    assert found.read_bytes < found.whole_bytes / 2


def test_totals_have_only_what_a_plan_would_convert(tmp_path):
    """A guest that a plan would surely skip adds nothing, whatever its figures are."""
    one, other = estimate_of(write_fleet(tmp_path, 7, guests=2, size=4 * MIB)).guests
    skip = untouched_guest_plan(other)
    surely = GuestEstimate(skip, Interval(5, 4, 6), Interval(9, 8, 10), threshold=11)
    assert totals_of_estimates([one, surely]).saved == one.saved
    perhaps = dataclasses.replace(surely, threshold=9.5)
    totals = totals_of_estimates([one, perhaps])
    assert totals.saved.estimate == one.saved.estimate
    assert totals.saved.high == one.saved.estimate + 10
    assert (totals.verdicts[Verdict.SKIP], totals.undecided) == (1, 1)


def untouched_guest_plan(guest: GuestEstimate) -> UntouchedGuest:
    plan = guest.plan
    return UntouchedGuest(
        name=plan.name, source=plan.source, reason="", overlay_path=plan.overlay_path, options=plan.options,
        verdict=Verdict.SKIP, image=plan.image, diff=plan.diff,
    )  # fmt: skip
