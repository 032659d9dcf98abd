"""The progress of a command, in bytes: the total, the part that is done, and the pace.

::

    open(3, 2000), open(4, 2000), ...                                       the first reading, if called
    expect("web01", WRITE, 3 GiB), expect("web01", VERIFY, 40 GiB), ...     the total
    begin()                                                                 the first reading otherwise
    reach("web01", WRITE, 1 GiB)                                            the bytes done never decrease
    settle("web01")                                                         done or failed: the rest counts as done
    end()                                                                   the last reading: all is done

Bytes that needed no work in this run count as done, but not towards the rate.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from batchdiff.frozen import frozen


class Phase(enum.StrEnum):
    """The kind of work at hand."""

    OPEN = "open"
    """The bytes to read are not known yet."""
    TEMPLATE = "template"
    """The template is being read to compare its digest."""
    SCAN = "scan"
    ASSESS = "assess"
    """Savings are being calculated; no rate predicts how long that takes."""
    WRITE = "write"
    SHARE = "share"
    VERIFY = "verify"
    COMPARE = "compare"
    REBUILD = "rebuild"


@frozen
class Pace:
    """Progress in bytes; in ``Reading.openings``, in openings of images. None: unknown."""

    done: int
    total: int
    per_second: float | None
    seconds_left: float | None

    @property
    def percent(self) -> float:
        """Rounded down to a tenth, so that 100 means all."""
        return 100.0 if self.done >= self.total else self.done * 1000 // self.total / 10


@frozen
class Reading:
    """Progress at one moment: of the whole run, and of the guest that is being worked on, if any.

    ``is_edge``: whether this is the first or the last reading. ``openings``: None unless ``phase`` is OPEN.
    """

    run: Pace
    seconds_elapsed: float
    phase: Phase | None
    guest: str | None
    of_guest: Pace | None
    is_edge: bool
    openings: Pace | None = None


def ignore(_count: int) -> None:
    """Ignore a report."""


def summing(report: Callable[[int], None]) -> Callable[[int], None]:
    """Return a function that adds its argument to a sum, and reports the sum so far."""
    total = 0

    def add(more: int) -> None:
        nonlocal total
        total += more
        report(total)

    return add


_SHORTEST = 0.05
"""Seconds before a rate is calculated: after microseconds, it could be terabytes a second."""


@dataclass(slots=True)
class _Load:
    """Work, and how much of it is done. ``worked``: the part of ``done`` that counts towards the rate."""

    size: int = 0
    done: int = 0
    worked: int = 0
    since: float | None = None

    def add(self, more: int, *, worked: bool) -> None:
        self.done += more
        self.worked += more if worked else 0

    def pace(self, now: float) -> Pace:
        left, elapsed = self.size - self.done, now - (now if self.since is None else self.since)
        per_second = self.worked / elapsed if elapsed >= _SHORTEST and self.worked else None
        seconds = left / per_second if per_second else None
        return Pace(self.done, self.size, per_second, seconds if left else 0.0)


@dataclass(slots=True)
class Meter:
    """A count of the bytes of one command, to which all its threads may report.

    ``show`` gets a first and a last reading, and otherwise at most one every ``every`` seconds, except that
    :meth:`begin` shows one at once. ``show`` must not fail.
    """

    show: Callable[[Reading], None] | None = None
    every: float = 1.0
    clock: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _run: _Load = field(default_factory=_Load, init=False)
    _guests: dict[str | None, _Load] = field(default_factory=dict, init=False)
    _phases: dict[tuple[str | None, Phase], _Load] = field(default_factory=dict, init=False)
    _at: tuple[str | None, Phase | None] = field(default=(None, None), init=False)
    _next: float | None = field(default=None, init=False)
    _since: float | None = field(default=None, init=False)
    _openings: _Load | None = field(default=None, init=False)

    def open(self, done: int, total: int) -> None:
        """Report how many openings of images are done; later calls do not change the total."""
        with self._lock:
            if self._openings is None:
                self._openings = _Load(total, since=self.clock())
            self._at = None, Phase.OPEN
            self._openings.add(done - self._openings.done, worked=True)
            self._show_if_due(first=True)

    def expect(self, guest: str | None, phase: Phase, size: int) -> None:
        """Add bytes to the total, unless this work has been expected before. ``guest``: None for all guests."""
        with self._lock:
            if (guest, phase) not in self._phases:
                self._phases[guest, phase] = _Load(size)
                self._of(guest).size += size
                self._run.size += size

    @property
    def has_begun(self) -> bool:
        """True once :meth:`begin` has been called."""
        return self._run.since is not None

    def begin(self) -> None:
        """Show the first reading with bytes; later calls do nothing.

        Call :meth:`expect` for all foreseeable work first.
        """
        with self._lock:
            if self._run.since is None:
                self._run.since, self._openings = self.clock(), None
                if self._at[1] is Phase.OPEN:
                    self._at = None, None
                self._show_if_due(first=True, at_once=True)

    def reach(self, guest: str | None, phase: Phase, done: int, *, worked: bool = True) -> None:
        """Report how many bytes of this work are done; a lower number, as in a retry, adds nothing.

        Bytes that were not expected do not count. ``worked``: False if the bytes needed no work in this run.
        """
        with self._lock:
            self._at = guest, phase
            of = self._of(guest)
            of.since = self.clock() if of.since is None else of.since
            work = self._phases.get((guest, phase))
            if work is not None and (more := min(done, work.size) - work.done) > 0:
                for load in (work, of, self._run):
                    load.add(more, worked=worked)
            self._show_if_due()

    def reached(self, guest: str | None, phase: Phase) -> int:
        """Return the bytes of this work that are done."""
        work = self._phases.get((guest, phase))
        return 0 if work is None else work.done

    def lengthen(self, guest: str | None, phase: Phase, size: int) -> None:
        """Expect at least ``size`` bytes of this work."""
        self.expect(guest, phase, 0)
        with self._lock:
            work = self._phases[guest, phase]
            more = max(size - work.size, 0)
            for load in (work, self._of(guest), self._run):
                load.size += more

    def settle(self, guest: str) -> None:
        """Count all expected work on a guest as done."""
        with self._lock:
            self._settle(guest)
            self._show_if_due()

    def tick(self) -> None:
        """Show a reading if one is due."""
        with self._lock:
            self._show_if_due()

    def end(self) -> None:
        """Count all work as done, and show the last reading."""
        self.begin()
        with self._lock:
            for guest in self._guests:
                self._settle(guest)
            self._at = None, self._at[1]
            self._show(self.clock(), is_edge=True)

    def cut_short(self) -> None:
        """Show how far an interrupted or failed command got, if there has been a first reading."""
        with self._lock:
            if self._next is not None:
                self._show(self.clock(), is_edge=True)

    def _of(self, guest: str | None) -> _Load:
        return self._guests.setdefault(guest, _Load())

    def _settle(self, guest: str | None) -> None:
        of = self._of(guest)
        self._run.add(of.size - of.done, worked=False)
        of.add(of.size - of.done, worked=False)
        for phase in Phase:
            if work := self._phases.get((guest, phase)):
                work.done = work.size

    def _show_if_due(self, *, first: bool = False, at_once: bool = False) -> None:
        """``first``: show a reading even if none has been shown yet; ``at_once``: even before it is due."""
        if self._next is None:
            if first:
                self._since = self.clock()
                self._show(self._since, is_edge=True)
        elif self.show is not None and ((now := self.clock()) >= self._next or at_once):
            self._show(now)

    def _show(self, now: float, *, is_edge: bool = False) -> None:
        self._next = now + self.every
        if self.show is None:
            return
        guest, phase = self._at
        run, of_guest = self._run.pace(now), None if guest is None else self._of(guest).pace(now)
        opened = self._openings if phase is Phase.OPEN else None
        openings = None if opened is None else opened.pace(now)
        if openings is not None or (phase is Phase.ASSESS and not is_edge):
            run = replace(run, seconds_left=None)
        elapsed = now - (now if self._since is None else self._since)
        self.show(Reading(run, elapsed, phase, guest, of_guest, is_edge, openings))
