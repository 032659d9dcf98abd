"""The processes and loop devices that have a file open, as far as this user may see them.

Source: Linux ``Documentation/filesystems/proc.rst``, 3.8 (fdinfo); ``Documentation/ABI/testing/sysfs-block-loop``.
"""

from __future__ import annotations

import enum
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from batchdiff.errors import advice_on_limit

_VM = ("qemu-system", "qemu-kvm", "qemu-storage-daemon", "kvm")
"""Prefixes of the names of QEMU's programs."""

_BLOCK_DEVICES = "/sys/block"


class Access(enum.IntEnum):
    """The mode in which a file is open."""

    READ = 0
    WRITE = 1


class Holder(NamedTuple):
    """A process or loop device; ``name``: for example, ``kvm (pid 123, VM web01)``."""

    name: str
    access: Access
    is_vm: bool = False


class Holders(NamedTuple):
    """The holders found. ``complete``: whether every process in /proc was examined, which only root can do."""

    found: tuple[Holder, ...]
    complete: bool

    def writers(self) -> tuple[Holder, ...]:
        """Return the holders that have the file open for writing."""
        return tuple(holder for holder in self.found if holder.access is Access.WRITE)

    def vms(self) -> tuple[Holder, ...]:
        """Return the holders that are VMs."""
        return tuple(holder for holder in self.found if holder.is_vm)


def holders_of(fd: int) -> Holders:
    """Return the visible holders of a file or block device, without this process and its forks.

    :raises OSError: a limit on open files or memory is reached.
    """
    wanted = _identity(os.fstat(fd))
    found: list[Holder] = list(_loop_devices(wanted))
    own = _own_number()
    if own is None:
        return Holders(tuple(found), complete=False)
    inode = _facts(own, str(fd)).get("ino", "")
    complete = os.geteuid() == 0  # with hidepid, users other than root do not even see every process
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
        if access is not None and not _is_our_fork(pid, own):
            found.append(_described(pid, access))
    return Holders(tuple(found), complete)


def _own_number() -> int | None:
    """Return this process's number in /proc, which may show another PID namespace."""
    try:
        return int(os.readlink("/proc/self"))
    except OSError:
        return None


def _is_our_fork(pid: int, own: int) -> bool:
    """Return whether a process is a child that has not called exec, which closes inherited files."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            parent = int(file.read().rpartition(b")")[2].split()[1])
    except OSError as error:  # it has ended
        if advice_on_limit(error):
            raise
        return False
    return parent == own and _command_line(pid) == _command_line(own)


def name_holders(holders: tuple[Holder, ...], *, complete: bool) -> str:
    """Return the names of holders, for a sentence."""
    if holders:
        names = [holder.name for holder in holders]
        return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    if complete:
        return "something"
    hint = "run as root to see which" if os.geteuid() else "outside this container, perhaps"
    return f"an unknown process ({hint})"


def have_open(holders: tuple[Holder, ...], *, complete: bool) -> str:
    """Return a clause such as ``kvm (pid 123) has it open``."""
    return f"{name_holders(holders, complete=complete)} {'have' if len(holders) > 1 else 'has'} it open"


def _identity(info: os.stat_result) -> tuple[str, int, int]:
    if stat.S_ISBLK(info.st_mode):
        return ("device", info.st_rdev, 0)
    return ("file", info.st_dev, info.st_ino)


def _access(pid: int, wanted: tuple[str, int, int], inode: str) -> Access | None:
    """Return how a process has the file open.

    Descriptors with another inode number are skipped, because stat() of a file hangs if its filesystem does. For
    a block device, none are skipped, because each of its nodes has its own inode number.
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
        except OSError as error:  # closed meanwhile, or on a FUSE filesystem that shuts other users out
            if advice_on_limit(error):
                raise  # "not open" would be a guess
    return found


def _facts(pid: int, number: str) -> dict[str, str]:
    """Return the fields of a descriptor's fdinfo; since Linux 5.14, they include the inode number."""
    with open(f"/proc/{pid}/fdinfo/{number}", encoding="utf-8", errors="replace") as file:
        pairs = (line.partition(":") for line in file)
        return {name: value.strip() for name, _, value in pairs}


def _described(pid: int, access: Access) -> Holder:
    arguments = _command_line(pid)
    program = os.path.basename(arguments[0]) if arguments and arguments[0] else "a process"
    vm = _vm_name(arguments)
    more = f", VM {vm}" if vm else ""
    return Holder(f"{program} (pid {pid}{more})", access, is_vm=program.startswith(_VM))


def _command_line(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return os.fsdecode(file.read()).split("\0")
    except OSError as error:
        if advice_on_limit(error):
            raise  # without its name, a VM would look like any other program
        return []


def _vm_name(arguments: list[str]) -> str:
    """Return the VM's name, as in ``-name guest=web01,debug-threads=on``."""
    if "-name" not in arguments[:-1]:
        return ""
    return arguments[arguments.index("-name") + 1].split(",")[0].removeprefix("guest=")


def _loop_devices(wanted: tuple[str, int, int]) -> Iterator[Holder]:
    for folder in _loop_folders():
        try:
            if _identity(os.stat(_line(f"{folder}/loop/backing_file"))) == wanted:
                access = Access.READ if _line(f"{folder}/ro") == "1" else Access.WRITE
                yield Holder(f"the loop device /dev/{os.path.basename(folder)}", access)
        except OSError as error:  # the device is not in use, or its file was deleted
            if advice_on_limit(error):
                raise


def _loop_folders() -> list[str]:
    try:
        names = os.listdir(_BLOCK_DEVICES)
    except OSError as error:  # there is no /sys
        if advice_on_limit(error):
            raise
        return []
    return [os.path.join(_BLOCK_DEVICES, name) for name in sorted(names) if name.startswith("loop")]


def _line(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read().removesuffix("\n")
