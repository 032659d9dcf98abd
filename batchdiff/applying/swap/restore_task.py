"""The restore task of a guest. Unless changes are discarded, the content that the VM sees now is kept.

::

    overlay and original identical        the original gets its name back; the overlay is deleted
    they differ, original in quarantine   an image is rebuilt from the overlay; the original stays in quarantine
    they differ, original kept            two disks: nothing is done; only the operator knows which to keep
    no original                           an image is rebuilt from the overlay
    published overlay missing             nothing is done: what the VM wrote is missing, too
    --discard-changes                     as in the first row, but nothing is compared
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from batchdiff.applying.checks.overlay_losses import check_losses
from batchdiff.applying.checks.verify import Check, Comparison, check_used, verify
from batchdiff.applying.guests.data_files import DataFiles
from batchdiff.applying.guests.guest_files import (
    Found,
    changed_parts,
    find_original,
    find_overlay,
    lacks_parts,
    rebuilt_is_in_place,
)
from batchdiff.applying.guests.overlay_source import current_overlay, planned_overlay
from batchdiff.applying.journal.records import Fate, Goal, GuestState, Step
from batchdiff.applying.session.change_detection import ChangeDetector
from batchdiff.applying.session.session import Run
from batchdiff.applying.swap.guest_to_restore import GuestToRestore, RestoreOptions
from batchdiff.applying.swap.incoming import IncomingFile
from batchdiff.applying.swap.rebuild_task import RebuildTask
from batchdiff.applying.swap.refusals import (
    both_missing,
    not_the_original,
    not_the_overlay,
    original_missing,
    overlay_missing,
    quarantined_by_another,
    rebuilt_only,
    two_disks,
)
from batchdiff.choices import Retire, VerifyMode
from batchdiff.image.image import Image
from batchdiff.image_source import ImageSource
from batchdiff.plan.plan import GuestToConvert, PlannedImage
from batchdiff.progress import Phase


def restore_task(
    plan: GuestToConvert, template: PlannedImage, run: Run, state: GuestState, options: RestoreOptions
) -> RestoreTask | RebuildTask:
    """Return the restore task for a guest that apply has started to convert.

    :raises GuestError: the guest cannot be restored with these options.
    :raises ImageError: an image cannot be read.
    :raises VerificationError: the overlay names another guest's data file.
    """
    guest = GuestToRestore(plan, template, run, state, options)
    overlay = find_overlay(plan, state)
    if overlay is not None and not options.discard_changes:
        current = current_overlay(replace(planned_overlay(plan, template.source), path=overlay.path))
        if set(current.other_files) - {plan.options.data_file}:
            DataFiles(run.session.plan, run.journal.history).require_own(plan, current)
        check_losses(plan.name, current, options.losses)
    # If an earlier restore has published its image, at most the overlay remains to be deleted.
    if rebuilt_is_in_place(plan, state):
        if overlay is None and not (state.deleting or options.discard_changes):
            raise rebuilt_only(plan.name, plan.overlay_path, plan.source.path)
        return RestoreTask(guest, overlay, guest.rebuilt(), older=guest.older())
    original = find_original(plan, state)
    if overlay is None:
        return _without_overlay(guest, original)
    if original is None and options.discard_changes:
        raise original_missing(plan.name)
    if options.discard_changes:
        _require_the_overlay(guest, overlay)
    if original is None:
        return RebuildTask(guest, overlay, None)
    if options.discard_changes and not _can_be_original(guest, original):
        raise not_the_original(plan.name, original.path, overlay.path, plan.image)
    return RestoreTask(guest, overlay, guest.original(original), original)


class RestoreTask:
    """The task that gives back an original or a rebuilt image, and deletes the overlay.

    ``overlay``: None if it is gone. ``original``: None if an earlier restore has published the image to give back.
    """

    goal, final, retire = Goal.RESTORE, Step.RESTORED, Retire.DELETE

    def __init__(
        self,
        guest: GuestToRestore,
        overlay: Found | None,
        incoming: IncomingFile,
        original: Found | None = None,
        *,
        older: str | None = None,
    ) -> None:
        self.guest, self.incoming, self.older = guest.plan.name, incoming, older
        self.outgoing, self.original = guest.outgoing(overlay), guest.plan.image
        self.data_file = guest.plan.options.data_file
        self.needs_comparison = overlay is not None and not guest.options.discard_changes
        self._guest, self._overlay, self._original = guest, overlay, original
        self._detector = ChangeDetector(guest.run.journal)

    def check(self, overlay: Image) -> None:
        """Refuse a changed overlay or template."""
        self._guest.run.check_template()  # first: only this check notices another file in the template's place
        self._detector.check_chain(overlay)

    def verify(self, overlay: Image, disk: ImageSource, ended: Callable[[], bool]) -> None:
        """Compare the overlay with the image to be restored."""
        report = self._guest.run.reporter(self.guest, Phase.COMPARE)
        if self._original is None:
            # A VM may already have run on the rebuilt image.
            check_used(overlay.source, ended, report)
            comparison = Comparison(overlay.source, disk, check=Check.LEAKS_ALLOWED)
        else:
            # batchdiff did not write the original, so it need not pass a check by QEMU.
            comparison = Comparison(overlay.source, disk, check=Check.NONE)
        verify(comparison, VerifyMode.FULL, ended, report)

    def if_different(self) -> RebuildTask | None:
        """Return the task that rebuilds an image; None if the overlay is gone.

        :raises GuestError: the operator must choose a disk.
        """
        original, plan = self._original, self._guest.plan
        if self._overlay is None:
            return None
        if original is not None and original.path != plan.source.path:
            return RebuildTask(self._guest, self._overlay, original)
        if original is not None and not _can_be_original(self._guest, original):
            raise not_the_original(plan.name, original.path, self._overlay.path, plan.image)
        raise two_disks(plan.name, plan.overlay_path, plan.image)

    def after_publish(self) -> list[str]:
        """Do nothing."""
        return []

    @property
    def is_rebuilt(self) -> bool:
        """True if an earlier restore has published the image to give back."""
        return self._original is None

    def before_end(self) -> list[str]:
        """Remove the overlay from the template's sidecar."""
        return [*(self._guest.remark_on_older() if self.is_rebuilt else []), *self._guest.forget_overlay()]


def _without_overlay(guest: GuestToRestore, original: Found | None) -> RestoreTask:
    plan, state = guest.plan, guest.state
    deleted_by_us = state.goal is Goal.RESTORE and state.deleting
    if state.published and not deleted_by_us and not guest.options.discard_changes:
        there = None if original is None else original.path
        raise overlay_missing(plan.name, plan.overlay_path, there, plan.image)
    if original is None:
        raise both_missing(plan.name, plan.source.path, plan.overlay_path)
    incoming, older = guest.original(original), guest.older()
    if incoming.ready is not None and not (state.published or state.moved):
        raise quarantined_by_another(incoming.ready)
    return RestoreTask(guest, None, incoming, original, older=None if older == incoming.ready else older)


def _require_the_overlay(guest: GuestToRestore, overlay: Found) -> None:
    """Refuse to delete a file that is neither the overlay in the journal nor an image with a backing file."""
    known = guest.state.overlay
    if known is not None and known.is_same_file(overlay.now):
        return
    planned = planned_overlay(guest.plan, guest.template.source)
    if not current_overlay(replace(planned, path=overlay.path)).backing:
        raise not_the_overlay(overlay.path)


def _can_be_original(guest: GuestToRestore, found: Found) -> bool:
    """Return whether a file counts as the original without a comparison."""
    planned, now = guest.plan.image.fingerprints[0], found.now
    kept = found.path == guest.plan.source.path and guest.state.fate in {None, Fate.KEPT}
    if found.proven or kept:
        return not lacks_parts(guest.plan.image)
    return not planned.was_written_to(now) and not changed_parts(guest.plan.image)
