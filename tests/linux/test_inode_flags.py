"""Inode flags, allocation hints and projects: the original's, whatever the folder gives."""

import contextlib
import errno
import fcntl
import os
import struct

import notation
import pytest

from batchdiff.linux import inode_flags
from batchdiff.linux.inode_flags import set_early_flags, set_late_flags
from batchdiff.linux.metadata import copy_metadata, prepare

GET_MORE, SET_MORE = 0x801C581F, 0x401C5820
MORE = struct.Struct("=5I8x")
EXTSIZE, PROJINHERIT, EXTSZINHERIT = 0x800, 0x200, 0x1000


def more(path):
    with path_open(path) as fd:
        return MORE.unpack(fcntl.ioctl(fd, GET_MORE, bytes(MORE.size)))


def set_more(path, *, flags=0, extent_size=0, project=0):
    now = more(path)
    with path_open(path) as fd:
        fcntl.ioctl(fd, SET_MORE, MORE.pack(now[0] | flags, extent_size, 0, project, 0))


@contextlib.contextmanager
def path_open(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def lsattr(path):
    """The letters of chattr(1), without `e` (ext4's extents), which no user sets."""
    return set(notation.run("lsattr", "-d", str(path)).split()[0]) - {"-", "e"}


def replaced(original, new):
    """What could not be kept, in a new file that is written between the two steps."""
    source = os.open(original, os.O_RDONLY)
    target = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        lost = prepare(source, target)
        os.write(target, b"x" * 65536)
        lost += copy_metadata(source, target)
        os.fsync(target)
    finally:
        os.close(source)
        os.close(target)
    return lost


FLAGS = {"ext4": ["", "A", "d", "S", "s", "u", "t", "Ad", "cAdSst"], "xfs": ["", "A", "d", "S", "AdS"]}
FLAGS["btrfs"] = ["", "A", "c", "C", "m", "S", "cS", "Cd"]
CASES = [(kind, flags) for kind, some in FLAGS.items() for flags in some]


@pytest.mark.parametrize(("kind", "own"), CASES)
@pytest.mark.parametrize("folders", [False, True], ids=["plain", "inheriting"])
def test_the_flags_are_the_originals(place, kind, own, folders):
    folder = place(kind)
    original = folder / "original"
    original.touch()
    if own:
        notation.run("chattr", f"+{own}", str(original))
    if folders:
        for flag in {"ext4": "AdScst", "xfs": "AdS", "btrfs": "c"}[kind]:
            notation.run("chattr", f"+{flag}", str(folder))
        (folder / "inherits").touch()
        assert lsattr(folder / "inherits")
    assert replaced(original, folder / "new") == []
    assert lsattr(folder / "new") == lsattr(original) == set(own)


def test_nocow_of_a_folder_is_not_the_originals(place):
    folder = place("btrfs")
    (folder / "original").touch()
    notation.run("chattr", "+C", str(folder))
    assert replaced(folder / "original", folder / "new") == []
    assert "C" not in lsattr(folder / "new")


@pytest.mark.parametrize("how", ["zstd", "lzo"])
def test_the_algorithm_of_compression_is_the_originals(place, how):
    folder = place("btrfs")
    original = folder / "original"
    original.touch()
    os.setxattr(original, "btrfs.compression", how.encode())
    os.setxattr(folder, "btrfs.compression", b"zlib")
    assert replaced(original, folder / "new") == []
    assert os.getxattr(folder / "new", "btrfs.compression") == how.encode()
    assert lsattr(folder / "new") == {"c"}


def test_locks_are_left_to_the_original(place):
    folder = place("ext4")
    original = folder / "original"
    original.touch()
    notation.run("chattr", "+ia", str(original))
    try:
        assert replaced(original, folder / "new") == []
        assert lsattr(folder / "new") == set()
    finally:
        notation.run("chattr", "-ia", str(original))


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_flags_that_a_filesystem_cannot_have_are_named(place, kind):
    original = place("ext4") / "original"
    original.touch()
    notation.run("chattr", "+sd", str(original))
    lost = replaced(original, place(kind) / "new")
    assert lost == ["the flag SECRM (Operation not supported)"]


def test_an_inherited_flag_that_stays_is_named(place, monkeypatch):
    folder = place("ext4")
    (folder / "original").touch()
    notation.run("chattr", "+S", str(folder))
    real = fcntl.ioctl

    def refusing(fd, request, argument):
        if request == 0x40086602:
            raise PermissionError(1, "Operation not permitted")
        return real(fd, request, argument)

    monkeypatch.setattr(fcntl, "ioctl", refusing)
    lost = replaced(folder / "original", folder / "new")
    assert lost == ["the file free of the flag SYNC (Operation not permitted)"]


def test_a_device_has_no_flags(place):
    folder = place("ext4")
    notation.run("chattr", "+d", str(folder))
    target = os.open(folder / "new", os.O_RDWR | os.O_CREAT, 0o600)
    source = os.open("/dev/null", os.O_RDONLY)
    try:
        assert set_early_flags(source, target) == []
        assert set_late_flags(source, target) == []
    finally:
        os.close(source)
        os.close(target)
    assert lsattr(folder / "new") == set()


def test_a_device_has_no_project_to_lose(place):
    folder = place("xfs")
    set_more(folder, flags=PROJINHERIT, project=42)
    target = os.open(folder / "new", os.O_RDWR | os.O_CREAT, 0o600)
    source = os.open("/dev/null", os.O_RDONLY)
    try:
        assert set_early_flags(source, target) == []
    finally:
        os.close(source)
        os.close(target)
    assert more(folder / "new")[3] == 42


def test_extent_size_hints(place):
    """XFS would take blocks in larger units than planned: neither the folder's nor the original's are kept."""
    folder = place("xfs")
    original, hinted = folder / "original", folder / "hinted"
    original.touch()
    set_more(folder, flags=EXTSZINHERIT, extent_size=65536)
    hinted.touch()
    assert more(hinted)[:2] == (more(original)[0] | EXTSIZE, 65536)
    assert replaced(original, folder / "new") == []
    assert more(folder / "new")[1] == 0
    assert not more(folder / "new")[0] & EXTSIZE
    set_more(hinted, flags=EXTSIZE, extent_size=131072)
    assert replaced(hinted, folder / "other") == []
    assert more(folder / "other")[1] == 0
    assert not more(folder / "other")[0] & EXTSIZE


def test_a_project_is_kept(place):
    folder = place("xfs")
    (folder / "original").touch()
    set_more(folder / "original", project=42)
    assert replaced(folder / "original", folder / "new") == []
    assert more(folder / "new")[3] == 42


def test_a_folder_that_allows_its_own_project_only(place):
    """Nothing of another project could get its name there: XFS says EXDEV."""
    folder = place("xfs")
    (folder / "original").touch()
    set_more(folder, flags=PROJINHERIT, project=42)
    assert replaced(folder / "original", folder / "new") == [
        "quota project 0 (the folder of the file allows only project 42)"
    ]
    assert more(folder / "new")[3] == 42
    os.rename(folder / "new", folder / "named")
    with pytest.raises(OSError, match="cross-device"):
        os.rename(folder / "original", folder / "renamed")


def test_a_folder_that_cannot_be_read_may_allow_its_own_project_only(place, monkeypatch):
    folder = place("xfs")
    (folder / "original").write_bytes(b"")
    set_more(folder / "original", project=42)
    with path_open(folder / "original") as fd:

        def closed(path, *_):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

        monkeypatch.setattr(os, "open", closed)
        said = inode_flags._set_project(fd, 0)
        monkeypatch.undo()
    assert said == ["quota project 0 (the folder of the file cannot be read, and may allow only project 42)"]
