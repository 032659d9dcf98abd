"""Selection of the guests to compare."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

from batchdiff.choices import Retire, Verdict
from batchdiff.dependents.dependents import Forbidden, dependents_in_manifest
from batchdiff.errors import GuestError, ImageError
from batchdiff.files import own_files
from batchdiff.files.filenames import shell_line
from batchdiff.files.fingerprint import fingerprint_at
from batchdiff.files.identity import identity_in, is_one_image
from batchdiff.foreign.vpc import largest_cylinder
from batchdiff.frozen import frozen
from batchdiff.image.backing_names import resolved_backing
from batchdiff.image.files import ReadObserver, is_block_device
from batchdiff.image.format_marks import looks_like
from batchdiff.image.image import Image
from batchdiff.image.in_use.check import Purpose, require_unused
from batchdiff.image.open import OverlayError, inspect, open_image, open_layer
from batchdiff.image.storage.template_storage import TemplateRisk, template_risk
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.linux.block_stack import Underlying, all_underlying
from batchdiff.managers.managed import why_managed
from batchdiff.manifest.manifest import GuestEntry, Manifest
from batchdiff.plan.earlier_plans import EarlierPlans
from batchdiff.plan.plan import PlannedImage, UntouchedGuest
from batchdiff.planning.guest_plans import untouched_guest
from batchdiff.planning.original_losses import forbidden_loss, losses_of
from batchdiff.planning.owners import PART, Owners
from batchdiff.planning.verdicts import Below
from batchdiff.progress import ignore
from batchdiff.units import format_size


@frozen
class Candidate:
    """A guest that can be compared."""

    entry: GuestEntry
    record: PlannedImage


class _Fleet(NamedTuple):
    """``under``: the files and devices that store the template."""

    manifest: Manifest
    template: PlannedImage
    under: Underlying
    plans: EarlierPlans
    observer: ReadObserver | None


Part = Candidate | UntouchedGuest
"""A guest that is still to be compared, or one whose verdict is known."""

_RESIZABLE = {ImageFormat.RAW, ImageFormat.QCOW2, ImageFormat.QED}
"""Formats that `qemu-img resize` can enlarge."""


def planned_image(image: Image) -> PlannedImage:
    """Return a plan's record of an open image."""
    return PlannedImage(image.source, image.virtual_size, image.fingerprints())


def examine_guests(
    manifest: Manifest,
    template: PlannedImage,
    plans: EarlierPlans,
    observer: ReadObserver | None = None,
    opened: Callable[[int], None] = ignore,
) -> list[Part]:
    """Examine all guests and decide which to compare.

    ``opened`` is called with the number of images done so far, the template included.
    """
    fleet = _Fleet(manifest, template, all_underlying(template.paths), plans, observer)
    parts: list[Part] = []
    opened(1)
    for entry in manifest.guests:
        parts.append(_decided_before(entry, template, plans) or _examine(entry, fleet))
        opened(1 + len(parts))
    return _without_needed(_with_own_files(parts, template, manifest), manifest)


def _decided_before(entry: GuestEntry, template: PlannedImage, plans: EarlierPlans) -> UntouchedGuest | None:
    if entry.converted is not None:
        return untouched_guest(entry, None, Verdict.SKIP, plans.reason(entry.converted))
    # A VM manager need not know that blocks are shared: file, format and size stay as they are.
    managed = why_managed(entry.paths, template.paths, entry.overlay_path) if entry.gets_overlay else ""
    if reason := entry.objection or managed:
        return untouched_guest(entry, None, Verdict.REFUSE, reason)
    return None


def _examine(entry: GuestEntry, fleet: _Fleet) -> Part:
    template, observer = fleet.template, fleet.observer
    # The fingerprint is taken before the header is read, so that a snapshot made during that read is noticed.
    begun = fingerprint_at(entry.image.path)
    try:
        _check_not_replaced(entry, template.source, observer)
        but = None if entry.rethin else template.source.path
        image = open_image(entry.image, no_overlay_of=but, observer=observer)
    except OverlayError:
        return untouched_guest(entry, None, Verdict.SKIP, already_thin(entry.image, observer))
    except ImageError as error:
        return untouched_guest(entry, None, Verdict.REFUSE, str(error))
    with image:
        record = planned_image(image)
        try:
            reason = _objection(image, entry, fleet)
            if not reason and record.fingerprints[0] != begun:
                reason = "it changed while it was being examined; shut its VM down"
        except (GuestError, ImageError) as error:
            reason = str(error)
    if reason:
        return untouched_guest(entry, record, Verdict.REFUSE, reason)
    return Candidate(entry, record)


def _with_own_files(parts: list[Part], template: PlannedImage, manifest: Manifest) -> list[Part]:
    """Refuse guests that have a file of another image: retiring such a guest could destroy the file."""
    owners = Owners()
    for entry in (*manifest.guests, *manifest.left_out):
        owners.add(entry.image.path, entry.name, "the guest")
    for part in parts:
        if isinstance(part, Candidate):
            for path in part.record.source.other_files:
                owners.add(path, part.entry.name, PART)
    for path in template.paths:
        owners.add(path, "", "a file of the template")

    def decided(part: Part) -> Part:
        if not isinstance(part, Candidate):
            return part
        source = part.record.source
        reason = owners.conflict(part.entry.name, source.path, source.other_files)
        return untouched_guest(part.entry, part.record, Verdict.REFUSE, reason) if reason else part

    return [decided(part) for part in parts]


def already_thin(guest: ImageSource, observer: ReadObserver | None = None) -> str:
    """Return why an overlay of the template is skipped, and how to make it thinner, if that is possible."""
    found = Below.TEMPLATE.value
    try:
        is_device = stat.S_ISBLK(os.stat(guest.path).st_mode)
    except OSError:  # it vanished a moment ago
        return found
    if is_device:
        return f"{found}, on a block device, which no thinner overlay can replace"
    if looks_like(guest.path, observer) is not ImageFormat.QCOW2:
        return f"{found}; only a qcow2 overlay can be replaced by a thinner one"
    keys = "" if guest.format is ImageFormat.QCOW2 else f", with `format: {ImageFormat.QCOW2}`,"
    return f"{found}; `rethin: true`{keys} compares it with the template, and may make it thinner"


def _without_needed(parts: list[Part], manifest: Manifest) -> list[Part]:
    """Refuse guests whose files other images need, or may need: those images could be lost."""
    dependents = dependents_in_manifest(manifest)
    files = {
        part.entry.name: (part.entry.image.path, *part.record.source.other_files)
        for part in parts
        if isinstance(part, Candidate) and part.entry.gets_overlay
    }
    paths = [path for own in files.values() for path in own]
    resting = dependents.on_each(paths, forbidden=Forbidden.IGNORED)
    # Dependents are reported by their real paths, even if they are block devices.
    guests = {os.path.realpath(entry.image.path): entry.name for entry in (*manifest.guests, *manifest.left_out)}
    found: list[Part] = []
    for part in parts:
        own = files.get(part.entry.name if isinstance(part, Candidate) else "", ())
        itself = {os.path.realpath(path) for path in own[:1]}
        others = [other for path in own for other in resting[path].paths if other not in itself]
        doubtful = [other for path in own for other in resting[path].doubtful]
        if isinstance(part, Candidate) and (others or doubtful):
            reason = f"{_why_needed(others, doubtful, guests)}, then plan again"
            found.append(untouched_guest(part.entry, part.record, Verdict.REFUSE, reason))
        else:
            found.append(part)
    return found


def _why_needed(others: list[str], doubtful: list[str], guests: dict[str, str]) -> str:
    named = _first_of(others or doubtful, guests)
    if others:
        how = "make that image standalone (`qemu-img convert`) or remove it"
        if len(others) > 1:
            how = "make those images standalone (`qemu-img convert`) or remove them"
        return f"it is needed by {named}, which would be lost without it; {how} first"
    unread = "that file or folder" if len(doubtful) == 1 else "those files or folders"
    return f"it may be needed by {named}, which would be lost without it; make {unread} readable"


def _first_of(images: list[str], guests: dict[str, str]) -> str:
    first = min(images, key=lambda path: path not in guests)
    shown = f"the guest {guests[first]}" if first in guests else first
    return f"{shown} and {len(images) - 1} more" if len(images) > 1 else shown


def _check_not_replaced(entry: GuestEntry, template: ImageSource, observer: ReadObserver | None) -> None:
    """Raise OverlayError if a guest's overlay has replaced it, but the manifest declares it as it was before.

    This reads no data through an overlay, so a forged header can only keep its own guest from being converted.
    """
    guest, form, chosen = entry.image, ImageFormat(entry.options.format), entry.options.encryption
    secret = None if chosen is None else chosen.secret_file
    if entry.rethin or (guest.format is form and guest.secret_file == secret) or not entry.in_place:
        return
    if looks_like(guest.path, observer) is not form:
        return
    overlay = ImageSource(guest.path, form, secret_file=secret)
    try:
        with closing(open_layer(overlay, observer)) as layer:
            named = resolved_backing(overlay, layer.backing)
    except ImageError:
        if guest.format is form or secret is not None:
            return  # it may be the guest itself, which need not be encrypted in the same way as the overlay
        raise
    if named is not None and is_one_image(template.path, named):
        raise OverlayError(f"cannot use {guest.path}", why=f"it is an overlay of {template.path}")


def _objection(image: Image, entry: GuestEntry, fleet: _Fleet) -> str:
    manifest, template = fleet.manifest, fleet.template
    # A block device is always kept.
    retire = Retire.KEEP if is_block_device(image.layers[0].fd) else manifest.retire
    for file in image.own_files:
        identity = identity_in(os.fstat(file.fd))
        if reason := _stores_template(template_risk(fleet.under, identity, retire), template):
            return reason
    aside = entry.image.path + own_files.QUARANTINE
    # If its overlay takes its path, an original has this name for a moment, even if it is to be deleted.
    goes_aside = entry.gets_overlay and (retire is Retire.QUARANTINE or entry.in_place)
    if goes_aside and os.path.lexists(aside):
        return (
            f"its name in quarantine is taken: {aside} is the original of an earlier conversion;"
            f" {fleet.plans.way_out_of_quarantine(aside)}, or move it away"
        )
    # The tables are inspected after this check, because those of an image in use may be inconsistent.
    require_unused(image, Purpose.GUEST, domain=entry.domain)
    inspect(image, refcounts=True)
    if missing := _missing_bytes(image, template):
        return _too_small(entry.image, template.virtual_size, missing)
    if not entry.gets_overlay:
        return ""
    only_below = not image.layers[0].losses.encryption
    return forbidden_loss(losses_of(image, entry.options), manifest.allow_loss, only_below=only_below)


def _missing_bytes(image: Image, template: PlannedImage) -> int:
    """Return how many bytes a guest's disk lacks; 0 if a VHD's rounding can explain that."""
    missing = max(template.virtual_size - image.virtual_size, 0)
    is_vhd = ImageFormat.VPC in {image.source.format, template.source.format}
    return 0 if is_vhd and missing < largest_cylinder(template.virtual_size) else missing


def _too_small(guest: ImageSource, size: int, missing: int) -> str:
    if missing >= largest_cylinder(size):
        ours, theirs = format_size(size - missing), format_size(size)
        if ours.replace(".0 ", " ") == theirs.replace(".0 ", " "):
            ours, theirs = str(size - missing), f"{size} bytes"
        return (
            f"its disk is smaller than the template's ({ours} and {theirs}). Was it copied from another template?"
        )
    shorter = f"its disk is {format_size(missing)} smaller than the template's. If a conversion to or from VHD"
    if guest.format not in _RESIZABLE or guest.secret_file or stat.S_ISBLK(os.stat(guest.path).st_mode):
        return (
            f"{shorter} caused that, use a raw or qcow2 copy that `qemu-img resize` has enlarged to {size} bytes"
        )
    resize = shell_line(["qemu-img", "resize", "-f", guest.format, guest.path, str(size)])
    return f"{shorter} shortened it, `{resize}` gives it the template's size"


def _stores_template(risk: TemplateRisk, template: PlannedImage) -> str:
    if risk is TemplateRisk.STORED_IN_GUEST:
        return "the template is stored inside this guest, either as one of its files or through a block device"
    if risk is TemplateRisk.UNTRACED:
        return (
            f"the template {template.source.path} is stored on a block device whose own storage cannot be traced,"
            " so it could be stored in a file that would be deleted. Use `retire: quarantine` or `retire: keep`"
        )
    return ""
