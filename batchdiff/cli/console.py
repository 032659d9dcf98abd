"""The output of a command: messages on stderr; on stdout, results or, with --json, events."""

from __future__ import annotations

import contextlib
import enum
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field
from typing import TYPE_CHECKING, Any

from batchdiff.choices import Verdict
from batchdiff.cli.output.outlet import STDERR, STDOUT, Outlet
from batchdiff.errors import BatchdiffError, ManifestError, UsageError
from batchdiff.frozen import frozen
from batchdiff.report.form import WIDTH
from batchdiff.report.printable import printable

if TYPE_CHECKING:
    from batchdiff.cli.logs.log_file import LogFile
    from batchdiff.progress import Meter, Reading


class ProgressMode(enum.StrEnum):
    """The choice of when a progress bar is drawn."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


_RESULT = {"guest": "status", "finding": "health", "status": "step"}
"""The field with the result, by the event's name."""


@frozen
class Console:
    """The output of one command. ``verbosity``: -1 if quiet, 1 for details.

    ``log_file`` also gets messages and results that are not printed.
    """

    verbosity: int = 0
    json: bool = False
    progress: ProgressMode = ProgressMode.AUTO
    log_file: LogFile | None = None
    _results: dict[str, int] = field(default_factory=dict, init=False)

    def say(self, text: str) -> None:
        """Print a message, unless the console is quiet."""
        self.log(text)
        if self.verbosity >= 0:
            self._to_stderr(text)

    def detail(self, text: str) -> None:
        """Print a message only if details were asked for."""
        self.log(text)
        if self.verbosity > 0:
            self._to_stderr(text)

    def error(self, error: BatchdiffError) -> None:
        """Report an error, even if the console is quiet."""
        self.log(str(error))
        # The problems of a manifest start with FILE:LINE:, which editors parse, so they get no prefix.
        # If stderr cannot be written to, the exit code still reports the error.
        with contextlib.suppress(UsageError):
            is_list = isinstance(error, ManifestError)
            self._to_stderr(str(error) if is_list else f"batchdiff: {printable(str(error))}")
        self.event("error", message=error.reason, remedy=error.remedy, exit_code=error.exit_code)

    def warn(self, text: str) -> None:
        """Print a message, even if the console is quiet."""
        self.log(text)
        self._to_stderr(f"batchdiff: {text}")

    def result(self, text: str) -> None:
        """Print a result, but not with --json."""
        self.log(text)
        if not self.json:
            STDOUT.put(text if text.endswith("\n") else text + "\n")

    def event(self, name: str, /, **fields: object) -> None:
        """Print one JSON object as a line on stdout, with --json only.

        A failed write is reported by :meth:`end`.
        """
        if self.json:
            self._count(name, fields)
            STDOUT.put_event(_line(name, fields))

    def begin(self, verb: str) -> None:
        """Print the first event, with --json only."""
        if self.json:
            from batchdiff.cli.output.command_events import version_event  # noqa: PLC0415

            self.event("version", **version_event(verb))

    def end(self, verb: str, code: int, seconds: float) -> int:
        """Finish the output and return the exit code: ``code``, or that of a failed write if ``code`` is 0."""
        # This may change the exit code, which the last event must contain.
        code = self._flushed(STDERR, code)
        if self.json:
            from batchdiff.cli.output.command_events import summary_event  # noqa: PLC0415

            self.event("summary", **summary_event(verb, code, seconds, self._results))
        return self._flushed(STDOUT, code)

    def _flushed(self, outlet: Outlet, code: int) -> int:
        try:
            outlet.flush()
        except UsageError as error:
            self.error(error)
            with contextlib.suppress(UsageError):  # only the first error is reported
                STDERR.flush()
            return code or error.exit_code
        return code

    def _count(self, name: str, fields: dict[str, Any]) -> None:
        if name in _RESULT:
            result = str(fields[_RESULT[name]])
            self._results[result] = self._results.get(result, 0) + 1
        elif "report" in fields:
            self._results.update({verdict.value: fields["report"]["totals"][verdict.value] for verdict in Verdict})

    @contextmanager
    def metering(self) -> Iterator[Meter]:
        """Yield a meter whose readings become a bar on stderr, events on stdout, both or neither."""
        from batchdiff.cli.output.display import Display  # noqa: PLC0415

        display = Display(bar=self.shows_progress, print_event=self._progress if self.json else None)
        meter = display.meter()
        try:
            yield meter
            meter.end()
        except BaseException:
            meter.cut_short()
            raise
        finally:
            display.close()

    def _progress(self, reading: Reading) -> None:
        from batchdiff.cli.output.command_events import progress_event  # noqa: PLC0415

        STDOUT.put_event(_line("progress", progress_event(reading)), may_drop=not reading.is_edge)

    def ask(self, question: str) -> str:
        """Ask a question on the terminal and return the typed answer."""
        typed = ""
        try:
            STDERR.put(question)
            STDERR.flush()
            typed = sys.stdin.readline()
        finally:
            if not typed.endswith("\n"):  # after Ctrl-C or Ctrl-D, begin a new line
                STDERR.put("\n")
        answer = typed.strip()
        self.log(f"{question}{answer}")
        return answer

    def log(self, text: str) -> None:
        """Write to the log file, if there is one; if that fails, warn once."""
        if self.log_file is not None and (why := self.log_file.append(text)):
            with contextlib.suppress(UsageError):  # a log is not worth ending the command for
                self._to_stderr(
                    f"batchdiff: warning: cannot write the log {self.log_file.path}: {why}. The command continues"
                    " without it"
                )

    @property
    def can_ask(self) -> bool:
        """True if the operator can be asked."""
        return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()

    @property
    def width(self) -> int | None:
        """The width for results, in columns; None if stdout is not a terminal."""
        if not sys.stdout.isatty():
            return None
        import shutil  # noqa: PLC0415  # loads all of Python's compression modules: 2 ms

        return shutil.get_terminal_size((WIDTH, 24)).columns

    @property
    def is_one_terminal(self) -> bool:
        """True if messages and results go to a terminal, presumably the same one."""
        return not self.json and sys.stdout.isatty() and sys.stderr.isatty()

    @property
    def shows_progress(self) -> bool:
        """True if a progress bar should be drawn."""
        if self.progress is ProgressMode.AUTO:
            return self.verbosity >= 0 and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        return self.progress is ProgressMode.ALWAYS

    @staticmethod
    def _to_stderr(text: str) -> None:
        for line in text.split("\n"):
            STDERR.put(printable(line) + "\n")


def _line(event: str, fields: dict[str, Any]) -> str:
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return json.dumps({"event": event, "time": f"{moment}.{nanoseconds // 1000:06}Z"} | fields) + "\n"
