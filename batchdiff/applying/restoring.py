"""The ways of a guest under restore and purge.

::

    restore   from the original, where it still is and the overlay has not been used: it gets its name back
              rebuilt from overlay and template otherwise, in the original's format, with its owner and mode
              then the overlay goes, after it was compared with what took its place
    purge     the quarantined original goes, after it was compared with the overlay
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from batchdiff.applying.metadata import copy_metadata, prepare
from batchdiff.applying.notes import DELETED, Goal, Standing
from batchdiff.applying.overlaying import overlay_source, planned_parts
from batchdiff.applying.places import Names, original_names, overlay_names, where_is
from batchdiff.applying.run import Run
from batchdiff.applying.standalone import write_standalone
from batchdiff.applying.steps import OutgoingAt
from batchdiff.applying.task import Incoming, Outgoing, Task
from batchdiff.applying.verification import Comparison, verify
from batchdiff.applying.verify_mode import VerifyMode
from batchdiff.errors import GuestError, PlanError
from batchdiff.image.fingerprint import NO_FILE, Fingerprint, fingerprint_at
from batchdiff.image.image import Image
from batchdiff.image.source import ImageSource
from batchdiff.model.manifest import Retire
from batchdiff.model.plan import GuestPlan, PlannedImage


@dataclass(slots=True)
class _Constant:
    """Sees to it that files do not change while they are worked with; what batchdiff itself renames may."""

    run: Run
    seen: dict[str, Fingerprint] = field(default_factory=dict)

    def check(self, image: Image) -> None:
        """Compares every file of a chain, and the template at its own path, with what was seen first.

        :raises PlanError: one has changed.
        """
        for layer in image.layers:
            self._compare(layer.path if layer is not image.layers[0] else "", layer.fingerprint(), layer.path)
        for layer in self.run.template.layers:
            self._compare(layer.path, fingerprint_at(layer.path), layer.path)

    def _compare(self, key: str, now: Fingerprint | None, path: str) -> None:
        if now is None:
            raise PlanError(f"{path} is gone", remedy="Nothing was deleted. Look for it, then try again.")
        before = self.seen.setdefault(key, now)
        if now in self.run.journal.notes.changed and before.differs_in_ctime_only(now):
            self.seen[key] = now
        elif before != now:
            raise PlanError(
                f"{path} changed meanwhile", why=before.changes(now), remedy="Shut down what writes to it."
            )


def purge_task(guest: GuestPlan, template: PlannedImage, run: Run, standing: Standing) -> Task:
    """What purge has to do with a guest whose original is in quarantine."""
    record, _ = planned_parts(guest)
    names = original_names(guest.source.path)
    own = replace(names, own=names.quarantine)
    return Task(
        guest=guest.name,
        goal=Goal.PURGE,
        outgoing=Outgoing(replace(guest.source, path=own.own), own, record.fingerprints[0]),
        incoming=Incoming(overlay_source(guest, template.source), standing.overlay, published=True),
        retire=Retire.DELETE,
        write=_writes_nothing,
        verify=_compared_by_qemu,
        check=_Constant(run).check,
    )


def restore_task(guest: GuestPlan, template: PlannedImage, run: Run, standing: Standing) -> Task:
    """What restore has to do with a guest that apply has begun.

    :raises GuestError: nothing can be restored without losing something.
    """
    record, _ = planned_parts(guest)
    known = standing.overlay or NO_FILE  # one that was never finished has no name to take it from
    names = original_names(guest.source.path)
    original = _where_the_original_is(names, record.fingerprints[0], standing)
    overlay = overlay_names(guest.overlay_path)
    gone = where_is(overlay, known) is OutgoingAt.GONE
    return Task(
        guest=guest.name,
        goal=Goal.RESTORE,
        outgoing=Outgoing(overlay_source(guest, template.source), overlay, known),
        incoming=_what_comes_back(guest, record, standing, original),
        retire=Retire.DELETE,
        write=_Rebuilding(guest, record, run).write,
        verify=_compared_by_qemu,
        check=_Constant(run).check,
        verified=gone and original is not OutgoingAt.GONE,
    )


def _where_the_original_is(names: Names, known: Fingerprint, standing: Standing) -> OutgoingAt:
    """GONE also where another file, such as a rebuilt image, has got the inode number of the deleted original."""
    now = fingerprint_at(names.own)
    is_rebuilt = standing.rebuilt is not None and now is not None and standing.rebuilt.differs_in_ctime_only(now)
    if is_rebuilt or standing.original == DELETED:
        return OutgoingAt.GONE
    return where_is(names, known)


def _what_comes_back(guest: GuestPlan, record: PlannedImage, standing: Standing, original: OutgoingAt) -> Incoming:
    """The original where it is and still is what the guest holds, else an image that is to be rebuilt."""
    names, known = original_names(guest.source.path), record.fingerprints[0]
    rebuilt = Incoming(replace(guest.source, backing=()), standing.rebuilt)
    if original is OutgoingAt.GONE:
        return rebuilt
    if not _was_used(guest, standing):
        return Incoming(guest.source, known, ready=None if original is OutgoingAt.NAMED else names.at(original))
    if original is OutgoingAt.NAMED and guest.overlay_path != guest.source.path:
        raise GuestError(
            f"{guest.name} was not restored",
            why=f"its original is still there, and its overlay {guest.overlay_path} has been used since:"
            " only you know which of the two counts",
            remedy="Remove the other one yourself.",
        )
    return rebuilt


def _was_used(guest: GuestPlan, standing: Standing) -> bool:
    """Whether somebody has written to the overlay since it was published."""
    names = overlay_names(guest.overlay_path)
    known = standing.overlay
    for path in (names.own, names.quarantine, names.deleting):
        now = fingerprint_at(path)
        if known is not None and now is not None and (now.device, now.inode) == (known.device, known.inode):
            return not known.differs_in_ctime_only(now)
    return False


@dataclass(frozen=True, slots=True)
class _Rebuilding:
    """Writes what the overlay and its template show as an image of the original's kind."""

    guest: GuestPlan
    record: PlannedImage
    run: Run

    def write(self, fd: int, overlay: Image) -> list[str]:
        """See :data:`batchdiff.applying.task.Write`."""
        lost = prepare(overlay.layers[0].fd, fd)
        size = self.record.fingerprints[0].size
        write_standalone(fd, overlay, self.guest.source.format, size, check=self.run.stop.check)
        lost += copy_metadata(overlay.layers[0].fd, fd)
        notes = [f"could not keep {what}" for what in lost]
        left = original_names(self.guest.source.path).quarantine
        if os.path.lexists(left):
            notes.append(f"the overlay had been used, so its content came back; the original is still {left}")
        return notes


def _compared_by_qemu(outgoing: Image, incoming: ImageSource, ended: Callable[[], bool]) -> None:
    verify(Comparison(outgoing.source, incoming), VerifyMode.FULL, ended)


def _writes_nothing(_fd: int, _image: Image) -> list[str]:
    raise AssertionError("purge writes no image")
