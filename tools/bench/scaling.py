"""The growth of time and memory with the number of guests, their size, their changes, and the jobs."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from batchdiff.units import GIB, MIB
from bench import fleets
from bench.contestants import REBASE, limit, plan, plan_command, rebase
from bench.fleets import Fleet
from bench.machine import settle
from bench.report import Point
from bench.running import Memory, Run, memory_of

GUESTS, SIZE, CHANGED = "guests", "size", "changed"
ONE_JOB, TWO_JOBS = "plan, 1 job", "plan, 2 jobs"

_SHARE_OF_LARGE = 0.2
"""The allocated share on the size axis: 16 GiB and a copy then stay below 8 GiB of disk, and in the page cache."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A point's fleet: small images on the axis of guests, one guest on that of sizes, four on that of changes."""

    axis: str
    value: float
    guests: int
    size: int
    changed: float = 0.04
    share: float = 0.57


_PLACES = (
    *(_Place(GUESTS, n, n, 256 * MIB) for n in (1, 4, 16, 64)),
    *(_Place(SIZE, n, 1, n * GIB, share=_SHARE_OF_LARGE) for n in (1, 4, 16)),
    *(_Place(CHANGED, percent, 4, GIB, changed=percent / 100) for percent in (0, 1, 10, 100)),
)


def scaling_points(
    place: Callable[[str], AbstractContextManager[str]], smaller: Callable[[int], int], rounds: int
) -> list[Point]:
    """Measure all points; each fleet is removed after its measurement."""
    points: list[Point] = []
    for at in _PLACES:
        with place("scaling") as folder:
            fleet = fleets.raw(folder, size=smaller(at.size), guests=at.guests, changed=at.changed, share=at.share)
            points += _measured(fleet, at, rounds)
    return points


def _measured(fleet: Fleet, at: _Place, rounds: int) -> list[Point]:
    entries: dict[str, Callable[[], Run]] = {
        ONE_JOB: partial(plan, fleet, jobs=1),
        TWO_JOBS: partial(plan, fleet, jobs=2),
        REBASE: partial(rebase, fleet),
    }
    settle(fleet.folder)
    limit(fleet)
    runs: dict[str, list[Run]] = {name: [] for name in entries}
    for _ in range(rounds):
        for name, entry in entries.items():
            settle(fleet.folder)
            runs[name].append(entry())
    memory = {
        ONE_JOB: memory_of(plan_command(fleet, 1)),
        TWO_JOBS: memory_of(plan_command(fleet, 2)),
        REBASE: Memory(max(run.resident for run in runs[REBASE]), 0),
    }
    return [
        Point(
            at.axis,
            at.value,
            name,
            round(statistics.median(run.seconds for run in each), 4),
            memory[name].worker,
            memory[name].own,
        )
        for name, each in runs.items()
    ]
