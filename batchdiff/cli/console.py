"""The output of a command: messages for people on stderr, results on stdout, events for programs with --json."""

from __future__ import annotations

import contextlib
import enum
import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from batchdiff.errors import BatchdiffError, ManifestError, UsageError
from batchdiff.report.form import WIDTH
from batchdiff.report.printable import printable

if TYPE_CHECKING:
    from batchdiff.cli.logs.log_file import LogFile


class ProgressMode(enum.StrEnum):
    """The choice of when progress is shown."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Console:
    """The output of one command. ``verbosity``: -1 if quiet, 0, or 1 for more.

    ``log_file`` gets every message and result, even those that are not printed.
    """

    verbosity: int = 0
    json: bool = False
    progress: ProgressMode = ProgressMode.AUTO
    log_file: LogFile | None = None

    def say(self, text: str) -> None:
        """Print a message for people, unless the console is quiet."""
        self.log(text)
        if self.verbosity >= 0:
            self._to_stderr(text)

    def detail(self, text: str) -> None:
        """Print a message for people who asked for more."""
        self.log(text)
        if self.verbosity > 0:
            self._to_stderr(text)

    def error(self, error: BatchdiffError) -> None:
        """Print why a command failed and what to do next, even if the console is quiet."""
        self.log(str(error))
        # The problems of a manifest start with FILE:LINE:, which editors parse, so they get no prefix.
        with contextlib.suppress(UsageError):  # if stderr cannot be written, the exit code still reports this
            self._to_stderr(str(error) if isinstance(error, ManifestError) else f"batchdiff: {error}")
        self.event("error", message=error.reason, remedy=error.remedy, exit_code=error.exit_code)

    def warn(self, text: str) -> None:
        """Print a message that the operator must not miss, even if the console is quiet."""
        self.log(text)
        self._to_stderr(f"batchdiff: {text}")

    def result(self, text: str) -> None:
        """Print the result of a command. With --json, events take its place."""
        self.log(text)
        if not self.json:
            _write(sys.stdout, text if text.endswith("\n") else text + "\n")

    def event(self, name: str, /, **fields: object) -> None:
        """Print one JSON object as a line on stdout, with --json only."""
        if self.json:
            _write(sys.stdout, json.dumps({"event": name} | fields) + "\n")

    def draw(self, text: str) -> None:
        """Print a piece of a progress bar, unchanged."""
        _write(sys.stderr, text)

    def ask(self, question: str) -> str:
        """Ask a question on the terminal and return the typed answer."""
        _write(sys.stderr, question)
        answer = sys.stdin.readline().strip()
        self.log(f"{question}{answer}")
        return answer

    def log(self, text: str) -> None:
        """Write to the log file, if there is one. If it cannot be written, the command warns and continues."""
        if self.log_file is not None and (why := self.log_file.append(text)):
            with contextlib.suppress(UsageError):  # a log is not worth an end
                self._to_stderr(
                    f"batchdiff: warning: cannot write the log {self.log_file.path}: {why}. The command continues"
                    " without it"
                )

    @property
    def can_ask(self) -> bool:
        """True if there is a terminal where a person can answer."""
        return sys.stdin is not None and sys.stdin.isatty()

    @property
    def width(self) -> int:
        """The columns for a report: the terminal's, or 100 if stdout is not a terminal."""
        if not sys.stdout.isatty():
            return WIDTH
        import shutil  # noqa: PLC0415  # loads all of Python's compression modules: 2 ms, not needed for a pipe

        return shutil.get_terminal_size((WIDTH, 24)).columns

    @property
    def is_one_terminal(self) -> bool:
        """True if messages and the result both go to a terminal, where a person reads one after the other."""
        return not self.json and sys.stdout.isatty() and sys.stderr.isatty()

    @property
    def shows_progress(self) -> bool:
        """True if a progress bar is to be drawn."""
        if self.progress is ProgressMode.AUTO:
            return self.verbosity >= 0 and sys.stderr.isatty()
        return self.progress is ProgressMode.ALWAYS

    @staticmethod
    def _to_stderr(text: str) -> None:
        for line in text.split("\n"):
            _write(sys.stderr, printable(line) + "\n")


def _write(stream: TextIO, text: str) -> None:
    """Write and flush. If the reader has gone, as with ``| head``, drop this and all later output and continue.

    :raises UsageError: the output cannot be written.
    """
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        _silence(stream)
    except OSError as error:
        _silence(stream)
        raise UsageError("cannot write the output", why=error.strerror or str(error)) from error


def _silence(stream: TextIO) -> None:
    """Send the rest of a stream's buffer, and all later output, to /dev/null."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
