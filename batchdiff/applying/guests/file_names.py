"""The names that a guest's files have on their way, and which file stands where now.

::

    vm.img                       the original; with `overlay: {path: same}` later the overlay
    vm.img.batchdiff-original    in quarantine
    vm.img.batchdiff-deleting    about to be deleted
    .vm.qcow2.XXXXXXXX.batchdiff-tmp    the overlay until it is published
    vm.qcow2                     the overlay
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass

from batchdiff.applying.guests.next_action import OutgoingAt
from batchdiff.errors import GuestError
from batchdiff.files import own_files
from batchdiff.files.fingerprint import Fingerprint, fingerprint_at
from batchdiff.linux.device_names import is_among_devices


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a file that may have to go: its own, in quarantine, and just before it is deleted."""

    own: str
    quarantine: str
    deleting: str

    def at(self, where: OutgoingAt) -> str:
        """The path of the file where it stands.

        :raises KeyError: it is gone.
        """
        places = {
            OutgoingAt.NAMED: self.own,
            OutgoingAt.ASIDE: self.quarantine,
            OutgoingAt.DELETING: self.deleting,
        }
        return places[where]


def original_names(path: str) -> Names:
    """The names of an original."""
    return Names(path, path + own_files.QUARANTINE, path + own_files.DELETING)


def overlay_names(path: str) -> Names:
    """The names of an overlay that is to go."""
    return Names(path, path + own_files.OVERLAY_ASIDE, path + own_files.DELETING)


def require_lasting(path: str) -> None:
    """Refuse to write an image into /dev, where it would be in memory alone.

    :raises GuestError: the path is there.
    """
    if is_among_devices(path):
        raise GuestError(
            f"{path} was not written",
            why="no block device has that name now, and a file in /dev would be gone after a reboot",
            remedy="Bring the device back; or make one of that name, and copy the disk to it with"
            f" `qemu-img convert -n -O FORMAT OVERLAY {path}`.",
        )


def discard(path: str) -> None:
    """Removes a temporary file of ours, and nothing else.

    :raises OSError: it cannot be removed.
    """
    if path.endswith(own_files.TEMPORARY):
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISREG(os.lstat(path).st_mode):
                os.unlink(path)


def where_is(names: Names, known: Fingerprint) -> OutgoingAt:
    """Under which of its names a file stands, told by its identity and not by what it holds."""
    for where in (OutgoingAt.DELETING, OutgoingAt.ASIDE, OutgoingAt.NAMED):
        now = fingerprint_at(names.at(where))
        if now is not None and known.is_same_file(now):
            return where
    return OutgoingAt.GONE
