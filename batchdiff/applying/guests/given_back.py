"""Explain why apply does not convert a restored guest, and how to convert it again."""

from __future__ import annotations

from batchdiff.applying.guests.commands import command
from batchdiff.files.fingerprint import fingerprint_at
from batchdiff.plan.plan import GuestToConvert


def why_not_again(guests: list[GuestToConvert]) -> dict[str, str]:
    """Return, by name, why apply leaves restored guests alone, and how to convert them again.

    Guests that are converted again in the same way have the same reason, so that a report can list them together.
    """
    whole = [guest.name for guest in guests if _is_as_planned(guest)]
    name, it = (whole[0], "it") if len(whole) == 1 else ("NAME", "the guest of that name")
    again = command("apply", name)
    reasons = {}
    for guest in guests:
        way = (
            f"{again} converts {it} again"
            if guest.name in whole
            else "to convert an image that was rebuilt, replaced or written to, make a new plan"
        )
        reasons[guest.name] = f"restored earlier; {way}"
    return reasons


def _is_as_planned(guest: GuestToConvert) -> bool:
    """Return whether a guest's own file has the planned fingerprint, apart from its ctime."""
    now = fingerprint_at(guest.source.path)
    return now is not None and guest.image.fingerprints[0].is_unwritten(now)
