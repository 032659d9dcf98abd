"""Who may read which file: access lists as bytes, and attempts under other users' ids."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
OWNER, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NOBODY_NAMED = 0xFFFFFFFF


def acl(*entries: tuple[int, int] | tuple[int, int, int]) -> bytes:
    """The attribute's value of an access list; an entry is (tag, rights) or (tag, rights, uid or gid)."""
    packed = (struct.pack("<HHI", *(entry if len(entry) == 3 else (*entry, NOBODY_NAMED))) for entry in entries)
    return struct.pack("<I", 2) + b"".join(packed)


def open_to(user: int, rights: int = 6) -> bytes:
    """An access list that lets one more user in, as ``setfacl -m u:NAME:rw`` makes it."""
    return acl((OWNER, 7), (USER, rights, user), (GROUP_OBJ, 5), (MASK, 7), (OTHER, 0))


PEOPLE = {
    "owner": (1234, 1234, ()),
    "in the group": (1235, 1235, (5678,)),
    "named by the original": (2001, 2001, ()),
    "named by the folder": (3001, 3001, ()),
    "in the folder's group": (3002, 3002, (3003,)),
    "anybody": (65534, 65534, ()),
}
"""User, group and further groups of those who try."""


def readers(path: str | Path) -> set[str]:
    """Which of the people can read a file; its folder counts as entered already."""
    return {who for who, ids in PEOPLE.items() if can_read(path, *ids)}


def can_read(path: str | Path, user: int, group: int, groups: Iterable[int] = ()) -> bool:
    folder, name = os.path.split(path)
    further = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
    command = ["setpriv", f"--reuid={user}", f"--regid={group}", further, "--", "head", "-c", "1", f"./{name}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0 or b"Permission denied" in done.stderr, done
    return done.returncode == 0


def as_user(user: int, root: str | Path | Callable[[], None], act: Callable[[], Result]) -> Result:
    """What a function returns that runs under another user's id, in a process for which ``root`` is all there is.

    The folders above it, which pytest closes to others, are not in the way then. What it raises comes back, too.
    Or ``root`` is a function, which prepares the process as root in another way.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if callable(root):
                root()
            else:
                os.chroot(root)
            os.chdir("/")
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            try:
                answer = (act(), None)
            except Exception as error:  # for the test to look at
                answer = (None, error)
            os.write(writing, pickle.dumps(answer))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    value, error = pickle.loads(data)  # our own child wrote it
    if error is not None:
        raise error
    return value
