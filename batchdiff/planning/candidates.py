"""Which guests can be compared at all: each is opened, inspected and checked before anything is scanned."""

from __future__ import annotations

from dataclasses import dataclass

from batchdiff.errors import ImageError
from batchdiff.image.files import loop_file
from batchdiff.image.image import Image
from batchdiff.image.lookalike import looks_like
from batchdiff.image.opening import inspect, open_image, peek_header, resolved_backing
from batchdiff.image.source import ImageFormat, ImageSource
from batchdiff.model.manifest import GuestEntry, Loss
from batchdiff.model.plan import PlannedImage, Verdict
from batchdiff.units import format_size


@dataclass(frozen=True, slots=True)
class Candidate:
    """A guest that can be compared: its open image, and what a plan records of it before the scan."""

    entry: GuestEntry
    image: Image
    record: PlannedImage


@dataclass(frozen=True, slots=True)
class Dismissed:
    """A guest that is not compared, with the verdict and its reason; ``record`` where it could be opened."""

    entry: GuestEntry
    record: PlannedImage | None
    verdict: Verdict
    reason: str


def planned(image: Image) -> PlannedImage:
    """What a plan records of an open image."""
    return PlannedImage(image.source, image.virtual_size, image.fingerprints())


def examined(entry: GuestEntry, template: PlannedImage, allow_loss: frozenset[Loss]) -> Candidate | Dismissed:
    """A guest's part in the plan; the image of a candidate stays open."""
    try:
        if _rests_on(entry, template.source):
            return Dismissed(entry, None, Verdict.SKIP, "it is already an overlay of this template")
        image = open_image(entry.image)
    except ImageError as error:
        return Dismissed(entry, None, Verdict.REFUSE, str(error))
    record = planned(image)
    try:
        reason = _objection(image, record, template, allow_loss)
    except ImageError as error:
        reason = str(error)
    if not reason:
        return Candidate(entry, image, record)
    image.close()
    return Dismissed(entry, record, Verdict.REFUSE, reason)


def without_backing_files(
    parts: list[Candidate | Dismissed], entries: tuple[GuestEntry, ...]
) -> list[Candidate | Dismissed]:
    """Dismisses guests that another guest rests on, whatever became of that one: it would be lost with them."""
    resting = {_backing_of(entry.image): entry.name for entry in entries}
    found: list[Candidate | Dismissed] = []
    for part in parts:
        other = resting.get(part.entry.image.path)
        if isinstance(part, Candidate) and other is not None:
            part.image.close()
            reason = f"it is the backing file of the guest {other}; convert that one first, then plan again"
            found.append(Dismissed(part.entry, part.record, Verdict.REFUSE, reason))
        else:
            found.append(part)
    return found


def _backing_of(source: ImageSource) -> str | None:
    if source.format is not ImageFormat.QCOW2:
        return None
    try:
        return resolved_backing(source.path, peek_header(source.path))
    except ImageError:
        return None


def _rests_on(entry: GuestEntry, template: ImageSource) -> bool:
    guest = entry.image
    # A raw guest whose overlay took its place is still called raw in the manifest. Nothing is read as qcow2 for
    # that: a forged header can only keep its own guest from being converted.
    thin = entry.in_place and looks_like(guest.path) is ImageFormat.QCOW2
    if (guest.format is not ImageFormat.QCOW2 and not thin) or guest.backing:
        return False
    return resolved_backing(guest.path, peek_header(guest.path)) == template.path


def _objection(image: Image, record: PlannedImage, template: PlannedImage, allow_loss: frozenset[Loss]) -> str:
    """Why a guest may not be converted; empty where it may.

    :raises ImageError: its tables are damaged.
    """
    template_files = {loop_file(path) for path in template.paths}
    inspect(image)
    if record.source.path in template_files:
        return "the template is a loop device over it"
    if record.virtual_size < template.virtual_size:
        return (
            f"its disk is smaller than the template's ({format_size(record.virtual_size)} and"
            f" {format_size(template.virtual_size)}). Was it copied from another template?"
        )
    if record.source.format is ImageFormat.QCOW2:
        header = peek_header(record.source.path)
        for count, what in ((header.snapshots, Loss.SNAPSHOTS), (header.bitmaps, Loss.BITMAPS)):
            if count and what not in allow_loss:
                kind = "internal snapshot" if what is Loss.SNAPSHOTS else "persistent bitmap"
                many = f"{count} {kind}{'' if count == 1 else 's'}"
                return f"it has {many}, which an overlay would lose. `allow_loss: [{what}]` accepts that"
    return ""
