"""In which units filesystems give space, and whether what an overlay takes can be known ahead."""

import os
from contextlib import contextmanager

import pytest
from filesystems import mounted, tmpfs
from notation import run

from batchdiff.image.storage import allocation_units as module
from batchdiff.image.storage.allocation_units import volume_of
from batchdiff.image.storage.exactness import Exactness
from batchdiff.units import GIB, KIB


@contextmanager
def guest_in(folder):
    fd = os.open(folder / "guest.img", os.O_RDWR | os.O_CREAT)
    try:
        os.write(fd, b"x")
        os.fsync(fd)
        yield fd
    finally:
        os.close(fd)


def seen(folder, below=""):
    with guest_in(folder) as fd:
        return volume_of(str(folder / below), fd)


@pytest.mark.parametrize(
    ("kind", "make", "unit"),
    [
        ("ext4", (), 4 * KIB),
        ("ext4", ("-b", "1024"), KIB),
        ("ext4", ("-O", "bigalloc", "-C", "65536"), 64 * KIB),
        ("ext4", ("-O", "bigalloc,inline_data", "-C", "262144"), 256 * KIB),
        ("xfs", ("-b", "size=65536"), 64 * KIB),
    ],
)
def test_units(tmp_path, kind, make, unit):
    """A new file of one byte takes one."""
    with mounted(tmp_path, kind, GIB, make=make) as point:
        (point / "folder").mkdir()
        found = seen(point, "folder")
        assert (found.filesystem, found.unit, found.exactness) == (kind, unit, Exactness.EXACT)
        if "inline_data" not in str(make):
            assert (point / "guest.img").stat().st_blocks * 512 == unit


@pytest.mark.parametrize(("make", "unit"), [((), 4 * KIB), (("-O", "bigalloc", "-C", "16384"), 16 * KIB)])
def test_a_disk_with_many_images_at_its_top(tmp_path, make, unit):
    """Their names make the only folder there is take several units, as a bind mount's may, too."""
    with mounted(tmp_path, "ext4", make=make) as point:
        with guest_in(point) as guest:
            os.posix_fallocate(guest, 0, 1 << 20)
        (point / f"{0:0200}").write_bytes(b"x")
        number = 0
        while point.stat().st_blocks * 512 % (8 * unit):
            number += 1
            (point / f"{number:0200}").touch()
        assert seen(point).unit == unit


def test_huge_pages(tmp_path):
    with tmpfs(tmp_path) as point:
        assert seen(point).exactness is Exactness.EXACT
        run("mount", "-o", "remount,huge=always", str(point))
        assert (seen(point).unit, seen(point).exactness) == (2 << 20, Exactness.AT_MOST)
        assert "huge pages" in seen(point).note


@pytest.mark.parametrize(
    ("options", "flag", "exactness"),
    [
        ("loop", "", Exactness.EXACT),
        ("loop,compress=zstd", "", Exactness.AT_MOST),
        ("loop,compress-force=lzo", "", Exactness.AT_MOST),
        ("loop,compress=no", "", Exactness.EXACT),
        ("loop,compress=zstd", "+C", Exactness.EXACT),
        ("loop", "+c", Exactness.AT_MOST),
    ],
)
def test_compression(tmp_path, options, flag, exactness):
    with mounted(tmp_path, "btrfs", options=options) as point:
        (point / "guest.img").touch()
        if flag:
            run("chattr", flag, str(point / "guest.img"))
        assert seen(point).exactness is exactness


@pytest.mark.parametrize("kind", ["", "zfs"])
def test_a_filesystem_that_was_never_measured(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(module, "filesystem_of", lambda _fd: kind)
    found = seen(tmp_path)
    assert found.exactness is Exactness.UNKNOWN
    assert (kind or "unknown type") in found.note


@pytest.mark.parametrize(("kind", "exactness"), [("ext4", Exactness.EXACT), ("btrfs", Exactness.UNKNOWN)])
def test_a_filesystem_that_is_in_no_list_of_mounts(tmp_path, monkeypatch, kind, exactness):
    """As a chroot's own: its type is known, its mount options are not."""
    with mounted(tmp_path, kind) as point:
        monkeypatch.setattr("batchdiff.linux.mounts.mountinfo", list)
        found = seen(point)
        assert (found.filesystem, found.exactness, found.unit) == (kind, exactness, 4096)
        assert ("mount options" in found.note) is (exactness is Exactness.UNKNOWN)


def test_a_folder_that_is_not_there(tmp_path):
    with guest_in(tmp_path) as fd, pytest.raises(FileNotFoundError):
        volume_of(str(tmp_path / "nowhere"), fd)


def test_what_statvfs_says_of_other_filesystems_is_no_unit(tmp_path, monkeypatch):
    """NFS has the size of its requests there, and FUSE may have nothing."""
    monkeypatch.setattr(module, "filesystem_of", lambda _fd: "nfs4")
    for size in (0, 1 << 20):
        status = os.statvfs_result([*os.statvfs(tmp_path)[:1], size, *os.statvfs(tmp_path)[2:]])
        monkeypatch.setattr(os, "fstatvfs", lambda _fd, status=status: status)
        assert seen(tmp_path).unit == 4096


def test_the_realtime_device_of_xfs_was_never_measured(tmp_path, monkeypatch):
    """Few kernels can mount one; the flag is all that is asked for."""
    with mounted(tmp_path, "xfs") as point:
        monkeypatch.setattr(module, "_REALTIME", 0)
        assert seen(point).exactness is Exactness.EXACT
        monkeypatch.setattr(module.fcntl, "ioctl", lambda *_: b"\1" + bytes(27))
        monkeypatch.setattr(module, "_REALTIME", 1)
        assert seen(point).exactness is Exactness.UNKNOWN
