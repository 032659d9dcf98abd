"""What a command says: messages for people on stderr, results on stdout, events for programs with --json."""

from __future__ import annotations

import contextlib
import enum
import json
import os
import sys
from dataclasses import dataclass
from typing import TextIO

from batchdiff.errors import BatchdiffError, ManifestError, UsageError
from batchdiff.report.printable import printable

_WIDTH = 100


class Progress(enum.StrEnum):
    """When progress is shown."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Console:
    """How much is said and to whom. ``verbosity``: -1 quiet, 0, 1 for more."""

    verbosity: int = 0
    json: bool = False
    progress: Progress = Progress.AUTO

    def say(self, text: str) -> None:
        """A message for people."""
        if self.verbosity >= 0:
            self._to_stderr(text)

    def detail(self, text: str) -> None:
        """A message for people who asked for more."""
        if self.verbosity > 0:
            self._to_stderr(text)

    def error(self, error: BatchdiffError) -> None:
        """Why a command failed, and what to do next; said however quiet the console is."""
        # The problems of a manifest begin with FILE:LINE:, as editors want it; so nothing stands before them.
        with contextlib.suppress(UsageError):  # where stderr is full, the exit code tells all the same
            self._to_stderr(str(error) if isinstance(error, ManifestError) else f"batchdiff: {error}")
        self.event("error", message=error.reason, remedy=error.remedy, exit_code=error.exit_code)

    def warn(self, text: str) -> None:
        """What the operator must not miss."""
        self._to_stderr(f"batchdiff: {text}")

    def result(self, text: str) -> None:
        """What was asked for. With --json the events take its place."""
        if not self.json:
            _write(sys.stdout, text if text.endswith("\n") else text + "\n")

    def event(self, name: str, /, **fields: object) -> None:
        """One JSON object on a line of stdout, with --json only."""
        if self.json:
            _write(sys.stdout, json.dumps({"event": name} | fields) + "\n")

    def draw(self, text: str) -> None:
        """A piece of a progress bar, as it is."""
        _write(sys.stderr, text)

    def ask(self, question: str) -> str:
        """The answer that a person at the terminal types."""
        _write(sys.stderr, question)
        return sys.stdin.readline().strip()

    @property
    def can_ask(self) -> bool:
        """Whether a person is there to answer."""
        return sys.stdin is not None and sys.stdin.isatty()

    @property
    def width(self) -> int:
        """Columns for a report: the terminal's, and 100 where stdout is none."""
        if not sys.stdout.isatty():
            return _WIDTH
        import shutil  # noqa: PLC0415  # brings every compression of Python's with it: 2 ms for a pipe

        return shutil.get_terminal_size((_WIDTH, 24)).columns

    @property
    def is_one_terminal(self) -> bool:
        """Whether messages and the result both go to a terminal, where a person reads one after the other."""
        return not self.json and sys.stdout.isatty() and sys.stderr.isatty()

    @property
    def shows_progress(self) -> bool:
        """Whether a progress bar is drawn."""
        if self.progress is Progress.AUTO:
            return self.verbosity >= 0 and sys.stderr.isatty()
        return self.progress is Progress.ALWAYS

    @staticmethod
    def _to_stderr(text: str) -> None:
        for line in text.split("\n"):
            _write(sys.stderr, printable(line) + "\n")


def _write(stream: TextIO, text: str) -> None:
    """Writes; where the reader has gone, as with ``| head``, nothing is said any more and the work goes on.

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
    """What is left in its buffer, and all that follows, goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
