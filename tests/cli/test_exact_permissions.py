"""An overlay, and an image that restore rebuilds, have exactly the permissions of the original.

The folder gives what is made in it an access list and flags that the originals there do not have.
"""

import os
import stat
import subprocess

import access
import notation
import pytest
from commands import COMMAND, GUESTS, OVERLAYS, Fleet, batchdiff
from filesystems import mounted

FLAGS = {"ext4": ("AdS", "dA"), "btrfs": ("c", "C"), "xfs": ("AdS", "d")}
"""What the folder gives, and what one original has of its own."""

NAMES = {"raw.img": None, "thick.qcow2": 6, "large.img": 0}
"""Each original, and what its own access list lets one more user do."""


@pytest.fixture(params=["ext4", "xfs", "btrfs"])
def inheriting(tmp_path, request):
    """A fleet whose folder is more generous than its originals."""
    with mounted(tmp_path, request.param) as point:
        folder = point / "fleet"
        folder.mkdir()
        fleet = Fleet(folder)
        gives, own = FLAGS[request.param]
        (folder / "raw.img").unlink()
        (folder / "raw.img").touch()
        for flag in own:
            notation.run("chattr", f"+{flag}", str(folder / "raw.img"))
        notation.write_raw(folder / "raw.img", GUESTS["raw.img"])
        for name, rights in NAMES.items():
            os.chown(folder / name, 1234, 5678)
            if rights is not None:
                os.setxattr(folder / name, access.ACCESS, access.open_to(2001, rights))
            (folder / name).chmod(0o660)
        for flag in gives:
            notation.run("chattr", f"+{flag}", str(folder))
        os.setxattr(folder, access.DEFAULT, access.open_to(3001, 7))
        probe = folder / "probe"
        probe.touch()
        assert access.ACCESS in os.listxattr(probe)
        assert set(gives) & flags(probe)
        probe.unlink()
        yield fleet


def flags(path):
    return set(notation.run("lsattr", "-d", str(path)).split()[0]) - {"-", "e"}


def permissions(path):
    info = os.lstat(path)
    given = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode), given, flags(path), access.readers(path)


def test_apply_and_a_rebuilding_restore(inheriting):
    folder = inheriting.folder
    before = {name: permissions(folder / name) for name in NAMES}
    assert before["raw.img"][-1] == {"owner", "in the group"}
    assert before["thick.qcow2"][-1] == {"owner", "in the group", "named by the original"}
    inheriting.plan("-q")
    done = inheriting.apply("--retire", "delete", "--yes")
    assert "could not keep" not in done.stderr + done.stdout
    assert {name: permissions(folder / OVERLAYS[name]) for name in NAMES} == before
    inheriting.assert_converted()
    for guest in inheriting.document["guests"]:
        done = batchdiff("restore", "fleet.plan.json", "--guest", guest["name"], cwd=folder)
        assert "could not keep" not in done.stderr + done.stdout
    assert {name: permissions(folder / name) for name in NAMES} == before


def test_unfinished_files_are_unreadable_to_others(fleet):
    """Killed before each call that changes permissions: what it leaves is open to no more than the original."""
    folder = fleet.folder
    os.setxattr(folder, access.DEFAULT, access.open_to(3001, 7))
    os.chown(folder / "raw.img", 1234, 5678)
    (folder / "raw.img").chmod(0o660)
    fleet.plan("-q", "--guest", "raw")
    seen = []
    for call in ("fremovexattr", "copy_file_range", "fchown", "fchmod"):
        known = fleet.names()
        kill = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={call}:signal=SIGKILL:when=1"]
        done = subprocess.run(
            [*kill, *COMMAND, "apply", "fleet.plan.json"],
            cwd=folder,
            capture_output=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == -9, done
        (left,) = (name for name in fleet.names() if name.endswith("-tmp"))
        assert left not in known
        seen.append(access.readers(folder / left))
    assert seen == [set(), set(), set(), {"owner"}]
    fleet.apply("-q")
    assert access.readers(folder / "raw.qcow2") == {"owner", "in the group"}
