import os
import stat

import notation
import pytest
from filesystems import mounted

from batchdiff.applying.metadata import copy_metadata, prepare
from batchdiff.units import MIB


@pytest.fixture
def files(tmp_path):
    fds = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT, 0o600) for name in ("source", "target")]
    yield fds
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("mode", [0o644, 0o400, 0o000, 0o660, 0o777, 0o4755, 0o2775])
def test_owner_and_mode(files, mode):
    source, target = files
    os.fchown(source, 1234, 5678)
    os.fchmod(source, mode)
    assert copy_metadata(source, target) == []
    info = os.fstat(target)
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (1234, 5678, mode)


def test_attributes(files):
    source, target = files
    given = {
        "user.note": b"web \x00\xff",
        "user.empty": b"",
        "trusted.mine": b"1",
        "security.selinux": b"a:b:c:s0",
    }
    for name, value in given.items():
        os.setxattr(source, name, value)
    assert copy_metadata(source, target) == []
    for name, value in given.items():
        assert os.getxattr(target, name) == value


def nocow(path):
    return "C" in notation.run("lsattr", "-d", str(path)).split()[0]


@pytest.mark.parametrize("asked", [True, False])
def test_nocow(tmp_path, asked):
    with mounted(tmp_path, "btrfs", 128 * MIB) as folder:
        fds = [os.open(folder / name, os.O_RDWR | os.O_CREAT) for name in ("source", "target")]
        if asked:
            notation.run("chattr", "+C", str(folder / "source"))
        assert prepare(*fds) == []
        os.write(fds[1], b"x")
        for fd in fds:
            os.close(fd)
        assert nocow(folder / "target") is asked


def test_nocow_that_cannot_be_kept(tmp_path):
    with mounted(tmp_path, "btrfs", 128 * MIB) as folder:
        (folder / "source").touch()
        notation.run("chattr", "+C", str(folder / "source"))
        fds = [os.open(path, os.O_RDWR | os.O_CREAT) for path in (folder / "source", folder / "target")]
        os.write(fds[1], b"it must be empty")
        os.fsync(fds[1])
        lost = prepare(*fds)
        for fd in fds:
            os.close(fd)
    assert lost == ["the flag NOCOW"]


def test_libvirts_bookkeeping_stays_behind(files):
    """It counts who uses the original; on the overlay it would keep libvirt from setting owners right."""
    source, target = files
    os.setxattr(source, "trusted.libvirt.security.ref_dac", b"1")
    os.setxattr(source, "trusted.libvirt.security.timestamp_dac", b"1")
    os.setxattr(source, "user.kept", b"1")
    assert copy_metadata(source, target) == []
    names = [name for name in os.listxattr(target) if name != "security.selinux"]
    assert names == ["user.kept"]


def test_access_lists(files, tmp_path):
    """An ACL is an attribute, and its mask shows in the mode: both must come out right."""
    source, target = files
    entries = [(0x01, 6, -1), (0x02, 6, 1001), (0x04, 4, -1), (0x10, 6, -1), (0x20, 0, -1)]
    packed = b"\x02\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + rights.to_bytes(2, "little") + (who & 0xFFFFFFFF).to_bytes(4, "little")
        for tag, rights, who in entries
    )
    os.setxattr(source, "system.posix_acl_access", packed)
    assert copy_metadata(source, target) == []
    assert os.getxattr(target, "system.posix_acl_access") == packed
    assert os.fstat(source).st_mode == os.fstat(target).st_mode


def test_what_cannot_be_kept_is_named(files, monkeypatch):
    source, target = files
    os.setxattr(source, "user.note", b"1")
    os.fchmod(source, 0o640)

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    monkeypatch.setattr(os, "setxattr", refuse)
    lost = copy_metadata(source, target)
    assert len(lost) == 2
    assert "owner 0:0" in lost[0]
    assert "user.note" in lost[1]
    assert stat.S_IMODE(os.fstat(target).st_mode) == 0o640


def test_a_device_gives_no_mode(files):
    source = os.open("/dev/null", os.O_RDONLY)
    try:
        copy_metadata(source, files[1])
    finally:
        os.close(source)
    assert stat.S_IMODE(os.fstat(files[1]).st_mode) == 0o600
