"""batchdiff.files.atomic_write: who may read a file that replaces another one."""

import errno
import os
import stat

import pytest

from batchdiff.files.atomic_write import write_whole


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "document.json"
    path.write_text("old")
    os.chown(path, 1234, 5678)
    path.chmod(0o600)
    return path


def test_owner_and_mode_are_kept(path):
    write_whole(str(path), ["new"])
    info = path.stat()
    assert (path.read_text(), info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == ("new", 1234, 5678, 0o600)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL])
@pytest.mark.parametrize("denied", ["owner", "group", "both"])
def test_what_can_be_kept_is_kept(path, monkeypatch, number, denied):
    """Only root may change the owner. In a user namespace, owners and groups without a mapping are invalid."""
    chown = os.fchown

    def fchown(fd, owner, group):
        if (owner != -1 and denied != "group") or (group != -1 and denied != "owner"):
            raise OSError(number, os.strerror(number))
        chown(fd, owner, group)

    monkeypatch.setattr(os, "fchown", fchown)
    write_whole(str(path), ["new"])
    info = path.stat()
    assert stat.S_IMODE(info.st_mode) == 0o600
    assert (info.st_uid == 1234) is (denied == "group")
    assert (info.st_gid == 5678) is (denied == "owner")
