"""The tasks of purge, which ends the quarantine of an original.

::

    QEMU finds overlay and original identical     the original is deleted
    they differ, or the VM is running             kept: the VM has run on the overlay since
    the same with --used                          the original is deleted, if the overlay is sound
    the overlay is missing or damaged             failed: the original may be all that is left

After a restore that rebuilt an image, the image stands where the overlay stood.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from batchdiff.applying.checks.verify import Check, Comparison, check_used, verify
from batchdiff.applying.checks.verify_mode import VerifyMode
from batchdiff.applying.guests.commands import command
from batchdiff.applying.guests.file_names import Names, original_names
from batchdiff.applying.guests.overlay_source import current_overlay, planned_overlay
from batchdiff.applying.journal.records import Goal, Standing, Step
from batchdiff.applying.session.change_detection import ChangeDetector
from batchdiff.applying.session.session import Run
from batchdiff.applying.swap.endings import rename_back
from batchdiff.applying.swap.task import Incoming, Outgoing, Task
from batchdiff.choices import Retire
from batchdiff.errors import DifferenceError, GuestError, InUseError
from batchdiff.files.fingerprint import NO_FILE, Fingerprint, fingerprint_at
from batchdiff.image.image import Image
from batchdiff.image.open import open_layer
from batchdiff.image_source import ImageSource
from batchdiff.plan.plan import GuestToConvert, PlannedImage


@dataclass(frozen=True, slots=True)
class PurgeOptions:
    """The options of purge. ``used``: delete originals even if their VMs have run on the overlays since."""

    guests: tuple[str, ...] | None = None
    used: bool = False


def purge_task(
    guest: GuestToConvert, template: PlannedImage, run: Run, standing: Standing, options: PurgeOptions
) -> Task:
    """Return the task of purge for a guest whose original is in quarantine.

    :raises GuestError: its original must not go.
    """
    record = guest.image
    names = original_names(guest.source.path)
    aside = replace(names, own=names.quarantine)
    now = fingerprint_at(aside.deleting) if standing.goal is Goal.PURGE else None
    now = now or fingerprint_at(aside.own)
    incoming = _what_the_vm_sees(guest, template, standing)
    if fingerprint_at(incoming.path) is None:
        raise _all_that_is_left(guest.name, incoming.path, aside, standing)
    detector = ChangeDetector(run.journal)

    def check(image: Image) -> None:
        detector.check_chain(image)
        run.check_template()

    # A VM may be killed in the middle of a write, which leaves leaked clusters. A rebuilt raw image has no check.
    soundness = Check.NONE if _is_restored(standing) else Check.LEAKS_ALLOWED
    task = Task(
        guest=guest.name,
        goal=Goal.PURGE,
        outgoing=Outgoing(replace(guest.source, path=aside.own), aside, now or NO_FILE),
        incoming=Incoming(incoming, fingerprint_at(incoming.path), published=True),
        retire=Retire.DELETE,
        final=Step.RESTORED if _is_restored(standing) else Step.PURGED,
        write=_writes_nothing,
        verify=_Compared(soundness).verify,
        check=check,
    )
    if not options.used:
        return task
    return replace(task, otherwise=lambda: _used(task, record, now))


def _all_that_is_left(guest: str, disk: str, aside: Names, standing: Standing) -> GuestError:
    """Return the error for an original whose guest has no disk: neither an overlay nor a rebuilt image."""
    back = command("restore", guest, "--discard-changes")
    if _is_restored(standing):
        back = rename_back(aside.own if os.path.lexists(aside.own) else aside.deleting, disk)
    return GuestError(
        f"{aside.own} was not deleted",
        why=f"{disk} is missing, so the original may be all that is left of {guest}",
        remedy="Bring the missing file back; if it was moved, add `--map OLD=NEW`. To go back to the original:"
        f" {back}.",
    )


def _what_the_vm_sees(guest: GuestToConvert, template: PlannedImage, standing: Standing) -> ImageSource:
    if _is_restored(standing):
        return replace(guest.source, backing=())
    return current_overlay(planned_overlay(guest, template.source))


def _is_restored(standing: Standing) -> bool:
    """Return whether it is an older original that a restore left, also if a purge of it was interrupted."""
    return not standing.published


def _used(task: Task, record: PlannedImage, now: Fingerprint | None) -> Task:
    """Return the same task without a comparison, if the original is surely the planned one."""
    planned = record.fingerprints[0]
    if now is None or (planned.size, planned.mtime_ns) != (now.size, now.mtime_ns):
        raise GuestError(
            f"{task.outgoing.names.own} was not deleted",
            why="it differs from what the VM sees now, and it is not the file that was planned",
            remedy="Find out what it holds, and remove it yourself.",
        )
    return replace(task, verify=_sound, otherwise=None)


@dataclass(frozen=True, slots=True)
class _Compared:
    check: Check

    def verify(self, original: Image, now: ImageSource, ended: Callable[[], bool]) -> None:
        """Compare the original with the VM's disk; if the VM is running, they count as different."""
        try:
            verify(Comparison(original.source, now, check=self.check), VerifyMode.FULL, ended)
        except InUseError as error:
            raise DifferenceError(f"{now.path} is in use, so the two cannot be compared", why=error.why) from error


def _sound(_original: Image, now: ImageSource, ended: Callable[[], bool]) -> None:
    try:
        check_used(now, ended)
    except InUseError:
        # Its VM is running on it at this moment, with its template: there is no better proof.
        open_layer(now).close()


def _writes_nothing(_fd: int, _image: Image) -> list[str]:
    raise AssertionError("purge writes no image")
