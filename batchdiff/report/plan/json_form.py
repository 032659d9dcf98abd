"""The report of a plan as JSON for programs, without the lists of extents (docs/plan-format.md)."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from batchdiff.applying.results.conversion import Conversion, FreedSpace, freed_in_all
from batchdiff.plan.document import to_dict
from batchdiff.plan.plan import GuestPlan, Sharing
from batchdiff.report.facts import PlanFacts, figures_of, share
from batchdiff.report.plan.comparison import compared, comparison_report
from batchdiff.report.plan.dangers import dangers
from batchdiff.report.plan.outliers import cluster_advice, similarity_if_unlike

REPORT_VERSION = "1.6"
"""Within a major version, fields may be added, but none changes its meaning."""


def plan_json(facts: PlanFacts) -> str:
    """Return the savings report of a plan as one JSON object, in ASCII."""
    return json.dumps(plan_report(facts), indent=2) + "\n"


def plan_report(facts: PlanFacts) -> dict[str, Any]:
    """Return the report as plain values."""
    plan = facts.plan
    document = to_dict(plan)
    records = {record["name"]: record for record in document["guests"]}
    return {
        "report_version": REPORT_VERSION,
        "generator": plan.generator,
        "created": plan.created,
        "manifest": document["manifest"],
        "template": document["template"],
        "retire": plan.retire.value,
        "protect_template": plan.protect_template,
        "stale": list(facts.stale),
        "warnings": list(dangers(plan)),
        "guests": [_guest(records[guest.name], guest, facts) for guest in facts.guests],
        "totals": _totals(facts),
    } | ({} if facts.older is None else {"against": comparison_report(compared(facts.older, plan))})


def _guest(record: dict[str, Any], guest: GuestPlan, facts: PlanFacts) -> dict[str, Any]:
    diff, done, figures = guest.diff, facts.conversions.get(guest.name), figures_of(guest)
    return {
        "name": guest.name,
        "path": guest.source.path,
        "format": guest.source.format.value,
        "backing": record.get("backing"),
        "virtual_size": None if guest.image is None else guest.image.virtual_size,
        "verdict": guest.verdict.value,
        "reason": guest.reason,
        "overlay": record["overlay"],
        # In whole units: the last one may reach past the end of the disk.
        "data_bytes": diff.data.units * diff.unit if diff else None,
        "zero_bytes": diff.zero.units * diff.unit if diff else None,
        "link": guest.alias or None,
        "savings": record.get("savings"),
        "similarity": record.get("similarity"),
        "saved_share": _rounded(share(figures.saved_bytes, figures.allocated_bytes)) if figures else None,
        "similar_share": _rounded(diff.similarity.share) if diff and diff.similarity else None,
        "looks_copied": similarity_if_unlike(guest) is None if diff and diff.similarity else None,
        "conversion": None if done is None else _conversion(done),
        "restored": guest.name in facts.given_back,
        "strategy": guest.strategy.value,
        "sharing": None if guest.sharing is None else _sharing(guest.sharing, facts.shared.get(guest.name)),
    }


def _sharing(sharing: Sharing, freed: FreedSpace | None) -> dict[str, Any]:
    found = asdict(sharing)
    return {name: found[name] for name in found if name not in {"unit", "runs"}} | {
        "came_back_bytes": None if freed is None else freed.size,
        "came_back_exactness": None if freed is None else freed.exactness.value,
    }


def _conversion(done: Conversion) -> dict[str, Any]:
    return {
        "original": done.fate.value,
        "quarantined_as": done.aside,
        "actual_overlay_bytes": done.overlay_bytes,
        "actual_overlay_disk_bytes": done.overlay_disk_bytes,
        "used": done.used,
        "came_back_bytes": done.came_back_bytes,
        "dependents": list(done.dependents),
    }


def _totals(facts: PlanFacts) -> dict[str, Any]:
    totals = facts.plan.totals
    saved = _rounded(share(totals.saved_bytes, totals.allocated_bytes))
    better, freed = cluster_advice(facts.pending), freed_in_all(facts.freed.values())
    return asdict(totals) | {
        "overlay_error_bytes": facts.error_bytes,
        "saved_share": saved,
        "converted": len(facts.conversions),
        "shared": len(facts.shared),
        "came_back_bytes": freed.size,
        "came_back_exactness": freed.exactness.value,
        "better_cluster_size": None if better is None else better.cluster_size,
        "better_overlay_disk_bytes_at_most": None if better is None else better.at_most,
    }


def _rounded(part: float | None) -> float | None:
    return None if part is None else round(part, 4)
