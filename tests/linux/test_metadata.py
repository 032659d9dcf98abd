import contextlib
import os
import stat
from pathlib import Path

import access
import notation
import pytest
from filesystems import mounted

from batchdiff.linux import metadata
from batchdiff.linux.metadata import copy_metadata, prepare
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
    os.fchown(source, 1234, -1)
    os.setxattr(source, "user.note", b"1")
    os.fchmod(source, 0o640)

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    monkeypatch.setattr(os, "setxattr", refuse)
    lost = copy_metadata(source, target)
    assert lost == [
        "the owner 1234:0 (Operation not permitted)",
        "the attribute user.note (Operation not permitted)",
    ]
    assert stat.S_IMODE(os.fstat(target).st_mode) == 0o640


def test_what_a_filesystem_only_seems_to_keep_is_named(files, monkeypatch):
    source, target = files
    os.setxattr(source, "user.note", b"1")
    os.fchmod(source, 0o2640)
    monkeypatch.setattr(os, "setxattr", lambda *_: None)
    monkeypatch.setattr(os, "fchmod", lambda *_: None)
    assert copy_metadata(source, target) == ["the attribute user.note", "the mode 2640"]


def test_a_device_gives_no_mode(files):
    source = os.open("/dev/null", os.O_RDONLY)
    try:
        copy_metadata(source, files[1])
    finally:
        os.close(source)
    assert stat.S_IMODE(os.fstat(files[1]).st_mode) == 0o600


def test_a_device_gives_no_access_list(files, monkeypatch):
    """It says who may use the disk; the new file belongs to its owner alone."""
    real = metadata._attributes
    source = os.open("/dev/null", os.O_RDONLY)
    listed = {"system.posix_acl_access": b"who may use the disk"}
    monkeypatch.setattr(metadata, "_attributes", lambda fd: listed.copy() if fd == source else real(fd))
    try:
        assert copy_metadata(source, files[1]) == []
    finally:
        os.close(source)
    assert "system.posix_acl_access" not in os.listxattr(files[1])


class Inheriting:
    """A folder whose default ACL lets others in, and an original that was there before."""

    def __init__(self, folder):
        self.path = folder / "folder"
        self.path.mkdir()
        self.original = self.path / "original"
        self.original.write_bytes(b"x")
        os.chown(self.original, 1234, 5678)
        let_in = access.acl(
            (access.OWNER, 7),
            (access.USER, 7, 3001),
            (access.GROUP_OBJ, 7),
            (access.GROUP, 7, 3003),
            (access.MASK, 7),
            (access.OTHER, 4),
        )
        os.setxattr(self.path, access.DEFAULT, let_in)

    @contextlib.contextmanager
    def new(self, name="new"):
        """The original's descriptor and that of an empty file, made as apply makes it."""
        source = os.open(self.original, os.O_RDONLY)
        target = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            yield source, target
        finally:
            os.close(source)
            os.close(target)


@pytest.fixture
def inheriting(tmp_path):
    return Inheriting(tmp_path)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o644, 0o604, 0o000])
@pytest.mark.parametrize("named", [None, 0o6, 0o0], ids=["no-acl", "acl", "acl-against"])
def test_as_many_may_read_as_before_whatever_the_folder_gives(place, kind, mode, named):
    folder = Inheriting(place(kind))
    if named is not None:
        os.setxattr(folder.original, access.ACCESS, access.open_to(2001, named))
    os.chmod(folder.original, mode)
    before = access.readers(folder.original)
    with folder.new() as (source, target):
        assert access.readers(folder.path / "new") == set()
        assert prepare(source, target) == []
        assert access.readers(folder.path / "new") == set()
        assert "system.posix_acl_access" not in os.listxattr(target)
        os.write(target, b"x")
        assert copy_metadata(source, target) == []
    assert access.readers(folder.path / "new") == before
    one, other = (attributes(folder.path / name) for name in ("original", "new"))
    assert one == other


def attributes(path):
    return {name: os.getxattr(path, name) for name in os.listxattr(path)}


def test_the_folder_would_let_others_in(inheriting):
    """Or the tests above would show nothing."""
    inheriting.original.chmod(0o660)
    assert access.readers(inheriting.original) == {"owner", "in the group"}
    with inheriting.new() as (_, target):
        os.fchown(target, 1234, 5678)
        os.fchmod(target, 0o660)
    assert access.readers(inheriting.path / "new") == {
        *access.readers(inheriting.original),
        "named by the folder",
        "in the folder's group",
    }


@pytest.mark.parametrize(
    ("mode", "listed", "left"),
    [(0o664, False, 0o644), (0o604, False, 0o600), (0o4644, False, 0o644), (0o664, True, 0o600)],
)
def test_without_root_no_other_user_gains_access(inheriting, mode, listed, left):
    """Owner and group cannot be given away: then another group must not get the old one's rights."""
    if listed:
        os.setxattr(inheriting.original, access.ACCESS, access.open_to(3001, 4))
    inheriting.original.chmod(mode)
    inheriting.path.chmod(0o777)
    child = os.fork()
    if child == 0:
        kept = True
        with contextlib.suppress(BaseException):
            os.chdir(inheriting.path)  # the folders above are closed to others
            os.setgroups([])
            os.setgid(3001)
            os.setuid(3001)
            inheriting.path, inheriting.original = Path(), Path("original")
            with inheriting.new() as (source, target):
                prepare(source, target)
                kept = (
                    "the owner 1234:5678 (Operation not permitted; that needs root or CAP_CHOWN)"
                    not in copy_metadata(source, target)
                )
        os._exit(kept)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    info = (inheriting.path / "new").stat()
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (3001, 3001, left)
    assert access.ACCESS not in os.listxattr(inheriting.path / "new")


def test_an_inherited_list_that_cannot_be_removed_gives_no_access(inheriting, monkeypatch):
    inheriting.original.chmod(0o664)
    with inheriting.new() as (source, target):

        def refuse(*_):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "removexattr", refuse)
        prepare(source, target)
        os.write(target, b"x")
        lost = copy_metadata(source, target)
    assert lost == [
        "the file free of the attribute system.posix_acl_access, which its folder sets (Operation not permitted)",
        "the mode 664",
    ]
    assert access.readers(inheriting.path / "new") == {"owner"}


def test_a_list_that_cannot_be_kept_gives_no_access(inheriting, monkeypatch):
    """Its mask shows in the mode: as a mode it would let in the group, which the list keeps out."""
    against = access.acl(
        (access.OWNER, 6), (access.USER, 6, 2001), (access.GROUP_OBJ, 0), (access.MASK, 6), (access.OTHER, 0)
    )
    os.setxattr(inheriting.original, access.ACCESS, against)
    assert stat.S_IMODE(inheriting.original.stat().st_mode) == 0o660
    assert access.readers(inheriting.original) == {"owner", "named by the original"}
    with inheriting.new() as (source, target):

        def refuse(*_):
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(os, "setxattr", refuse)
        prepare(source, target)
        os.write(target, b"x")
        lost = copy_metadata(source, target)
    assert lost == ["the attribute system.posix_acl_access (Operation not supported)", "the mode 660"]
    assert access.readers(inheriting.path / "new") == {"owner"}


@pytest.mark.parametrize(("mode", "left"), [(0o660, 0o600), (0o644, 0o644), (0o6754, 0o744), (0o604, 0o600)])
def test_a_group_that_cannot_be_kept_gets_no_rights_of_the_old_one(files, monkeypatch, mode, left):
    source, target = files
    os.fchown(source, 1234, 5678)
    os.fchmod(source, mode)

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    assert copy_metadata(source, target)[0] == "the owner 1234:5678 (Operation not permitted)"
    assert stat.S_IMODE(os.fstat(target).st_mode) == left


def test_a_group_that_can_be_kept_is_kept_without_the_owner(files, monkeypatch):
    source, target = files
    os.fchown(source, 1234, 5678)
    os.fchmod(source, 0o660)
    give = os.fchown

    def only_the_group(fd, user, group):
        if user != -1:
            raise PermissionError(1, "Operation not permitted")
        give(fd, user, group)

    monkeypatch.setattr(os, "fchown", only_the_group)
    assert copy_metadata(source, target) == ["the owner 1234:5678 (Operation not permitted)"]
    info = os.fstat(target)
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (0, 5678, 0o660)


def test_what_is_true_of_the_original_only(files):
    """A digest of its content, or overlayfs' record of where the rest of it is."""
    source, target = files
    os.setxattr(source, "security.ima", b"\x04\x04digest")
    os.setxattr(source, "trusted.overlay.origin", b"1")
    assert copy_metadata(source, target) == []
    assert not {"security.ima", "trusted.overlay.origin"} & set(os.listxattr(target))


def test_attributes_that_cannot_be_listed_stop_the_guest(files, monkeypatch):
    """Who may read the original is not known then."""

    def fail(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "listxattr", fail)
    with pytest.raises(OSError, match="Input/output error"):
        copy_metadata(*files)


def test_a_filesystem_without_attributes_has_none_to_lose(files, monkeypatch):
    def unknown(_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "listxattr", unknown)
    assert prepare(*files) == []
    assert copy_metadata(*files) == []
