"""What was measured, as it stands in bench.json."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Series:
    """The runs of one contestant, round by round, and the largest resident set of any process in bytes."""

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
        """The runs of a contestant."""
        return next((series for series in self.series if series.name == name), None)

    def ratio(self, slower: str, faster: str) -> float | None:
        """How many times longer one takes than another: the median of the rounds' ratios. None if not measured."""
        one, other = self.of(slower), self.of(faster)
        if one is None or other is None:
            return None
        return statistics.median(a / b for a, b in zip(one.seconds, other.seconds, strict=True))


@dataclass(frozen=True, slots=True)
class Fact:
    """A figure that is no time of a race: ``unit`` says what it is in. ``name`` is a key of bench.json."""

    name: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the scaling study: a contestant where ``axis``, a column of the plot, is ``value``."""

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
        """The race on a fleet, where it was run."""
        return next((race for race in self.races if (race.fleet, race.cache) == (fleet, cache)), None)

    def fact(self, name: str) -> float | None:
        """A fact's value, where it was measured."""
        return next((fact.value for fact in self.facts if fact.name == name), None)


def to_json(report: Report) -> str:
    """The text of bench.json."""
    return json.dumps(asdict(report), indent=1) + "\n"


def from_json(text: str) -> Report:
    """The report that :func:`to_json` made the text of."""
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
