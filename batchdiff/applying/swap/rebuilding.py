"""Rebuild an image of the original's kind from what a VM sees through its overlay and the template."""

from __future__ import annotations

import os
from dataclasses import dataclass

from batchdiff.applying.checks.space import check_space_for_image
from batchdiff.applying.guests.commands import command
from batchdiff.applying.guests.file_names import original_names
from batchdiff.applying.guests.guest_files import Found
from batchdiff.applying.session.session import Run
from batchdiff.applying.swap import retire
from batchdiff.applying.writer.standalone import write_standalone
from batchdiff.image.files import identify, open_image_file
from batchdiff.image.image import Image
from batchdiff.linux.metadata import copy_metadata, prepare
from batchdiff.plan.plan import GuestToConvert


@dataclass(frozen=True, slots=True)
class Rebuilding:
    """The writer of one guest's image. ``original``: an older image that exists, and differs from it."""

    guest: GuestToConvert
    run: Run
    original: Found | None

    def write(self, fd: int, overlay: Image) -> list[str]:
        """See :data:`batchdiff.applying.swap.task.Write`."""
        guest, record = self.guest, self.guest.image
        check_space_for_image(overlay, os.path.dirname(guest.source.path), guest.name)
        self._spare_original()
        lost = prepare(overlay.layers[0].fd, fd)
        # A raw file may get back a size that is not a multiple of 512, unless the disk was resized.
        planned = record.fingerprints[0].size
        size = planned if overlay.virtual_size == record.virtual_size else overlay.virtual_size
        write_standalone(fd, overlay, guest.source.format, size, check=self.run.stop.check)
        lost += copy_metadata(overlay.layers[0].fd, fd)
        notes = [f"could not keep {what}" for what in lost]
        left = original_names(guest.source.path).quarantine
        if os.path.lexists(left):
            notes.append(
                f"rebuilt with what its VM wrote. The older original is still {left}; to delete it:"
                f" {command('purge', guest.name, '--used')}"
            )
        return notes

    def _spare_original(self) -> None:
        """Move an original back into quarantine if a process died when it was about to delete it."""
        names = original_names(self.guest.source.path)
        if self.original is None or self.original.path != names.deleting:
            return
        fd = open_image_file(names.deleting)
        try:
            retire.move(fd, names.deleting, names.quarantine)
            self.run.journal.record_changed(identify(fd))
        finally:
            os.close(fd)
