"""A report as the Markdown that docs/performance.md includes; pure."""

from __future__ import annotations

from collections.abc import Iterable

from batchdiff.units import MIB, format_size
from bench.report import Point, Race, Report
from bench.scaling import CHANGED, GUESTS, SIZE
from bench.targets import Judged, judged

_AXES = {
    GUESTS: ("guests of 256 MiB", ""),
    SIZE: ("size of the one guest", " GiB"),
    CHANGED: ("changed share of 4 guests of 1 GiB", "%"),
}

_DISTURBING = 0.1
"""The share of the processors' time that the kernel's own work for a run may take, above all writeback."""


def markdown(report: Report) -> str:
    """Return the whole report: machine, promises, races, facts, scaling."""
    busy = f"Other work took {report.others:.0%} of the processors' time."
    if report.others > _DISTURBING:
        busy += " **That is too much: times and ratios are unreliable.**"
    parts = [
        f"Machine: {report.machine}. batchdiff {report.version}, {report.jobs} jobs, {report.date}. {busy}",
        "### Promises\n\n" + _promises(judged(report)),
        "### Races\n\n" + _races(report.races),
    ]
    if report.facts:
        parts.append("### Other figures\n\n" + _facts(report))
    for axis, (what, unit) in _AXES.items():
        points = [point for point in report.points if point.axis == axis]
        if points:
            parts.append(f"### By {what}\n\n" + _scaling(points, what, unit))
    return "\n\n".join(parts) + "\n"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _promises(all_of_them: list[Judged]) -> str:
    rows = [
        (
            each.target.name,
            f"{'at least' if each.target.at_least else 'at most'} {_figure(each.target.bound, each.target.unit)}",
            "" if each.measured is None else _figure(each.measured, each.target.unit),
            each.verdict,
        )
        for each in all_of_them
    ]
    return _table(("promise", "must be", "measured", "verdict"), rows)


def _figure(value: float, unit: str) -> str:
    if unit == "share":
        return f"{value:.1%}"
    if unit == "bytes":
        return format_size(int(value))
    return f"{value:.2f} {unit}" if value < 10 and value != int(value) else f"{value:.0f} {unit}"


def _races(races: Iterable[Race]) -> str:
    rows = []
    for race in races:
        first, rounds = race.series[0].name, len(race.series[0].seconds)
        rows.append((f"**{race.what}**, {race.cache} cache, rounds: {rounds}", "", "", "", ""))
        for series in race.series:
            ratio = race.ratio(series.name, first) or 0
            times = f"{series.median:.2f} s", f"{min(series.seconds):.2f} to {max(series.seconds):.2f} s"
            rows.append((series.name, *times, f"{ratio:.2f} x", f"{series.resident / MIB:.0f} MiB"))
    return _table(("", "median", "spread", "to the first", "memory"), rows)


def _facts(report: Report) -> str:
    rows = [
        (fact.name, _figure(fact.value, "share" if fact.unit.startswith("of ") else fact.unit), fact.unit)
        for fact in report.facts
    ]
    return _table(
        ("figure", "value"),
        ((f"{name} ({unit})" if unit.startswith("of ") else name, value) for name, value, unit in rows),
    )


def _scaling(points: list[Point], what: str, unit: str) -> str:
    contestants = list(dict.fromkeys(point.contestant for point in points))
    of = {(point.value, point.contestant): point for point in points}
    rows = []
    for value in dict.fromkeys(point.value for point in points):
        found = [of[value, contestant] for contestant in contestants]
        largest = max(point.worker_bytes for point in found), max(point.own_bytes for point in found[:-1])
        times = (f"{point.seconds:.2f} s" for point in found)
        rows.append((f"{value:g}{unit}", *times, *(f"{size / MIB:.0f} MiB" for size in largest)))
    return _table((what, *contestants, "worker's memory", "planner's memory"), rows)
