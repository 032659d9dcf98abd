"""Work on a template when its overlays are published."""

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
    "QEMU has not opened any overlay, because qemu-img is not installed here (Debian: qemu-utils); before you"
    " remove any original, start a VM on one of the overlays"
)


@dataclass(slots=True)
class Publication:
    """The work on a plan's template while overlays are published."""

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
        """Make sure that no existing overlay is known to need a template with other content.

        :raises PlanError: as for :func:`check_other_overlays`.
        """
        check_other_overlays(self.run.template.path, known_digest(self.plan), guest.overlay_path)

    def ask_qemu(self, overlay: ImageSource, ended: Callable[[], bool]) -> None:
        """Have QEMU open an overlay with its template, unless QEMU has already opened one.

        QEMU might refuse files that only batchdiff has read. If qemu-img is not installed, only note that no
        overlay has been opened.

        :raises BatchdiffError, OSError: as for :func:`qemu_img.require_opens`.
        """
        if self._opened or self._never_opened:
            return
        if not qemu_img.is_installed():
            self._never_opened = True
            return
        qemu_img.require_opens(overlay, stopped=ended)
        self._opened = True

    def make_up(self, guest: GuestToConvert) -> None:
        """Call :meth:`protect_and_record`, in case an apply died after it published the overlay.

        If there are several sidecars, a PlanError is kept for :meth:`require_made_up`.

        :raises PlanError, ImageError: as for :meth:`protect_and_record`.
        """
        try:
            self.protect_and_record(guest)
        except PlanError as error:
            if len(sidecar_paths(self.plan)) == 1:
                raise
            self._not_made_up[guest.name] = error

    def require_made_up(self, guest: GuestToConvert) -> None:
        """Raise the PlanError that :meth:`make_up` has kept for a guest, if any."""
        if guest.name in self._not_made_up:
            raise self._not_made_up[guest.name]

    def protect_and_record(self, guest: GuestToConvert) -> None:
        """Protect the template if the plan requires that, and record a guest's overlay.

        :raises PlanError: other overlays need different content, or the sidecar cannot be read.
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
    """Never end early: the overlay is published already, so it must be recorded."""
