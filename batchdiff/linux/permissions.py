"""The missing permission that explains a refusal, as far as owners, modes and capabilities show it.

Source: path_resolution(7), capabilities(7), chmod(2), rename(2).
"""

from __future__ import annotations

import contextlib
import enum
import os
import pwd
import stat
from collections.abc import Iterator

WRITE_BITS = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH

_OVERRIDE, _OWNER = 1, 3
_NAMES = {_OVERRIDE: "CAP_DAC_OVERRIDE", _OWNER: "CAP_FOWNER"}


_ALL_USERS = ["0", "0", "4294967295"]
"""The fields of /proc/self/uid_map if each user ID is that of the host."""


def is_root_of_the_host() -> bool:
    """Return whether this process runs as root, and not just as the root of a user namespace; False if unknown.

    To filesystems of the host, the root of a rootless container is another user. Source: user_namespaces(7).
    """
    with contextlib.suppress(OSError), open("/proc/self/uid_map", encoding="ascii") as file:
        return os.geteuid() == 0 and file.read().split() == _ALL_USERS
    return False


def is_read_only(path: str) -> bool:
    """Return True if a file's mode has no write bits; False if the mode cannot be read."""
    try:
        return not os.stat(path).st_mode & WRITE_BITS
    except OSError:
        return False


class Deed(enum.StrEnum):
    """An operation, as a verb for messages."""

    READ = "read"
    WRITE = "write to"
    CREATE = "create"
    RENAME = "rename"
    DELETE = "delete"
    CHANGE_MODE = "change the mode of"


IN_FOLDER = frozenset({Deed.CREATE, Deed.RENAME, Deed.DELETE})
"""Operations that need permission to write to the folder, not to the file."""


def user() -> str:
    """Return this process's effective user, in words."""
    number = os.geteuid()
    with contextlib.suppress(KeyError):
        return f"{pwd.getpwuid(number).pw_name} (uid {number})"
    return f"the user with uid {number}"


def lacking_access(deed: Deed, path: str) -> str:
    """Return the missing permission for a deed (EACCES), as a clause; empty if none is found."""
    for folder in _folders(path):
        if _is_closed(folder, os.X_OK):
            return f"{user()} may not enter the folder {folder}{_description(folder)}"
    if deed in IN_FOLDER:
        folder = os.path.dirname(os.path.abspath(path))
        if _is_closed(folder, os.W_OK):
            return f"{user()} may not write to the folder {folder}{_description(folder)}"
    elif _is_closed(path, os.R_OK if deed is Deed.READ else os.W_OK):
        return f"{user()} may not {deed} {path}{_description(path)}"
    return ""


def lacking_ownership(deed: Deed, path: str) -> str:
    """Return who alone may do a deed (EPERM), as a clause; empty if ownership is not a known obstacle."""
    with contextlib.suppress(OSError):
        file = os.lstat(path)
        if _has(_OWNER) or file.st_uid == os.geteuid():
            return ""
        if deed is Deed.CHANGE_MODE:
            return f"only {_among(file.st_uid)} may {deed} {path}, not {user()}"
        folder = os.path.dirname(os.path.abspath(path))
        about = os.stat(folder)
        if deed in IN_FOLDER and about.st_mode & stat.S_ISVTX and about.st_uid != os.geteuid():
            return (
                f"the folder {folder} has the sticky bit, so only {_among(file.st_uid, about.st_uid)} may {deed}"
                f" {path}, not {user()}"
            )
    return ""


def lacking_capability() -> str:
    """Return, in words, which of ``_NAMES`` this process lacks although it runs as root; empty for other users."""
    if os.geteuid() != 0:
        return ""
    return " and ".join(name for number, name in _NAMES.items() if not _has(number))


def confinement() -> str:
    """Return this process's label from a security module; empty if unconfined or unknown."""
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/attr/current", encoding="utf-8") as file:
            label = file.read().strip("\0\n ")
        return "" if label.startswith("unconfined") else label
    return ""


def _folders(path: str) -> Iterator[str]:
    folder = os.path.dirname(os.path.abspath(path))
    if folder != path:
        yield from _folders(folder)
        yield folder


def _is_closed(path: str, mode: int) -> bool:
    try:
        os.stat(path)
    except PermissionError:
        return False  # a folder on the path is the reason
    except OSError:
        return False
    return not os.access(path, mode, effective_ids=True)


def _description(path: str) -> str:
    with contextlib.suppress(OSError):
        info = os.stat(path)
        return f", which belongs to {_name(info.st_uid)} and has mode {stat.S_IMODE(info.st_mode):o}"
    return ""


def _among(*owners: int) -> str:
    others = ", ".join(sorted({_name(owner) for owner in owners if owner}))
    return f"{others} and root" if others else "root"


def _name(number: int) -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(number).pw_name
    return f"uid {number}"


def _has(capability: int) -> bool:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            line = next(line for line in file if line.startswith("CapEff:"))
        return bool(int(line.split()[1], 16) >> capability & 1)
    return os.geteuid() == 0
