"""A guest to restore, with the state and the actions that its tasks share."""

from __future__ import annotations

import os
from dataclasses import replace

from batchdiff.applying.checks.overlay_losses import LossesAllowed
from batchdiff.applying.guests.commands import command
from batchdiff.applying.guests.file_names import original_names, overlay_names
from batchdiff.applying.guests.guest_files import Found, changes_aside, is_of_later_plan
from batchdiff.applying.guests.overlay_source import current_overlay, planned_overlay
from batchdiff.applying.journal.records import GuestState
from batchdiff.applying.session.session import Run
from batchdiff.applying.swap.incoming import IncomingFile
from batchdiff.applying.swap.refusals import CHANGED_ASIDE
from batchdiff.applying.swap.task import Outgoing
from batchdiff.applying.template.sidecar import forget_overlay
from batchdiff.files.fingerprint import NO_FILE
from batchdiff.frozen import frozen
from batchdiff.image_source import ImageSource
from batchdiff.linux.call_failures import reason
from batchdiff.plan.plan import GuestToConvert, PlannedImage


@frozen
class RestoreOptions:
    """The options of restore. ``guests``: names; None for all.

    ``discard_changes``: go back to the originals, whatever VMs have written since. ``losses``: the kinds of
    loss that are accepted if an image is rebuilt.
    """

    guests: tuple[str, ...] | None = None
    discard_changes: bool = False
    losses: LossesAllowed = frozenset()


@frozen
class GuestToRestore:
    """A guest to restore."""

    plan: GuestToConvert
    template: PlannedImage
    run: Run
    state: GuestState
    options: RestoreOptions

    def outgoing(self, overlay: Found | None) -> Outgoing:
        """Return the overlay as the outgoing file; ``overlay``: None if it is gone."""
        source = planned_overlay(self.plan, self.template.source)
        names = overlay_names(self.plan.overlay_path)
        if overlay is None:
            return Outgoing(source, names, NO_FILE)
        as_it_is = current_overlay(replace(source, path=overlay.path))
        # Any other data file was set by the operator after apply, so it is left alone.
        parts = tuple(path for path in as_it_is.other_files if path == self.plan.options.data_file)
        return Outgoing(replace(as_it_is, path=self.plan.overlay_path), names, overlay.now, parts)

    def original(self, found: Found) -> IncomingFile:
        """Return the original as the incoming file."""
        source = self.plan.source
        return IncomingFile(source, found.now, None if found.path == source.path else found.path)

    def rebuilt(self) -> IncomingFile:
        """Return the recorded rebuilt image as the incoming file."""
        return IncomingFile(self.rebuilt_source, self.state.rebuilt)

    @property
    def rebuilt_source(self) -> ImageSource:
        """The rebuilt image, at the original's path."""
        return replace(self.plan.source, backing=(), other_files=())

    def older(self) -> str | None:
        """Return the path of the original in quarantine; None if there is none, or only a later plan's."""
        quarantined = original_names(self.plan.source.path).quarantine
        is_ours = os.path.lexists(quarantined) and not is_of_later_plan(self.plan, self.state)
        return quarantined if is_ours else None

    def remark_on_older(self) -> list[str]:
        """Return a remark about any older original."""
        left = self.older()
        if left is None:
            return []
        if changes := changes_aside(self.plan):
            changed = f"the original in quarantine, {left}, has changed since it was planned: {changes}"
            return [f"rebuilt from the overlay, because {changed}. {CHANGED_ASIDE}"]
        purge = command("purge", self.plan.name, "--used")
        return [
            f"rebuilt with what its VM wrote. The older original is still at {left}; to delete it, run {purge}"
        ]

    def forget_overlay(self) -> list[str]:
        """Remove the overlay from the template's sidecar; return a remark if that cannot be written."""
        template = self.template.source.path
        try:
            plan = self.run.session.plan.checksum
            forget_overlay(template, self.plan.overlay_path, plan=plan, guest=self.plan.name)
        except OSError as error:
            return [f"the sidecar of {template} still names the overlay ({reason(error)})"]
        return []
