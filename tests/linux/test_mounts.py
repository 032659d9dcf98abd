import os

import pytest
import real_holders
from filesystems import mounted, overlayfs, tmpfs

from batchdiff.linux.mounts import Mount, filesystem_of, mounts, mounts_of, parse_mount


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n",
            Mount(36, os.makedev(98, 0), "/mnt2", "ext3", "/dev/root", False, "/mnt1", ("rw", "errors=continue")),
        ),
        (
            r"7 1 0:44 / /a\040b\011c ro shared:1 master:2 - fuse.sshfs host:/a\134b rw,user_id=0",
            Mount(7, os.makedev(0, 44), "/a b\tc", "fuse.sshfs", "host:/a\\b", False, "/", ("rw", "user_id=0")),
        ),
        (
            "9 1 8:1 / /iso rw - iso9660 /dev/sr0 ro",
            Mount(9, os.makedev(8, 1), "/iso", "iso9660", "/dev/sr0", True, "/", ("ro",)),
        ),
    ],
)
def test_a_line(line, expected):
    assert parse_mount(line) == expected


def test_all_mounts_of_this_machine_are_understood():
    assert "/proc" in {mount.point for mount in mounts()}


def test_only_the_line_of_the_own_mount_is_taken_apart(monkeypatch):
    """A host with hundreds of containers has as many mounts, and each guest of a fleet asks five times."""
    lines = []
    monkeypatch.setattr("batchdiff.linux.mounts.parse_mount", lambda line: lines.append(line) or parse_mount(line))
    assert type_at("/proc") == "proc"
    assert len(lines) == 1


def test_a_carriage_return_in_a_path_ends_no_line(tmp_path):
    (tmp_path / "a\rb").mkdir()
    with tmpfs(tmp_path / "a\rb") as point:
        assert str(point) in {mount.point for mount in mounts()}


def type_at(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return filesystem_of(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_filesystems_and_their_devices(tmp_path, kind):
    with mounted(tmp_path, kind) as point:
        assert type_at(point) == kind
        (mount,) = [mount for mount in mounts() if mount.point == str(point)]
        assert [found.point for found in mounts_of(os.stat(mount.source).st_rdev)] == [str(point)]


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_filesystem_that_is_in_no_list(tmp_path, monkeypatch, kind):
    """As in a chroot, whose root is mounted outside of it."""
    monkeypatch.setattr("batchdiff.linux.mounts.mountinfo", list)
    with mounted(tmp_path, kind) as point:
        assert type_at(point) == kind


@pytest.mark.parametrize(("make", "kind"), [(tmpfs, "tmpfs"), (overlayfs, "overlay")])
def test_filesystems_of_containers_that_are_in_no_list(tmp_path, monkeypatch, make, kind):
    monkeypatch.setattr("batchdiff.linux.mounts.mountinfo", list)
    with make(tmp_path) as point:
        assert type_at(point) == kind


def test_a_type_without_a_name_here_has_its_number(monkeypatch):
    assert type_at("/proc") == "proc"
    monkeypatch.setattr("batchdiff.linux.mounts.mountinfo", list)
    assert type_at("/proc") == "type 0x9fa0"


def test_a_closed_file_is_on_no_filesystem():
    fd = os.open("/proc", os.O_RDONLY)
    os.close(fd)
    assert filesystem_of(fd) == ""


def test_a_device_that_is_not_mounted(tmp_path):
    (tmp_path / "a").write_bytes(bytes(1 << 20))
    with real_holders.loop_device(tmp_path / "a") as name:
        assert mounts_of(os.stat(name.split()[-1]).st_rdev) == []


def test_options():
    line = r"7 1 0:44 / /m rw - overlay overlay rw,upperdir=/a\040b\054c/d=e,volatile"
    mount = parse_mount(line)
    assert mount.option("upperdir") == "/a b,c/d=e"
    assert mount.option("volatile") == ""
    assert mount.option("lowerdir") is None
