"""Names that a guest's files can have.

::

    vm.img                       the original; with `overlay: {path: same}`, later the overlay
    vm.img.batchdiff-original    the original in quarantine
    vm.img.batchdiff-deleting    the original, about to be deleted
    .vm.qcow2.XXXXXXXX.batchdiff-tmp    the overlay until it is published
    vm.qcow2                     the overlay
    vm.qcow2.batchdiff-overlay   the overlay, moved out of the way of another file
    vm.qcow2.batchdiff-deleting  the overlay, about to be deleted
"""

from __future__ import annotations

import contextlib
import os
import stat

from batchdiff.applying.guests.next_action import OutgoingAt
from batchdiff.errors import GuestError, ImageError
from batchdiff.files import own_files
from batchdiff.files.filenames import shell_word
from batchdiff.files.fingerprint import Fingerprint, fingerprint_at
from batchdiff.frozen import frozen
from batchdiff.linux.call_failures import explain
from batchdiff.linux.device_names import is_among_devices
from batchdiff.linux.permissions import Deed


@frozen
class FileNames:
    """The names that one file may have in turn."""

    own: str
    quarantine: str
    deleting: str

    @property
    def all(self) -> tuple[str, str, str]:
        """All three names."""
        return self.own, self.quarantine, self.deleting

    def at(self, where: OutgoingAt) -> str:
        """Return the path at a place.

        :raises KeyError: ``where`` is GONE.
        """
        places = {
            OutgoingAt.NAMED: self.own,
            OutgoingAt.ASIDE: self.quarantine,
            OutgoingAt.DELETING: self.deleting,
        }
        return places[where]


def original_names(path: str) -> FileNames:
    """Return the names of an original."""
    return FileNames(path, path + own_files.QUARANTINE, path + own_files.DELETING)


def overlay_names(path: str) -> FileNames:
    """Return the names of an overlay."""
    return FileNames(path, path + own_files.OVERLAY_ASIDE, path + own_files.DELETING)


def require_lasting(path: str) -> None:
    """Refuse to write an image among the devices in /dev: it would be lost at a reboot.

    :raises GuestError: the path is among them.
    """
    if is_among_devices(path):
        raise GuestError(
            f"{path} was not written",
            why="no block device has that name now, and a file in /dev would be gone after a reboot",
            remedy="Bring the device back; or create a block device with that name, and copy the disk to it with"
            f" `qemu-img convert -n -O FORMAT OVERLAY {shell_word(path)}`.",
        )


def require_examinable(path: str) -> None:
    """Refuse a file that cannot be examined: it must not be taken for a missing one.

    :raises ImageError: it cannot be examined.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        fault = explain(error, Deed.READ, path)
        raise ImageError(f"cannot examine {path}", why=fault.why, remedy=fault.remedy, path=path) from error


def discard(path: str) -> None:
    """Remove a regular file with a temporary name, but no other file.

    :raises OSError: it cannot be removed.
    """
    if path.endswith(own_files.TEMPORARY):
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISREG(os.lstat(path).st_mode):
                os.unlink(path)


def where_is(names: FileNames, known: Fingerprint) -> OutgoingAt:
    """Return the present place of a file, even if its content has changed."""
    for where in (OutgoingAt.DELETING, OutgoingAt.ASIDE, OutgoingAt.NAMED):
        now = fingerprint_at(names.at(where))
        if now is not None and known.is_same_file(now):
            return where
    return OutgoingAt.GONE
