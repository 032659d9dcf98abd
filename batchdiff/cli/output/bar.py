"""A progress bar on stderr, with a second line for the current guest if the cursor can move up.

::

    verifying  43.1%|████████▌           | 12.1 GiB of 28 GiB, 203.4 MiB/s, 1:20 left
      web01  57.0%|███████████▍        | 2.3 GiB of 4 GiB, 101.7 MiB/s, 0:17 left
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from batchdiff.cli.output.outlet import STDERR
from batchdiff.frozen import frozen
from batchdiff.progress import Pace, Phase, Reading
from batchdiff.report.printable import printable
from batchdiff.units import format_size

if TYPE_CHECKING:
    from tqdm import tqdm

EVERY = 0.1
"""Seconds until the next reading is due."""

_WORDS = {
    None: "working",
    Phase.OPEN: "opening images",
    Phase.TEMPLATE: "reading the template",
    Phase.SCAN: "scanning",
    Phase.ASSESS: "assessing",
    Phase.WRITE: "writing",
    Phase.SHARE: "sharing",
    Phase.VERIFY: "verifying",
    Phase.COMPARE: "comparing",
    Phase.REBUILD: "rebuilding",
}

_COLUMNS, _ROWS = 80, 24
"""The size assumed for a terminal that reports 0."""

_NAME = 24
"""The maximum length of a name, in characters. Longer names are cut in the middle, because many begin alike."""


@frozen
class _Screen:
    """stderr for tqdm. Text is left out if the reader is behind."""

    def write(self, text: str) -> None:
        STDERR.put_event(text, may_drop=True)

    def flush(self) -> None:
        """Do nothing."""

    def fileno(self) -> int:
        return STDERR.stream.fileno()

    @property
    def encoding(self) -> str:
        return STDERR.stream.encoding


def _screen_shape(screen: _Screen) -> tuple[int | None, int | None]:
    """Return the columns and rows to draw in; None if stderr is not a terminal.

    A serial console may report a size of 0, for which tqdm would draw nothing. With no column to draw in, tqdm
    would ignore the format.
    """
    try:
        columns, rows = os.get_terminal_size(screen.fileno())
    except (OSError, ValueError):
        return None, None
    return max((columns or _COLUMNS) - 1, 1), (rows or _ROWS) - 1


def can_move_up() -> bool:
    """Return whether a second line can be drawn."""
    return STDERR.stream.isatty() and os.environ.get("TERM", "") not in {"", "dumb"}


class ProgressBar:
    """The bar. Until it is closed, text put on stderr goes above it."""

    def __init__(self) -> None:
        # Importing tqdm takes a tenth of the start-up time.
        from tqdm import tqdm  # noqa: PLC0415

        # tqdm's monitor is a thread, and the planner, which forks, must not have threads.
        tqdm.monitor_interval = 0
        tqdm.set_lock(threading.RLock())
        self._lock = threading.RLock()
        self._lines = [self._line(tqdm, position) for position in range(2 if can_move_up() else 1)]
        self._reading: Reading | None = None
        STDERR.drawn = self

    @staticmethod
    def _line(kind: type[tqdm[Any]], position: int) -> tqdm[Any]:
        line = kind(
            total=1,
            position=position,
            bar_format="{desc}|{bar}| {unit}",
            file=_Screen(),
            dynamic_ncols=True,
            leave=False,
            delay=1e9,  # draw nothing until there is a reading
        )
        line.dynamic_ncols = _screen_shape  # type: ignore[assignment]  # called before each drawing
        line.ncols, line.nrows = _screen_shape(line.fp)
        return line

    def show(self, reading: Reading) -> None:
        """Draw a reading."""
        with self._lock:
            self._reading = reading
            self._draw()

    def close(self) -> None:
        """Remove the bar."""
        with self._lock:
            STDERR.drawn = None
            for line in reversed(self._lines):
                line.clear()  # close() would not: it assumes that nothing is drawn before `delay`
                line.close()

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """See :class:`batchdiff.cli.output.outlet.Drawn`."""
        with self._lock:
            if self._reading is not None:
                for line in self._lines:
                    line.clear()
            yield
            self._draw()

    def _draw(self) -> None:
        reading = self._reading
        if reading is None:
            return
        run, *rest = self._lines
        if reading.openings is not None:
            _draw_line(run, _WORDS[reading.phase], reading.openings, openings_text(reading.openings))
            return
        if not reading.run.total:  # the command has no work
            for line in self._lines:
                line.clear()
            return
        what, name = _WORDS[reading.phase], "" if reading.guest is None else _cut(reading.guest)
        of_guest = reading.of_guest if rest and reading.of_guest is not None and reading.of_guest.total else None
        what = what if of_guest is not None else f"{what} {name}".strip()
        _draw_line(run, what, reading.run, pace_text(reading.run))
        for line in rest:
            if of_guest is None:
                line.clear()
            else:
                _draw_line(line, f"  {name}", of_guest, pace_text(of_guest))


def _draw_line(line: tqdm[Any], what: str, pace: Pace, text: str) -> None:
    line.set_description_str(f"{what} {pace.percent:5.1f}%", refresh=False)
    line.unit, line.n, line.total = text, pace.done, max(pace.total, 1)
    line.refresh()


def pace_text(pace: Pace) -> str:
    """Return the bytes done, their total and, if known, the rate and the time left."""
    rate = f", {format_size(int(pace.per_second))}/s" if pace.per_second else ""
    return f"{format_size(pace.done)} of {format_size(pace.total)}{rate}{_left(pace)}"


def openings_text(pace: Pace) -> str:
    """Return the openings done, their total and, if known, the time left."""
    return f"{pace.done:,} of {pace.total:,}{_left(pace)}"


def _left(pace: Pace) -> str:
    return "" if pace.seconds_left is None else f", {_time(pace.seconds_left)} left"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _cut(name: str) -> str:
    text = printable(name)
    half = (_NAME - 3) // 2
    return text if len(text) <= _NAME else f"{text[:half]}...{text[len(text) - _NAME + half + 3 :]}"
