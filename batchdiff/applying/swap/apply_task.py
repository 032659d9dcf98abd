"""The task of a guest under apply: its overlay takes the place of the original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from batchdiff.applying.checks.staleness import changes_since_planned, check_unchanged, stale
from batchdiff.applying.checks.verify import Check, Comparison, verify
from batchdiff.applying.checks.verify_mode import VerifyMode
from batchdiff.applying.guests.commands import command
from batchdiff.applying.guests.file_names import original_names
from batchdiff.applying.guests.overlay_source import current_overlay, planned_overlay
from batchdiff.applying.journal.records import Goal, Standing, Step
from batchdiff.applying.session.change_detection import ChangeDetector
from batchdiff.applying.session.session import Run
from batchdiff.applying.swap.task import Incoming, Outgoing, Task
from batchdiff.applying.template.publication import Publication
from batchdiff.applying.writer.image_writer import NewImage, write_image
from batchdiff.choices import Retire
from batchdiff.errors import DifferenceError, GuestError
from batchdiff.extents import Extents
from batchdiff.image.image import Image
from batchdiff.image_source import ImageSource
from batchdiff.linux.metadata import copy_metadata, prepare
from batchdiff.plan.extents import extents_of
from batchdiff.plan.overlay_options import Compression, backing_name
from batchdiff.plan.plan import GuestToConvert, PlannedImage


@dataclass(frozen=True, slots=True)
class Manner:
    """How apply treats every guest: the operator's choices, and what follows a publication."""

    retire: Retire
    verify: VerifyMode
    publication: Publication


def overlay_task(guest: GuestToConvert, template: PlannedImage, run: Run, manner: Manner) -> Task:
    """Return the task of apply for a guest, whatever was done to it before.

    :raises GuestError: apply must not continue with it.
    """
    standing = run.journal.standing(guest.name)
    _check_way(guest, standing, manner.retire)
    published = standing is not None and standing.published
    way = _Overlaying(guest, template, run, manner, published)
    source = planned_overlay(guest, template.source)
    return Task(
        guest=guest.name,
        goal=Goal.APPLY,
        outgoing=Outgoing(guest.source, original_names(guest.source.path), guest.image.fingerprints[0]),
        incoming=Incoming(
            current_overlay(source) if published else source,
            known=None if standing is None else standing.overlay,
            published=published,
        ),
        retire=manner.retire,
        final=Step.RETIRED,
        write=way.write,
        verify=way.verify,
        check=way.check,
        on_published=way.on_published,
    )


@dataclass
class _Overlaying:
    """The functions of one guest's task; see :mod:`batchdiff.applying.swap.task`.

    ``published``: an earlier run has published the overlay, so a VM may have run on it.
    """

    guest: GuestToConvert
    template: PlannedImage
    run: Run
    manner: Manner
    published: bool
    _detector: ChangeDetector | None = None

    @cached_property
    def _extents(self) -> Extents:
        """The extents to write, parsed once; the text of other guests stays as it is, which takes less memory."""
        return extents_of(self.guest.diff)

    def write(self, fd: int, original: Image) -> list[str]:
        """Write the overlay, with the original's owner, mode and attributes."""
        guest = self.guest
        self.manner.publication.check(guest)
        source = original.layers[0].fd
        lost = prepare(source, fd)
        name = backing_name(guest.overlay_path, self.template.source.path, guest.options.backing_path)
        new = NewImage(
            virtual_size=guest.image.virtual_size,
            geometry=guest.diff.geometry,
            extents=self._extents,
            backing=(name, self.template.source.format.value),
            compress=guest.options.compression is not Compression.NONE,
            lazy_refcounts=guest.options.lazy_refcounts,
        )
        write_image(fd, original, new, check=self.run.stop.check)
        return [f"could not keep {what}" for what in (*lost, *copy_metadata(source, fd))]

    def verify(self, original: Image, overlay: ImageSource, ended: Callable[[], bool]) -> None:
        """Verify in the chosen mode; if a VM may have used the overlay, compare every byte."""
        # Only a file that this very run has written is known to hold the planned extents, and nothing else.
        written = None if self.published else (self._extents, self.guest.diff.unit)
        # A VM that was killed may have leaked clusters, which is harmless.
        check = Check.LEAKS_ALLOWED if self.published else Check.FLAWLESS
        try:
            verify(Comparison(original.source, overlay, written, check), self.manner.verify, ended)
        except DifferenceError as error:
            # Either a VM wrote to the overlay, or the original changed; otherwise this machine cannot be trusted.
            if self.published:
                raise _used(self.guest, original.source.path, error) from error
            changes = changes_since_planned(original, self.guest.image, self.run.journal.notes)
            if changes:
                raise stale(changes) from error
            raise DifferenceError(
                error.what,
                why=error.why,
                remedy="The overlay was thrown away, and the original was left as it is. If nothing wrote to the"
                " original, test the memory and the disk of this machine, and report this: it must never happen.",
            ) from error
        if self.manner.verify is not VerifyMode.FULL:
            self.manner.publication.ask_qemu(overlay, ended)

    def check(self, original: Image) -> None:
        """Check the original with its template: as planned at first, and unchanged from then on."""
        record = self.guest.image
        if self._detector is None:
            if self.published:
                self._require_untouched(original, record)
            check_unchanged(original, record, self.run.journal.notes, self.manner.verify)
            self._detector = ChangeDetector(self.run.journal)
        self._detector.check_chain(original)
        self.run.check_template()

    def _require_untouched(self, original: Image, record: PlannedImage) -> None:
        """Leave a changed original to the operator: a guest that is converted cannot be planned again.

        :raises GuestError: the original was written to since its overlay was published.
        """
        before, now = record.fingerprints[0], original.layers[0].fingerprint()
        if not before.differs_in_ctime_only(now):
            raise GuestError(
                f"the original {original.path} was left as it is",
                why=f"{before.changes(now)}, since its overlay {self.guest.overlay_path} was published: only you"
                " know which of the two counts",
                remedy="If the overlay is the VM's disk, remove the original yourself. To go back to the original:"
                f" {command('restore', self.guest.name, '--discard-changes')}.",
            )

    def on_published(self) -> list[str]:
        """Protect the template and record the overlay beside it."""
        return self.manner.publication.note(self.guest)


def _check_way(guest: GuestToConvert, standing: Standing | None, how: Retire) -> None:
    if standing is not None and standing.goal is not Goal.APPLY and standing.step is not Step.PURGED:
        raise GuestError(
            f"a `batchdiff {standing.goal}` of {guest.name} was interrupted",
            remedy=f"Finish that first: {command(standing.goal, guest.name)}.",
        )
    if guest.overlay_path == guest.source.path and how is Retire.KEEP:
        raise GuestError(
            f"the overlay of {guest.name} takes the original's own name, so the original cannot keep it",
            remedy="Use `--retire quarantine` or `--retire delete`.",
        )


def _used(guest: GuestToConvert, original: str, error: DifferenceError) -> GuestError:
    quarantined = original != guest.source.path
    how = command("purge", guest.name, "--used") if quarantined else f"remove {original} yourself"
    return GuestError(
        f"the original of {guest.name} was not retired",
        why=f"its VM has run on the overlay since ({error.what})",
        remedy=f"If you trust the overlay: {how}.",
    )
