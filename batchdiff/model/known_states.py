"""Whether a template is what it was, although its fingerprints are not: batchdiff itself changes its mode.

That is known from the template's sidecar, whose ``earlier`` fingerprints are of the same content as the present
ones; so a second plan on the template is not stale when the first one is applied. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchdiff.model.sidecar import Chain, Sidecar


def is_known_state(before: Chain, now: Chain, sidecar: Sidecar | None) -> bool:
    """Return whether both are fingerprints of one chain with the same content, by themselves or by its sidecar."""
    if before == now:
        return True
    return sidecar is not None and now == sidecar.fingerprints and before in sidecar.earlier


def first_state(now: Chain, sidecar: Sidecar | None) -> Chain:
    """Return the earliest known fingerprints of a chain with its present content; results are kept by them."""
    if sidecar is None or now != sidecar.fingerprints or not sidecar.earlier:
        return now
    return sidecar.earlier[0]
