"""Mounts, and types of filesystems, as the kernel reports them.

::

    36 35 98:0 /root /mount/point rw,noatime shared:1 - ext4 /dev/sda1 rw,errors=continue     /proc/self/mountinfo
    id                                                  type source    options

Source: Linux ``Documentation/filesystems/proc.rst``, 3.5; statfs(2); ``include/uapi/linux/magic.h``; for ZFS,
``module/os/linux/zfs/zpl_super.c`` of OpenZFS.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from typing import NamedTuple

_OCTAL = re.compile(r"\\([0-7]{3})")

_TYPES = {
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x01021994: "tmpfs",
    0x794C7630: "overlay",
    0x65735546: "fuse",
    0x6969: "nfs",
    0xFF534D42: "cifs",
    0xFE534D42: "smb3",
    0x00C36400: "ceph",
    0x01161970: "gfs2",
    0x7461636F: "ocfs2",
    0x01021997: "9p",
    0x2FC12FC1: "zfs",
    0xCA451A4E: "bcachefs",
    0xF2F52010: "f2fs",
    0x2011BAB0: "exfat",
    0x4D44: "vfat",
    0x7366746E: "ntfs3",
    0x73717368: "squashfs",
    0xE0F5E1E2: "erofs",
    0x9660: "iso9660",
    0xF15F: "ecryptfs",
    0x858458F6: "ramfs",
}
"""By ``f_type`` of statfs; one number can stand for several types, such as ext2, ext3 and ext4."""

_TYPE_FIELD = ctypes.c_uint if os.uname().machine == "s390x" else ctypes.c_long
"""For ``f_type``, the first field of struct statfs (statfs(2))."""
_STATFS_BYTES = 256  # larger than the struct on any architecture (120 on x86-64)

_libc = ctypes.CDLL(None, use_errno=True)


class Mount(NamedTuple):
    """A mount.

    ``root``: the folder or file of the filesystem that is mounted at ``point``. ``read_only``, ``options``: of the
    filesystem, not of this mount.
    """

    number: int
    device: int
    point: str
    filesystem: str
    source: str
    read_only: bool
    root: str = "/"
    options: tuple[str, ...] = ()

    def option(self, name: str) -> str | None:
        """Return an option's value, empty if it has none; None if it is not set."""
        found = (each.partition("=") for each in self.options)
        return next((value for key, _, value in found if key == name), None)


def mounts() -> list[Mount]:
    """Return the mounts that this process can see; none if the list cannot be read."""
    return [parse_mount(line) for line in mountinfo()]


def mountinfo() -> list[str]:
    """Return the lines of the kernel's list of mounts; none if it cannot be read."""
    try:
        # A carriage return in a path is not escaped, and does not end a line.
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            return list(file)
    except OSError:
        return []


def parse_mount(line: str) -> Mount:
    """Parse a line of mountinfo."""
    place, _, what = line.rstrip("\n").partition(" - ")
    number, _, device, root, point = place.split(" ")[:5]
    filesystem, source, options = what.split(" ")[:3]
    major, minor = device.split(":")
    return Mount(
        number=int(number),
        device=os.makedev(int(major), int(minor)),
        point=_plain(point),
        filesystem=filesystem,
        source=_plain(source),
        read_only="ro" in options.split(","),
        root=_plain(root),
        options=tuple(_plain(option) for option in options.split(",")),
    )


def filesystem_of(fd: int) -> str:
    """Return the filesystem type of an open file, such as ext4, fuse.sshfs or "type 0x187"; empty if unknown."""
    # Do not search by device number: the numbers of btrfs subvolumes are not listed.
    # In a chroot, the list may lack the mount.
    mount = mount_under(fd)
    return _statfs_type(fd) if mount is None else mount.filesystem


def mount_under(fd: int) -> Mount | None:
    """Return the mount through which a file was opened; None if it is not found."""
    # Parse no other line: this runs several times for each guest of a fleet.
    begin = f"{_mount_number(fd)} "
    return next((parse_mount(line) for line in mountinfo() if line.startswith(begin)), None)


def mount_of(path: str) -> Mount | None:
    """Return the mount of a file, or of its folder if the file cannot be opened; None if it is unknown."""
    for place in (path, os.path.dirname(os.path.abspath(path))):
        try:
            fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
        except (OSError, ValueError):
            continue
        try:
            return mount_under(fd)
        finally:
            os.close(fd)
    return None


def is_mounted_read_only(path: str) -> bool:
    """Return whether the mount of a file, or of its folder if the file cannot be examined, is read-only.

    True if that is unknown. On a read-write mount, a snapshot of btrfs can still be read-only.
    """
    for place in (path, os.path.dirname(os.path.abspath(path))):
        with contextlib.suppress(OSError):
            return bool(os.statvfs(place).f_flag & os.ST_RDONLY)
    return True


def is_mount_point(path: str) -> bool:
    """Return whether a path is a mount point, even of a bind-mounted file, which ``os.path.ismount`` can miss."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(folder), name) in {mount.point for mount in mounts()}


def mounts_of(device: int) -> list[Mount]:
    """Return the mounts of the filesystem on a block device."""
    return [mount for mount in mounts() if device in {mount.device, _device_at(mount.source)}]


def _mount_number(fd: int) -> int | None:
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            found = [line.split()[1] for line in file if line.startswith("mnt_id:")]
    except OSError:
        return None
    return int(found[0]) if found else None


def _statfs_type(fd: int) -> str:
    answer = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc.fstatfs(fd, answer):
        return ""
    number = _TYPE_FIELD.from_buffer(answer).value & 0xFFFFFFFF
    return _TYPES.get(number, f"type {number:#x}")


def _device_at(source: str) -> int | None:
    try:
        return os.stat(source).st_rdev if source.startswith("/") else None
    except OSError:
        return None


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
