"""What follows a publication, before any original goes: the template is protected and its sidecar written."""

from __future__ import annotations

from dataclasses import dataclass, field

from batchdiff.applying.protection import protect
from batchdiff.applying.run import Run
from batchdiff.applying.sidecar import check_other_overlays, record_overlay
from batchdiff.applying.template import known_digest
from batchdiff.image.digest import content_digest
from batchdiff.image.fingerprint import Fingerprint
from batchdiff.model.plan import GuestPlan, Plan
from batchdiff.model.sidecar import Chain, Origin


@dataclass(slots=True)
class Publication:
    """The template of a plan, as its overlays are published one by one."""

    plan: Plan
    run: Run
    _digest: str = ""
    _accepted: Chain = ()
    _said: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._accepted = self.run.template.fingerprints()

    def check(self, guest: GuestPlan) -> None:
        """Make sure, before an overlay is written, that the template has one content for all its overlays.

        :raises PlanError: overlays of an earlier plan rest on another content of it, or nobody can tell.
        """
        check_other_overlays(self.run.template.path, known_digest(self.plan), guest.overlay_path)

    def note(self, guest: GuestPlan) -> list[str]:
        """Does it for one guest; gives what the operator should know, each thing once."""
        notes = [*self._protected(), *self._recorded(guest)]
        new = [note for note in notes if note not in self._said]
        self._said.update(notes)
        return new

    def _protected(self) -> tuple[str, ...]:
        if not self.plan.protect_template:
            return ()
        template = self.run.template
        try:
            return protect(template, self.run.journal)
        except OSError as error:  # the journal's disk is full, for one: that must not stop the other guests
            why = error.strerror or error
            return (f"the template {template.path} may have kept its write permission ({why})",)

    def _recorded(self, guest: GuestPlan) -> list[str]:
        template = self.run.template
        try:
            self._digest = self._digest or known_digest(self.plan) or content_digest(template, check=_go_on)
            earlier = (self.plan.template.fingerprints, self._accepted)
            record_overlay(template, self._digest, guest.overlay_path, self._origin(guest), earlier=earlier)
        except OSError as error:
            return [f"nothing could be recorded beside the template {template.path} ({error.strerror or error})"]
        return []

    def _origin(self, guest: GuestPlan) -> Origin:
        standing = self.run.journal.standing(guest.name)
        overlay: Fingerprint | None = None if standing is None else standing.overlay
        return Origin(guest.name, self.plan.checksum, self.run.session.plan_path, guest.source.path, overlay)


def _go_on() -> None:
    """The overlay has its name already: what belongs to that is not interrupted."""
