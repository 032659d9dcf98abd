"""The report of a crash: the traceback of a bug, in a new file that a user can attach to a public bug report.

The traceback has no values of variables. Messages of exceptions may quote data, so bytes, arrays, long lists of
numbers and passwords in them are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version

from batchdiff import __version__
from batchdiff.cli.logs.log_file import time_now, without_passwords
from batchdiff.files import own_files

_LONGEST = 20_000
"""In characters. A message from a worker may contain a traceback."""

_DATA = re.compile(
    r"""\bb'(?:[^'\\]|\\.)*'|\bb"(?:[^"\\]|\\.)*"|\barray\((?:[^()]|\([^()]*\))*\)|\[[-\d\s,.]{40,}\]""", re.DOTALL
)
"""Bytes, arrays and long lists of numbers, as Python prints them."""

_LIBRARIES = {"yaml": "pyyaml"} | {
    name: name for name in ("isal", "jinja2", "jsonschema", "numpy", "tqdm", "xxhash", "zstandard")
}


def crash_text(error: BaseException, command: str) -> str:
    """Return the report of an unexpected exception."""
    uname = platform.uname()
    loaded = [_with_version(name) for module, name in _LIBRARIES.items() if module in sys.modules]
    head = (
        f"time: {time_now()}\ncommand: {without_passwords(command)}\n"
        f"batchdiff {__version__}, Python {platform.python_version()}, {uname.system} {uname.release}"
        f" {uname.machine}\nlibraries: {', '.join(loaded) or 'none'}\n"
    )
    return "\n".join([head, *_parts(error)])


def _with_version(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:  # installed without its metadata
        return name


def _parts(error: BaseException) -> Iterator[str]:
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    for each in reversed(chain):
        frames = "".join(traceback.format_tb(each.__traceback__))
        yield f"Traceback (most recent call last):\n{frames}{exception_line(each)}\n"


def exception_line(error: BaseException) -> str:
    """Return an exception's class and message, cleaned and cut."""
    try:
        message = str(error)
    except Exception:  # the exception's own code has a bug, too
        message = "(it has no message)"
    return f"{type(error).__name__}: {without_passwords(_DATA.sub('(data left out)', message))[:_LONGEST]}"


def folders_for(arguments: argparse.Namespace | None) -> list[str]:
    """Return the folders to try for a crash report, the best first."""
    given = [getattr(arguments, name, None) for name in ("plan", "output", "manifest")]
    try:
        paths = [os.path.dirname(os.path.abspath(path)) for path in given if path and path != "-"]
    except OSError:  # a relative path, and the working folder has been deleted
        paths = []
    beside = [path for path in paths if not f"{path}/".startswith(("/dev/", "/proc/"))][:1]
    return [*beside, os.environ.get("TMPDIR") or "/tmp"]  # noqa: S108  # the name is random, and must be new


def write_crash_report(text: str, folders: Sequence[str]) -> str | None:
    """Write a report to a new file, readable only by its owner, in the first folder that allows it.

    Return the file's path; None if no folder allows it.
    """
    name = f"{re.sub('[-:]', '', time_now())}-{os.urandom(4).hex()}{own_files.CRASH}"
    for folder in folders:
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError, ValueError):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                with open(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(text)
            except OSError:
                os.unlink(path)  # it is incomplete, as on a full disk
                raise
            return path
    return None
