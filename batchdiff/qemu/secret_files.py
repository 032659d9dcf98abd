"""The files with secrets, which QEMU reads itself.

::

    secret_file: /etc/keys/web01    --object secret,id=sec0,file=/etc/keys/web01
    secret_file: /dev/fd/3          a pipe, read once --> a copy in memory, as descriptor 10, which QEMU inherits:
                                    --object secret,id=sec0,file=/proc/self/fd/10

No secret is part of a command line, an environment or a message.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import threading
from typing import NamedTuple

from batchdiff.errors import SecretError
from batchdiff.files.read_write import write_all
from batchdiff.linux.call_failures import reason
from batchdiff.linux.permissions import Deed
from batchdiff.units import MIB, format_size

_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/[0-9]{1,99}")

_LARGEST = MIB
"""The maximum size of a secret; a larger file was probably named by mistake."""

_LOWEST = 10

_OTHERS = stat.S_IRGRP | stat.S_IROTH

_kept: dict[str, int] = {}
_keeping = threading.Lock()


class ReadableSecret(NamedTuple):
    """The path by which a program can read a secret, and the descriptor to inherit for that, if any."""

    path: str
    fd: int | None = None


def is_descriptor(path: str) -> bool:
    """Return whether a path names a descriptor of this process, open or not."""
    return _DESCRIPTOR.fullmatch(path) is not None


def why_unusable_as_secret(path: str) -> str:
    """Return why a file cannot be used as a secret; empty if no reason is found. Pipes are not read."""
    if is_descriptor(path) and not _is_inherited(_number(path)):
        return f"that descriptor is not open; open it in the shell, as in `batchdiff ... {_number(path)}< FILE`"
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            return _why_unfit(_read(path))
    except OSError as error:
        return _why_unreadable(error, path)
    if stat.S_ISFIFO(status.st_mode) and is_descriptor(path):
        # A process that also has the writing end of a pipe open would wait forever for the pipe to end.
        mode = fcntl.fcntl(_number(path), fcntl.F_GETFL) & os.O_ACCMODE
        return "" if mode == os.O_RDONLY else "that descriptor was not opened read-only"
    return "it is neither a regular file nor a pipe that is open as a descriptor, such as /dev/fd/3"


def _number(path: str) -> int:
    return int(path.rpartition("/")[2])


def _is_inherited(descriptor: int) -> bool:
    # The descriptors of files that this process opened itself, such as its journal, are close-on-exec.
    try:
        return not fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    except (OSError, OverflowError):
        return False


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(_LARGEST + 1)


def _why_unfit(secret: bytes) -> str:
    if not secret:
        return "it is empty"
    if len(secret) > _LARGEST:
        return f"it is larger than {format_size(_LARGEST)}"
    try:
        is_text = "\0" not in secret.decode()
    except UnicodeDecodeError:
        is_text = False
    return "" if is_text else "it is not UTF-8, or contains a null byte"


def _why_unreadable(error: OSError, path: str) -> str:
    return reason(error, Deed.READ, path) if isinstance(error, PermissionError) else error.strerror or str(error)


def mode_for_others(path: str) -> str:
    """Return the mode, such as 0644, of a regular file that its group or others may read; otherwise ``""``."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    shared = stat.S_ISREG(status.st_mode) and status.st_mode & _OTHERS
    return f"{stat.S_IMODE(status.st_mode):04o}" if shared else ""


def ends_with_line_break(path: str) -> bool:
    """Return whether a secret ends with a line break, which QEMU treats as part of it.

    :raises OSError: the secret cannot be read or copied.
    :raises SecretError: the file cannot be used as a secret.
    """
    return _read(readable_secret(path).path).endswith(b"\n")


def readable_secret(path: str) -> ReadableSecret:
    """Return how a program can read the secret in a file.

    :raises OSError: the secret cannot be copied into memory.
    :raises SecretError: the file cannot be used as a secret.
    """
    with _keeping:
        if path in _kept:
            return _by_descriptor(_kept[path])
        if why := why_unusable_as_secret(path):
            raise SecretError(
                f"cannot use the secret file {path}",
                why=why,
                remedy=_how_to_pass(path),
            )
        if not is_descriptor(path):
            return ReadableSecret(path)
        _kept[path] = _in_memory(path)
        return _by_descriptor(_kept[path])


def _how_to_pass(path: str) -> str:
    if is_descriptor(path):
        return "Pass the secret through that descriptor."
    again = (
        "Before the first apply, you can also name another file as `secret_file` in the manifest, and make a new"
        " plan."
    )
    if os.path.exists(path):
        return f"Let this user read it, or correct it. {again}"
    return f"Put the secret at that path; a symbolic link will do. {again}"


def _by_descriptor(fd: int) -> ReadableSecret:
    return ReadableSecret(f"/proc/self/fd/{fd}", fd)


def _in_memory(path: str) -> int:
    """Return the descriptor of a copy of the secret in memory; it is never closed."""
    try:
        secret = _read(path)
    except OSError as error:
        raise SecretError(f"cannot read the secret from {path}", why=_why_unreadable(error, path)) from error
    if why := _why_unfit(secret):
        hint = "" if secret else "; only one command can read a pipe"
        raise SecretError(f"cannot use the secret from {path}", why=f"{why}{hint}")
    copy = os.memfd_create("secret")
    try:
        write_all(copy, secret, 0)
        # The shell that starts qemu-nbd uses the descriptors below 10.
        return fcntl.fcntl(copy, fcntl.F_DUPFD_CLOEXEC, _LOWEST)
    finally:
        os.close(copy)
