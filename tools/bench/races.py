"""Lets contestants run in turn, round after round, with a warm or a cold page cache."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial

from bench.contestants import ALL, LIMIT, PLAN, REBASE, limit
from bench.fleets import Fleet
from bench.machine import can_drop_caches, drop_caches, settle
from bench.report import Race, Series
from bench.running import Run

Entry = Callable[[], Run]

FOR_COLD = (PLAN, LIMIT, REBASE)
"""With a cold cache all others would only read the same bytes from the disk once more."""


def entries_of(fleet: Fleet, names: tuple[str, ...] = tuple(ALL)) -> dict[str, Entry]:
    """Contestants on a fleet."""
    return {name: partial(ALL[name], fleet) for name in names}


def warm_race(name: str, fleet: Fleet, entries: Mapping[str, Entry], rounds: int) -> Race:
    """All bytes are read once first, so that they are in the page cache as far as it holds them."""
    settle(fleet.folder)
    limit(fleet)
    return Race(name, fleet.what, "warm", _raced(entries, rounds, partial(settle, fleet.folder)))


def cold_races(name: str, fleet: Fleet, rounds: int) -> list[Race]:
    """None where the page cache cannot be emptied."""
    if not can_drop_caches():
        print(f"{name}: no runs with a cold cache; they need root", file=sys.stderr)
        return []
    entries = entries_of(fleet, FOR_COLD)
    return [Race(name, fleet.what, "cold", _raced(entries, rounds, partial(drop_caches, fleet.folder)))]


def _raced(entries: Mapping[str, Entry], rounds: int, prepare: Callable[[], None]) -> tuple[Series, ...]:
    runs: dict[str, list[Run]] = {name: [] for name in entries}
    for _ in range(rounds):
        for name, entry in entries.items():
            prepare()
            runs[name].append(entry())
    return tuple(
        Series(name, tuple(round(run.seconds, 4) for run in each), max(run.resident for run in each))
        for name, each in runs.items()
    )
