"""Notes on how rebuilt images differ from their originals."""

from __future__ import annotations

from collections.abc import Collection

from batchdiff.applying.checks.overlay_losses import decrypted_by_rebuilding, lost_with_originals, not_given_back
from batchdiff.cli.console import Console
from batchdiff.plan.plan import GuestToConvert
from batchdiff.units import few


def warn_of_rebuilding(console: Console, guests: Collection[GuestToConvert]) -> None:
    """Print notes on how rebuilt images would differ from their originals."""
    differences = {(guest.source.format, words) for guest in guests for words in not_given_back(guest.source)}
    for form, words in sorted(differences):
        console.warn(f"note: if an image of a {form} guest has to be rebuilt, {words}")
    for words, names in lost_with_originals(guests).items():
        what = "it will lack what its original has" if len(names) == 1 else "each will lack what its original has"
        console.warn(f"{_if_rebuilt(names)} {what}: {words}")
    if names := decrypted_by_rebuilding(guests):
        what, originals = (
            ("its VM wrote to the encrypted overlay", "the original was")
            if len(names) == 1
            else ("their VMs wrote to the encrypted overlays", "the originals were")
        )
        console.warn(
            f"{_if_rebuilt(names)} what {what} will be stored in the clear, because {originals} not encrypted"
        )


def _if_rebuilt(names: list[str]) -> str:
    images = "image of {} has" if len(names) == 1 else "images of {} have"
    return f"note: if the {images.format(few(names))} to be rebuilt,"
