"""An estimate as JSON for pipelines (docs/estimate.md)."""

from __future__ import annotations

import math
from typing import Any

from batchdiff.choices import Verdict
from batchdiff.estimation.estimate import Estimate, GuestEstimate
from batchdiff.image.storage.exactness import Exactness
from batchdiff.plan.plan import Savings
from batchdiff.sampling.interval import Interval

ESTIMATE_VERSION = "1.0"
"""Within a major version, fields may be added, but none changes its meaning."""


def estimate_report(estimate: Estimate) -> dict[str, Any]:
    """Return the estimate as plain values; sizes are in bytes."""
    totals = estimate.totals
    return {
        "estimate_version": ESTIMATE_VERSION,
        "generator": estimate.generator,
        "created": estimate.created,
        "manifest": {"path": estimate.manifest_path, "sha256": estimate.manifest_sha256},
        "template": {
            "path": estimate.template.path,
            "format": estimate.template.format.value,
            "virtual_size": estimate.template_size,
        },
        "seed": estimate.seed,
        "wanted_error": estimate.wanted_error,
        "seconds": round(estimate.seconds, 3),
        "probes": estimate.probes,
        "read_bytes": estimate.read_bytes,
        "plan_read_bytes": estimate.whole_bytes,
        "guests": [_guest(guest) for guest in estimate.guests],
        "totals": {
            "guests": len(estimate.guests),
            **{verdict.value: totals.verdicts.get(verdict, 0) for verdict in Verdict},
            "undecided": totals.undecided,
            "allocated_bytes": totals.allocated_bytes,
            "sampled_bytes": totals.sampled_bytes,
            "overlay_disk_bytes": _bounds(totals.overlay),
            "saved_bytes": _bounds(totals.saved),
            "error": round(totals.error, 6),
        },
    }


def _guest(guest: GuestEstimate) -> dict[str, Any]:
    plan, savings = guest.plan, guest.savings
    return {
        "name": plan.name,
        "path": plan.source.path,
        "format": plan.source.format.value,
        "verdict": plan.verdict.value,
        "reason": plan.reason,
        "undecided": guest.is_undecided,
        "exact": guest.is_exact and savings is not None and savings.exactness is Exactness.EXACT,
        "allocated_bytes": None if savings is None else savings.allocated_bytes,
        "reclaimable_bytes": savings.reclaimable_bytes if isinstance(savings, Savings) else None,
        "overlay_disk_bytes": None if guest.overlay is None else _bounds(guest.overlay),
        "saved_bytes": None if guest.saved is None else _bounds(guest.saved),
        "cluster_size": None if plan.diff is None or guest.overlay is None else plan.diff.geometry.cluster_size,
        "exactness": None if savings is None else savings.exactness.value,
        "note": "" if savings is None else savings.note,
        "probes": guest.probes,
        "read_bytes": guest.read_bytes,
    }


def _bounds(figure: Interval) -> dict[str, int]:
    return {
        "estimate": round(figure.estimate),
        "low": math.floor(figure.low),
        "high": math.ceil(figure.high),
    }
