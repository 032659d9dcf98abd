"""Guests on XFS and btrfs share blocks with their template, and stay as they were; df shows the freed space.

Guards applying/sharing/share.py, image/storage/sharing_gain.py, image/storage/left_to_share.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import notation
import numpy as np
import pytest
from commands import rarely
from filesystems import mounted, settle
from notation import run
from oracle import guest_bytes, source
from real_holders import wait_for

from batchdiff.applying.sharing import share
from batchdiff.applying.sharing.share import Shared, share_blocks
from batchdiff.errors import GuestError, StopError
from batchdiff.image.image import Image
from batchdiff.image.open import open_image
from batchdiff.image.storage.exactness import Exactness
from batchdiff.image.storage.left_to_share import gain_left, shareable_left
from batchdiff.image.storage.shareable import ShareableRange, shareable_ranges, shareable_stretches
from batchdiff.image.storage.shared_blocks import BlockRuns
from batchdiff.image.storage.sharing_gain import SharingGain
from batchdiff.units import GIB, KIB, MIB, align_up

UNIT = 4 * KIB
SIZE = 32 * MIB
DATA = 24 * MIB
TREES = 128 * KIB
"""What the filesystem's own trees may grow by, much beside images this small."""
TOLERANCE = {"xfs": 0.01, "btrfs": 0.03}


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def disk(request, tmp_path_factory):
    with mounted(tmp_path_factory.mktemp("sharing"), request.param, GIB) as point:
        yield point


@pytest.fixture
def folder(disk, request):
    place = disk / request.node.name.translate(str.maketrans("[]/", "---"))
    place.mkdir()
    yield place
    shutil.rmtree(place)


def write_template(path: Path, size: int = SIZE) -> Path:
    """Three quarters data, in pieces of 3 MiB."""
    rng = random.Random(3)
    with path.open("wb") as file:
        file.truncate(size)
        for offset in range(0, size, 4 * MIB):
            file.seek(offset)
            file.write(rng.randbytes(min(3 * MIB, size - offset)))
    return path


def full_copy(template: Path, name: str) -> Path:
    run("cp", "--reflink=never", "--sparse=always", str(template), str(template.with_name(name)))
    run("sync", "-f", str(template))
    return template.with_name(name)


def in_small_extents(path: Path) -> None:
    """Writes a file anew, a little at a time: btrfs frees an extent only once no part of it is used."""
    content = path.read_bytes()
    path.unlink()
    with path.open("wb") as file:
        for at in range(0, len(content), 256 * KIB):
            file.write(content[at : at + 256 * KIB])
            os.fsync(file.fileno())


def rewrite(path: Path, *, seed: int, times: int) -> Path:
    """Blocks, clusters, odd places; data and zeros; over what was there and in holes."""
    rng = random.Random(seed)
    with path.open("r+b") as file:
        for _ in range(times):
            length = rng.choice((512, 4 * KIB, 20_000, 64 * KIB))
            file.seek(rng.randrange(0, SIZE - length, 512))
            file.write(rng.randbytes(length) if rng.random() < 0.8 else bytes(length))
        os.fsync(file.fileno())
    return path


def equal_runs(template: Image, guest: Image) -> BlockRuns:
    """Find what a plan knows: runs of units whose bytes are the template's; past its end, of zeros."""
    size = align_up(guest.virtual_size, UNIT)
    one, other = (np.frombuffer(guest_bytes(image, 0, size), np.uint8) for image in (template, guest))
    differs = (one != other).reshape(-1, UNIT).any(axis=1)
    edges = np.flatnonzero(np.diff(differs, prepend=True, append=True)).reshape(-1, 2) * UNIT
    return edges[:, 0], np.minimum(edges[:, 1], guest.virtual_size)


def left(template: Image, guest: Image) -> list[ShareableRange]:
    """The ranges that can be shared, in arrays and one by one, which must agree."""
    starts, ends = equal_runs(template, guest)
    found = list(shareable_left(template, guest, (starts, ends)))
    one_by_one = shareable_ranges(template, guest, zip(starts.tolist(), ends.tolist(), strict=True))
    assert blocks_in(found) == blocks_in(one_by_one)
    return found


def blocks_in(ranges: Iterable[ShareableRange]) -> set[tuple[int, ...]]:
    return {
        (each.template_layer, each.template_offset + at, each.guest_layer, each.guest_offset + at)
        for each in ranges
        for at in range(0, each.length, UNIT)
    }


def free_bytes(point: Path) -> int:
    settle(point)
    status = os.statvfs(point)
    return status.f_bfree * status.f_frsize


@contextlib.contextmanager
def without_rights() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def go_on() -> None:
    """No request to stop."""


def shared(template: Path, guest: Path, *below: Path) -> tuple[Shared, SharingGain, int]:
    """Shares all that is equal; returns what came of it, what was predicted, and how far free space grew.

    The guest's content, file, size, times and mode are as before, and so is the template.
    """
    files = (template, guest)
    before = [(state(path), hashed(path)) for path in files]
    with open_image(source(template, *below)) as one, open_image(source(guest)) as other:
        gain = gain_left(one, other, equal_runs(one, other))
        was_free = free_bytes(guest.parent)
        found = share_blocks(one, other, left(one, other), check=go_on)
        given_back = free_bytes(guest.parent) - was_free
    after = [(state(path), hashed(path)) for path in files]
    assert after == before
    return found, gain, given_back


def state(path: Path) -> tuple[int, ...]:
    """Return what a fingerprint has of a file, and its mode: a plan made before stays valid."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode


def hashed(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def left_to_share(template: Path, guest: Path) -> int:
    with open_image(source(template)) as one, open_image(source(guest)) as other:
        return sum(each.length for each in left(one, other))


def assert_true(disk: Path, gain: SharingGain, given_back: int) -> None:
    assert abs(gain.freed - given_back) <= TOLERANCE[disk.name] * given_back + TREES, (gain, given_back)


def test_a_full_copy_gives_back_what_it_has_in_common(disk, folder):
    template = write_template(folder / "template.img")
    guest = rewrite(full_copy(template, "guest.img"), seed=1, times=150)
    found, gain, given_back = shared(template, guest)
    assert gain.exactness is Exactness.EXACT
    assert_true(disk, gain, given_back)
    assert found.differing == ()
    assert min(found.shared, given_back) >= 0.8 * DATA
    assert left_to_share(template, guest) == 0


@pytest.mark.parametrize("options", ["", *rarely("cluster_size=4k", "extended_l2=on,cluster_size=128k")])
def test_clusters_of_qcow2(disk, folder, options):
    """Its host clusters lie in another order than the template's."""
    template = write_template(folder / "raw.img")
    run("qemu-img", "convert", "-O", "qcow2", str(template), str(folder / "template.qcow2"))
    guest = notation.write_qcow2(folder / "guest.qcow2", f"{SIZE}:-", options=options)
    run("qemu-img", "convert", "-n", "-W", "-O", "qcow2", str(template), str(guest))
    notation.qemu_io(guest, *(f"write -P {n + 1} {n * 2 * MIB + 512} {n * 700 + 512 & ~511}" for n in range(15)))
    before = guest.with_suffix(".before")
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(guest), str(before))
    in_small_extents(guest)
    _, gain, given_back = shared(folder / "template.qcow2", guest)
    assert gain.freed > DATA // 2
    assert_true(disk, gain, given_back)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(before), str(guest))
    run("qemu-img", "check", str(guest))
    assert left_to_share(folder / "template.qcow2", guest) == 0


def test_a_raw_guest_of_a_compressed_template_has_little_to_share(folder):
    """Compressed clusters are left out, and counted."""
    template = notation.write_qcow2(folder / "template.qcow2", "1M:a 1M:B 1M:-")
    guest = notation.write_raw(folder / "guest.img", "1M:A 1M:B 1M:0")
    with open_image(source(template)) as one, open_image(source(guest)) as other:
        (found,) = shareable_stretches(one, other, [(0, 3 * MIB)])
    assert sum(each.length for each in found.ranges) == MIB
    assert (found.already, found.unfit) == (0, MIB)


def test_the_template_may_be_a_chain_and_the_guest_larger(disk, folder):
    base = notation.write_raw(folder / "base.img", "8M:A 8M:B")
    template = notation.write_qcow2(folder / "template.qcow2", "8M:- 2M:C 6M:-", backing=base)
    guest = notation.write_raw(folder / "guest.img", "8M:A 2M:C 6M:B 4M:D 1M:0")
    found, gain, given_back = shared(template, guest, base)
    assert found.shared == 16 * MIB
    assert_true(disk, gain, given_back)


@pytest.mark.parametrize(
    ("template", "guest", "expected"),
    [
        ("60k:A 700:A", "60k:A 700:A", 60 * KIB + 700),
        ("60k:A 700:A", "60k:A 700:A 4k:0", 60 * KIB),
        ("60k:A 700:A 4k:0", "60k:A 700:A", 60 * KIB),
    ],
)
def test_the_last_block_is_shared_only_if_both_files_end_in_it(folder, template, guest, expected):
    write = notation.write_raw
    found, _, _ = shared(write(folder / "template.img", template), write(folder / "guest.img", guest))
    assert (found.shared, found.differing) == (expected, ())


def test_what_a_guest_wrote_meanwhile_stays(folder):
    """The kernel compares: the plan is old news to it."""
    template = write_template(folder / "template.img")
    guest = full_copy(template, "guest.img")
    with open_image(source(template)) as one, open_image(source(guest)) as other:
        ranges = left(one, other)
        changed = {2 * MIB: b"changed", 2 * MIB + 70_000: b"and here", 21 * MIB: b"and there"}
        with guest.open("r+b") as file:
            for at, text in changed.items():
                file.seek(at)
                file.write(text)
        expected = hashed(guest)
        found = share_blocks(one, other, ranges, check=go_on)
    assert hashed(guest) == expected
    assert [(each.guest_offset, each.length) for each in found.differing] == [
        (2 * MIB, 128 * KIB),
        (21 * MIB, 64 * KIB),
    ]
    assert found.shared == sum(each.length for each in ranges) - 192 * KIB


def test_a_stopped_run_is_continued(folder):
    template = write_template(folder / "template.img")
    guest = full_copy(template, "guest.img")
    calls = itertools.count()

    def check() -> None:
        if next(calls) == 5:
            raise StopError("interrupted")

    done: list[int] = []
    with open_image(source(template)) as one, open_image(source(guest)) as other:
        ranges = left(one, other)
        with pytest.raises(StopError):
            share_blocks(one, other, ranges, check=check, advance=done.append)
    assert sum(done) == sum(each.length for each in ranges[:5])
    assert left_to_share(template, guest) == DATA - sum(done)
    found, _, _ = shared(template, guest)
    assert found.shared == DATA - sum(done)


def share_and_die(template: Path, guest: Path, calls: int) -> None:
    """Shares in another process, which is killed before a call of the kernel."""
    child = os.fork()
    if child == 0:
        calls_left = iter(range(1, calls))
        with open_image(source(template)) as one, open_image(source(guest)) as other:
            ranges = left(one, other)
            share_blocks(
                one, other, ranges, check=lambda: next(calls_left, None) or os.kill(os.getpid(), signal.SIGKILL)
            )
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def share_and_be_killed(template: Path, guest: Path, seconds: float) -> None:
    """Shares in another process, which is killed at any time, perhaps within a call."""
    ready, begin = os.pipe()
    child = os.fork()
    if child == 0:
        with open_image(source(template)) as one, open_image(source(guest)) as other:
            ranges = left(one, other)
            os.write(begin, b"x")
            share_blocks(one, other, ranges, check=go_on)
        os._exit(0)
    os.read(ready, 1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_killed_run_loses_nothing(folder):
    """Each run continues where the last one ended."""
    template = write_template(folder / "template.img")
    guest = rewrite(full_copy(template, "guest.img"), seed=2, times=40)
    expected, stat = hashed(guest), guest.stat()
    remaining = [left_to_share(template, guest)]
    for calls in (3, 9):
        share_and_die(template, guest, calls)
        assert hashed(guest) == expected
        remaining.append(left_to_share(template, guest))
    assert len(set(remaining)) == len(remaining)
    share_and_be_killed(template, guest, 0.002)
    assert hashed(guest) == expected
    remaining.append(left_to_share(template, guest))
    assert remaining == sorted(remaining, reverse=True)
    found, _, _ = shared(template, guest)
    assert found.shared == remaining[-1]
    assert (guest.stat().st_ino, guest.stat().st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)


def cut_power(point: Path, disk: Path) -> None:
    """Mounts a filesystem again without what was only in memory."""
    run("xfs_io", "-x", "-c", "shutdown", str(point))
    run("umount", str(point))
    # Another mount namespace may keep it mounted for a moment, as shut down as it is.
    wait_for(lambda: not run("losetup", "-j", str(disk)))
    run("mount", "-o", "loop", str(disk), str(point))


def test_a_power_cut_loses_nothing(tmp_path):
    """XFS loses everything that is not on disk yet: nothing after the last call, which ends with that."""
    with mounted(tmp_path, "xfs") as point:
        template = write_template(point / "template.img")
        guest = rewrite(full_copy(template, "guest.img"), seed=2, times=40)
        expected = hashed(guest)
        share_and_die(template, guest, 9)
        cut_power(point, tmp_path / "xfs.filesystem")
        assert hashed(guest) == expected
        with open_image(source(template)) as one, open_image(source(guest)) as other:
            share_blocks(one, other, left(one, other), check=go_on)
        cut_power(point, tmp_path / "xfs.filesystem")
        assert hashed(guest) == expected
        assert left_to_share(template, guest) == 0


def test_blocks_that_others_have_as_well_are_not_promised(disk, folder):
    template = write_template(folder / "template.img")
    guest = full_copy(template, "guest.img")
    run("cp", "--reflink=always", str(guest), str(folder / "other.img"))
    found, gain, given_back = shared(template, guest)
    assert found.shared == DATA
    assert (gain.freed, gain.exactness) == (0, Exactness.AT_LEAST)
    assert given_back <= 256 * KIB
    found, gain, given_back = shared(template, folder / "other.img")
    assert gain.exactness is Exactness.EXACT
    assert_true(disk, gain, given_back)


def test_small_pieces_in_turn(disk, folder):
    """Every second block changed: the filesystem lists as many extents as there are blocks."""
    template = folder / "template.img"
    template.write_bytes(random.Random(4).randbytes(24 * MIB))
    guest = full_copy(template, "guest.img")
    with guest.open("r+b") as file:
        for at in range(0, 24 * MIB, 8 * KIB):
            file.seek(at)
            file.write(b"changed")
    run("sync", "-f", str(guest))
    _, gain, given_back = shared(template, guest)
    assert gain.exactness is Exactness.EXACT
    if disk.name == "xfs":
        assert abs(gain.freed - given_back) <= 0.005 * given_back
    else:
        assert_true(disk, gain, given_back)


@pytest.mark.long
def test_compressed_extents_of_btrfs(tmp_path):
    """The space on disk counts; what shares an extent already is hardly given to the kernel again."""
    with mounted(tmp_path, "btrfs", GIB, options="loop,compress-force=zstd") as disk:
        template = disk / "template.img"
        words = [random.Random(7).randbytes(8) for _ in range(2)] + [bytes([n] * 40) for n in range(1, 40)]
        template.write_bytes(b"".join(random.Random(8).choices(words, k=800_000))[: 24 * MIB].ljust(SIZE, b"z"))
        guest = rewrite(full_copy(template, "guest.img"), seed=5, times=60)
        found, gain, given_back = shared(template, guest)
        assert gain.exactness is Exactness.EXACT
        assert MIB < gain.freed < found.shared / 2
        assert_true(disk, gain, given_back)
        assert left_to_share(template, guest) < 0.3 * found.shared


def test_without_root_the_gain_on_btrfs_is_unknown(tmp_path):
    """Only root may search the tree: of the guest's one extent, the part that was overwritten is freed, too."""
    with mounted(tmp_path, "btrfs") as disk:
        template = notation.write_raw(disk / "template.img", "4M:A")
        guest = notation.write_raw(disk / "guest.img", "4M:A")
        with guest.open("rb") as file:
            os.fsync(file.fileno())  # only then does it have an extent
        notation.qemu_io(guest, "write -P 9 1M 3M", image_format="raw")
        with open_image(source(template)) as one, open_image(source(guest)) as other:
            runs = np.array([0]), np.array([MIB])
            assert gain_left(one, other, runs) == SharingGain(4 * MIB)
            with without_rights():
                gain = gain_left(one, other, runs)
        assert (gain.freed, gain.exactness) == (MIB, Exactness.UNKNOWN)
        assert "only root" in gain.note


def test_whoever_owns_the_guest_may_share_it_without_opening_it_for_writing(folder):
    template = notation.write_raw(folder / "template.img", "1M:A")
    guest = notation.write_raw(folder / "guest.img", "1M:A")
    for path, mode in ((template, 0o444), (guest, 0o444)):
        path.chmod(mode)
    os.chown(guest, 65534, 65534)
    with open_image(source(template)) as one, open_image(source(guest)) as other, without_rights():
        found = share_blocks(one, other, shareable_ranges(one, other, [(0, MIB)]), check=go_on)
    assert found.shared == MIB


def test_others_may_not(folder):
    template = notation.write_raw(folder / "template.img", "1M:A")
    guest = notation.write_raw(folder / "guest.img", "1M:A")
    with (
        open_image(source(template)) as one,
        open_image(source(guest)) as other,
        without_rights(),
        pytest.raises(
            GuestError, match=r"cannot share blocks of .*guest\.img with .*nobody \(uid 65534\) may not"
        ),
    ):
        share_blocks(one, other, shareable_ranges(one, other, [(0, MIB)]), check=go_on)


def test_an_immutable_guest_gets_the_command_that_helps(folder):
    template = notation.write_raw(folder / "template.img", "1M:A")
    guest = notation.write_raw(folder / "guest.img", "1M:A")
    run("chattr", "+i", str(guest))
    try:
        with (
            open_image(source(template)) as one,
            open_image(source(guest)) as other,
            pytest.raises(GuestError, match="immutable") as caught,
        ):
            share_blocks(one, other, shareable_ranges(one, other, [(0, MIB)]), check=go_on)
    finally:
        run("chattr", "-i", str(guest))
    assert f"chattr -i {guest}" in str(caught.value)


def test_requests_are_read_ahead_in_their_order(folder, monkeypatch):
    """The kernel would read each page only when it compares it."""
    template = write_template(folder / "template.img")
    guest = full_copy(template, "guest.img")
    events: list[tuple[str, int]] = []
    advise, dedupe = os.posix_fadvise, share.dedupe
    monkeypatch.setattr(
        share.os, "posix_fadvise", lambda fd, at, *rest: (events.append(("ahead", at)), advise(fd, at, *rest))
    )
    monkeypatch.setattr(
        share, "dedupe", lambda fd, at, *rest: (events.append(("share", at)), dedupe(fd, at, *rest))[1]
    )
    with open_image(source(template)) as one, open_image(source(guest)) as other:
        share_blocks(one, other, shareable_ranges(one, other, [(0, SIZE)]), check=go_on)
    starts = list(range(0, SIZE, 4 * MIB))
    assert [at for what, at in events if what == "share"] == starts
    ahead = [at for what, at in events if what == "ahead"]
    assert ahead == [at + MIB * n for at in starts for _ in (template, guest) for n in range(3)]
    assert events.index(("share", 0)) > events.index(("ahead", 28 * MIB))
