"""The log of a command, kept apart from the command's other files."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
from collections.abc import Iterator, Sequence

from batchdiff import __version__
from batchdiff.cli.logs.log_file import LogFile, open_log
from batchdiff.errors import BatchdiffError
from batchdiff.files import own_files
from batchdiff.qemu.installed import installed_version

_BESIDE_PLANS = ("", *own_files.BESIDE_PLAN)
_READS_NO_IMAGE = {"schema", "show", "status", "validate"}


def log_of(arguments: argparse.Namespace) -> LogFile:
    """Open the log that the command line names.

    :raises UsageError: the file must not be used as a log.
    """
    return open_log(arguments.log_file, _other_files(arguments))


def first_lines(verb: str, argv: Sequence[str]) -> str:
    """Return what a command logs first."""
    try:
        folder = os.getcwd()
    except OSError:
        folder = "a deleted folder"
    where = f"in {folder}, by user {os.getuid()}; {', '.join(_versions(verb))}"
    return f"command: {shlex.join(['batchdiff', *argv])}\n{where}"


def _other_files(arguments: argparse.Namespace) -> Iterator[str]:
    given = vars(arguments)
    names = ("plan", "manifest", "output", "against", "reuse", "textfile")
    paths = [given[name] for name in names if given.get(name)]
    if "manifest" in given:
        paths.append(os.path.splitext(given["manifest"])[0] + ".plan.json")
    for path in paths:
        yield from (path + suffix for suffix in _BESIDE_PLANS)


def _versions(verb: str) -> Iterator[str]:
    yield f"batchdiff {__version__}"
    yield f"Python {platform.python_version()}"
    yield f"Linux {os.uname().release}"
    if verb not in _READS_NO_IMAGE:
        try:
            yield f"qemu-img {installed_version()}"
        except BatchdiffError as error:
            yield f"qemu-img: {error.reason}"
