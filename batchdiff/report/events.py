"""The fields of events that ``--json`` prints about guests, definitions, files and facts (docs/scripting.md)."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from batchdiff.applying.results.finding import Finding
from batchdiff.applying.results.outcome import GuestOutcome
from batchdiff.applying.results.status_row import StatusRow
from batchdiff.choices import Strategy
from batchdiff.doctor.fact import Fact
from batchdiff.plan.plan import GuestPlan
from batchdiff.report.fates import original_words

if TYPE_CHECKING:
    from batchdiff.definitions.libvirt_changes import DomainChange
    from batchdiff.definitions.proxmox_changes import VmChange


def guest_event(guest: GuestPlan, outcome: GuestOutcome) -> dict[str, Any]:
    """Return the event for a guest's result."""
    fields = asdict(outcome) | {"original": original_words(outcome)}
    notes = fields.pop("remarks")
    overlay = guest.overlay_path if guest.strategy is Strategy.OVERLAY else None
    return fields | {"notes": notes, "source": guest.source.path, "overlay": overlay}


def fact_event(fact: Fact) -> dict[str, Any]:
    """Return the event for a fact that `batchdiff doctor` found."""
    return asdict(fact)


def definition_event(change: DomainChange | VmChange) -> dict[str, Any]:
    """Return the event for a VM's definition."""
    uses = [
        {"guest": use.guest, "disk": use.target, "path": use.image.path, "format": use.image.format}
        for use in change.uses
    ]
    return {
        "domain": change.name,
        "from": change.where,
        "guests": uses,
        "right": change.is_right,
        "waiting": change.waiting,
        "by_hand": change.by_hand,
        "diff": change.diff(),
        "commands": list(change.commands),
    }


def finding_event(finding: Finding) -> dict[str, Any]:
    """Return the event for a file that `batchdiff verify` checked."""
    return asdict(finding)


def status_event(standing: StatusRow) -> dict[str, Any]:
    """Return the event for the state of a guest."""
    return asdict(standing)
