"""A plan as CSV (RFC 4180): one guest per line, sizes in bytes."""

from __future__ import annotations

import csv
import io
from typing import Any

from batchdiff.applying.results.conversion import Conversion, FreedSpace
from batchdiff.plan.plan import GuestPlan
from batchdiff.report.facts import PlanFacts
from batchdiff.report.plan.rows import now
from batchdiff.report.printable import printable

_COMPARED = (
    "verdict",
    "overlay_bytes",
    "overlay_error_bytes",
    "saved_bytes",
    "exactness",
    "sharing_saved_bytes",
    "sharing_exactness",
)
"""The columns repeated for an older plan, with ``older_`` before their names."""

HEADER = (
    "guest",
    "verdict",
    "reason",
    "path",
    "format",
    "virtual_size",
    "overlay_path",
    "cluster_size",
    "allocated_bytes",
    "reclaimable_bytes",
    "overlay_bytes",
    "overlay_error_bytes",
    "overlay_disk_bytes",
    "saved_bytes",
    "exactness",
    "equal_bytes",
    "nonzero_bytes",
    "original",
    "actual_overlay_bytes",
    "actual_overlay_disk_bytes",
    "came_back_bytes",
    "strategy",
    "sharing_saved_bytes",
    "sharing_exactness",
    "shareable_bytes",
    "left_out_bytes",
    "now",
    "came_back_exactness",
    *(f"older_{name}" for name in _COMPARED),
)
"""The columns, in a fixed order."""


def plan_csv(facts: PlanFacts) -> str:
    """Return the savings report of a plan as CSV; a field without a value is empty.

    Guests that are only in the older plan come last, without a verdict; a report on only some guests omits them.
    """
    text = io.StringIO()
    rows = csv.DictWriter(text, HEADER)
    rows.writeheader()
    freed = facts.freed
    older = {} if facts.older is None else {guest.name: guest for guest in facts.older.guests}
    for guest in facts.guests:
        row = _row(guest, facts.conversions.get(guest.name), freed.get(guest.name))
        rows.writerow(row | {"now": now(facts, guest)} | _older(older.get(guest.name)))
    names = {guest.name for guest in facts.plan.guests}
    for guest in older.values() if len(facts.guests) == len(names) else ():
        if guest.name not in names:
            rows.writerow(_identity(guest) | _older(guest))
    return text.getvalue()


def _identity(guest: GuestPlan) -> dict[str, str]:
    path, form = printable(guest.source.path), guest.source.format.value
    return {"guest": printable(guest.name), "path": path, "format": form}


def _older(guest: GuestPlan | None) -> dict[str, Any]:
    if guest is None:
        return {}
    row = _row(guest, None, None)
    return {f"older_{name}": row.get(name) for name in _COMPARED}


def _row(guest: GuestPlan, done: Conversion | None, freed: FreedSpace | None) -> dict[str, Any]:
    sharing = guest.sharing
    savings = guest.diff.savings if guest.diff else None
    similarity = guest.diff.similarity if guest.diff else None
    numbers = {name: getattr(savings, name) for name in HEADER[8:14]} if savings else {}
    return _identity(guest) | {
        "verdict": guest.verdict.value,
        "reason": printable(guest.reason),
        "virtual_size": guest.image.virtual_size if guest.image else None,
        "overlay_path": printable(guest.overlay_path),
        "cluster_size": guest.options.cluster_size,
        "exactness": savings.exactness.value if savings else None,
        "equal_bytes": similarity.equal_bytes if similarity else None,
        "nonzero_bytes": similarity.nonzero_bytes if similarity else None,
        "original": done.fate.value if done else None,
        "actual_overlay_bytes": done.overlay_bytes if done else None,
        "actual_overlay_disk_bytes": done.overlay_disk_bytes if done else None,
        "came_back_bytes": freed.size if freed else None,
        "strategy": guest.strategy.value,
        "sharing_saved_bytes": sharing.saved_bytes if sharing else None,
        "sharing_exactness": sharing.exactness.value if sharing else None,
        "shareable_bytes": sharing.shareable_bytes if sharing else None,
        "left_out_bytes": sharing.left_out_bytes if sharing else None,
        "came_back_exactness": freed.exactness.value if freed else None,
        **numbers,
    }
