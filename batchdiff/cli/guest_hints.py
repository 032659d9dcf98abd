"""Warn of what the files of guests are like: nobody may write to them, or who has them open cannot be seen."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence

from batchdiff.cli.console import Console
from batchdiff.image.lease import why_unknown
from batchdiff.image.names import shell_word
from batchdiff.image.permissions import WRITE_BITS
from batchdiff.model.manifest import GuestEntry, Manifest, Retire


def warn_of_files(console: Console, manifest: Manifest, pending: Sequence[GuestEntry]) -> None:
    """Warn of the files of guests that are to be converted, each kind once, with how many there are."""
    found = {}
    for guest in pending:
        with contextlib.suppress(OSError):
            info = os.stat(guest.image.path)
            if stat.S_ISREG(info.st_mode):
                found[guest.image.path] = info
    _warn_of_modes(console, {path: info.st_mode for path, info in found.items()})
    _warn_of_the_unseen(console, {path: info.st_dev for path, info in found.items()}, manifest.retire)


def _warn_of_modes(console: Console, modes: dict[str, int]) -> None:
    """An overlay gets its guest's mode. A copy of a protected template is as read-only as that."""
    closed = [path for path, mode in modes.items() if not mode & WRITE_BITS]
    if not closed:
        return
    first, mode = closed[0], stat.S_IMODE(modes[closed[0]])
    others = len(closed) - 1
    more = f" (and {others} more guest{'s' if others > 1 else ''} with such a mode)" if others else ""
    console.warn(
        f"warning: {first}{more} is read-only (mode {mode:04o}), and so will its overlay be;"
        f" `chmod u+w {shell_word(first)}` if its VM is to write"
    )


def _warn_of_the_unseen(console: Console, devices: dict[str, int], retire: Retire) -> None:
    """Say which deletion will need ``--unseen``, before the overlays are there; loudest if it is planned."""
    first: dict[int, str] = {}
    for path, device in devices.items():
        first.setdefault(device, path)
    for device, path in first.items():
        if why := _why_unseen(path):
            count = sum(1 for each in devices.values() if each == device)
            more = f" (and {count - 1} more of its filesystem)" if count > 1 else ""
            sentence = (
                f"of {path}{more}, {why}: deleting the original, by `apply --retire delete` or `purge`,"
                " needs `--unseen`; add it if you are sure that no VM has it open"
            )
            if retire is Retire.DELETE:
                console.warn(f"warning: {sentence}")
            else:
                console.say(f"batchdiff: note: {sentence}")


def _why_unseen(path: str) -> str:
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)  # opens nothing, so it waits for nobody's lease
        try:
            return why_unknown(fd)
        finally:
            os.close(fd)
    return ""
