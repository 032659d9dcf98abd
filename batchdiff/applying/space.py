"""Is there room? Asked of every filesystem before the first byte is written."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable

from batchdiff.errors import GuestError, PlanError
from batchdiff.model.manifest import Retire
from batchdiff.model.plan import GuestPlan, Savings
from batchdiff.model.totals import peak_extra_bytes
from batchdiff.units import format_size


def check_space(guests: Iterable[GuestPlan], retire: Retire) -> None:
    """Compares what apply needs at its worst moment with what each filesystem has free.

    :raises GuestError: a filesystem has not enough.
    """
    by_device: dict[int, list[GuestPlan]] = {}
    for guest in guests:
        device = _device(os.path.dirname(guest.overlay_path))
        if device is not None:  # else that guest will fail, and the others need not
            by_device.setdefault(device, []).append(guest)
    for device, chosen in by_device.items():
        folder = os.path.dirname(chosen[0].overlay_path)
        needed = peak_extra_bytes([_here(guest, device) for guest in chosen], retire)
        try:
            status = os.statvfs(folder)
        except OSError as error:
            raise GuestError(
                f"cannot tell the free space of {folder}", why=error.strerror or str(error)
            ) from error
        free = status.f_bavail * status.f_frsize
        if needed > free:
            raise GuestError(
                f"there is not enough space on the filesystem of {folder}",
                why=f"up to {format_size(needed)} are needed at once, {format_size(free)} are free",
                remedy="Make room, or apply some of the guests with `--guest`.",
            )


def _here(guest: GuestPlan, device: int) -> Savings:
    """A guest's savings; an original on another filesystem gives nothing back to this one."""
    if guest.savings is None:
        raise PlanError(f"guest {guest.name} shall be converted, but was not compared")
    here = _device(guest.source.path) == device
    return guest.savings if here else dataclasses.replace(guest.savings, reclaimable_bytes=0)


def _device(path: str) -> int | None:
    try:
        return os.stat(path).st_dev
    except OSError:
        return None
