"""Work on a template when its overlays are published: have QEMU open it, protect it, and write its sidecar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from batchdiff.applying.session.session import Run
from batchdiff.applying.template.check import known_digest
from batchdiff.applying.template.sidecar import check_other_overlays, record_overlay
from batchdiff.applying.template.write_protection import protect
from batchdiff.errors import PlanError
from batchdiff.files.fingerprint import Fingerprint
from batchdiff.image.content_digest import content_digest
from batchdiff.image_source import ImageSource
from batchdiff.linux.call_failures import reason
from batchdiff.plan.plan import GuestToConvert, Plan
from batchdiff.plan.sidecar import Chain, OverlayOrigin, sidecar_paths
from batchdiff.qemu import qemu_img

_NEVER_OPENED = (
    "QEMU has not opened any overlay, because qemu-img is not installed here (Debian: qemu-utils); start a VM on"
    " an overlay before you remove an original"
)


@dataclass(slots=True)
class Publication:
    """The work on one plan's template while the plan's overlays are published."""

    plan: Plan
    run: Run
    _digest: str = ""
    _accepted: Chain = ()
    _said: set[str] = field(default_factory=set)
    _opened: bool = False
    _never_opened: bool = False
    _not_made_up: dict[str, PlanError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._accepted = self.run.template.fingerprints()

    def check(self, guest: GuestToConvert) -> None:
        """Make sure that no existing overlay in the sidecar is known to need the template with different content.

        :raises PlanError: one is, or the sidecar exists but cannot be read.
        """
        check_other_overlays(self.run.template.path, known_digest(self.plan), guest.overlay_path)

    def ask_qemu(self, overlay: ImageSource, ended: Callable[[], bool]) -> None:
        """Have QEMU open an overlay with its template; do nothing once it has opened one.

        QEMU might refuse files that only batchdiff has read, and then no VM could run on the overlays. If qemu-img
        is not installed, :meth:`protect_and_record` reports that.

        :raises VerificationError: QEMU refuses one of the files.
        :raises InUseError: a VM or another program is using one of the files.
        :raises ProgramError: qemu-img could not be run, or crashed.
        :raises SecretError: a secret cannot be read, or is wrong.
        :raises StopError: ``ended`` became true.
        """
        if self._opened or self._never_opened:
            return
        if not qemu_img.is_installed():
            self._never_opened = True
            return
        qemu_img.require_opens(overlay, stopped=ended)
        self._opened = True

    def make_up(self, guest: GuestToConvert) -> None:
        """Do the work of :meth:`protect_and_record`, in case an apply died after it published the overlay.

        If one of several sidecars cannot be used, only the guests with that sidecar fail, in
        :meth:`require_made_up`.

        :raises PlanError: the only sidecar cannot be used.
        :raises ImageError: the template cannot be read.
        """
        try:
            self.protect_and_record(guest)
        except PlanError as error:
            if len(sidecar_paths(self.plan)) == 1:
                raise
            self._not_made_up[guest.name] = error

    def require_made_up(self, guest: GuestToConvert) -> None:
        """Raise the error that :meth:`make_up` has kept for a guest, if any.

        :raises PlanError: there is one.
        """
        if guest.name in self._not_made_up:
            raise self._not_made_up[guest.name]

    def protect_and_record(self, guest: GuestToConvert) -> None:
        """Protect the template if the plan requires that, and record a guest's overlay; report each notice once.

        :raises PlanError: other overlays need different content of the template, or the sidecar cannot be read.
        :raises ImageError: the template cannot be read.
        """
        for notice in (
            *self._protected(),
            *self._recorded(guest),
            *([_NEVER_OPENED] if self._never_opened else []),
        ):
            if notice not in self._said:
                self._said.add(notice)
                self.run.session.watch.notice(notice)

    def _protected(self) -> tuple[str, ...]:
        if not self.plan.protect_template:
            return ()
        template = self.run.template
        try:
            return protect(template, self.run.journal)
        except OSError as error:  # such as a full disk, which must not stop the other guests
            return (f"the template {template.path} may have kept its write permission: {reason(error)}",)

    def _recorded(self, guest: GuestToConvert) -> list[str]:
        template = self.run.template
        try:
            self._digest = self._digest or known_digest(self.plan) or content_digest(template, check=_never)
            earlier = (self.plan.template.fingerprints, self._accepted)
            record_overlay(template, self._digest, guest.overlay_path, self._origin(guest), earlier=earlier)
        except OSError as error:
            return [
                f"the sidecar of the template {template.path} could not be written: {reason(error)}. Fix that,"
                " then run the same command again, so that `verify` and the next plan know of the overlays"
            ]
        return []

    def _origin(self, guest: GuestToConvert) -> OverlayOrigin:
        state = self.run.journal.state(guest.name)
        overlay: Fingerprint | None = None if state is None else state.overlay
        return OverlayOrigin(
            guest.name, self.plan.checksum, self.run.session.plan_path, guest.source.path, overlay
        )


def _never() -> None:
    """Never end early: the overlay has its name already, so its record must be completed."""
