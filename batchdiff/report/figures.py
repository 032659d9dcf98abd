"""How the numbers of a report are written, the same in every form of it."""

from __future__ import annotations

from collections.abc import Iterable

from batchdiff.image.exactness import Exactness
from batchdiff.model.plan import GuestPlan, Savings, Verdict
from batchdiff.units import format_size

NOTHING = "-"
"""A number that does not exist."""


def size(count: int | None) -> str:
    """Bytes for people, or a dash."""
    return NOTHING if count is None else format_size(count)


def estimated_size(count: int, error: int) -> str:
    """``~1.2 GiB ±9.8 MiB`` where the number may be off by ``error`` bytes, else as it is."""
    return f"~{format_size(count)} ±{format_size(error)}" if error else format_size(count)


_WORDS = {Exactness.AT_LEAST: "at least ", Exactness.AT_MOST: "at most "}


def bounded_size(count: int, exactness: Exactness, error: int = 0) -> str:
    """``at least 1.2 GiB``, ``unknown``, ``~1.2 GiB`` where it may be off by ``error`` bytes, or as it is."""
    if exactness is Exactness.UNKNOWN:
        return "unknown"
    # "At most -3 GiB" would be hard to grasp, and such a guest is not converted.
    words = _WORDS.get(exactness, "~" if error else "")
    return f"{words if count > 0 else ''}{format_size(count)}"


def share(saved: int, allocated: int) -> float | None:
    """The part of an allocation that is saved; None where nothing is allocated."""
    return saved / allocated if allocated else None


def percent(part: float | None) -> str:
    """A share for people, or a dash."""
    if part is None:
        return NOTHING
    shown = f"{part:.1%}"
    return shown if float(shown[:-1]) else "0.0%"  # never "-0.0%"


def counted(count: int, singular: str) -> str:
    """``1 guest``, ``2 guests``."""
    return f"{count} {singular}{'' if count == 1 else 's'}"


def to_convert(guests: Iterable[GuestPlan]) -> list[tuple[GuestPlan, Savings]]:
    """The guests that apply will convert, with their savings."""
    return [
        (guest, guest.savings)
        for guest in guests
        if guest.verdict is Verdict.CONVERT and guest.savings is not None
    ]


def error_bytes(guests: Iterable[GuestPlan]) -> int:
    """By how much the sum of the overlays' sizes may be off at the worst."""
    return sum(savings.overlay_error_bytes for _, savings in to_convert(guests))
