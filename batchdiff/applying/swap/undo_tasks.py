"""The tasks of restore. What a VM sees now is its disk, and QEMU decides what that is.

::

    overlay and original identical     the original gets its name back, the overlay goes
    they differ, original aside        an image is rebuilt from the overlay, the older original stays in quarantine
    they differ, original kept         two disks: nothing is done, only the operator knows which one counts
    no original                        an image is rebuilt from the overlay
    no overlay                         nothing is done: what the VM wrote is not known
    --discard-changes                  the original gets its name back without a comparison, the overlay goes
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from batchdiff.applying.checks.overlay_losses import LossesAllowed, check_losses
from batchdiff.applying.checks.verify import Check, Comparison, check_used, verify
from batchdiff.applying.checks.verify_mode import VerifyMode
from batchdiff.applying.guests.commands import command
from batchdiff.applying.guests.file_names import original_names, overlay_names
from batchdiff.applying.guests.guest_files import Found, find_original, find_overlay, missing, rebuilt_is_in_place
from batchdiff.applying.guests.overlay_source import current_overlay, planned_overlay
from batchdiff.applying.journal.records import Fate, Goal, Standing, Step
from batchdiff.applying.session.change_detection import ChangeDetector
from batchdiff.applying.session.session import Run
from batchdiff.applying.swap.endings import quarantined_by_another, rebuilt_only
from batchdiff.applying.swap.rebuilding import Rebuilding
from batchdiff.applying.swap.task import Incoming, Outgoing, Task
from batchdiff.applying.template.sidecar import forget_overlay
from batchdiff.choices import Retire
from batchdiff.errors import GuestError
from batchdiff.files.fingerprint import NO_FILE
from batchdiff.image.image import Image
from batchdiff.image_source import ImageSource
from batchdiff.linux.call_failures import reason
from batchdiff.plan.plan import GuestToConvert, PlannedImage


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """The options of restore. ``discard_changes``: go back to the originals, whatever VMs wrote since."""

    guests: tuple[str, ...] | None = None
    discard_changes: bool = False
    losses: LossesAllowed = frozenset()


def restore_task(
    guest: GuestToConvert, template: PlannedImage, run: Run, standing: Standing, options: RestoreOptions
) -> Task:
    """Return the task of restore for a guest that apply has started to convert.

    :raises GuestError: nothing can be restored without losing something.
    """
    way = _Restoring(guest, template, run, standing, options)
    overlay = find_overlay(guest, standing)
    if overlay is not None and not options.discard_changes:
        check_losses(guest.name, overlay.path, options.losses)
    # An earlier restore has rebuilt the image and published it: only the overlay is left to deal with.
    if rebuilt_is_in_place(guest, standing):
        if overlay is not None:
            return way.compare_rebuilt(overlay)
        if standing.deleting or options.discard_changes:
            return way.finished_rebuilt()
        raise rebuilt_only(guest.name, guest.overlay_path, guest.source.path)
    original = find_original(guest, standing)
    # Without an overlay there is nothing to compare; without an original there is only the overlay to rebuild it.
    if overlay is None:
        return way.without_overlay(original)
    if original is None and options.discard_changes:
        raise GuestError(
            f"{guest.name} cannot go back to its original",
            why="that was deleted or moved",
            remedy="Run the same command without `--discard-changes`: an image is then rebuilt from the overlay.",
        )
    if options.discard_changes:
        way.require_the_overlay(overlay)
    return way.rebuild(overlay, None) if original is None else way.compare(overlay, original)


@dataclass(frozen=True, slots=True)
class _Restoring:
    """The maker of one guest's tasks."""

    guest: GuestToConvert
    template: PlannedImage
    run: Run
    standing: Standing
    options: RestoreOptions

    @property
    def rebuilt_source(self) -> ImageSource:
        """The image that restore rebuilds, under the guest's name."""
        return replace(self.guest.source, backing=())

    def require_the_overlay(self, overlay: Found) -> None:
        """Refuse a file that neither the journal nor its header shows to be the overlay: it would not be compared.

        :raises GuestError: it is another image.
        """
        known = self.standing.overlay
        if known is not None and known.is_same_file(overlay.now):
            return
        planned = planned_overlay(self.guest, self.template.source)
        if not current_overlay(replace(planned, path=overlay.path)).backing:
            raise GuestError(
                f"{overlay.path} was not deleted",
                why="it is not the file that apply published, and it does not rest on the template",
                remedy="Find out what it is, and move it away if no VM uses it; then run the same command again.",
            )

    def _rebuilt(self) -> Incoming:
        return Incoming(self.rebuilt_source, self.standing.rebuilt)

    def _older(self) -> str | None:
        quarantined = original_names(self.guest.source.path).quarantine
        return quarantined if os.path.lexists(quarantined) else None

    def compare(self, overlay: Found, original: Found) -> Task:
        """Bring the original back if QEMU finds it identical to the overlay, or if changes are discarded."""
        is_named = original.path == self.guest.source.path
        # What differs is rebuilt from the overlay; a kept original is in the way of that.
        otherwise = self._two_disks if is_named else lambda: self.rebuild(overlay, original)
        if not self._can_be_original(original):
            if self.options.discard_changes:
                raise self._another_file(original, overlay)
            if is_named:
                otherwise = partial(_refuse, self._another_file(original, overlay))
        return replace(
            self._task(overlay, Incoming(self.guest.source, original.now, None if is_named else original.path)),
            verify=_identical,
            verified=self.options.discard_changes,
            otherwise=otherwise,
        )

    def rebuild(self, overlay: Found, original: Found | None) -> Task:
        """Write what the VM sees to the original's name; an older original stays in quarantine."""
        older = self._older() if original is None else original_names(self.guest.source.path).quarantine
        task = self._task(overlay, Incoming(self.rebuilt_source))
        return replace(task, write=Rebuilding(self.guest, self.run, original).write, older=older)

    def compare_rebuilt(self, overlay: Found) -> Task:
        """Let the overlay go if it is still identical to the image that an earlier run has rebuilt."""
        return replace(
            self._task(overlay, self._rebuilt()),
            verify=_still_right,
            verified=self.options.discard_changes,
            otherwise=self._two_disks,
            older=self._older(),
        )

    def finished_rebuilt(self) -> Task:
        """Record the end: an earlier run has rebuilt an image, and the overlay is gone."""
        return self.finished(self._rebuilt())

    def without_overlay(self, original: Found | None) -> Task:
        """Go back to the original if that loses nothing, or if the operator accepts the loss."""
        deleted_by_us = self.standing.goal is Goal.RESTORE and self.standing.deleting
        if self.standing.published and not deleted_by_us and not self.options.discard_changes:
            raise self._overlay_missing(original)
        if original is None:
            original_path, overlay_path = self.guest.source.path, self.guest.overlay_path
            raise GuestError(
                f"{self.guest.name} cannot be restored",
                why=f"both its original {original_path} and its overlay {overlay_path} are gone",
                remedy="If they were moved, add `--map OLD=NEW`; otherwise bring one of them back from a backup.",
            )
        ready = None if original.path == self.guest.source.path else original.path
        if ready is not None and not (self.standing.published or self.standing.moved):
            raise quarantined_by_another(ready)
        return self.finished(Incoming(self.guest.source, original.now, ready))

    def finished(self, incoming: Incoming) -> Task:
        """Give the incoming image its name, if it does not have it yet; there is no overlay (any longer)."""
        older = self._older()
        return replace(self._task(None, incoming), verified=True, older=None if older == incoming.ready else older)

    def _task(self, overlay: Found | None, incoming: Incoming) -> Task:
        guest = self.guest
        names = overlay_names(guest.overlay_path)
        source = planned_overlay(guest, self.template.source)
        if overlay is not None:
            as_it_is = current_overlay(replace(source, path=overlay.path))
            source = replace(as_it_is, path=guest.overlay_path)
        detector = ChangeDetector(self.run.journal)

        def check(image: Image) -> None:
            self.run.check_template()  # first: it notices another file in the template's place
            detector.check_chain(image)

        return Task(
            guest=guest.name,
            goal=Goal.RESTORE,
            outgoing=Outgoing(source, names, NO_FILE if overlay is None else overlay.now),
            incoming=incoming,
            retire=Retire.DELETE,
            final=Step.RESTORED,
            write=_writes_nothing,
            verify=_rebuilt_right,
            check=check,
            on_ended=self._forget,
        )

    def _can_be_original(self, found: Found) -> bool:
        """Return whether a file may count as the guest's original, without a comparison to prove it."""
        planned, now = self.guest.image.fingerprints[0], found.now
        kept = found.path == self.guest.source.path and self.standing.fate in {None, Fate.KEPT}
        return found.proven or kept or (planned.size, planned.mtime_ns) == (now.size, now.mtime_ns)

    def _another_file(self, found: Found, overlay: Found) -> GuestError:
        return GuestError(
            f"{self.guest.name} was not restored",
            why=f"{found.path} is not its original as it was before the conversion: it is another file, or"
            " it was written to",
            remedy=f"Compare it with the overlay {overlay.path}; move away the one that does not"
            " count, then run the same command again.",
        )

    def _forget(self) -> list[str]:
        template = self.template.source.path
        try:
            forget_overlay(template, self.guest.overlay_path)
        except OSError as error:
            return [f"the sidecar of {template} still names the overlay ({reason(error)})"]
        return []

    def _two_disks(self) -> Task:
        raise GuestError(
            f"{self.guest.name} was not restored",
            why=f"its original {self.guest.source.path} is still there, and differs from its overlay"
            f" {self.guest.overlay_path}: only you know which of the two counts",
            remedy="To go back to the original and delete the overlay:"
            f" {command('restore', self.guest.name, '--discard-changes')}. To get the overlay's content back,"
            " move the original away, then run the same command again.",
        )

    def _overlay_missing(self, original: Found | None) -> GuestError:
        whole = "" if original is None else f" The original, as it was before the conversion, is {original.path}."
        discard = command("restore", self.guest.name, "--discard-changes")
        back = "" if original is None else f" To go back to it and give up what the VM wrote: {discard}."
        return GuestError(
            f"{self.guest.name} was not restored",
            why=f"its overlay {self.guest.overlay_path} {missing(self.guest.overlay_path)}, with what its VM wrote"
            " since",
            remedy=f"Bring the overlay back; if it or the pool was moved, use `--map OLD=NEW`.{whole}{back}",
        )


def _refuse(error: GuestError) -> Task:
    raise error


def _writes_nothing(_fd: int, _image: Image) -> list[str]:
    raise AssertionError("nothing has to be rebuilt: the incoming image is there")


def _identical(overlay: Image, original: ImageSource, ended: Callable[[], bool]) -> None:
    # The original is not our work: QEMU's check may find leaks in it, which are harmless and were there before.
    verify(Comparison(overlay.source, original, check=Check.NONE), VerifyMode.FULL, ended)


def _rebuilt_right(overlay: Image, rebuilt: ImageSource, ended: Callable[[], bool]) -> None:
    check_used(overlay.source, ended)
    verify(Comparison(overlay.source, rebuilt), VerifyMode.FULL, ended)


def _still_right(overlay: Image, rebuilt: ImageSource, ended: Callable[[], bool]) -> None:
    check_used(overlay.source, ended)
    verify(Comparison(overlay.source, rebuilt, check=Check.LEAKS_ALLOWED), VerifyMode.FULL, ended)
