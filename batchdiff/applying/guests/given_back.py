"""Explain why apply does not convert a restored guest, and how to convert it again."""

from __future__ import annotations

from collections.abc import Iterator

from batchdiff.applying.guests.commands import command
from batchdiff.applying.guests.guest_files import missing
from batchdiff.files.fingerprint import Fingerprint, fingerprint_at
from batchdiff.plan.plan import GuestToConvert, PlannedImage


def why_not_again(guests: list[GuestToConvert], template: PlannedImage) -> dict[str, str]:
    """Return the explanations by guest name.

    Guests in the same situation get the same explanation, so that a report can list them together.
    """
    whole = [guest.name for guest in guests if _is_as_planned(guest, template)]
    name, it = (whole[0], "it") if len(whole) == 1 else ("NAME", "the guest of that name")
    again = command("apply", name)
    reasons = {}
    for guest in guests:
        way = "to convert an image that was rebuilt, replaced or written to, make a new plan"
        if guest.name in whole:
            way = f"{again} converts {it} again"
        elif gone := [path for path, _, now in _files(guest, template) if now is None]:
            way = f"{gone[0]} {missing(gone[0])}: bring that file back first"
        reasons[guest.name] = f"restored earlier; {way}"
    return reasons


def _is_as_planned(guest: GuestToConvert, template: PlannedImage) -> bool:
    return all(now is not None and known.is_unwritten(now) for _, known, now in _files(guest, template))


def _files(guest: GuestToConvert, template: PlannedImage) -> Iterator[tuple[str, Fingerprint, Fingerprint | None]]:
    """Yield path, planned fingerprint and present one; the template's files are left out."""
    for path, known in zip(guest.image.paths, guest.image.fingerprints, strict=True):
        if path not in template.paths:
            yield path, known, fingerprint_at(path)
