"""The apply task of a guest: its overlay takes the place of the original."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from batchdiff.applying.checks.staleness import changes_since_planned, check_unchanged, stale, with_accepted
from batchdiff.applying.checks.verify import Check, Comparison, verify
from batchdiff.applying.guests.commands import command
from batchdiff.applying.guests.file_names import original_names, require_examinable
from batchdiff.applying.guests.guest_files import overlay_was_written
from batchdiff.applying.guests.overlay_source import current_overlay, planned_overlay
from batchdiff.applying.journal.records import Goal, GuestState, Step
from batchdiff.applying.session.change_detection import ChangeDetector
from batchdiff.applying.session.session import Run
from batchdiff.applying.swap.incoming import IncomingFile
from batchdiff.applying.swap.refusals import CHANGED_ASIDE
from batchdiff.applying.swap.task import Outgoing
from batchdiff.applying.template.publication import Publication
from batchdiff.applying.writer.overlay_writer import write_overlay
from batchdiff.choices import Retire, VerifyMode
from batchdiff.errors import BatchdiffError, DifferenceError, GuestError
from batchdiff.extents import Extents
from batchdiff.files.fingerprint import NO_FILE, fingerprint_at
from batchdiff.frozen import frozen
from batchdiff.image.image import Image
from batchdiff.image_source import ImageSource
from batchdiff.linux.metadata import copy_metadata, limit_mode, prepare
from batchdiff.plan.extents import extents_of
from batchdiff.plan.overlay_options import backing_name
from batchdiff.plan.plan import GuestToConvert, PlannedImage
from batchdiff.progress import Phase, summing
from batchdiff.qcow2.faults import FormatError


@frozen
class ApplyOptions:
    """The options of apply. ``guests``: names; None for all."""

    retire: Retire
    verify: VerifyMode = VerifyMode.FULL
    guests: tuple[str, ...] | None = None


class ApplyTask:
    """The apply task of a guest.

    :raises GuestError: the guest's recorded state or the options do not allow an apply.
    :raises ImageError: a file cannot be examined.
    """

    goal, final = Goal.APPLY, Step.RETIRED
    needs_comparison, older = True, None

    def __init__(
        self,
        plan: GuestToConvert,
        template: PlannedImage,
        run: Run,
        options: ApplyOptions,
        publication: Publication,
    ) -> None:
        state = run.journal.state(plan.name)
        _check_start(plan, state, options.retire)
        for path in (plan.source.path, plan.overlay_path):
            require_examinable(path)
        self.guest, self.retire, self.original = plan.name, plan.retired(options.retire), plan.image
        self.data_file = plan.options.data_file
        self.outgoing = Outgoing(plan.source, original_names(plan.source.path), plan.image.fingerprints[0])
        self.incoming = _overlay(planned_overlay(plan, template.source), state)
        self._plan, self._template, self._run = plan, template, run
        self._mode, self._publication = options.verify, publication
        self._detector: ChangeDetector | None = None

    def check(self, original: Image) -> None:
        """Refuse a changed original or template; the first call compares the original with the plan."""
        if self._detector is None:
            if self.incoming.was_published:
                self._require_untouched(original)
            planned = with_accepted(self._plan.image, self._run.template)
            check_unchanged(original, planned, self._run.journal.history, self._mode)
            self._detector = ChangeDetector(self._run.journal)
        self._detector.check_chain(original)
        self._run.check_template()

    def write(self, fd: int, original: Image, data_fd: int | None = None) -> list[str]:
        """Write the overlay, with the original's metadata if possible; return remarks about losses."""
        self._publication.check(self._plan)
        source = original.layers[0].fd
        files = [fd] if data_fd is None else [fd, data_fd]
        lost = [what for each in files for what in prepare(source, each)]
        content = self._extents, self._backing
        try:
            advance = summing(self._run.reporter(self.guest, Phase.WRITE))
            check = self._run.stop.check
            write_overlay(fd, original, self._plan, content, check=check, advance=advance, data_fd=data_fd)
        except FormatError as error:
            raise GuestError(
                f"cannot write the overlay of {self.guest}",
                why=str(error),
                remedy="Plan again with a larger `overlay.cluster_size` or a shorter template path.",
            ) from error
        _, *others = original.own_files
        for each in files:
            lost += copy_metadata(source, each)
            limit_mode(each, [other.fd for other in others])
        return [f"could not keep {what}" for what in dict.fromkeys(lost)]

    @cached_property
    def _extents(self) -> Extents:
        """The extents to write. Until they are first used, they stay text, which takes less memory."""
        return extents_of(self._plan.diff)

    @property
    def _backing(self) -> tuple[str, str]:
        plan, template = self._plan, self._template.source
        return backing_name(plan.overlay_path, template.path, plan.options.backing_path), template.format.value

    def verify(self, original: Image, overlay: ImageSource, ended: Callable[[], bool]) -> None:
        """Verify the overlay in the chosen mode."""
        if self.incoming.was_published:
            # A VM may have written to the overlay. If it was killed, clusters may have leaked, which is harmless.
            comparison = Comparison(original.source, overlay, check=Check.LEAKS_ALLOWED)
        else:
            # No VM has written to the overlay: it contains only the planned extents.
            comparison = Comparison(original.source, overlay, (self._extents, self._plan.diff.unit))
        try:
            verify(comparison, self._mode, ended, self._run.reporter(self.guest, Phase.VERIFY))
        except DifferenceError as error:
            raise self._explained(original, error) from error
        if self._mode is not VerifyMode.FULL:
            self._publication.ask_qemu(overlay, ended)

    def if_different(self) -> None:
        """Return None: a difference is a failure."""

    def after_publish(self) -> list[str]:
        """Protect the template if that is planned, and record the overlay in the template's sidecar."""
        self._publication.protect_and_record(self._plan)
        return []

    def before_end(self) -> list[str]:
        """Do nothing."""
        return []

    def _explained(self, original: Image, error: DifferenceError) -> BatchdiffError:
        if self.incoming.was_published:
            return _used(self._plan, original.source.path, self._run.journal.state(self.guest), error)
        planned = with_accepted(self._plan.image, self._run.template)
        changes = changes_since_planned(original, planned, self._run.journal.history)
        if changes:
            return stale(changes)
        # No write to the original is known: the machine may be faulty.
        return DifferenceError(
            error.what,
            why=error.why,
            remedy="The overlay was discarded, and the original was left alone. If nothing wrote to the"
            " original, test the memory and the disk of this machine, and report this failure as a bug.",
        )

    def _require_untouched(self, original: Image) -> None:
        """Refuse a changed original: the operator must choose a disk."""
        planned = (self.original.fingerprints[0], *(known for _, known in self.original.other_files))
        for layer, before in zip(original.own_files, planned, strict=False):
            if before.is_unwritten(now := layer.fingerprint()):
                continue
            raise GuestError(
                f"the original {layer.path} was left alone",
                why=f"it has changed ({before.changes(now)}) since its overlay {self._plan.overlay_path} was"
                f" published, so only you know which of the two to keep",
                remedy=CHANGED_ASIDE if original.source.path != self._plan.source.path else self._choice(),
            )

    def _choice(self) -> str:
        back = command("restore", self.guest, "--discard-changes")
        return (
            f"If the overlay is the VM's disk, remove the original yourself. To go back to the original: {back}."
        )


def _overlay(planned: ImageSource, state: GuestState | None) -> IncomingFile:
    """Return a guest's overlay.

    A run may have died after it published the overlay, but before it recorded the publication. Then only the file
    at the overlay's path shows that the overlay is published.
    """
    known = None if state is None else state.overlay
    is_there = known is not None and known.is_same_file(fingerprint_at(planned.path) or NO_FILE)
    if is_there or (state is not None and state.published):
        return IncomingFile(current_overlay(planned), known, was_published=True)
    return IncomingFile(planned)


def _check_start(guest: GuestToConvert, state: GuestState | None, how: Retire) -> None:
    if state is not None and state.goal is not Goal.APPLY and state.step is not Step.PURGED:
        raise GuestError(
            f"a `batchdiff {state.goal}` of {guest.name} was not completed",
            remedy=f"Finish that first: {command(state.goal, guest.name)}.",
        )
    if guest.overlay_path == guest.source.path and how is Retire.KEEP:
        raise GuestError(
            f"the overlay of {guest.name} takes its original's name, so the original cannot keep that name",
            remedy="Use `--retire quarantine` or `--retire delete`.",
        )


def _used(guest: GuestToConvert, original: str, state: GuestState | None, error: DifferenceError) -> GuestError:
    how = f"remove {original} yourself"
    if original != guest.source.path:
        how = purge = f"run {command('purge', guest.name, '--used')}"
        if state is None or state.step is not Step.RETIRED:  # purge does nothing until the quarantine is recorded
            how = f"first run {command('apply', guest.name, '--retire', 'quarantine')}; then {purge}"
    what = f"the original of {guest.name} was not retired"
    if state is not None and state.overlay is not None and not overlay_was_written(guest, state):
        # Perhaps a disk has a fault, so nothing shows which of the two is right.
        return GuestError(
            what,
            why=f"original and overlay differ, though there is no sign of a write to the overlay ({error.what})",
            remedy=f"Before you decide which of the two to keep, run {command('verify', guest.name)}.",
        )
    surely = "" if state is not None and state.overlay is not None else "probably "
    why = f"its VM has {surely}run on the overlay since the conversion ({error.what})"
    return GuestError(what, why=why, remedy=f"If you trust the overlay, {how}.")
