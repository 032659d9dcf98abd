"""The file of ``--log-file``: messages and results of commands, whether or not they are printed.

::

    2026-11-29T10:57:49Z 4242 command: batchdiff apply fleet.plan.json -q
    2026-11-29T10:57:52Z 4242 web01: converted
    UTC                  process ID, because several commands may use one log

Every line starts like this, so batchdiff recognises a log even after its first lines have been removed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from batchdiff.errors import UsageError
from batchdiff.files import own_files
from batchdiff.linux.call_failures import reason
from batchdiff.linux.permissions import Deed, lacking_access
from batchdiff.manifest.names import without_suffix
from batchdiff.plan.head import beginning
from batchdiff.report.printable import printable

_START = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \d+ ")
_LONGEST = 1 << 20
"""In characters: a text report of thousands of guests fits."""

_PASSWORD = re.compile(r"""(://[^/\s:@]*:)[^@/\s]+(?=@)|(\bpasswd=)(?:'[^']*'|"[^"]*")""")
"""A password in a URI or in a domain's definition."""

_REMEDY = "Name a file that does not exist yet, such as batchdiff.log, or an earlier log of batchdiff."


def time_now() -> str:
    """Return the time in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True)
class LogFile:
    """A log. ``fd``: None if it cannot be written to; ``why``: the cause, until ``append`` returns it."""

    path: str
    fd: int | None
    why: str = ""

    def append(self, text: str) -> str:
        """Append a message. Return why that failed; empty if it succeeded, or if the cause was returned before.

        The lines are not synced; the journal is.
        """
        fd = self.fd
        if fd is not None:
            start = f"{time_now()} {os.getpid()} "
            lines = "".join(f"{start}{printable(line)}\n" for line in _fit_for_log(text).splitlines())
            data = lines.encode("utf-8", "backslashreplace")
            try:
                while data:
                    data = data[os.write(fd, data) :]
            except OSError as error:
                # The descriptor stays open: another thread may be writing to it at this moment.
                self.fd, self.why = None, reason(error)
        why, self.why = self.why, ""
        return why


def _fit_for_log(text: str) -> str:
    if len(text) > _LONGEST:
        return f"(a text of {len(text)} characters is left out)"
    return without_passwords(text)


def without_passwords(text: str) -> str:
    """Return text with asterisks in place of passwords."""
    return _PASSWORD.sub(lambda found: f"{found[1] or found[2]}***", text)


def open_log(path: str, taken: Iterable[str]) -> LogFile:
    """Open or create a log. ``taken``: the command's other files, which need not exist yet.

    If the file cannot be opened for writing, ``fd`` is None and ``why`` is set.

    :raises UsageError: the file must not be used as a log.
    """
    real = os.path.realpath(path)
    if real in {os.path.realpath(other) for other in taken}:
        raise _refusal(path, "the command uses that name for another file")
    if real.endswith(own_files.ALL) or without_suffix(real) != real:
        name = os.path.basename(real)
        raise _refusal(path, f"the name {name} has the suffix of an image or of another batchdiff file")
    try:
        before = os.lstat(path)
    except FileNotFoundError:
        before = None
    except OSError as error:
        return LogFile(path, None, reason(error))
    if before is not None:
        _require_log(path, before)
    return _opened(path, before)


def _require_log(path: str, info: os.stat_result) -> None:
    if stat.S_ISLNK(info.st_mode):
        raise _refusal(path, "it is a symbolic link")
    if not stat.S_ISREG(info.st_mode):
        raise _refusal(path, "it is not a regular file")
    if not info.st_size:
        return
    head = beginning(path)
    if not head:
        why = lacking_access(Deed.READ, path) or "it cannot be read"
        raise _refusal(path, f"{why}, so batchdiff cannot recognise it as a log")
    if not _START.match(head):
        raise _refusal(path, "it exists and does not start like a log of batchdiff")


def _opened(path: str, before: os.stat_result | None) -> LogFile:
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        # A name that was free must still be free, and a file that was inspected must still be the same one.
        fd = os.open(path, flags if before else flags | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        return LogFile(path, None, reason(error, Deed.WRITE if before else Deed.CREATE, path))
    if before is not None and not os.path.samestat(os.fstat(fd), before):
        os.close(fd)
        raise _refusal(path, "another program has just replaced it")
    return LogFile(path, fd)


def _refusal(path: str, why: str) -> UsageError:
    return UsageError(f"cannot use {path} as the log", why=why, remedy=_REMEDY)
