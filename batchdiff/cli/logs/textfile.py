"""The file of ``--textfile``, for node_exporter's textfile collector, which may read it at any time.

The file is replaced as a whole, through a temporary file whose name the collector ignores.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence

from batchdiff.cli.logs.metrics import Metric, metrics_text
from batchdiff.errors import UsageError
from batchdiff.files.atomic_write import write_whole
from batchdiff.linux.call_failures import obstacle, reason
from batchdiff.linux.permissions import Deed
from batchdiff.plan.file import try_folder

_MODE = 0o644
"""The collector may run as another user."""

_START = b"# HELP batchdiff_"
_REMEDY = "Name a file in the folder of `--collector.textfile.directory`, such as batchdiff.prom."


def check_textfile(path: str) -> None:
    """Check that a file for metrics can be written.

    :raises UsageError: it cannot or must not be written.
    """
    folder = os.path.dirname(os.path.abspath(path))
    try:
        try_folder(folder)
        info = os.lstat(path) if os.path.lexists(path) else None
    except FileNotFoundError as error:
        is_there = os.path.isdir(folder)  # in /proc, for example
        why = (
            f"no file can be created in its folder ({error.strerror})" if is_there else "its folder does not exist"
        )
        raise _refusal(path, why) from error
    except OSError as error:
        raise _refusal(path, reason(error)) from error
    if info is None:
        return
    if not stat.S_ISREG(info.st_mode):
        raise _refusal(path, "it exists and is not a regular file")
    if info.st_size and (why := _why_not_replaced(path)):
        raise _refusal(path, why)
    # In a folder with the sticky bit, a new file can be created even though this one cannot be replaced.
    if (against := obstacle(Deed.DELETE, path)) is not None:
        raise UsageError(f"cannot replace {path}", why=against.why, remedy=against.remedy)


def write_textfile(path: str, plan_path: str, verb: str, metrics: Sequence[Metric]) -> None:
    """Write these metrics and the current time to a file, which is created or replaced.

    :raises UsageError: as for :func:`check_textfile`.
    """
    check_textfile(path)
    lines = metrics_text(os.path.abspath(plan_path), verb, int(time.time()), metrics)
    try:
        write_whole(os.path.abspath(path), lines, encoding="utf-8", mode=_MODE)
    except OSError as error:
        raise _refusal(path, reason(error)) from error


def _why_not_replaced(path: str) -> str:
    try:
        with open(path, "rb") as file:
            start = file.read(len(_START))
    except OSError as error:
        return reason(error, Deed.READ, path)
    return "" if start == _START else "it exists and does not contain metrics of batchdiff"


def _refusal(path: str, why: str) -> UsageError:
    return UsageError(f"cannot write metrics to {path}", why=why, remedy=_REMEDY)
