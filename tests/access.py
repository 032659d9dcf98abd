"""Who may read which file: access lists as bytes, and attempts under other users' ids."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

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
