"""The fields of every guest in a plan, and the plan of an untouched guest."""

from __future__ import annotations

from typing import TypedDict

from batchdiff.choices import Strategy, Verdict
from batchdiff.image_source import ImageSource
from batchdiff.manifest.manifest import GuestEntry
from batchdiff.plan.overlay_options import OverlayOptions
from batchdiff.plan.plan import Diff, PlannedImage, UntouchedGuest


class EntryFields(TypedDict):
    """The fields that every guest in a plan has."""

    name: str
    source: ImageSource
    reason: str
    overlay_path: str
    options: OverlayOptions
    alias: str
    strategy: Strategy


def entry_fields(entry: GuestEntry, image: PlannedImage | None, reason: str) -> EntryFields:
    """Return the fields of a guest; ``image``: None if it was not opened."""
    return EntryFields(
        name=entry.name,
        source=entry.image if image is None else image.source,
        reason=reason,
        overlay_path=entry.overlay_path,
        options=entry.options,
        alias=entry.alias,
        strategy=entry.strategy,
    )


def untouched_guest(
    entry: GuestEntry, image: PlannedImage | None, verdict: Verdict, reason: str, diff: Diff | None = None
) -> UntouchedGuest:
    """Return the plan of a guest that apply leaves as it is."""
    return UntouchedGuest(**entry_fields(entry, image, reason), verdict=verdict, image=image, diff=diff)
