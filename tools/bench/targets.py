"""What batchdiff promises about its speed, row by row, and whether a run of the benchmark reached it; pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from batchdiff.units import MIB
from bench.contestants import LIMIT, PLAN, PLAN_APPLY, REBASE, REBASE_COMPARE
from bench.examinations import BARE, NEW_BLOCKS, SHOW, TEMPLATE_READS, VERSION
from bench.report import Report
from bench.scaling import GUESTS, TWO_JOBS


@dataclass(frozen=True, slots=True)
class Target:
    """One promise: ``bound`` is the most that ``measure`` may give, or the least where ``at_least``."""

    name: str
    bound: float
    unit: str
    measure: Callable[[Report], float | None]
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """A promise and what was measured; None where it was not."""

    target: Target
    measured: float | None

    @property
    def reached(self) -> bool:
        """Whether it was measured and kept."""
        if self.measured is None:
            return False
        bound = self.target.bound
        return self.measured >= bound if self.target.at_least else self.measured <= bound

    @property
    def verdict(self) -> str:
        """In words: reached, missed by how much, or not measured."""
        if self.measured is None:
            return "not measured"
        if self.reached:
            return "reached"
        larger, smaller = max(self.measured, self.target.bound), min(self.measured, self.target.bound)
        return f"missed by {larger / smaller - 1:.0%}" if smaller > 0 else "missed"


def judged(report: Report) -> list[Judged]:
    """Every promise, in the order of the list below."""
    return [Judged(target, target.measure(report)) for target in TARGETS]


def _ratio(fleet: str, slower: str, faster: str) -> Callable[[Report], float | None]:
    def measure(report: Report) -> float | None:
        race = report.race(fleet)
        return race.ratio(slower, faster) if race else None

    return measure


def _fact(name: str) -> Callable[[Report], float | None]:
    return lambda report: report.fact(name)


def _reads(guests: int) -> Callable[[Report], float | None]:
    """None where most of the template was read in a way that the trace did not see."""

    def measure(report: Report) -> float | None:
        times = report.fact(TEMPLATE_READS.format(guests))
        return None if times is None or times < 0.9 else times

    return measure


def _worker_memory(where: str) -> Target:
    return Target(
        f"memory of a worker, {where}",
        120,
        "MiB",
        lambda report: _divided(report.fact(f"worker memory, {where}"), MIB),
    )


def _divided(value: float | None, by: int) -> float | None:
    return None if value is None else value / by


def _seconds(fleet: str, name: str) -> Callable[[Report], float | None]:
    def measure(report: Report) -> float | None:
        race = report.race(fleet)
        series = race and race.of(name)
        return series.median if series else None

    return measure


def _over_bare(name: str) -> Callable[[Report], float | None]:
    def measure(report: Report) -> float | None:
        ours, bare = _seconds("startup", name)(report), _seconds("startup", BARE)(report)
        return None if ours is None or bare is None else ours - bare

    return measure


def _gain(report: Report) -> float | None:
    """How the advantage over rebase at the most guests compares with that at one."""
    of = {(point.value, point.contestant): point.seconds for point in report.points if point.axis == GUESTS}
    counts = sorted({value for value, _ in of})
    if len(counts) < 2:
        return None
    few, many = (of[count, REBASE] / of[count, TWO_JOBS] for count in (counts[0], counts[-1]))
    return many / few


TARGETS = (
    Target("plan, 4 raw guests, against create + rebase", 4, "x", _ratio("raw", REBASE, PLAN), at_least=True),
    Target("that advantage at 64 guests, against the one at 1", 1, "x", _gain, at_least=True),
    Target("plan against the read limit", 1.3, "x", _ratio("raw", PLAN, LIMIT)),
    Target(
        "plan + apply, against create + rebase + compare",
        2.5,
        "x",
        _ratio("raw", REBASE_COMPARE, PLAN_APPLY),
        at_least=True,
    ),
    *(
        Target(f"plan, {name}, against raw", 1.3, "x", _ratio("forms", name, "raw"))
        for name in ("qcow2 guests", "qcow2 template", "qcow2")
    ),
    *(
        Target(
            f"plan, {kind}-compressed, against create + rebase", 2, "x", _ratio(kind, REBASE, PLAN), at_least=True
        )
        for kind in ("zlib", "zstd")
    ),
    Target(
        "plan, reflink copies on XFS, against create + rebase",
        50,
        "x",
        _ratio("reflink", REBASE, PLAN),
        at_least=True,
    ),
    Target("apply, reflink copies: new blocks of the changed bytes", 0.02, "share", _fact(NEW_BLOCKS)),
    Target("plan, 15 TiB almost empty", 5, "s", _seconds("sparse", PLAN)),
    *(_worker_memory(where) for where in ("4 GiB", "15 TiB", "1,000 guests")),
    # Five per cent above one reading are headers and tables, which are looked at before.
    *(Target(TEMPLATE_READS.format(count), 1.05, "times", _reads(count)) for count in (1, 4, 16)),
    Target("plan, 100 % changed, against the read limit", 2, "x", _ratio("different", PLAN, LIMIT)),
    Target("--version over a bare interpreter", 0.15, "s", _over_bare(VERSION)),
    Target("show over a bare interpreter", 0.15, "s", _over_bare(SHOW)),
)
