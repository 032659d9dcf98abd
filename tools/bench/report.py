"""The measurements, as bench.json stores them."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Series:
    """The runs of one contestant, round by round, and the largest resident set of any process, in bytes."""

    name: str
    seconds: tuple[float, ...]
    resident: int

    @property
    def median(self) -> float:
        """The median time in seconds."""
        return statistics.median(self.seconds)


@dataclass(frozen=True, slots=True)
class Race:
    """Contestants that ran in turn on one fleet; ``cache`` is warm or cold."""

    fleet: str
    what: str
    cache: str
    series: tuple[Series, ...]

    def of(self, name: str) -> Series | None:
        """Return the runs of a contestant; None if it did not run."""
        return next((series for series in self.series if series.name == name), None)

    def ratio(self, slower: str, faster: str) -> float | None:
        """Return one contestant's time divided by another's: the median of all rounds; None if one did not run."""
        one, other = self.of(slower), self.of(faster)
        if one is None or other is None:
            return None
        return statistics.median(a / b for a, b in zip(one.seconds, other.seconds, strict=True))


@dataclass(frozen=True, slots=True)
class Fact:
    """A figure other than a race's time, with its unit. ``name`` identifies it in bench.json."""

    name: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the scaling study: a contestant at ``value`` on ``axis``, a column of the plot."""

    axis: str
    value: float
    contestant: str
    seconds: float
    worker_bytes: int
    own_bytes: int


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run of the benchmark; ``others``: the share of the processors' time that went to other work."""

    machine: str
    version: str
    date: str
    seed: int
    jobs: int
    others: float
    races: tuple[Race, ...] = ()
    facts: tuple[Fact, ...] = ()
    points: tuple[Point, ...] = ()

    def race(self, fleet: str, cache: str = "warm") -> Race | None:
        """Return the race on a fleet; None if it was not run."""
        return next((race for race in self.races if (race.fleet, race.cache) == (fleet, cache)), None)

    def fact(self, name: str) -> float | None:
        """Return a fact's value; None if it was not measured."""
        return next((fact.value for fact in self.facts if fact.name == name), None)


def to_json(report: Report) -> str:
    """Return the text of bench.json."""
    return json.dumps(asdict(report), indent=1) + "\n"


def from_json(text: str) -> Report:
    """Return the report in a text that :func:`to_json` made."""
    fields: dict[str, Any] = json.loads(text)
    races = [
        Race(race["fleet"], race["what"], race["cache"], tuple(_series(each) for each in race["series"]))
        for race in fields.pop("races")
    ]
    facts = tuple(Fact(**fact) for fact in fields.pop("facts"))
    points = tuple(Point(**point) for point in fields.pop("points"))
    return Report(**fields, races=tuple(races), facts=facts, points=points)


def _series(fields: dict[str, Any]) -> Series:
    return Series(fields["name"], tuple(fields["seconds"]), fields["resident"])
