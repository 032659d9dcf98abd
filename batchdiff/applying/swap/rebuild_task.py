"""The restore task of a guest whose image is rebuilt from the overlay."""

from __future__ import annotations

import os
from collections.abc import Callable

from batchdiff.applying.checks.space import check_space_for_image
from batchdiff.applying.checks.verify import Comparison, check_used, verify
from batchdiff.applying.guests.file_names import original_names
from batchdiff.applying.guests.guest_files import Found
from batchdiff.applying.journal.records import Goal, Step
from batchdiff.applying.session.change_detection import ChangeDetector
from batchdiff.applying.swap import retire
from batchdiff.applying.swap.guest_to_restore import GuestToRestore
from batchdiff.applying.swap.incoming import IncomingFile
from batchdiff.applying.writer.standalone import write_standalone
from batchdiff.choices import Retire, VerifyMode
from batchdiff.image.files import identify, open_image_file
from batchdiff.image.image import Image
from batchdiff.image_source import ImageSource
from batchdiff.linux.metadata import copy_metadata, prepare
from batchdiff.plan.plan import GuestToConvert
from batchdiff.progress import Meter, Phase


def expect_rebuild(meter: Meter, plan: GuestToConvert) -> None:
    """Expect the work of rebuilding and verifying a guest's image."""
    meter.expect(plan.name, Phase.REBUILD, plan.image.virtual_size)
    meter.expect(plan.name, Phase.VERIFY, plan.image.virtual_size)


class RebuildTask:
    """The task that rebuilds an image from the overlay, and deletes the overlay.

    ``original``: the older original, which stays in quarantine; None if none was found.
    """

    goal, final, retire, needs_comparison = Goal.RESTORE, Step.RESTORED, Retire.DELETE, True

    def __init__(self, guest: GuestToRestore, overlay: Found, original: Found | None) -> None:
        self.guest, self.incoming = guest.plan.name, IncomingFile(guest.rebuilt_source)
        self.outgoing, self.original = guest.outgoing(overlay), guest.plan.image
        self.data_file = guest.plan.options.data_file
        self.older = guest.older() if original is None else original_names(guest.plan.source.path).quarantine
        self._guest, self._original = guest, original
        self._detector = ChangeDetector(guest.run.journal)

    def check(self, overlay: Image) -> None:
        """Refuse a changed overlay or template."""
        self._guest.run.check_template()  # first: only this check notices another file in the template's place
        self._detector.check_chain(overlay)

    def write(self, fd: int, overlay: Image, data_fd: int | None = None) -> list[str]:  # noqa: ARG002  # one file
        """Check the overlay and write the image; return remarks for the operator.

        :raises BatchdiffError, OSError: the image cannot be rebuilt.
        """
        plan, record, run = self._guest.plan, self._guest.plan.image, self._guest.run
        check_used(overlay.source, lambda: run.stop.is_asked)
        check_space_for_image(overlay, os.path.dirname(plan.source.path), plan.name, plan.source)
        self._spare_original()
        lost = prepare(overlay.layers[0].fd, fd)
        # Unless the disk was resized, a raw file gets its planned size, which need not be a multiple of 512 bytes.
        planned = record.fingerprints[0].size
        size = planned if overlay.virtual_size == record.virtual_size else overlay.virtual_size
        meter = run.session.meter
        expect_rebuild(meter, plan)
        # Nothing is left to compare: a difference has ended the comparison, or there is no original.
        meter.reach(self.guest, Phase.COMPARE, record.virtual_size, worked=False)
        report = run.reporter(self.guest, Phase.REBUILD)
        write_standalone(fd, overlay, plan.source, size, check=run.stop.check, report=report)
        lost += copy_metadata(overlay.layers[0].fd, fd)
        return [*(f"could not keep {what}" for what in lost), *self._guest.remark_on_older()]

    def verify(self, overlay: Image, rebuilt: ImageSource, ended: Callable[[], bool]) -> None:
        """Compare the overlay, which ``write`` has checked, with the new image."""
        report = self._guest.run.reporter(self.guest, Phase.VERIFY)
        verify(Comparison(overlay.source, rebuilt), VerifyMode.FULL, ended, report)

    def if_different(self) -> None:
        """Return None: a difference is a failure."""

    def after_publish(self) -> list[str]:
        """Do nothing."""
        return []

    def before_end(self) -> list[str]:
        """Remove the overlay from the template's sidecar."""
        return self._guest.forget_overlay()

    def _spare_original(self) -> None:
        """Move the original back into quarantine if a process died just before deleting it."""
        names = original_names(self._guest.plan.source.path)
        if self._original is None or self._original.path != names.deleting:
            return
        fd = open_image_file(names.deleting)
        try:
            retire.move(fd, names.deleting, names.quarantine)
            self._guest.run.journal.record_changed(identify(fd))
        finally:
            os.close(fd)
