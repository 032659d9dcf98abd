"""Check one overlay for `batchdiff verify`; change nothing.

::

    it is in use                                                                      -> in use, not checked
    it is missing, or an error is found in it                                         -> damaged
    it names the data file of another overlay                                         -> damaged
    it cannot be checked                                                              -> unknown
    it is identical to its original                                                   -> sound
    it differs from its original, though neither has been written to                  -> damaged
    it would be sound, but its kept original may be the VM's disk                     -> unknown
    otherwise, if the template's content is sound, or the template is not needed      -> sound
               if the template's content has changed                                  -> damaged
               if the template has any other fault                                    -> unknown
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial

from batchdiff.applying.checks.verify import Check, Comparison, check_used, verify
from batchdiff.applying.guests.commands import command
from batchdiff.applying.guests.data_files import DataFiles, remark_on_data_file
from batchdiff.applying.guests.guest_files import (
    Found,
    changed_parts,
    find_original,
    find_overlay,
    missing,
    original_is,
)
from batchdiff.applying.guests.overlay_source import current_overlay, planned_overlay
from batchdiff.applying.guests.whole_originals import is_about_original, original_too
from batchdiff.applying.journal.records import GuestState, History
from batchdiff.applying.results.finding import Finding, Health
from batchdiff.applying.session.stop import Stop
from batchdiff.choices import VerifyMode
from batchdiff.errors import (
    BatchdiffError,
    DifferenceError,
    EncryptedError,
    GuestError,
    ImageError,
    InUseError,
    MovedError,
    SecretError,
    StopError,
    VerificationError,
    is_inconclusive,
)
from batchdiff.image.in_use.check import users
from batchdiff.image.open import open_image, open_layer
from batchdiff.image_source import ImageSource
from batchdiff.linux.call_failures import AGAIN, explain
from batchdiff.plan.plan import GuestToConvert, Plan


def check_overlay(  # noqa: PLR0913, PLR0917  # what one thread is given
    guest: GuestToConvert,
    state: GuestState,
    plan: Plan,
    content: Health,
    history: History,
    data_files: DataFiles,
    stop: Stop,
    report: Callable[[int], None],
) -> Finding:
    """Return the finding for a guest's overlay. ``content``: the health of the template's content.

    ``report`` gets the number of bytes compared so far.

    :raises StopError: a stop was requested.
    """
    stop.check()
    path = guest.overlay_path
    try:
        overlay = find_overlay(guest, state)
        if overlay is None:
            return _missing(guest, state)
        judge = partial(_judged, guest, state, overlay, plan, content, data_files, stop, report)
        return _unless_in_use(judge, guest, history)
    except StopError:
        raise
    except BatchdiffError as error:
        return Finding(guest.name, path, Health.UNKNOWN, str(error))
    except OSError as error:
        return Finding(guest.name, path, Health.UNKNOWN, ". ".join(explain(error)))


def _unless_in_use(judge: Callable[[], Finding], guest: GuestToConvert, history: History) -> Finding:
    try:
        return judge()
    except InUseError as error:
        who = users(guest.overlay_path) or error.what
    except VerificationError as error:
        # The tables of an overlay that a VM is writing to may be inconsistent for a moment.
        if not (who := users(guest.overlay_path)):
            return _failed(error, guest, history)
    return Finding(guest.name, guest.overlay_path, Health.IN_USE, f"{who}, so it was not checked")


def _failed(error: VerificationError, guest: GuestToConvert, history: History) -> Finding:
    path = guest.overlay_path
    health = Health.UNKNOWN if is_inconclusive(error) else Health.DAMAGED
    reported = error if health is Health.UNKNOWN else original_too(error, guest, history)
    return Finding(guest.name, path, health, str(reported))


def _missing(guest: GuestToConvert, state: GuestState) -> Finding:
    try:
        original = find_original(guest, state)
        whole = "" if original is None else f"; its original{original_is(original.path, guest.image)}"
    except GuestError as error:
        whole = f"; {error.why}"
    except ImageError as error:
        whole = f"; {error.reason}"  # it names the original
    return Finding(guest.name, guest.overlay_path, Health.DAMAGED, f"it {missing(guest.overlay_path)}{whole}")


def _judged(  # noqa: PLR0913, PLR0917  # as above
    guest: GuestToConvert,
    state: GuestState,
    overlay: Found,
    plan: Plan,
    content: Health,
    data_files: DataFiles,
    stop: Stop,
    report: Callable[[int], None],
) -> Finding:
    source = current_overlay(replace(planned_overlay(guest, plan.template.source), path=overlay.path))
    _require_readable(source)
    data_files.require_own(guest, source)
    original = find_original(guest, state)
    needed = content if source.backing else Health.SOUND  # a flattened overlay does not need the template
    unproven = partial(_unproven, guest, plan.template.source.path, needed)
    if original is None:
        check_used(source, lambda: stop.is_asked, report)
        about_data = remark_on_data_file(guest, state, source)
        return unproven(f"no error found; there is no original to compare the overlay with{about_data}")
    comparison = Comparison(replace(guest.source, path=original.path), source, check=Check.LEAKS_ALLOWED)
    may_be_used = not (original.proven and original.now.vouches_for_content)
    try:
        verify(comparison, VerifyMode.FULL, lambda: stop.is_asked, report)
    except DifferenceError as error:
        return _differing(guest, overlay, original, error, unproven)
    except InUseError:
        if users(source.path) or not (who := users(original.path)):
            raise
        why, may_be_used = f"is in use: {who}", True
    except VerificationError as error:
        if is_inconclusive(error) or not is_about_original(error, guest):
            raise
        why = f"cannot be read: {error.why}"
    else:
        return _sound(guest, f"identical to its original ({os.path.basename(original.path)})")
    check_used(source, lambda: stop.is_asked, report)  # a fault in the original is not a fault in the overlay
    return _beside(original, why, guest, unproven, may_be_used=may_be_used)


def _differing(
    guest: GuestToConvert,
    overlay: Found,
    original: Found,
    error: DifferenceError,
    unproven: Callable[[str], Finding],
) -> Finding:
    """Judge an overlay that differs from its original, by looking for writes to either of them."""
    known = guest.image
    # A block device has no timestamp that would show whether the original was written to.
    planned, shows_writes = known.fingerprints[0], original.now.vouches_for_content
    if overlay.proven and original.proven and shows_writes:
        raise VerificationError(error.what, why=f"{error.why}; neither image has been written to") from error
    parts = changed_parts(known)
    if not parts and not planned.was_written_to(original.now) and not overlay.proven:
        return unproven("no error found; a VM has written to the overlay since the conversion")
    unknown = "; nothing shows when, because it is a block device"
    changes = f": {parts or planned.changes(original.now)}" if parts or shows_writes else unknown
    return _beside(original, f"has changed since the overlay was made{changes}", guest, unproven, may_be_used=True)


def _beside(
    original: Found,
    why: str,
    guest: GuestToConvert,
    unproven: Callable[[str], Finding],
    *,
    may_be_used: bool,
) -> Finding:
    """Judge an overlay whose original proves nothing.

    ``may_be_used``: whether a kept original may be the VM's disk.
    """
    is_aside = original.path != guest.source.path
    where = ", which is in quarantine," if is_aside else ""
    about = f"no error found, but its original {original.path}{where} {why}"
    found = unproven(about)
    if is_aside or not may_be_used or found.health is not Health.SOUND:
        return found
    back = command("restore", guest.name, "--discard-changes")
    return Finding(
        guest.name,
        guest.overlay_path,
        Health.UNKNOWN,
        f"{about}. A VM may still be using the original, so only you know which of the two to keep. If the guest's"
        f" VM is using the overlay, move the original away. To go back to the original: {back}.",
    )


def _require_readable(overlay: ImageSource) -> None:
    """Refuse an overlay that cannot be read. The error is a VerificationError unless the overlay may be sound."""
    try:
        with closing(open_layer(overlay)) as layer:
            layer.read_tables()
    except ImageError as error:
        if is_inconclusive(error) or isinstance(error, MovedError | SecretError | EncryptedError):
            raise
        raise VerificationError(f"{overlay.path} cannot be read", why=error.reason, remedy=error.remedy) from error
    open_image(overlay).close()


def _unproven(guest: GuestToConvert, template: str, content: Health, why: str) -> Finding:
    if content is Health.SOUND:
        return _sound(guest, why)
    fault = "whose content may have changed; see what is reported about the template"
    if content is Health.DAMAGED:
        fault = "whose content has changed, so do not start a VM on this overlay"
        fault = f"{fault}. Bring the template back from a backup, {AGAIN}"
    why = f"{why}. But the overlay needs the template {template}, {fault}"
    return Finding(guest.name, guest.overlay_path, content, why)


def _sound(guest: GuestToConvert, why: str) -> Finding:
    return Finding(guest.name, guest.overlay_path, Health.SOUND, why)
