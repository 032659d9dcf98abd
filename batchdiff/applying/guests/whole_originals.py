"""Name the originals to go back to, if the template or an overlay is lost or damaged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from batchdiff.applying.guests.commands import commands
from batchdiff.applying.guests.file_names import original_names
from batchdiff.applying.guests.guest_files import Found, changed_parts, find_original
from batchdiff.applying.journal.records import History
from batchdiff.errors import BatchdiffError, ImageError, PlanError, VerificationError
from batchdiff.plan.plan import GuestToConvert, Plan
from batchdiff.units import few


def whole_originals(guests: Iterable[GuestToConvert], history: History) -> str:
    """Return sentences that name originals to go back to, and say how; empty if there are none."""
    found: dict[str, str] = {}
    devices: list[str] = []
    for guest in guests:
        state = history.under_way(guest.name)
        if state is None or not state.published:
            continue
        try:
            original = find_original(guest, state)
        except BatchdiffError:
            continue
        if original is not None and _is_whole(original, guest):
            found[guest.name] = original.path
            devices += [] if original.now.vouches_for_content else [original.path]
    if not found:
        return ""
    them, vms = ("it", "the VM has") if len(found) == 1 else ("them", "the VMs have")
    back = commands("restore", list(found), "--discard-changes")
    intact = [path for path in found.values() if path not in devices]
    named = f"{_intact(intact)}{_unknown(devices)}"
    return f"{named}{back} goes back to {them}, and discards what {vms} written since."


def _intact(paths: list[str]) -> str:
    if not paths:
        return ""
    them, are = ("The original", "is") if len(paths) == 1 else ("The originals", "are")
    return f"{them} {few(paths)} {are} intact, as before the conversion. "


def _unknown(devices: list[str]) -> str:
    if not devices:
        return ""
    them, are, has = "The original", "is a block device", "it has"
    if len(devices) > 1:
        them, are, has = "The originals", "are block devices", "they have"
    return f"{them} {few(devices)} {are}, so nothing shows whether {has} been written to since the conversion. "


def _is_whole(original: Found, guest: GuestToConvert) -> bool:
    """Accept any original whose files have their planned sizes and mtimes, such as a copy by `cp -a`."""
    if original.proven:
        return True
    planned = guest.image.fingerprints[0]
    return not planned.was_written_to(original.now) and not changed_parts(guest.image)


def originals_first(
    error: BatchdiffError, guests: Sequence[GuestToConvert], plan: Plan, history: History
) -> BatchdiffError:
    """Return this error about the template, with a remedy that also names any originals to go back to.

    Originals with the template in their own chains are left out: they cannot be read without it.
    """
    template = plan.template.source.path
    needing = [guest for guest in guests if template in (below.path for below in guest.source.backing)]
    whole = whole_originals((guest for guest in guests if guest not in needing), history)
    remedy = error.remedy
    if whole and whole not in remedy:
        # The error's own remedy calls the template "it", so a sentence that names the template comes first.
        otherwise = f"To keep what was written, you need the template. {remedy}" if remedy else ""
        remedy = f"{whole} {otherwise}".strip()
    return type(error)(error.what, why=error.why, remedy=remedy)


def original_too(error: BatchdiffError, guest: GuestToConvert, history: History) -> BatchdiffError:
    """Return this error about an overlay, with a remedy that also names any original to go back to.

    The error's own remedy comes first: it may bring back the overlay, which contains what its VM has written. No
    original is named if the error is about the original: a fingerprint does not show whether a file can be read.
    """
    if is_about_original(error, guest):
        return error
    whole = whole_originals([guest], history)
    return type(error)(error.what, why=error.why, remedy=f"{error.remedy} {whole}".strip())


def is_about_original(error: BatchdiffError, guest: GuestToConvert) -> bool:
    """Return whether an error is about a file of the original's chain.

    A VerificationError does not itself name the file that has the fault, but its cause does.
    """
    fault = error.__cause__ if isinstance(error, VerificationError) else error
    if not isinstance(fault, ImageError):
        return False
    return fault.path in {name for path in guest.image.paths for name in original_names(path).all}


@contextmanager
def template_needed(plan: Plan, history: History) -> Iterator[None]:
    """If the block raises an ImageError or PlanError, name any originals to go back to.

    The block must work only on the template.

    :raises BatchdiffError: the block raises it.
    """
    try:
        yield
    except (ImageError, PlanError) as error:
        raise originals_first(error, plan.to_convert, plan, history) from error
