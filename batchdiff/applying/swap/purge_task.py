"""The purge task of a guest, which ends the quarantine of its original.

::

    QEMU finds overlay and original identical   the original is deleted
    they differ, or the overlay is in use       the original is kept: the overlay may have newer content
    as in the row above, but with --used        the original is deleted if it is unchanged and the overlay is sound
    the overlay is missing or damaged           failure: the original may be all that is left

For an older original, read "rebuilt image" for "overlay".
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace

from batchdiff.applying.checks.verify import Check, Comparison, check_used, verify
from batchdiff.applying.guests.commands import command
from batchdiff.applying.guests.file_names import FileNames, original_names, require_examinable
from batchdiff.applying.guests.guest_files import changed_parts
from batchdiff.applying.guests.overlay_source import current_overlay, planned_overlay
from batchdiff.applying.journal.records import Goal, GuestState, Step
from batchdiff.applying.session.change_detection import ChangeDetector
from batchdiff.applying.session.session import Run
from batchdiff.applying.swap.incoming import IncomingFile, not_comparable
from batchdiff.applying.swap.refusals import BRING_ONE_BACK, rename_back
from batchdiff.applying.swap.task import Outgoing
from batchdiff.choices import Retire, VerifyMode
from batchdiff.errors import GuestError, InUseError, StopError
from batchdiff.files.fingerprint import NO_FILE, fingerprint_at
from batchdiff.frozen import frozen
from batchdiff.image.image import Image, others_of
from batchdiff.image.in_use.check import other_writer
from batchdiff.image.open import open_layer
from batchdiff.image_source import ImageSource
from batchdiff.linux.call_failures import AGAIN
from batchdiff.plan.plan import GuestToConvert, PlannedImage
from batchdiff.progress import Phase


@frozen
class PurgeOptions:
    """The options of purge. ``guests``: names; None for all. ``used``: delete differing originals, too."""

    guests: tuple[str, ...] | None = None
    used: bool = False


def purge_task(
    guest: GuestToConvert, template: PlannedImage, run: Run, state: GuestState, options: PurgeOptions
) -> PurgeTask:
    """Return the purge task for a guest whose original is in quarantine or partly purged.

    :raises GuestError: the VM's disk is missing.
    :raises ImageError: a file cannot be examined.
    """
    names = original_names(guest.source.path)
    aside = replace(names, own=names.quarantine)
    now = fingerprint_at(aside.deleting) if state.goal is Goal.PURGE else None
    now = now or fingerprint_at(aside.own)
    incoming = _what_the_vm_sees(guest, template, state)
    for path in (aside.own, incoming.path):
        require_examinable(path)
    if fingerprint_at(incoming.path) is None:
        raise _all_that_is_left(guest, incoming.path, aside, state)
    soundness = Check.NONE if _is_restored(state) else Check.LEAKS_ALLOWED
    return PurgeTask(
        guest=guest.name,
        final=Step.RESTORED if _is_restored(state) else Step.PURGED,
        outgoing=Outgoing(replace(guest.source, path=aside.own), aside, now or NO_FILE),
        incoming=IncomingFile(incoming, fingerprint_at(incoming.path), was_published=True),
        original=guest.image,
        data_file=guest.options.data_file,
        soundness=soundness,
        used=options.used,
        run=run,
        detector=ChangeDetector(run.journal),
    )


@frozen
class PurgeTask:
    """The task that deletes an original in quarantine; ``incoming`` is the VM's disk.

    ``is_compared``: False once original and disk count as different.
    """

    goal, retire, needs_comparison, older = Goal.PURGE, Retire.DELETE, True, None

    guest: str
    final: Step
    outgoing: Outgoing
    incoming: IncomingFile
    original: PlannedImage
    data_file: str | None
    soundness: Check
    used: bool
    run: Run
    detector: ChangeDetector
    is_compared: bool = True

    def check(self, original: Image) -> None:
        """Refuse a changed original or template.

        :raises PlanError, ImageError: one has changed or cannot be examined.
        :raises IncomparableError: a program wants to write to the VM's disk.
        """
        self.incoming.check_held()
        self.detector.check_chain(original)
        self.run.check_template()

    def verify(self, original: Image, disk: ImageSource, ended: Callable[[], bool]) -> None:
        """Compare original and disk; once they count as different, only check the disk."""
        if self.is_compared:
            self._compare(original, disk, ended)
        else:
            _require_sound(disk, ended, self._report)

    def if_different(self) -> PurgeTask | None:
        """Return this task without the comparison; None without `--used`, or if this task does not compare.

        :raises GuestError: the original has changed since planning.
        """
        if not self.used or not self.is_compared:
            return None
        now, planned = self.outgoing.known, self.original.fingerprints[0]
        if planned.was_written_to(now) or changed_parts(self.original):
            raise GuestError(
                f"{self.outgoing.names.own} was not deleted",
                why="it was not found to be identical to what the VM sees now, and it has changed since"
                " it was planned",
                remedy="Find out what it contains before you remove it yourself.",
            )
        disk = IncomingFile(self.incoming.source, self.incoming.known, was_published=True)
        return replace(self, incoming=disk, is_compared=False)

    def after_publish(self) -> list[str]:
        """Do nothing."""
        return []

    def before_end(self) -> list[str]:
        """Do nothing."""
        return []

    def _report(self, done: int) -> None:
        self.run.session.meter.reach(self.guest, Phase.VERIFY, done)

    def _compare(self, original: Image, disk: ImageSource, ended: Callable[[], bool]) -> None:
        """Compare the original with the VM's disk, which is held: a later write would make them differ."""
        comparison = Comparison(original.source, disk, check=self.soundness)
        try:
            self.incoming.hold()
            verify(comparison, VerifyMode.FULL, lambda: ended() or self.incoming.is_wanted(), self._report)
        except StopError:
            self.incoming.check_held()
            raise
        except InUseError as error:  # QEMU is using the disk, probably for its VM
            raise not_comparable(disk.path, error.why) from error


def _all_that_is_left(guest: GuestToConvert, disk: str, aside: FileNames, state: GuestState) -> GuestError:
    if not any(map(os.path.lexists, (guest.source.path, aside.own, aside.deleting))):
        return GuestError(
            f"{guest.name} was not purged",
            why=f"both its original {aside.own} and {disk} are gone",
            remedy=BRING_ONE_BACK,
        )
    back = command("restore", guest.name, "--discard-changes")
    if _is_restored(state):
        back = rename_back(aside.own if os.path.lexists(aside.own) else aside.deleting, disk)
    return GuestError(
        f"{aside.own} was not deleted",
        why=f"{disk} is missing, so the original may be all that is left of {guest.name}",
        remedy="Bring the missing file back; if it was moved, add `--map OLD=NEW`. To go back to the original:"
        f" {back}.",
    )


def _what_the_vm_sees(guest: GuestToConvert, template: PlannedImage, state: GuestState) -> ImageSource:
    if _is_restored(state):
        return replace(guest.source, backing=(), other_files=())
    return current_overlay(planned_overlay(guest, template.source))


def _is_restored(state: GuestState) -> bool:
    """Return whether the original is an older one."""
    return not state.published


def _require_sound(disk: ImageSource, ended: Callable[[], bool], report: Callable[[int], None]) -> None:
    # If QEMU has this disk open, probably for a running VM, disk and template are very probably sound.
    with contextlib.suppress(InUseError):
        check_used(disk, ended, report)
    with contextlib.closing(open_layer(disk)) as layer:
        for file in (layer, *others_of(layer)):
            # A program other than QEMU can damage the disk, or may hold the lock that kept QEMU from checking it.
            if user := other_writer(file.fd):
                remedy = f"End that program, {AGAIN}"
                raise InUseError(f"another program is using {file.path}", why=user, remedy=remedy)
