"""A plan as JSON for pipelines: every number and reason, without the lists of extents (docs/plan-format.md)."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from batchdiff.plan.document import to_dict
from batchdiff.plan.plan import GuestPlan
from batchdiff.plan.runs import NO_RUNS
from batchdiff.report.facts import PlanFacts, share

REPORT_VERSION = "1.1"
"""Within a major version, fields are added, but none changes its meaning. 1.1 added the exactness of savings."""


def plan_json(facts: PlanFacts) -> str:
    """Return the savings report of a plan as one JSON object, in ASCII, with a newline at the end."""
    return json.dumps(plan_report(facts), indent=2) + "\n"


def plan_report(facts: PlanFacts) -> dict[str, Any]:
    """Return the plain values of that report."""
    plan = facts.plan
    without = tuple(replace(guest, data=NO_RUNS, zero=NO_RUNS) for guest in plan.guests)
    document = to_dict(replace(plan, guests=without))
    guests = zip(document["guests"], plan.guests, strict=True)
    return {
        "report_version": REPORT_VERSION,
        "generator": plan.generator,
        "created": plan.created,
        "manifest": document["manifest"],
        "template": document["template"],
        "retire": plan.retire.value,
        "protect_template": plan.protect_template,
        "stale": list(facts.stale),
        "guests": [_guest(record, guest) for record, guest in guests],
        "totals": _totals(facts),
    }


def _guest(record: dict[str, Any], guest: GuestPlan) -> dict[str, Any]:
    savings = guest.savings
    return {
        "name": guest.name,
        "path": guest.source.path,
        "format": guest.source.format.value,
        "virtual_size": None if guest.image is None else guest.image.virtual_size,
        "verdict": guest.verdict.value,
        "reason": guest.reason,
        "overlay": record["overlay"],
        # In whole units: the last may reach past the end of the disk.
        "data_bytes": guest.data.units * guest.unit if savings else None,
        "zero_bytes": guest.zero.units * guest.unit if savings else None,
        "link": guest.alias or None,
        "savings": record.get("savings"),
        "similarity": record.get("similarity"),
        "saved_share": _rounded(share(savings.saved_bytes, savings.allocated_bytes)) if savings else None,
    }


def _totals(facts: PlanFacts) -> dict[str, Any]:
    totals = facts.plan.totals
    saved = _rounded(share(totals.saved_bytes, totals.allocated_bytes))
    return asdict(totals) | {"overlay_error_bytes": facts.error_bytes, "saved_share": saved}


def _rounded(part: float | None) -> float | None:
    return None if part is None else round(part, 4)
