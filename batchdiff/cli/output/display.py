"""The display of readings, as a bar and as events."""

from __future__ import annotations

import time
from collections.abc import Callable

from batchdiff.cli.output.bar import EVERY, ProgressBar
from batchdiff.progress import Meter, Reading

_EVENTS = 1.0
"""Seconds until the next event is due."""


class Display:
    """The display of a command's readings.

    ``print_event`` gets the first reading, the last, and at most one a second in between.
    """

    def __init__(
        self,
        *,
        bar: bool,
        print_event: Callable[[Reading], None] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bar = ProgressBar() if bar else None
        self._print_event, self._clock = print_event, clock
        self._next = 0.0

    def meter(self) -> Meter:
        """Return a new meter for this display."""
        if self._bar is None:
            return Meter(None if self._print_event is None else self._show, every=_EVENTS, clock=self._clock)
        return Meter(self._show, every=EVERY, clock=self._clock)

    def close(self) -> None:
        """Remove the bar, if any."""
        if self._bar is not None:
            self._bar.close()

    def _show(self, reading: Reading) -> None:
        if self._bar is not None:
            self._bar.show(reading)
        now = self._clock()
        if self._print_event is not None and (reading.is_edge or now >= self._next):
            self._next = now + _EVENTS
            self._print_event(reading)
