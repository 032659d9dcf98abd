"""batchdiff's promises about its speed, and the verdict on each for a run of the benchmark; pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from batchdiff.units import MIB
from bench.contestants import (
    APPLY,
    APPLY_CHANGED,
    APPLY_NATIVE,
    APPLY_ONE,
    CHECKS,
    LIMIT,
    ONE_JOB,
    PLAN,
    PLAN_APPLY,
    REBASE,
    REBASE_COMPARE,
    SMALL_GUESTS,
    UNTIL_OPEN,
    VERIFICATION_LIMIT,
)
from bench.discovering import DISCOVER, OWN_MEMORY, WORKER_MEMORY
from bench.examinations import (
    BARE,
    DUPEREMOVE_PARTIAL,
    GIVEN_BACK,
    NEW_BLOCKS,
    PLAN_SHARE,
    SHOW,
    TEMPLATE_READS,
    VERSION,
)
from bench.exported import NBDCOPY, READER
from bench.fleets import EXPORTED, MAPPED
from bench.large import BUT_THE_SCAN, LOAD
from bench.report import Report
from bench.scaling import GUESTS, TWO_JOBS
from bench.several_hosts import hosts


@dataclass(frozen=True, slots=True)
class Target:
    """One promise: ``bound`` is the most that ``measure`` may return, or the least if ``at_least`` is set."""

    name: str
    bound: float
    unit: str
    measure: Callable[[Report], float | None]
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """A promise and the measured value; None if it was not measured."""

    target: Target
    measured: float | None

    @property
    def reached(self) -> bool:
        """True if the promise was measured and kept."""
        if self.measured is None:
            return False
        bound = self.target.bound
        return self.measured >= bound if self.target.at_least else self.measured <= bound

    @property
    def verdict(self) -> str:
        """The verdict in words: reached, missed by a percentage, or not measured."""
        if self.measured is None:
            return "not measured"
        if self.reached:
            return "reached"
        larger, smaller = max(self.measured, self.target.bound), min(self.measured, self.target.bound)
        return f"missed by {larger / smaller - 1:.0%}" if smaller > 0 else "missed"


def judged(report: Report) -> list[Judged]:
    """Judge every promise, in the order of the list below."""
    return [Judged(target, target.measure(report)) for target in TARGETS]


def _ratio(fleet: str, slower: str, faster: str, cache: str = "warm") -> Callable[[Report], float | None]:
    def measure(report: Report) -> float | None:
        race = report.race(fleet, cache)
        return race.ratio(slower, faster) if race else None

    return measure


def _plan_and_apply(form: str) -> Callable[[Report], float | None]:
    """Measure how long plan and apply together take for guests of a format, relative to raw guests."""

    def measure(report: Report) -> float | None:
        planned, applied = report.race("mapped"), report.race("mapped, apply")
        if planned is None or applied is None:
            return None
        found = [race.of(name) for name in (form, "raw") for race in (planned, applied)]
        series = [each.seconds for each in found if each is not None]
        if len(series) < len(found):
            return None
        ratios = [(plan + apply) / (raw + of_raw) for plan, apply, raw, of_raw in zip(*series, strict=True)]
        median: float = statistics.median(ratios)
        return median

    return measure


def _without_start(fleet: str, other: str) -> Callable[[Report], float | None]:
    """Measure a plan's time after opening the first image, divided by another contestant's whole time."""

    def measure(report: Report) -> float | None:
        race = report.race(fleet)
        if race is None:
            return None
        plan, start, against = race.of(PLAN), race.of(UNTIL_OPEN), race.of(other)
        if plan is None or start is None or against is None:
            return None
        rounds = zip(plan.seconds, start.seconds, against.seconds, strict=True)
        return statistics.median((whole - begin) / limit for whole, begin, limit in rounds)

    return measure


def _start_left_out(fleet: str, slower: str) -> Callable[[Report], float | None]:
    """Measure another contestant's time, divided by a plan's time after opening the first image."""

    def measure(report: Report) -> float | None:
        share = _without_start(fleet, slower)(report)
        return None if share is None else 1 / share

    return measure


def _beside_qemu(report: Report) -> float | None:
    """Return the seconds per small guest that apply with one job takes in addition to QEMU's own commands."""
    ours, qemu = _seconds("small", APPLY_ONE)(report), _seconds("small", CHECKS)(report)
    return None if ours is None or qemu is None else (ours - qemu) / SMALL_GUESTS


def _fact(name: str) -> Callable[[Report], float | None]:
    return lambda report: report.fact(name)


def _given_back(ours: str, other: str) -> Callable[[Report], float | None]:
    """Measure the space that one contestant freed, divided by the space that another one freed."""

    def measure(report: Report) -> float | None:
        one, two = (report.fact(GIVEN_BACK.format(name)) for name in (ours, other))
        return None if one is None or not two else one / two

    return measure


def _reads(guests: int) -> Callable[[Report], float | None]:
    """Measure how often the template was read; None if the trace missed most of its reads."""

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
    """Return the advantage over rebase with the most guests, divided by that with the fewest."""
    of = {(point.value, point.contestant): point.seconds for point in report.points if point.axis == GUESTS}
    counts = sorted({value for value, _ in of})
    if len(counts) < 2:
        return None
    few, many = (of[count, REBASE] / of[count, TWO_JOBS] for count in (counts[0], counts[-1]))
    return many / few


TARGETS = (
    Target("plan, 4 raw guests, against create + rebase", 5, "x", _ratio("raw", REBASE, PLAN), at_least=True),
    Target("that advantage at 64 guests, against the one at 1", 1, "x", _gain, at_least=True),
    Target("plan against the read limit", 1.5, "x", _ratio("raw", PLAN, LIMIT)),
    Target("plan without start-up against the read limit", 1.3, "x", _without_start("raw", LIMIT)),
    Target("plan of 16 guests against the read limit", 1.35, "x", _ratio("sixteen", PLAN, LIMIT)),
    Target("plan, cold cache, against the read limit", 1.15, "x", _ratio("raw", PLAN, LIMIT, "cold")),
    Target(
        "plan + apply, against create + rebase + compare",
        3,
        "x",
        _ratio("raw", REBASE_COMPARE, PLAN_APPLY),
        at_least=True,
    ),
    Target("apply, --verify changed, against full", 1, "x", _ratio("verification", APPLY_CHANGED, APPLY)),
    Target("apply, --verify native, against full", 1, "x", _ratio("verification", APPLY_NATIVE, APPLY)),
    Target(
        "apply, --verify native, against its read limit",
        2,
        "x",
        _ratio("verification", APPLY_NATIVE, VERIFICATION_LIMIT),
    ),
    Target("apply, 64 small guests: each, beside QEMU", 0.025, "s", _beside_qemu),
    *(
        Target(f"plan, {name}, against raw", 1.3, "x", _ratio("forms", name, "raw"))
        for name in ("qcow2 guests", "qcow2 template", "qcow2")
    ),
    *(Target(f"plan, {form} guests, against raw", 1.3, "x", _ratio("mapped", form, "raw")) for form in MAPPED),
    *(
        Target(f"apply, {form} guests, against raw", 1.3, "x", _ratio("mapped, apply", form, "raw"))
        for form in MAPPED
    ),
    *(Target(f"plan and apply, {form} guests, against raw", 1.3, "x", _plan_and_apply(form)) for form in MAPPED),
    *(
        Target(f"reading {kind}, against nbdcopy", 2, "x", _ratio(f"exported {kind}", READER, NBDCOPY))
        for kind in EXPORTED
    ),
    *(
        Target(
            f"plan, {kind}-compressed, against create + rebase",
            least,
            "x",
            _ratio(kind, REBASE, PLAN),
            at_least=True,
        )
        for kind, least in (("zlib", 8), ("zstd", 4))
    ),
    Target(
        "plan without start-up, reflink copies on XFS, against create + rebase",
        50,
        "x",
        _start_left_out("reflink", REBASE),
        at_least=True,
    ),
    Target("plan, reflink copies on XFS, 2 jobs against 1", 1, "x", _ratio("reflink", PLAN, ONE_JOB)),
    Target("apply, reflink copies: new blocks of the changed bytes", 0.02, "share", _fact(NEW_BLOCKS)),
    Target(
        "sharing in place, full copies on XFS, against duperemove",
        5,
        "x",
        _ratio("duplicates", DUPEREMOVE_PARTIAL, PLAN_SHARE),
        at_least=True,
    ),
    Target(
        "given back by sharing in place, against duperemove",
        1,
        "x",
        _given_back(PLAN_SHARE, DUPEREMOVE_PARTIAL),
        at_least=True,
    ),
    Target("plan, 15 TiB almost empty", 1, "s", _seconds("sparse", PLAN)),
    Target("plan, 1,000 guests with 10,000 extents each", 30, "s", _seconds("extents", PLAN)),
    Target("all of it but the scan", 4, "s", _seconds("extents", BUT_THE_SCAN)),
    Target("show of that plan", 3, "s", _seconds("extents", SHOW)),
    Target("loading that plan", 3, "s", _seconds("extents", LOAD)),
    Target("discover, 1,000 images of 40 GiB", 120, "s", _seconds("discover", DISCOVER)),
    *(Target(name, 150, "MiB", _fact(name)) for name in (OWN_MEMORY, WORKER_MEMORY)),
    *(_worker_memory(where) for where in ("4 GiB", "15 TiB", "1,000 guests")),
    # The five per cent above one reading are for headers and tables, which are read before the scan.
    *(Target(TEMPLATE_READS.format(count), 1.05, "times", _reads(count)) for count in (1, 4, 16)),
    Target("plan, 4 limited hosts against 1", 3, "x", _ratio("dask, limited", hosts(1), hosts(4)), at_least=True),
    Target("plan, 100% changed, against the read limit", 2, "x", _ratio("different", PLAN, LIMIT)),
    Target("plan, until it opens an image, over a bare interpreter", 0.15, "s", _over_bare(UNTIL_OPEN)),
    Target("--version over a bare interpreter", 0.15, "s", _over_bare(VERSION)),
    Target("show over a bare interpreter", 0.15, "s", _over_bare(SHOW)),
)
