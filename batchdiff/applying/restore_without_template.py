"""Go back to originals if overlays cannot be read: the template is lost, or the overlays are damaged.

The overlays are not deleted: the template may come back from a backup, or the overlays may be repaired. An overlay
that has the original's own name is renamed first::

    vm.img -> vm.img.batchdiff-overlay          then          vm.img.batchdiff-original -> vm.img
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import TypeAlias

from batchdiff.applying.checks.no_dependents import require_no_dependents
from batchdiff.applying.guest_results import undo_failure
from batchdiff.applying.guests.file_names import overlay_names
from batchdiff.applying.guests.guest_files import Found, find_original, find_overlay
from batchdiff.applying.guests.overlay_source import current_overlay, planned_overlay
from batchdiff.applying.journal.records import Fate, Goal, GuestState, Step
from batchdiff.applying.pipeline import failed
from batchdiff.applying.results.outcome import GuestOutcome, Original, Status
from batchdiff.applying.session.session import Session
from batchdiff.applying.swap import retire
from batchdiff.applying.swap.new_files import discard_new_files
from batchdiff.applying.swap.refusals import both_missing, original_missing
from batchdiff.applying.template.sidecar import discard_unfinished, forget_overlay
from batchdiff.dependents.dependents import Dependents, dependents_in_plan
from batchdiff.errors import BatchdiffError, GuestError, ImageError, InUseError
from batchdiff.image.files import identify, open_image_file
from batchdiff.image.in_use.check import Purpose, check_usage
from batchdiff.image.in_use.hold import hold
from batchdiff.image.in_use.lease import release_lease
from batchdiff.image.open import inspect, open_image
from batchdiff.linux.call_failures import AGAIN, how_to_remove
from batchdiff.plan.plan import GuestToConvert, Plan

GuestWithState: TypeAlias = tuple[GuestToConvert, GuestState]

WITHOUT_TEMPLATE = "restore deletes no overlay without the planned template"
DAMAGED = "it cannot be read"


def split_by_reading(found: list[GuestWithState], plan: Plan) -> tuple[list[GuestWithState], list[GuestWithState]]:
    """Split guests into two lists; the second has those whose overlays cannot be read."""
    damaged = [each for each in found if _cannot_be_read(*each, plan)]
    return [each for each in found if each not in damaged], damaged


def _cannot_be_read(guest: GuestToConvert, state: GuestState, plan: Plan) -> bool:
    try:
        overlay = find_overlay(guest, state)
        if overlay is not None:
            source = replace(planned_overlay(guest, plan.template.source), path=overlay.path)
            with open_image(current_overlay(source)) as image:
                inspect(image)
    except ImageError:
        return True
    except GuestError:  # either of two files could be the overlay; restore reports that
        return False
    return False


def restore_without_template(session: Session, found: list[GuestWithState], why: str) -> Iterator[GuestOutcome]:
    """Go back to each guest's original; a guest that fails does not stop the others.

    ``why``: the reason to report for overlays that stay.

    :raises StopError: a stop was requested.
    """
    discard_unfinished(session.plan)
    dependents = dependents_in_plan(session.plan)
    for guest, state in found:
        session.stop.check()
        try:
            left = _go_back(guest, state, session, dependents)
        except (BatchdiffError, OSError) as error:
            outcome = undo_failure(guest, failed(guest.name, error), state)
            with contextlib.suppress(OSError):
                session.journal.record_failure(guest.name, outcome.reason)
            yield outcome
        else:
            remarks = () if left is None else (_left(left, why),)
            yield GuestOutcome(guest.name, Status.RESTORED, original=Original(Fate.BACK), remarks=remarks)


def try_without_template(found: list[GuestWithState], why: str) -> Iterator[GuestOutcome]:
    """Yield what :func:`restore_without_template` would do, as far as names and fingerprints show it."""
    for guest, state in found:
        try:
            original, overlay = _files(guest, state)
        except (BatchdiffError, OSError) as error:
            yield undo_failure(guest, failed(guest.name, error), state)
        else:
            stays = ""
            if overlay is not None and original.path != overlay.path == guest.source.path:
                stays = f"; its overlay would be kept as {overlay_names(overlay.path).quarantine}: {why}"
            elif overlay is not None:
                stays = f"; its overlay {overlay.path} would not be deleted: {why}"
            yield GuestOutcome(guest.name, Status.WOULD_RESTORE, f"it would go back to its original{stays}")


def _left(path: str, why: str) -> str:
    return (
        f"its overlay {path} was not deleted: {why}. The overlay is needed only to recover what the VM wrote;"
        f" {how_to_remove(path)} before you plan or convert this guest again"
    )


def _go_back(guest: GuestToConvert, state: GuestState, session: Session, dependents: Dependents) -> str | None:
    """Go back to a guest's original; return the path of the overlay that stays, if any."""
    original, overlay = _files(guest, state)
    own = guest.source.path
    if overlay is not None:
        session.require_no_domain(overlay.path)
        _require_unused(overlay.path)
    discard_new_files(state, guest.options.data_file)
    session.require_no_domain(original.path)
    with open_image(replace(guest.source, path=original.path)) as image, hold(image, Purpose.GUEST) as held:
        _require_free(original.path, held.alone().objection, dependents)
        if original.path != own:
            # This is recorded before any rename, so that the next restore can continue after a crash.
            session.journal.record(guest.name, replace(state, step=Step.RETIRING, goal=Goal.RESTORE, moved=True))
            if overlay is not None and overlay.path == own:
                overlay = _moved_aside(overlay, guest, dependents)
            retire.move(image.layers[0].fd, original.path, own)
        if original.path != own or state.moved:  # so that the original's new ctime does not make the plan stale
            session.journal.record_changed(identify(image.layers[0].fd))
    with contextlib.suppress(OSError):
        template, plan = session.plan.template.source.path, session.plan.checksum
        forget_overlay(template, guest.overlay_path, plan=plan, guest=guest.name)
    done, left = GuestState(Step.RESTORED, Goal.RESTORE), None
    if overlay is not None:
        left = overlay.path
        done = replace(done, overlay=overlay.now, left=left)
    session.journal.record(guest.name, done)
    session.watch.step(guest.name, Step.RESTORED)
    return left


def _files(guest: GuestToConvert, state: GuestState) -> tuple[Found, Found | None]:
    original, overlay = find_original(guest, state), find_overlay(guest, state)
    if original is not None:
        return original, overlay
    if overlay is None:
        raise both_missing(guest.name, guest.source.path, guest.overlay_path)
    raise original_missing(
        guest.name,
        remedy="Make the overlay readable again: bring the planned template back if it is missing or has changed,"
        " or repair a copy of the overlay and replace the overlay with that copy.",
    )


def _require_unused(path: str) -> None:
    """Refuse an overlay that is in use: what looks like damage may be only an unfinished write."""
    fd = open_image_file(path)
    try:
        usage = check_usage(fd, Purpose.GUEST)
        release_lease(fd)
    finally:
        os.close(fd)
    if usage.objection:
        raise InUseError(f"{path} is in use", why=usage.objection, remedy=f"Stop whatever is using it, {AGAIN}")


def _moved_aside(overlay: Found, guest: GuestToConvert, dependents: Dependents) -> Found:
    fd = open_image_file(overlay.path)
    try:
        _require_free(overlay.path, "", dependents)
        target = overlay_names(guest.overlay_path).quarantine
        retire.move(fd, overlay.path, target)
        return replace(overlay, path=target)
    finally:
        os.close(fd)


def _require_free(path: str, objection: str, dependents: Dependents) -> None:
    if objection:
        raise InUseError(f"{path} was left unchanged", why=objection, remedy=f"Stop whatever is using it, {AGAIN}")
    require_no_dependents(dependents, path)
