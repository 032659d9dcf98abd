"""The way of a guest under apply: its overlay takes the place of the original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from batchdiff.applying.metadata import copy_metadata, prepare
from batchdiff.applying.notes import Goal, Standing
from batchdiff.applying.overlay import NewImage, write_image
from batchdiff.applying.places import original_names
from batchdiff.applying.run import Run
from batchdiff.applying.staleness import check_template_at_its_path, check_unchanged
from batchdiff.applying.task import Incoming, Outgoing, Task
from batchdiff.applying.verification import Comparison, verify
from batchdiff.applying.verify_mode import VerifyMode
from batchdiff.errors import GuestError, PlanError
from batchdiff.image.fingerprint import Fingerprint, fingerprint_at
from batchdiff.image.image import Image
from batchdiff.image.source import ImageFormat, ImageSource
from batchdiff.model.manifest import Retire
from batchdiff.model.overlay_options import Compression, backing_name, geometry_of
from batchdiff.model.plan import GuestPlan, PlannedImage
from batchdiff.model.plan_extents import extents_of


@dataclass(frozen=True, slots=True)
class Manner:
    """How apply goes about it: what the operator chose, and what follows a publication."""

    retire: Retire
    verify: VerifyMode
    on_published: Callable[[GuestPlan], list[str]]


def overlay_source(guest: GuestPlan, template: ImageSource) -> ImageSource:
    """A guest's overlay, with the chain that it rests on."""
    return ImageSource(guest.overlay_path, ImageFormat.QCOW2, (template, *template.backing))


def planned_parts(guest: GuestPlan) -> tuple[PlannedImage, int]:
    """The image and the cluster size of a guest that shall be converted.

    :raises PlanError: it was not compared.
    """
    if guest.image is None or guest.options.cluster_size is None:
        raise PlanError(f"guest {guest.name} shall be converted, but was not compared")
    return guest.image, guest.options.cluster_size


def overlay_task(guest: GuestPlan, template: PlannedImage, run: Run, manner: Manner) -> Task:
    """What apply has to do with a guest, from wherever it stands.

    :raises GuestError: it may not be taken further.
    """
    standing = run.journal.standing(guest.name)
    _check_way(guest, standing, manner.retire)
    record, _ = planned_parts(guest)
    way = _Overlaying(guest, template, run, manner.verify, standing)
    return Task(
        guest=guest.name,
        goal=Goal.APPLY,
        outgoing=Outgoing(guest.source, original_names(guest.source.path), record.fingerprints[0]),
        incoming=Incoming(
            overlay_source(guest, template.source),
            known=None if standing is None else standing.overlay,
            published=way.is_published,
        ),
        retire=manner.retire,
        write=way.write,
        verify=way.verify,
        check=way.check,
        on_published=partial(manner.on_published, guest),
    )


@dataclass(frozen=True, slots=True)
class _Overlaying:
    """Writes, judges and checks for one guest; see :mod:`batchdiff.applying.task`. ``standing``: at the start."""

    guest: GuestPlan
    template: PlannedImage
    run: Run
    mode: VerifyMode
    standing: Standing | None

    @property
    def is_published(self) -> bool:
        """Whether an earlier run has published the overlay."""
        return self.standing is not None and self.standing.published

    def write(self, fd: int, original: Image) -> list[str]:
        """The overlay, with the original's owner, mode and attributes."""
        guest, (record, cluster_size) = self.guest, planned_parts(self.guest)
        source = original.layers[0].fd
        lost = prepare(source, fd)
        name = backing_name(guest.overlay_path, self.template.source.path, guest.options.backing_path)
        new = NewImage(
            virtual_size=record.virtual_size,
            geometry=geometry_of(guest.options, cluster_size),
            extents=extents_of(guest),
            backing=(name, self.template.source.format.value),
            compress=guest.options.compression is not Compression.NONE,
            lazy_refcounts=guest.options.lazy_refcounts,
        )
        write_image(fd, original, new, check=self.run.stop.check)
        return [f"could not keep {what}" for what in (*lost, *copy_metadata(source, fd))]

    def verify(self, original: Image, overlay: ImageSource, ended: Callable[[], bool]) -> None:
        """By the mode that was chosen; an overlay that has been used since cannot be compared any more."""
        written = None
        if self.standing is not None and self.is_published:
            _check_unused(self.guest, self.standing.overlay)
        else:
            # The planned extents tell what was written only of a file that this very run has written.
            written = (extents_of(self.guest), self.guest.unit)
        verify(Comparison(original.source, overlay, written), self.mode, ended)

    def check(self, original: Image) -> None:
        """Original and template against the plan."""
        record, _ = planned_parts(self.guest)
        check_unchanged(original, record, self.run.journal.notes)
        check_template_at_its_path(self.template, self.run.journal.notes)


def _check_way(guest: GuestPlan, standing: Standing | None, how: Retire) -> None:
    if standing is not None and standing.goal is not Goal.APPLY:
        raise GuestError(
            f"a `batchdiff {standing.goal}` of {guest.name} was begun and not finished",
            remedy=f"Run `batchdiff {standing.goal}` again first.",
        )
    if guest.overlay_path == guest.source.path and how is Retire.KEEP:
        raise GuestError(
            f"the overlay of {guest.name} takes the original's own name, so the original cannot keep it",
            remedy="Use `--retire quarantine` or `--retire delete`.",
        )


def _check_unused(guest: GuestPlan, published: Fingerprint | None) -> None:
    now = fingerprint_at(guest.overlay_path)
    if published is None or now is None or not published.differs_in_ctime_only(now):
        raise GuestError(
            f"the original of {guest.name} was not retired",
            why=f"its overlay {guest.overlay_path} has been used since, so the two cannot be compared any more",
            remedy="If the VM runs well on the overlay, remove the original yourself.",
        )
