r"""The results of `status` and `verify`, in Prometheus' text format (version 0.0.4).

::

    # HELP batchdiff_overlay_bytes Disk space that the guest's overlay takes.
    # TYPE batchdiff_overlay_bytes gauge
    batchdiff_overlay_bytes{plan="/images/fleet.plan.json",guest="web01"} 147456

Source: https://github.com/prometheus/docs/blob/main/docs/instrumenting/exposition_formats.md
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from batchdiff.applying.guests.status import OnDisk
from batchdiff.applying.journal.records import Step
from batchdiff.applying.results.finding import Finding, Health
from batchdiff.applying.results.status_row import StatusRow
from batchdiff.plan.plan import Plan
from batchdiff.report.printable import printable

STATES = ("planned", "skipped", "refused", *Step)
"""The states of guests that `batchdiff status` can show."""

_WORST_FIRST = (Health.DAMAGED, Health.STALE, Health.UNKNOWN, Health.IN_USE, Health.TOUCHED, Health.SOUND)


class MetricValue(NamedTuple):
    """A value of a metric, with its labels besides ``plan``."""

    value: int
    labels: Mapping[str, str] = {}


class Metric(NamedTuple):
    """A gauge, whose name ends with its base unit (bytes, seconds) if it has one."""

    name: str
    help: str
    values: Sequence[MetricValue]


def metrics_text(plan_path: str, verb: str, when: int, metrics: Sequence[Metric]) -> Iterator[str]:
    """Yield the text of a metrics file in parts. ``when``: in seconds since 1970."""
    last = Metric(
        "batchdiff_last_run_timestamp_seconds",
        "Time at which the verb last completed, in seconds since 1970.",
        [MetricValue(when, {"verb": verb})],
    )
    for metric in (*metrics, last):
        if not metric.values:
            continue
        yield f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} gauge\n"
        for each in metric.values:
            labels = {"plan": plan_path, **each.labels}
            inside = ",".join(f'{name}="{_label_value(value)}"' for name, value in labels.items())
            yield f"{metric.name}{{{inside}}} {each.value}\n"


def _label_value(text: str) -> str:
    return printable(text).replace("\\", r"\\").replace('"', r"\"")


def status_metrics(
    plan: Plan, rows: Sequence[StatusRow], on_disk: Mapping[str, OnDisk], overlay_bytes: Mapping[str, int]
) -> list[Metric]:
    """Return the metrics of `batchdiff status`. ``overlay_bytes``: disk space of existing overlays, by guest."""
    states = Counter(row.step for row in rows)
    freed = [
        MetricValue(
            savings.saved_bytes + savings.overlay_disk_bytes - overlay_bytes[guest.name], {"guest": guest.name}
        )
        for guest in plan.to_convert
        if guest.name in overlay_bytes and on_disk[guest.name].original is None
        for savings in (guest.diff.savings,)
    ]
    return [
        Metric(
            "batchdiff_guest_state",
            "The label state is the state of the guest; the value is always 1.",
            [MetricValue(1, {"guest": row.name, "state": row.step}) for row in rows],
        ),
        Metric(
            "batchdiff_guests",
            "Number of guests in each state.",
            [MetricValue(states[state], {"state": state}) for state in STATES],
        ),
        Metric(
            "batchdiff_guest_failed",
            "1 if the guest failed in the last command that worked on it.",
            [MetricValue(int(bool(row.failure)), {"guest": row.name}) for row in rows],
        ),
        Metric(
            "batchdiff_overlay_bytes",
            "Disk space that the guest's overlay takes.",
            [MetricValue(size, {"guest": name}) for name, size in overlay_bytes.items()],
        ),
        Metric(
            "batchdiff_saved_bytes",
            "Space that the conversion of the guest has freed: as planned, less the overlay's growth since."
            " Reported only once the original is gone.",
            freed,
        ),
        Metric(
            "batchdiff_planned_saved_bytes",
            "Space that the plan predicts will be freed, for all guests.",
            [MetricValue(plan.totals.saved_bytes)],
        ),
    ]


def verify_metrics(findings: Sequence[Finding], *, success: bool) -> list[Metric]:
    """Return the metrics of `batchdiff verify`. If a file has several findings, only the worst counts."""
    worst: dict[tuple[str, str], Health] = {}
    for health in _WORST_FIRST:
        for each in findings:
            if each.health is health:
                worst.setdefault((each.name, each.path), health)
    counts = Counter(worst.values())
    return [
        Metric("batchdiff_verify_success", "1 if verify ended with exit code 0.", [MetricValue(int(success))]),
        Metric(
            "batchdiff_verify_health",
            "The label health is the condition of the file; the value is always 1.",
            [
                MetricValue(1, {"name": name, "path": path, "health": health})
                for (name, path), health in worst.items()
            ],
        ),
        Metric(
            "batchdiff_verify_files",
            "Number of files in each condition.",
            [MetricValue(counts[health], {"health": health}) for health in _WORST_FIRST],
        ),
    ]
