"""Who has a file open: processes and loop devices, as far as this user may see them.

Only for messages and for filesystems without leases: locks and leases themselves don't tell who holds them.

Source: Linux ``Documentation/filesystems/proc.rst``, 3.8 (fdinfo); ``Documentation/ABI/testing/sysfs-block-loop``.
"""

from __future__ import annotations

import contextlib
import enum
import glob
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from batchdiff.errors import advice_on_limit

_VM = ("qemu-system", "qemu-kvm", "qemu-storage-daemon", "kvm")
"""Programs that run VMs on image files, by the beginning of their names."""


class Access(enum.IntEnum):
    """How a file is open."""

    READ = 0
    WRITE = 1


class Holder(NamedTuple):
    """Somebody who has a file open, in words: ``qemu-system-x86_64 (pid 123, VM web01)``."""

    name: str
    access: Access
    is_vm: bool = False


class Holders(NamedTuple):
    """Everybody who was found; ``complete``: every process could be looked into."""

    found: tuple[Holder, ...]
    complete: bool

    def writers(self) -> tuple[Holder, ...]:
        """Those who have it open for writing."""
        return tuple(holder for holder in self.found if holder.access is Access.WRITE)

    def vms(self) -> tuple[Holder, ...]:
        """Those that are VMs."""
        return tuple(holder for holder in self.found if holder.is_vm)


def holders_of(fd: int) -> Holders:
    """Who else has a file or block device open; this process does not count."""
    wanted = _identity(os.fstat(fd))
    found: list[Holder] = list(_loop_devices(wanted))
    own = _own_number()
    if own is None:
        return Holders(tuple(found), complete=False)
    inode = _facts(own, str(fd)).get("ino", "")
    complete = os.geteuid() == 0  # others may not even see every process (proc's hidepid)
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        if pid == own:
            continue
        try:
            access = _access(pid, wanted, inode)
        except PermissionError:
            complete = False
            continue
        except OSError as error:  # it has ended
            if advice_on_limit(error):
                raise
            continue
        if access is not None:
            found.append(_described(pid, access))
    return Holders(tuple(found), complete)


def _own_number() -> int | None:
    """Return this process's number in /proc, which may be that of another namespace; None without /proc."""
    try:
        return int(os.readlink("/proc/self"))
    except OSError:
        return None


def named(holders: tuple[Holder, ...], *, complete: bool) -> str:
    """Their names as the subject of a sentence."""
    if holders:
        return " and ".join(holder.name for holder in holders)
    return "something" if complete else "something (what, cannot be told without a look into every process)"


def _identity(info: os.stat_result) -> tuple[str, int, int]:
    """What is the same for all descriptors of a file; for a block device whatever node it was opened by."""
    if stat.S_ISBLK(info.st_mode):
        return ("device", info.st_rdev, 0)
    return ("file", info.st_dev, info.st_ino)


def _access(pid: int, wanted: tuple[str, int, int], inode: str) -> Access | None:
    """How a process has the file open; None where it has not.

    Descriptors with another inode number are not looked at any closer: stat of a file on a filesystem that hangs
    would hang. Devices have a number for each node.

    :raises OSError: the process may not be looked into, or has ended.
    """
    found: Access | None = None
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            facts = _facts(pid, number)
            if wanted[0] == "file" and facts.get("ino", inode) != inode:
                continue
            if _identity(os.stat(f"/proc/{pid}/fd/{number}")) == wanted:
                writes = int(facts["flags"], 8) & os.O_ACCMODE != os.O_RDONLY
                found = max(found or Access.READ, Access.WRITE if writes else Access.READ)
        except OSError as error:  # closed meanwhile, or of a filesystem that is nobody else's business
            if advice_on_limit(error):
                raise  # for "not open" would be a guess
    return found


def _facts(pid: int, number: str) -> dict[str, str]:
    """What fdinfo says of a descriptor: its flags (octal) and, since Linux 5.14, its inode."""
    with open(f"/proc/{pid}/fdinfo/{number}", encoding="utf-8", errors="replace") as file:
        pairs = (line.partition(":") for line in file)
        return {name: value.strip() for name, _, value in pairs}


def _described(pid: int, access: Access) -> Holder:
    arguments: list[str] = []
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        arguments = os.fsdecode(file.read()).split("\0")
    program = os.path.basename(arguments[0]) if arguments and arguments[0] else "a process"
    vm = _vm_name(arguments)
    more = f", VM {vm}" if vm else ""
    return Holder(f"{program} (pid {pid}{more})", access, is_vm=program.startswith(_VM))


def _vm_name(arguments: list[str]) -> str:
    """What ``-name guest=web01,debug-threads=on`` says, as libvirt writes it."""
    if "-name" not in arguments[:-1]:
        return ""
    return arguments[arguments.index("-name") + 1].split(",")[0].removeprefix("guest=")


def _loop_devices(wanted: tuple[str, int, int]) -> Iterator[Holder]:
    for folder in sorted(glob.glob("/sys/block/loop*")):
        try:
            if _identity(os.stat(_line(f"{folder}/loop/backing_file"))) == wanted:
                access = Access.READ if _line(f"{folder}/ro") == "1" else Access.WRITE
                yield Holder(f"the loop device /dev/{os.path.basename(folder)}", access)
        except OSError as error:  # it is not in use, or its file has lost its name
            if advice_on_limit(error):
                raise


def _line(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().removesuffix("\n")
