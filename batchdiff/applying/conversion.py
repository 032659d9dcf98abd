"""Converts one guest, in the order that loses nothing (docs/safety.md).

::

    checked -> written -> verified -> published -> retired        each in the journal before the next begins
       |          |          |
       +----------+----------+--- fails: the temporary file goes, the original was never touched
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from dataclasses import dataclass
from typing import Protocol

from batchdiff.applying.journal import Journal, Standing, Step
from batchdiff.applying.metadata import copy_metadata
from batchdiff.applying.overlay import NewImage, write_image
from batchdiff.applying.renaming import rename_without_replacing
from batchdiff.applying.retire import found_quarantined, objection, put_back, retire_original
from batchdiff.applying.staleness import check_both_unchanged, check_unchanged
from batchdiff.applying.verification import verify_overlay
from batchdiff.applying.verify_mode import VerifyMode
from batchdiff.errors import BatchdiffError, GuestError, PlanError
from batchdiff.image.fingerprint import Fingerprint, fingerprint_of
from batchdiff.image.image import Image
from batchdiff.image.opening import inspect, open_image
from batchdiff.image.source import ImageFormat, ImageSource
from batchdiff.model.manifest import Retire
from batchdiff.model.outcome import GuestOutcome, Status
from batchdiff.model.overlay_options import Compression, backing_name, geometry_of
from batchdiff.model.plan import GuestPlan, PlannedImage, Savings
from batchdiff.model.plan_file import sync_folder
from batchdiff.qcow2.header import FormatError

TEMPORARY_SUFFIX = ".batchdiff-tmp"


class Watch(Protocol):
    """Is told what happens; must not fail."""

    def step(self, guest: str, step: Step) -> None:
        """A guest has reached a step."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What all guests of an apply have in common."""

    template: PlannedImage
    journal: Journal
    retire: Retire
    verify: VerifyMode
    watch: Watch


@dataclass(frozen=True, slots=True)
class _Guest:
    """A guest with the parts of its plan that every convertible guest has."""

    plan: GuestPlan
    record: PlannedImage
    savings: Savings
    cluster_size: int

    @property
    def name(self) -> str:
        return self.plan.name


def convert(run: Conversion, plan: GuestPlan) -> GuestOutcome:
    """Takes one guest to where the plan wants it, from wherever an earlier apply left it.

    :raises BatchdiffError: it cannot be; the original is untouched, or verified and published all the same.
    """
    guest = _planned(plan)
    try:
        standing = _recovered(run, guest)
        if standing is not None and standing.step is Step.RETIRED:
            return _outcome(guest, Status.UNCHANGED, standing.original)
        if standing is not None and (original := _retired_unnoted(run, guest, standing)):
            return _outcome(guest, Status.CONVERTED, _noted(run, guest, original))
        if standing is not None and run.retire is Retire.KEEP:
            return _outcome(guest, Status.UNCHANGED, "kept")
        with open_image(plan.source) as image:
            check_unchanged(image, guest.record, run.template, run.journal)
            return _converted(run, guest, image, standing)
    except FormatError as error:
        raise GuestError(f"cannot write the overlay of {guest.name}", why=str(error)) from error
    except OSError as error:
        raise _disk_error(guest, error) from error


def _retired_unnoted(run: Conversion, guest: _Guest, standing: Standing) -> str:
    """What became of an original that an apply retired when it died; empty where it still has its name.

    A deletion that was only begun is undone: before it begins again the overlay is verified again.
    """
    path, planned = _original(guest)
    if put_back(path, planned):
        run.journal.record_changed(_fingerprint(path))
        return ""
    original = found_quarantined(path, planned)
    if original or os.path.lexists(path):
        return original
    if standing.overlay is None or standing.overlay.changes(_fingerprint(guest.plan.overlay_path)):
        raise GuestError(
            f"the original {path} is gone, and the overlay {guest.plan.overlay_path} is not as it was published",
            why="somebody removed or moved the original, or a VM runs on the overlay",
            remedy="Nothing was done. If the VM runs well on the overlay, all is well.",
        )
    return "gone: an earlier apply deleted it, or somebody moved it"


def _planned(plan: GuestPlan) -> _Guest:
    if plan.image is None or plan.savings is None or plan.options.cluster_size is None:
        raise PlanError(f"guest {plan.name} shall be converted, but was not compared")
    return _Guest(plan, plan.image, plan.savings, plan.options.cluster_size)


def _recovered(run: Conversion, guest: _Guest) -> Standing | None:
    """Where the guest stands after what an interrupted apply left has been cleared away."""
    standing = run.journal.standing(guest.name)
    if standing is None or standing.step in {Step.PUBLISHED, Step.RETIRED}:
        return standing
    if standing.step is Step.VERIFIED and _is_published(guest, standing):
        # It has the name, but perhaps only in memory so far.
        sync_folder(os.path.dirname(guest.plan.overlay_path))
        return _record(run, guest, Standing(Step.PUBLISHED, overlay=_fingerprint(guest.plan.overlay_path)))
    if standing.temporary is not None:
        _discard(standing.temporary)
    return None


def _is_published(guest: _Guest, standing: Standing) -> bool:
    """Whether the verified file stands under its final name: the apply died between rename and journal."""
    with contextlib.suppress(FileNotFoundError):
        now = _fingerprint(guest.plan.overlay_path)
        known = standing.overlay
        return known is not None and (now.device, now.inode, now.mtime_ns) == (
            known.device,
            known.inode,
            known.mtime_ns,
        )
    return False


def _converted(run: Conversion, guest: _Guest, image: Image, standing: Standing | None) -> GuestOutcome:
    notes: list[str] = []
    against = objection(image.layers[0].fd, guest.record.source.path, run.retire)
    if against:
        raise GuestError(f"the original of {guest.name} cannot be retired", why=against)
    if standing is None:
        inspect(image)
        notes = _publish(run, guest, image)
    elif run.retire is not Retire.KEEP:
        _verify_again(run, guest, image, standing)
    original = _retire(run, guest, image)
    status = Status.CONVERTED if standing is None or run.retire is not Retire.KEEP else Status.UNCHANGED
    return _outcome(guest, status, original, notes)


def _publish(run: Conversion, guest: _Guest, image: Image) -> list[str]:
    """Writes, verifies and publishes the overlay; gives what the operator should know."""
    target = guest.plan.overlay_path
    if os.path.lexists(target):
        raise GuestError(f"{target} exists already", remedy="Move it away, or plan with another overlay path.")
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    _record(run, guest, Standing(Step.CHECKED, temporary))
    try:
        lost = _write(guest, image, temporary, run.template.source)
        _record(run, guest, Standing(Step.WRITTEN, temporary))
        _verify(run, guest, image, temporary)
        check_both_unchanged(image, guest.record, run.template, run.journal)
        _record(run, guest, Standing(Step.VERIFIED, temporary, _fingerprint(temporary)))
        rename_without_replacing(temporary, target)
    except BaseException:
        _discard(temporary)
        raise
    _record(run, guest, Standing(Step.PUBLISHED, overlay=_fingerprint(target)))
    return [f"could not keep {what}" for what in lost]


def _write(guest: _Guest, image: Image, path: str, template: ImageSource) -> list[str]:
    options = guest.plan.options
    name = backing_name(guest.plan.overlay_path, template.path, options.backing_path)
    new = NewImage(
        virtual_size=guest.record.virtual_size,
        geometry=geometry_of(options, guest.cluster_size),
        extents=guest.plan.extents,
        backing=(name, template.format.value),
        compress=options.compression is not Compression.NONE,
        lazy_refcounts=options.lazy_refcounts,
    )
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        write_image(fd, image, new)
        lost = copy_metadata(image.layers[0].fd, fd)
        # Where this fails the file is thrown away: the kernel may have dropped the pages and marked them clean.
        os.fsync(fd)
    finally:
        os.close(fd)
    return lost


def _verify(run: Conversion, guest: _Guest, image: Image, path: str) -> None:
    overlay = ImageSource(path, ImageFormat.QCOW2, (run.template.source, *run.template.source.backing))
    granule = geometry_of(guest.plan.options, guest.cluster_size).granule
    verify_overlay(image, overlay, run.verify, written=guest.plan.extents, granule=granule)


def _verify_again(run: Conversion, guest: _Guest, image: Image, standing: Standing) -> None:
    """An overlay that an earlier apply published is not trusted, least of all when the original is to go."""
    path = guest.plan.overlay_path
    if standing.overlay is not None and standing.overlay.changes(_fingerprint(path)):
        raise GuestError(
            f"the original of {guest.name} was not retired",
            why=f"its overlay {path} has been used since, so the two cannot be compared any more",
            remedy="If the VM runs well on the overlay, remove the original yourself.",
        )
    _verify(run, guest, image, path)


def _retire(run: Conversion, guest: _Guest, image: Image) -> str:
    if run.retire is Retire.KEEP:
        return "kept"
    check_both_unchanged(image, guest.record, run.template, run.journal)
    top = image.layers[0]
    return _noted(run, guest, retire_original(top.fd, top.path, top.fingerprint(), run.retire))


def _original(guest: _Guest) -> tuple[str, Fingerprint]:
    return guest.record.source.path, guest.record.fingerprints[0]


def _noted(run: Conversion, guest: _Guest, original: str) -> str:
    overlay = _fingerprint(guest.plan.overlay_path)
    _record(run, guest, Standing(Step.RETIRED, overlay=overlay, original=original))
    return original


def _record(run: Conversion, guest: _Guest, standing: Standing) -> Standing:
    run.journal.record(guest.name, standing)
    run.watch.step(guest.name, standing.step)
    return standing


def _outcome(guest: _Guest, status: Status, original: str, notes: list[str] | None = None) -> GuestOutcome:
    try:
        info = os.stat(guest.plan.overlay_path)
    except FileNotFoundError as error:
        raise GuestError(
            f"the overlay {guest.plan.overlay_path} is gone",
            why="the journal says that it was published",
            remedy="Was it moved? The original, if it was kept, is still there.",
        ) from error
    return GuestOutcome(
        name=guest.name,
        status=status,
        predicted_overlay_bytes=guest.savings.overlay_bytes,
        actual_overlay_bytes=info.st_size,
        predicted_overlay_disk_bytes=guest.savings.overlay_disk_bytes,
        actual_overlay_disk_bytes=info.st_blocks * 512,
        original=original,
        notes=tuple(notes or ()),
    )


def _fingerprint(path: str) -> Fingerprint:
    info = os.lstat(path)
    return fingerprint_of(info, info.st_size)


def _discard(path: str) -> None:
    """Removes a temporary file of ours, and nothing else."""
    if path.endswith(TEMPORARY_SUFFIX):
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISREG(os.lstat(path).st_mode):
                os.unlink(path)


def _disk_error(guest: _Guest, error: OSError) -> BatchdiffError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        remedy = "Make room and apply again."
    elif error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        remedy = "Check the permissions of the folder, then apply again."
    else:
        remedy = "Look into the kernel log, then apply again."
    place = f" ({error.filename})" if error.filename else ""
    return GuestError(f"cannot convert {guest.name}", why=f"{error.strerror or error}{place}", remedy=remedy)
