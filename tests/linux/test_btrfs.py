"""What files have on a btrfs disk: lengths after compression, whole extents, and what only root may ask."""

import os
import random

import pytest
from filesystems import mounted, opened, settle, use_of
from notation import run

from batchdiff.image.storage.allocation import disk_use
from batchdiff.image.storage.block_ranges import blocks_of
from batchdiff.image.storage.exactness import Exactness
from batchdiff.linux import btrfs
from batchdiff.linux.btrfs import is_btrfs, stored_extents
from batchdiff.linux.fiemap import ExtentFlag, extent_table
from batchdiff.units import KIB, MIB


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    with mounted(tmp_path_factory.mktemp("btrfs"), "btrfs", options="loop,compress=zstd") as point:
        yield point


def written(path, content):
    path.write_bytes(content)
    run("sync", "-f", str(path))
    return path


def in_one_extent(path, content):
    """Preallocated, for a busy kernel writes a new file in as many extents as it likes."""
    run("fallocate", "-l", str(len(content)), str(path))
    overwrite(path, 0, content)
    return path


def overwrite(path, offset, content):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)
        os.fsync(file.fileno())


def freed_by_deleting(path):
    settle(path.parent)
    before = os.statvfs(path.parent).f_bfree
    path.unlink()
    settle(path.parent)
    return (os.statvfs(path.parent).f_bfree - before) * 4096


def noise(length, seed=1):
    return random.Random(seed).randbytes(length)


def test_only_btrfs_is_btrfs(disk, tmp_path):
    with opened(written(disk / "x", b"x")) as here, opened(written(tmp_path / "x", b"x")) as elsewhere:
        assert is_btrfs(here)
        assert not is_btrfs(elsewhere)


def test_compressed_data_counts_as_on_disk(disk):
    path = written(disk / "text", b"all work and no play " * 500_000)
    use = use_of(path)
    assert path.stat().st_blocks * 512 > 10 * MIB
    assert use.allocated == use.reclaimable < MIB
    assert use.exactness is Exactness.EXACT
    assert abs(freed_by_deleting(path) - use.reclaimable) <= 128 * KIB


def test_what_was_overwritten_is_kept_and_counts(disk):
    """Extents of 8 MiB of which a part was written anew stay whole."""
    path = in_one_extent(disk / "rewritten", noise(8 * MIB))
    for at in range(0, 8 * MIB, MIB):
        overwrite(path, at + 64 * KIB, noise(512 * KIB, at + 2))
    use = use_of(path)
    assert use.allocated == use.reclaimable == 12 * MIB
    assert abs(freed_by_deleting(path) - 12 * MIB) <= 128 * KIB


def test_a_small_file_takes_no_blocks(disk):
    use = use_of(written(disk / "small", b"abc"))
    assert (use.allocated, use.reclaimable, use.exactness) == (0, 0, Exactness.EXACT)


def test_holes_and_preallocated_parts(disk):
    path = disk / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 30)
        file.write(noise(MIB))
    run("fallocate", "-n", "-o", str(2 << 40), "-l", str(2 * MIB), str(path))
    run("sync", "-f", str(path))
    assert use_of(path).reclaimable == 3 * MIB


def test_more_extents_than_one_search_gives(disk, monkeypatch):
    monkeypatch.setattr(btrfs, "_BUFFER", 4096)
    path = written(disk / "many", b"")
    for number in range(200):
        overwrite(path, number * 8 * KIB, noise(4 * KIB, number))
    with opened(path) as fd:
        assert [extent.logical for extent in stored_extents(fd, str(path))] == [
            number * 8 * KIB for number in range(200)
        ]


def test_an_extent_of_which_another_has_a_part_stays_whole(disk):
    """8 MiB in one extent; a second file shares 4 KiB of it."""
    path = in_one_extent(disk / "source", noise(8 * MIB, 5))
    (disk / "part").touch()
    run("xfs_io", "-c", f"reflink {path} {MIB} 0 4096", str(disk / "part"))
    run("sync", "-f", str(disk))
    use = use_of(path)
    assert use.allocated == 8 * MIB
    assert use.reclaimable == 0
    assert freed_by_deleting(path) <= 64 * KIB
    whole = use_of(disk / "part")
    assert (whole.allocated, whole.reclaimable) == (8 * MIB, 8 * MIB)
    assert abs(freed_by_deleting(disk / "part") - 8 * MIB) <= 128 * KIB


def test_what_the_template_has_stays_in_any_case(disk):
    """Shared with the template alone: exact. Shared with others too: they may go some day."""
    template = written(disk / "template", noise(4 * MIB, 6))
    guest, other = disk / "guest", disk / "other"
    run("cp", "--reflink=always", str(template), str(guest))
    overwrite(guest, 0, noise(MIB, 7))
    with opened(template) as fd:
        kept = blocks_of(extent_table(fd, str(template), having=ExtentFlag.SHARED))
    assert (use_of(guest, kept=kept).exactness, use_of(guest, kept=kept).reclaimable) == (Exactness.EXACT, MIB)
    run("cp", "--reflink=always", str(guest), str(other))
    use = use_of(guest, kept=kept)
    assert (use.exactness, use.reclaimable) == (Exactness.AT_LEAST, 0)
    assert use.note.startswith("it shares all its blocks with other files; if those are guests too, ")
    overwrite(guest, 2 * MIB, noise(MIB, 8))
    use = use_of(guest, kept=kept)
    assert (use.exactness, use.reclaimable) == (Exactness.AT_LEAST, MIB)
    assert "once the last of those files is deleted" in use.note


@pytest.mark.parametrize(
    ("content", "exactness", "words"),
    [
        (b"all work and no play " * 50_000, Exactness.UNKNOWN, "compressed"),
        (noise(MIB), Exactness.AT_LEAST, "overwritten"),
    ],
)
def test_the_note_for_users_other_than_root(disk, content, exactness, words):
    path = written(disk / "for all", content)
    with opened(path) as fd:
        os.seteuid(65534)
        try:
            use = disk_use(fd, str(path))
        finally:
            os.seteuid(0)
    assert use.exactness is exactness
    assert words in use.note
    assert "only root (CAP_SYS_ADMIN) can" in use.note
    run("cp", "--reflink=always", str(path), str(disk / "second"))
    run("sync", "-f", str(disk))
    with opened(path) as fd:
        os.seteuid(65534)
        try:
            all_shared = disk_use(fd, str(path))
        finally:
            os.seteuid(0)
    if not all_shared.reclaimable:
        assert all_shared.note == "it shares all its blocks with other files, as far as this user can see"
    assert use.allocated == path.stat().st_blocks * 512
