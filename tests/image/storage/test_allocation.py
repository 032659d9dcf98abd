"""What a file takes on disk, and what deleting it frees.

Guards linux/fiemap.py.
"""

import contextlib
import errno
import fcntl
import os
import random
from dataclasses import replace

import pytest
from filesystems import mounted, settle
from notation import run

from batchdiff.errors import ImageError
from batchdiff.image.storage import allocation
from batchdiff.image.storage.allocation import allocated_bytes, disk_use, disk_use_of
from batchdiff.linux.fiemap import ExtentFlag, PhysicalExtent, extent_table, physical_extents
from batchdiff.units import KIB, MIB

UNWRITTEN = 0x800


@pytest.fixture(scope="module")
def xfs(tmp_path_factory):
    with mounted(tmp_path_factory.mktemp("allocation"), "xfs") as point:
        yield point


def measured(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        use = disk_use(fd, str(path))
        assert use.allocated == allocated_bytes(fd, str(path))
        return use.allocated, use.reclaimable
    finally:
        os.close(fd)


def extents_of(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return list(physical_extents(fd, str(path)))
    finally:
        os.close(fd)


def made(path, size=4 * MIB, seed=1):
    path.write_bytes(random.Random(seed).randbytes(size))
    run("sync", "-f", str(path))
    return path


def reflink(source, target):
    run("cp", "--reflink=always", str(source), str(target))
    return target


def rewrite(path, offset, length):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"x" * length)
        os.fsync(file.fileno())


def test_a_file_of_its_own(xfs):
    assert measured(made(xfs / "own")) == (4 * MIB, 4 * MIB)


def test_a_sparse_file(xfs):
    path = xfs / "sparse"
    with path.open("wb") as file:
        file.write(b"x" * 64 * KIB)
        file.truncate(1 << 40)
        os.fsync(file.fileno())
    assert measured(path) == (64 * KIB, 64 * KIB)


def test_an_empty_file(xfs):
    (xfs / "empty").touch()
    assert measured(xfs / "empty") == (0, 0)


def test_what_is_shared_does_not_come_back(xfs):
    source = made(xfs / "source", seed=2)
    copy = reflink(source, xfs / "copy")
    assert measured(copy) == (4 * MIB, 0)
    rewrite(copy, MIB, 256 * KIB)
    assert measured(copy) == (4 * MIB, 256 * KIB)
    assert measured(source) == (4 * MIB, 256 * KIB)


def test_that_an_image_frees_nothing_is_known_only_if_all_its_files_free_nothing(xfs):
    shared = [made(xfs / name, seed=30 + number) for number, name in enumerate(("first", "second"))]
    for path in shared:
        reflink(path, path.with_name(f"{path.name} copy"))
    linked = made(xfs / "has two names", seed=32)
    os.link(linked, xfs / "its second name")
    own = made(xfs / "alone", seed=33)
    for paths, expected in (
        (shared[:1], True),
        ([linked], True),
        ([*shared, linked], True),
        ([own], False),
        ([*shared, own], False),
    ):
        with contextlib.ExitStack() as stack:
            files = [(stack.enter_context(path.open("rb")).fileno(), str(path)) for path in paths]
            use = disk_use_of(files, kept={})
        assert use.frees_nothing is expected
        assert (use.reclaimable == 0) is expected


def test_it_is_what_the_filesystem_gets_back(xfs):
    source = made(xfs / "kept", seed=3)
    copy = reflink(source, xfs / "removed")
    rewrite(copy, 0, MIB)
    settle(xfs)
    before, expected = os.statvfs(xfs).f_bfree, measured(copy)[1]
    copy.unlink()
    settle(xfs)  # XFS frees in the background
    assert (os.statvfs(xfs).f_bfree - before) * 4096 == expected == MIB


def test_a_failed_search_of_btrfs_is_the_fault_of_one_image(tmp_path, monkeypatch):
    """It is an error about this image, so that other guests continue."""

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    with mounted(tmp_path, "btrfs") as point:
        path = made(point / "web.img")
        monkeypatch.setattr(allocation, "stored_extents", fail)
        with (
            path.open("rb") as file,
            pytest.raises(ImageError, match=f"where {path} is on its disk: Input") as caught,
        ):
            disk_use(file.fileno(), str(path))
    assert caught.value.path == str(path)


def test_hard_links(xfs):
    path = made(xfs / "linked", seed=4)
    os.link(path, xfs / "second name")
    assert measured(path) == (4 * MIB, 0)
    (xfs / "second name").unlink()
    assert measured(path) == (4 * MIB, 4 * MIB)


def test_data_that_is_not_on_disk_yet(xfs):
    """Written a moment ago: the extents are asked for after a flush."""
    path = xfs / "fresh"
    path.write_bytes(random.Random(5).randbytes(MIB))
    assert measured(path)[1] == MIB


@pytest.fixture
def comb(xfs):
    """A file with more extents than one request holds."""
    path = xfs / "comb"
    with path.open("wb") as file:
        for number in range(3000):
            file.seek(number * 8192)
            file.write(b"x" * 4096)
        os.fsync(file.fileno())
    yield path
    path.unlink()


def test_more_extents_than_one_request_holds(xfs, comb):
    found = extents_of(comb)
    assert len(found) >= 3000
    # XFS allocates some of the holes ahead; those extents say that they are not written.
    written = [extent.logical for extent in found if not extent.flags & UNWRITTEN]
    assert written == list(range(0, 3000 * 8192, 8192))
    assert [number for number, extent in enumerate(found) if extent.flags & ExtentFlag.LAST] == [len(found) - 1]
    copy = reflink(comb, xfs / "comb copy")
    shared = [extent for extent in extents_of(copy) if extent.flags & ExtentFlag.SHARED]
    assert len([extent for extent in shared if not extent.flags & UNWRITTEN]) == 3000


def test_a_filesystem_that_does_not_tell():
    """tmpfs has no FIEMAP, and shares nothing."""
    fd = os.memfd_create("x")
    try:
        os.write(fd, b"x" * MIB)
        assert physical_extents(fd, "x") is None
        assert disk_use(fd, "x").reclaimable == allocated_bytes(fd, "x") >= MIB
    finally:
        os.close(fd)


def test_a_block_device_counts_whole(tmp_path):
    (tmp_path / "disk").write_bytes(bytes(MIB))
    device = run("losetup", "--find", "--show", str(tmp_path / "disk")).strip()
    try:
        assert measured(device) == (MIB, MIB)
    finally:
        run("losetup", "--detach", device)


def test_more_shared_than_allocated_is_nothing(xfs, monkeypatch):
    """Preallocated space past the end counts as shared on some filesystems, never in st_blocks."""
    path = made(xfs / "odd", seed=6)
    real = allocation.extent_table

    def twice(*where, having):
        table = real(*where, having=0)
        return replace(table, length=table.length * 2, flags=table.flags | having)

    monkeypatch.setattr(allocation, "extent_table", twice)
    assert measured(path) == (4 * MIB, 0)


def test_a_table_has_the_extents_of_single_calls(comb):
    """More than one request gives."""
    fd = os.open(comb, os.O_RDONLY)
    try:
        table = extent_table(fd, str(comb), having=0)
        columns = zip(*(getattr(table, name).tolist() for name in PhysicalExtent._fields), strict=True)
        extents = list(physical_extents(fd, str(comb)))
        assert list(columns) == extents
        assert len(extents) > 512
        assert len(table.having(ExtentFlag.LAST).flags) == 1
        assert not table.equals(table.having(ExtentFlag.LAST))
    finally:
        os.close(fd)


def test_a_fault_after_the_first_extents(comb, monkeypatch):
    """The second request fails: what is known by then is only a part."""
    real, asked = fcntl.ioctl, []

    def ioctl(*arguments):
        asked.append(arguments)
        if len(asked) > 1:
            raise OSError(errno.EIO, "Input/output error")
        return real(*arguments)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    with pytest.raises(ImageError, match=r"cannot determine where .*comb is on its disk: Input/output error"):
        measured(comb)
