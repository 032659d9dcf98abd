"""Races: contestants run in turn, round after round, with a warm or a cold page cache."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping
from functools import partial

from bench.content import SEED
from bench.contestants import ALL, COMPARE, LIMIT, PLAN, PLAN_APPLY, REBASE, REBASE_COMPARE, limit, plan
from bench.fleets import Fleet
from bench.limit import read_limit
from bench.machine import can_drop_caches, drop_caches, settle
from bench.report import Race, Series
from bench.running import Run

Entry = Callable[[], Run]

STANDARD = (PLAN, PLAN_APPLY, LIMIT, REBASE, REBASE_COMPARE, COMPARE)

FOR_COLD = (PLAN, LIMIT, REBASE)
"""With a cold cache, the other contestants would only read the same bytes from the disk again."""

MORE_JOBS = (4, 8)
"""Numbers of jobs with a cold cache: more than the machine has cores, to see if they keep the disk busier."""


def entries_of(fleet: Fleet, names: tuple[str, ...] = STANDARD) -> dict[str, Entry]:
    """Return contestants on a fleet, ready to run."""
    return {name: partial(ALL[name], fleet) for name in names}


def warm_race(name: str, fleet: Fleet, entries: Mapping[str, Entry], rounds: int) -> Race:
    """Race with a warm cache: all bytes are read once beforehand, so the page cache has as many as fit."""
    settle(fleet.folder)
    limit(fleet)
    return Race(name, fleet.what, "warm", _raced(entries, rounds, partial(settle, fleet.folder)))


def cold_races(name: str, fleet: Fleet, rounds: int) -> list[Race]:
    """Race with a cold cache; without root, which may empty the page cache, print a notice and return no race."""
    if not can_drop_caches():
        print(f"{name}: no runs with a cold cache; they need root", file=sys.stderr)
        return []
    entries = entries_of(fleet, FOR_COLD)
    for jobs in MORE_JOBS:
        entries[f"{PLAN}, {jobs} jobs"] = partial(plan, fleet, jobs=jobs)
        entries[f"{LIMIT}, {jobs} processes"] = partial(read_limit, fleet.images, jobs)
    prepare = partial(drop_caches, fleet.folder)
    return [Race(name, fleet.what, "cold", _raced(entries, rounds, prepare, shuffled=random.Random(SEED)))]


def _raced(
    entries: Mapping[str, Entry],
    rounds: int,
    prepare: Callable[[], None],
    *,
    shuffled: random.Random | None = None,
) -> tuple[Series, ...]:
    """Run all contestants in rounds.

    ``shuffled``: use another order in each round, because a disk caches what was read from it before.
    """
    runs: dict[str, list[Run]] = {name: [] for name in entries}
    for _ in range(rounds):
        order = list(entries)
        if shuffled is not None:
            shuffled.shuffle(order)
        for name in order:
            prepare()
            runs[name].append(entries[name]())
    return tuple(
        Series(name, tuple(round(run.seconds, 4) for run in each), max(run.resident for run in each))
        for name, each in runs.items()
    )
