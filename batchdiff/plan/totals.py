"""Sums over a plan's guests, and the space that apply needs at its peak."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from batchdiff.choices import Retire, Verdict
from batchdiff.image.storage.exactness import of_difference, of_sum
from batchdiff.image.storage.overlayfs import NOTHING, CopyUp
from batchdiff.plan.plan import GuestPlan, GuestToConvert, GuestToShare, Savings, Sharing, Totals

PLANNED_AT_ONCE = 2
"""The number of guests assumed to be converted at once when a plan's peak is computed, whatever the machine."""


def totals_of(guests: Iterable[GuestPlan], retire: Retire, *, protecting: CopyUp = NOTHING) -> Totals:
    """Return a plan's totals.

    ``protecting``: the space that protecting the template takes; it counts only if a guest is converted.
    """
    guests = list(guests)
    verdicts = [guest.verdict for guest in guests]
    chosen = [guest.diff.savings for guest in guests if isinstance(guest, GuestToConvert)]
    shared = [guest.sharing for guest in guests if isinstance(guest, GuestToShare)]
    all_savings: list[Savings | Sharing] = [*chosen, *shared]
    copied = protecting if chosen else NOTHING
    exactness = of_sum(savings.exactness for savings in all_savings)
    return Totals(
        guests=len(guests),
        convert=verdicts.count(Verdict.CONVERT),
        skip=verdicts.count(Verdict.SKIP),
        refuse=verdicts.count(Verdict.REFUSE),
        allocated_bytes=sum(savings.allocated_bytes for savings in all_savings),
        overlay_bytes=sum(savings.overlay_bytes for savings in chosen),
        saved_bytes=sum(savings.saved_bytes for savings in all_savings) - copied.size,
        peak_extra_bytes=peak_extra_bytes(savings_meanwhile(guests), retire, at_once=PLANNED_AT_ONCE)
        + copied.size,
        template_copy_bytes=copied.size,
        exactness=of_difference(exactness, copied.exactness),
        note=copied.note,
        share=verdicts.count(Verdict.SHARE),
    )


def savings_meanwhile(guests: Iterable[GuestPlan]) -> list[Savings]:
    """Return the savings of the guests to convert; a block device gives nothing back, because apply keeps it."""
    chosen = [guest for guest in guests if isinstance(guest, GuestToConvert)]
    return [
        replace(guest.diff.savings, reclaimable_bytes=0) if guest.is_on_device else guest.diff.savings
        for guest in chosen
    ]


def peak_extra_bytes(savings: Iterable[Savings], retire: Retire, *, at_once: int) -> int:
    """Return the maximum space, in bytes, that apply takes at any moment beyond what was in use before.

    Up to ``at_once`` overlays exist beside originals that are not yet retired. One more original counts as
    present, because the kernel frees a deleted file with a delay (measured: up to 50 ms on ext4 and tmpfs).
    """
    taken = peak = 0
    to_come_back: deque[int] = deque()
    for guest in savings:
        if len(to_come_back) > at_once:
            taken -= to_come_back.popleft()
        taken += guest.overlay_disk_bytes + guest.overlay_error_bytes
        peak = max(peak, taken)
        to_come_back.append(guest.reclaimable_bytes if retire is Retire.DELETE else 0)
    return peak
