"""A plan as JSON for pipelines: every number and reason, without the lists of extents (docs/plan-format.md)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from batchdiff.plan.document import to_dict
from batchdiff.plan.plan import GuestPlan, Plan
from batchdiff.report.figures import error_bytes, share

REPORT_VERSION = "1.1"
"""Within a major version, fields are added, but none changes its meaning. 1.1 added the exactness of savings."""


def plan_json(plan: Plan, *, stale: Sequence[str] = ()) -> str:
    """Return the savings report of a plan as one JSON object, in ASCII, with a newline at the end.

    ``stale`` has a sentence for each image that has changed since planning.
    """
    return json.dumps(plan_report(plan, stale=stale), indent=2) + "\n"


def plan_report(plan: Plan, *, stale: Sequence[str] = ()) -> dict[str, Any]:
    """Return the plain values of that report."""
    document = to_dict(plan)
    guests = zip(document["guests"], plan.guests, strict=True)
    return {
        "report_version": REPORT_VERSION,
        "generator": plan.generator,
        "created": plan.created,
        "manifest": document["manifest"],
        "template": document["template"],
        "retire": plan.retire.value,
        "protect_template": plan.protect_template,
        "stale": list(stale),
        "guests": [_guest(record, guest) for record, guest in guests],
        "totals": _totals(plan),
    }


def _guest(record: dict[str, Any], guest: GuestPlan) -> dict[str, Any]:
    diff = guest.diff
    return {
        "name": guest.name,
        "path": guest.source.path,
        "format": guest.source.format.value,
        "virtual_size": None if guest.image is None else guest.image.virtual_size,
        "verdict": guest.verdict.value,
        "reason": guest.reason,
        "overlay": record["overlay"],
        # In whole units: the last may reach past the end of the disk.
        "data_bytes": diff.data.units * diff.unit if diff else None,
        "zero_bytes": diff.zero.units * diff.unit if diff else None,
        "link": guest.alias or None,
        "savings": record.get("savings"),
        "similarity": record.get("similarity"),
        "saved_share": _rounded(share(diff.savings.saved_bytes, diff.savings.allocated_bytes)) if diff else None,
    }


def _totals(plan: Plan) -> dict[str, Any]:
    saved = _rounded(share(plan.totals.saved_bytes, plan.totals.allocated_bytes))
    return asdict(plan.totals) | {"overlay_error_bytes": error_bytes(plan.to_convert), "saved_share": saved}


def _rounded(part: float | None) -> float | None:
    return None if part is None else round(part, 4)
