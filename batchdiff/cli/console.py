"""What a command says: messages for people on stderr, results on stdout, events for programs with --json."""

from __future__ import annotations

import enum
import json
import shutil
import sys
from dataclasses import dataclass

from batchdiff.errors import BatchdiffError
from batchdiff.report.printable import printable


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
        self._to_stderr(f"batchdiff: {error}")
        self.event("error", message=error.reason, remedy=error.remedy, exit_code=error.exit_code)

    def warn(self, text: str) -> None:
        """What the operator must not miss."""
        self._to_stderr(f"batchdiff: {text}")

    def result(self, text: str) -> None:
        """What was asked for. With --json the events take its place."""
        if not self.json:
            sys.stdout.write(text if text.endswith("\n") else text + "\n")
            sys.stdout.flush()

    def event(self, name: str, /, **fields: object) -> None:
        """One JSON object on a line of stdout, with --json only."""
        if self.json:
            sys.stdout.write(json.dumps({"event": name} | fields) + "\n")
            sys.stdout.flush()

    def ask(self, question: str) -> str:
        """The answer that a person at the terminal types."""
        sys.stderr.write(question)
        sys.stderr.flush()
        return sys.stdin.readline().strip()

    @property
    def width(self) -> int:
        """Columns for a report: the terminal's, and 100 where stdout is none."""
        return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100

    @property
    def shows_progress(self) -> bool:
        """Whether a progress bar is drawn."""
        if self.progress is Progress.AUTO:
            return self.verbosity >= 0 and sys.stderr.isatty()
        return self.progress is Progress.ALWAYS

    @staticmethod
    def _to_stderr(text: str) -> None:
        for line in text.splitlines():
            sys.stderr.write(printable(line) + "\n")
            sys.stderr.flush()
