"""Fingerprints of a template that differ although its content is the same, because batchdiff changed its mode.

The template's sidecar keeps the ``earlier`` fingerprints of its present content, so a second plan on the template
does not become stale when the first one is applied. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchdiff.plan.sidecar import Chain, Sidecar


def is_known_state(before: Chain, now: Chain, sidecar: Sidecar | None) -> bool:
    """Return True if both fingerprints are equal, or if the sidecar records them for the same content."""
    if before == now:
        return True
    return sidecar is not None and now == sidecar.fingerprints and before in sidecar.earlier


def first_state(now: Chain, sidecar: Sidecar | None) -> Chain:
    """Return the earliest known fingerprints of a chain with its present content, under which results are kept."""
    if sidecar is None or now != sidecar.fingerprints or not sidecar.earlier:
        return now
    return sidecar.earlier[0]
