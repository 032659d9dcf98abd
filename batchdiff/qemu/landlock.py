"""Confinement of programs by Landlock: they can open only certain files and, since Linux 6.7, cannot use TCP.

::

    our thread ----------------------------------------------------------- continues unconfined
        `-- a new thread: confines itself, starts the program, ends
                                                    `-- the program, confined for good

Landlock needs no privileges. It confines a thread and the processes that the thread starts, so no code needs to
run between fork and exec. Every confined program can open /dev/null: without it, QEMU gives up locking.

Source: Linux ``Documentation/userspace-api/landlock.rst`` and ``include/uapi/linux/landlock.h``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

Process = TypeVar("Process")

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on all architectures but alpha
_ASK_VERSION, _PATH_BENEATH = 1, 1
_SET_NO_NEW_PRIVS = 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1, 2, 4, 8, 1 << 14
_FILES_BY_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}
"""By Landlock version, the access to files that is denied unless a rule allows it."""
_NETWORK, _SCOPES = 0b11, 0b11
"""TCP; the abstract sockets of processes outside the confinement, and signals to those processes."""

_INSTALLED = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store", "/gnu/store")
_LOADER = ("/etc/ld.so.cache", "/etc/ld.so.preload")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def start_confined(
    start: Callable[[], Process], program: str, reads: Iterable[str], writes: Iterable[str] = ()
) -> Process:
    """Call ``start`` in a confined thread, and return its result; what it raises is raised here.

    The program can read and run installed files, read ``reads``, and read and write the existing files ``writes``.
    ``program``: its name or path; its folder and those of its libraries count as installed. If the kernel has no
    Landlock, the program runs unconfined.

    :raises OSError: the program cannot be confined.
    """
    results: list[Process] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            _confine(program, reads, writes)
            results.append(start())
        except BaseException as error:  # raised again below
            errors.append(error)

    thread = threading.Thread(target=work, name="start of a confined program")
    try:
        thread.start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def version() -> int:
    """Return the Landlock version of the kernel; 0 if Landlock is missing or disabled."""
    return max(_syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_ASK_VERSION)), 0)


def _confine(program: str, reads: Iterable[str], writes: Iterable[str]) -> None:
    has = version()
    if not has:
        return
    files = _FILES_BY_VERSION[min(has, max(_FILES_BY_VERSION))]
    ruleset = _ruleset(files, has)
    try:
        for folder in (*_INSTALLED, *_folders_of(program)):
            with suppress(FileNotFoundError, NotADirectoryError):
                _allow(ruleset, folder, _EXECUTE | _READ_FILE | _READ_DIR)
        for path in _LOADER:
            with suppress(FileNotFoundError):
                _allow(ruleset, path, _READ_FILE)
        _allow(ruleset, os.devnull, _READ_FILE | _WRITE_FILE)
        for path in reads:
            _allow(ruleset, path, _READ_FILE)
        for path in writes:
            _allow(ruleset, path, (_READ_FILE | _WRITE_FILE | _TRUNCATE) & files)
        _checked(_libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(_syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)))
    finally:
        os.close(ruleset)


def _folders_of(program: str) -> list[str]:
    own = os.path.dirname(os.path.realpath(shutil.which(program) or program))
    libraries = [os.path.join(os.path.dirname(own), name) for name in ("lib", "lib64", "libexec", "share")]
    # The loader ignores an entry that is not a folder, but the kernel would refuse it.
    return [own, *libraries, *filter(os.path.isdir, os.environ.get("LD_LIBRARY_PATH", "").split(":"))]


def _ruleset(files: int, has: int) -> int:
    words = [files]
    if has >= 4:
        words.append(_NETWORK)
    if has >= 6:
        words.append(_SCOPES)
    attributes = struct.pack(f"={len(words)}Q", *words)
    size = ctypes.c_size_t(len(attributes))
    return _checked(_syscall(_CREATE_RULESET, attributes, size, ctypes.c_uint32(0)))


def _allow(ruleset: int, path: str, access: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", access, fd)
        _checked(_syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0)))
    finally:
        os.close(fd)


def _syscall(*arguments: object) -> int:
    return int(_libc.syscall(*arguments))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return result
