"""Reflink copies on real filesystems: what is shared is not read, and what was rewritten is found.

Guards planning/scan/common_blocks.py, planning/refined_guests.py.
"""

import dataclasses
import fcntl
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import naive
import pytest
from filesystems import mounted, settle
from notation import run
from oracle import guest_bytes, recorded, source
from scan_jobs import scan_job
from small_fleet import checksum

from batchdiff.choices import Verdict
from batchdiff.errors import ImageError
from batchdiff.extents import concatenate
from batchdiff.image import files
from batchdiff.image.open import open_image
from batchdiff.image.storage.shared_blocks import common_ranges, has_shared_extents, shared_extents
from batchdiff.linux import fiemap
from batchdiff.manifest.file import read_manifest
from batchdiff.plan.plan import Plan
from batchdiff.planning import planner
from batchdiff.planning.planner import EarlierResults, make_plan
from batchdiff.planning.scan import common_blocks as common_blocks_module
from batchdiff.planning.scan import one_range, refine
from batchdiff.planning.scan.common_blocks import CommonBlocks
from batchdiff.planning.scan.reopening import Budget
from batchdiff.planning.scan_all import ranges_with_data
from batchdiff.units import KIB, MIB

SIZE = 24 * MIB


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def filesystem(request, tmp_path_factory):
    with mounted(tmp_path_factory.mktemp("reflink"), request.param) as point:
        yield point


def write_template(path: Path) -> None:
    rng = random.Random(5)
    with path.open("wb") as file:
        for offset in range(0, SIZE, 2 * MIB):
            file.seek(offset)
            file.write(rng.randbytes(MIB + 4 * KIB))
        file.truncate(SIZE)


def rewrite(path: Path, *, seed: int, times: int) -> None:
    """Single blocks, whole clusters, zeros, odd places, holes and new data."""
    rng = random.Random(seed)
    with path.open("r+b") as file:
        for _ in range(times):
            file.seek(rng.randrange(SIZE - 128 * KIB) // rng.choice((1, 512, 4096)) * 1)
            length = rng.choice((1, 4 * KIB, 64 * KIB, 100_001))
            file.write(rng.choice((bytes(length), rng.randbytes(length))))
        os.fsync(file.fileno())
    run("fallocate", "-p", "-o", str(4 * MIB), "-l", str(128 * KIB), str(path))


def copies(folder: Path, suffix: str) -> tuple[Path, list[Path]]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    template = folder / f"template.{suffix}"
    write_template(folder / "content.raw")
    if suffix == "qcow2":
        run("qemu-img", "convert", "-O", "qcow2", str(folder / "content.raw"), str(template))
    else:
        (folder / "content.raw").rename(template)
    guests = [folder / f"{name}.{suffix}" for name in ("same", "changed")]
    for guest in guests:
        run("cp", "--reflink=always", str(template), str(guest))
    if suffix == "qcow2":
        commands = "".join(
            f"write -q -P {n + 1} {n * 3 * MIB + 7 * 4096} {(n % 3 + 1) * 4096}\n" for n in range(7)
        )
        subprocess.run(
            ["qemu-io", "-f", "qcow2", guests[1]],
            input=commands.encode(),
            check=True,
            timeout=60,
            stdout=subprocess.DEVNULL,
        )
    else:
        rewrite(guests[1], seed=7, times=20)
    os.sync()
    return template, guests


def common_blocks(template, guests):
    """What the planner asks for before the workers start."""
    with open_image(source(template)) as image:
        common = CommonBlocks(image)
        for number, guest in enumerate(guests):
            with open_image(source(guest)) as other:
                common.add(number, other)
        common.confirm()
    return common


def scanned(template, guests, *, sharing, common=None):
    sources = [source(image) for image in (template, *guests)]
    job = scan_job(template, *map(recorded, guests), sharing=sharing)
    if common is not None:
        job = dataclasses.replace(job, shared=tuple(common.runs.get(number) for number in range(len(guests))))
    scanner = job.open()
    numbers = set()
    for item in sources:
        with open_image(item) as image:
            numbers.update(ranges_with_data(image))
    results = [scanner.scan(number) for number in sorted(numbers)]
    scanner.close()
    return [concatenate([r.differences[n] for r in results if n in r.differences]) for n in range(len(guests))], [
        r.template_digest for r in results
    ]


def touched(units, cluster_size):
    runs = naive.to_write(units, cluster_size)
    return {cluster for first, count, _ in runs for cluster in range(first, first + count)}


@pytest.mark.parametrize("suffix", ["img", "qcow2"])
def test_differences_are_those_of_a_naive_comparison(filesystem, suffix):
    template, guests = copies(filesystem / suffix, suffix)
    found, digests = scanned(template, guests, sharing=True)
    read, _ = scanned(template, guests, sharing=False)
    with open_image(source(template)) as one, open_image(source(guests[1])) as other:
        expected = naive.differences(guest_bytes(one, 0, SIZE), guest_bytes(other, 0, SIZE))
    assert len(found[0]) == 0
    for size in (4 * KIB, 64 * KIB, 2 * MIB):
        assert touched(found[1], size) == touched(expected, size)
    assert naive.to_write(read[1], 64 * KIB) == naive.to_write(expected, 64 * KIB)
    assert set(digests) == {None}
    asked_before, _ = scanned(template, guests, sharing=True, common=common_blocks(template, guests))
    # Not run by run: template bytes that need not be read count as data, and a filesystem may report more or fewer
    # shared blocks the second time.
    assert len(asked_before[0]) == 0
    for size in (4 * KIB, 64 * KIB, 2 * MIB):
        assert touched(asked_before[1], size) == touched(expected, size)


@pytest.mark.parametrize("suffix", ["img", "qcow2"])
def test_what_is_shared_is_not_read(filesystem, suffix, monkeypatch):
    template, guests = copies(filesystem / suffix, suffix)
    count = 0
    read_into = files.read_into

    def counted(fd, buffer, *rest):
        nonlocal count
        count += len(buffer)
        return read_into(fd, buffer, *rest)

    monkeypatch.setattr(files, "read_into", counted)
    scanned(template, [guests[0]], sharing=True)
    # Headers and tables only, and ends of clusters that qemu-img convert left unwritten: those are not shared.
    assert count < (2 * MIB if suffix == "qcow2" else 1)
    count = 0
    scanned(template, [guests[0]], sharing=True, common=common_blocks(template, guests))
    assert count < (2 * MIB if suffix == "qcow2" else 1)


def questions(monkeypatch):
    """Counts how often the filesystem is asked where a file is on its disk, by name."""
    asked = Counter()
    real = fcntl.ioctl

    def ioctl(fd, request, *rest):
        if request == fiemap.REQUEST:
            asked[os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))] += 1
        return real(fd, request, *rest)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    return asked


def manifest_of(folder, *guests):
    manifest = folder / "manifest.yaml"
    forms = {".img": "raw", ".qcow2": "qcow2"}
    entries = ", ".join(f"{{path: {guest.name}, format: {forms[guest.suffix]}}}" for guest in guests)
    manifest.write_text(f"version: 1\ntemplate: {{path: template.img, format: raw}}\nguests: [{entries}]\n")
    return read_manifest(str(manifest))


def plan_of(folder, *guests):
    return make_plan(manifest_of(folder, *guests), jobs=1)


def test_a_guest_is_asked_for_its_blocks_once_in_a_whole_plan(filesystem, monkeypatch):
    """By the planner, for scan and savings. On btrfs two more have all of it put into the tree, which is searched.

    What the guest takes is found there, and what it would give back by sharing blocks.
    """
    _, guests = copies(filesystem / "asked", "img")
    asked = questions(monkeypatch)
    plan = plan_of(filesystem / "asked", *guests)
    assert {guest.name: asked[guest.name] for guest in guests} == dict.fromkeys(
        ("same.img", "changed.img"), 3 if filesystem.name == "btrfs" else 1
    )
    monkeypatch.setattr(common_blocks_module, "raw_extents", lambda _: None)
    by_workers = plan_of(filesystem / "asked", *guests)
    assert asked["changed.img"] > 3
    assert by_workers.guests == plan.guests


def test_blocks_count_for_nothing_if_the_template_was_moved_while_they_were_asked_for(filesystem, monkeypatch):
    template, guests = copies(filesystem / "moved", "img")
    assert set(common_blocks(template, guests).runs) == {0, 1}
    real, times = common_blocks_module.raw_extents, Counter()

    def moved(image):
        table = real(image)
        times[image.path] += 1
        return dataclasses.replace(table, physical=table.physical + 4096 * (times[image.path] - 1))

    monkeypatch.setattr(common_blocks_module, "raw_extents", moved)
    found = common_blocks(template, guests)
    assert found.runs == {}
    assert len(found.located) == 2


def test_equal_numbers_on_two_disks_are_no_common_blocks(filesystem, monkeypatch):
    template, guests = copies(filesystem / "disks", "img")
    monkeypatch.setattr(common_blocks_module, "_device", lambda image: image.path)
    assert common_blocks(template, guests).runs == {}


def test_places_of_more_guests_than_are_kept_are_asked_for_again(filesystem, monkeypatch):
    _, guests = copies(filesystem / "many", "img")
    plan = plan_of(filesystem / "many", *guests)
    monkeypatch.setattr(common_blocks_module, "_MOST_KEPT", 1)
    asked = questions(monkeypatch)
    assert plan_of(filesystem / "many", *guests).guests == plan.guests
    assert asked["changed.img"] == (4 if filesystem.name == "btrfs" else 2)


def test_shared_blocks_are_found_and_only_those(filesystem):
    template, guests = copies(filesystem / "blocks", "img")
    with open_image(source(template)) as one, open_image(source(guests[1])) as other:
        assert has_shared_extents(one)
        ranges = common_ranges(*(shared_extents(image, image.segments(0, SIZE)) for image in (one, other)))
        assert 0 < sum(end - start for start, end in ranges) < SIZE
        for start, end in ranges:
            assert guest_bytes(one, start, end - start) == guest_bytes(other, start, end - start)


def test_a_file_that_shares_nothing_says_so(filesystem):
    path = filesystem / "alone.img"
    write_template(path)
    with open_image(source(path)) as image:
        assert not has_shared_extents(image)
        assert shared_extents(image, image.segments(0, SIZE)) == []


def test_shared_blocks_are_not_promised_back_and_leave_the_template_without_a_digest(filesystem):
    folder = filesystem / "savings"
    copies(folder, "img")
    manifest = folder / "manifest.yaml"
    manifest.write_text(
        "version: 1\ntemplate: {path: template.img, format: raw}\n"
        "defaults: {format: raw}\nguests: [{path: changed.img}]\n"
    )
    plan = make_plan(read_manifest(str(manifest)), jobs=1)
    assert plan.template_digest == ""
    guest = plan.guests[0]
    assert guest.diff.savings is not None
    assert guest.diff.savings.reclaimable_bytes < guest.diff.savings.allocated_bytes


def copies_that_need_zeros(folder: Path) -> list[Path]:
    """Copies that each need other parts of the template read, among them zeros that are stored."""
    folder.mkdir()
    template = folder / "template.img"
    write_template(template)
    with template.open("r+b") as file:
        for at in range(0, SIZE, 2 * MIB):
            file.seek(at + 256 * KIB)
            file.write(bytes(384 * KIB))
    guests = [folder / f"{name}.img" for name in ("one", "two", "three")]
    for number, guest in enumerate(guests):
        run("cp", "--reflink=always", str(template), str(guest))
        rewrite(guest, seed=number, times=12)
        with guest.open("r+b") as file:
            file.seek((2 * number + 2) * MIB)
            file.write(bytes(600 * KIB) if number % 2 else b"?" * 600 * KIB)
            os.fsync(file.fileno())
    run("cp", "--reflink=never", "--sparse=never", str(template), str(folder / "full.img"))
    run("qemu-img", "convert", "-O", "qcow2", str(guests[0]), str(folder / "thick.qcow2"))
    os.sync()
    return [*guests, folder / "full.img", folder / "thick.qcow2"]


def test_the_same_plan_in_whatever_batches(filesystem, monkeypatch, small_ranges):
    """A batch reads of the template what its guests need, and no guest's figures may depend on the others."""
    folder = filesystem / "batches"
    guests = copies_that_need_zeros(folder)

    def planned(*names: Path, files: int, jobs: int = 1) -> Plan:
        monkeypatch.setattr(planner, "budget", lambda *_: Budget(jobs, files))
        return plan_of(folder, *names)

    together = planned(*guests, files=100)
    assert together.template_digest == "", "the template is read only in parts"
    assert {guest.verdict for guest in together.guests} <= {Verdict.CONVERT, Verdict.SKIP}
    for most, jobs in ((1, 1), (2, 2)):
        assert checksum(planned(*guests, files=most, jobs=jobs)) == checksum(together), (most, jobs)
    backwards = planned(*reversed(guests), files=3)
    assert tuple(reversed(backwards.guests)) == together.guests
    shutil.rmtree(folder)


def assert_even(reports, *, least):
    """Progress comes in many steps, to a total that is known from the beginning."""
    done = [each for each, _ in reports]
    assert len(set(done)) > least
    assert done == sorted(done)
    assert {total for _, total in reports} == {done[-1]}


def test_a_reused_plan_is_as_a_fresh_one(filesystem, small_ranges, monkeypatch):
    """With what each strategy would give, for which only the parts that differ are read again."""
    folder = filesystem / "reused"
    guests = copies_that_need_zeros(folder)
    settle(filesystem)  # later, XFS would give back blocks that it has preallocated, and the sizes would differ
    older = plan_of(folder, *guests)
    assert all(guest.sharing is not None for guest in older.guests)
    manifest, said = manifest_of(folder, *guests[::-2]), []
    fresh = make_plan(manifest, jobs=1)
    monkeypatch.setattr(one_range.Scanner, "__init__", None)
    monkeypatch.setattr(refine, "STRETCH", 4 * MIB)
    reports, earlier = [], EarlierResults(None, older, said.append)
    reused = make_plan(manifest, jobs=2, earlier=earlier, progress=lambda *numbers: reports.append(numbers))
    assert said[0].startswith("Reusing the results of 3 of 3 guests")
    assert_even(reports, least=2 * 3)  # several stretches of each guest
    assert [guest.sharing for guest in reused.guests] == [guest.sharing for guest in fresh.guests]
    assert checksum(reused) == checksum(fresh)
    shutil.rmtree(folder)


def test_reused_guests_are_read_by_all_workers(filesystem, small_ranges, monkeypatch):
    folder, pids = filesystem / "workers", filesystem / "pids"
    guests = copies_that_need_zeros(folder)
    older = plan_of(folder, *guests)
    real = refine.refine_granules

    def slow(*arguments):
        with pids.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.05)  # so that no worker is done with all before the other one has begun
        return real(*arguments)

    monkeypatch.setattr(refine, "refine_granules", slow)
    make_plan(manifest_of(folder, *guests), jobs=2, earlier=EarlierResults(None, older))
    assert len(set(pids.read_text().split())) == 2
    shutil.rmtree(folder)
    pids.unlink()


def test_a_reused_guest_that_cannot_be_read_is_refused(filesystem, small_ranges, monkeypatch):
    """As it would be without the older plan. One guest is new, so there is a scan before."""
    folder = filesystem / "unreadable"
    guests = copies_that_need_zeros(folder)
    older = plan_of(folder, *guests[:2])
    real = refine.refine_granules

    def failing(template, guest, *rest):
        if guest.path == str(guests[0]):
            raise ImageError(f"cannot read {guest.path}", why="Input/output error")
        return real(template, guest, *rest)

    fresh = plan_of(folder, *guests[:3]).guests
    monkeypatch.setattr(refine, "refine_granules", failing)
    reports, earlier = [], EarlierResults(None, older)
    of = manifest_of(folder, *guests[:3])
    refused, *others = make_plan(of, jobs=1, earlier=earlier, progress=lambda *all_: reports.append(all_)).guests
    assert refused.verdict is Verdict.REFUSE
    assert refused.reason == f"cannot read {guests[0]}: Input/output error"
    assert tuple(others) == fresh[1:]
    assert_even(reports, least=3)
    shutil.rmtree(folder)
