"""The fields of the events of `batchdiff discover` (docs/scripting.md)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from batchdiff.discovery.copies import Copy, Group
from batchdiff.discovery.discover import Discovery
from batchdiff.discovery.exclusion import Exclusion
from batchdiff.sampling.interval import Interval


def template_event(group: Group, why: str) -> dict[str, Any]:
    """Return the event for a template."""
    image = group.template
    return {
        "path": image.path,
        "format": image.source.format.value,
        "virtual_size": image.virtual_size,
        "copies": len(group.copies),
        "saved_bytes": _whole(group.saved),
        "exactness": group.exactness.value,
        "why": why,
    }


def copy_event(group: Group, copy: Copy) -> dict[str, Any]:
    """Return the event for a copy."""
    other = copy.other
    return {
        "path": copy.image.path,
        "format": copy.image.source.format.value,
        "template": group.template.path,
        "similarity": asdict(copy.similarity),
        "saved_bytes": _whole(copy.saved),
        "exactness": copy.image.exactness.value,
        "allocated_bytes": copy.image.allocated,
        "shared_bytes": copy.image.allocated - copy.image.reclaimable,
        "snapshots": copy.image.snapshots,
        "bitmaps": copy.image.bitmaps,
        "other_template": None if other is None else other.path,
        "other_similarity": None if other is None else asdict(other.similarity),
    }


def exclusion_event(exclusion: Exclusion) -> dict[str, Any]:
    """Return the event for a file or folder that was left out."""
    return {
        "path": exclusion.path,
        "cause": exclusion.cause.value,
        "reason": exclusion.reason,
        "template": exclusion.template or None,
    }


def discovery_event(found: Discovery, *, can_share: bool) -> dict[str, Any]:
    """Return the event for the whole search."""
    return {
        "images": found.images,
        "ignored": found.ignored,
        "reads": found.reads,
        "read_bytes": found.read_bytes,
        "can_share": can_share,
    }


def _whole(interval: Interval) -> dict[str, int]:
    return {name: round(value) for name, value in asdict(interval).items()}
