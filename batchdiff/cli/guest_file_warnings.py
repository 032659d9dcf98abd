"""Warnings about the files of guests: read-only ones, and those that a VM could have open unnoticed."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence

from batchdiff.choices import Retire
from batchdiff.cli.console import Console
from batchdiff.files.filenames import shell_word
from batchdiff.image.in_use.lease import why_unknown
from batchdiff.linux.permissions import WRITE_BITS
from batchdiff.manifest.manifest import GuestEntry, Manifest
from batchdiff.report.figures import count_of


def warn_of_files(console: Console, manifest: Manifest, pending: Sequence[GuestEntry]) -> None:
    """Report read-only files, and files that a VM could have open unnoticed.

    ``pending``: the guests that are to get overlays.
    """
    found = {}
    for guest in pending:
        with contextlib.suppress(OSError):
            info = os.stat(guest.image.path)
            if stat.S_ISREG(info.st_mode):
                found[guest.image.path] = info
    _warn_of_modes(console, {path: info.st_mode for path, info in found.items()})
    _warn_of_the_unseen(console, {path: info.st_dev for path, info in found.items()}, manifest.retire)


def _warn_of_modes(console: Console, modes: dict[str, int]) -> None:
    closed = [path for path, mode in modes.items() if not mode & WRITE_BITS]
    if not closed:
        return
    first, mode = closed[0], stat.S_IMODE(modes[closed[0]])
    others = len(closed) - 1
    more = f", and so {'is' if others == 1 else 'are'} {count_of(others, 'more guest')}" if others else ""
    whose = (
        "a VM must write to its overlay, first make the guest's file writable, as with"
        if others
        else ("the VM must write to its overlay, first run")
    )
    console.warn(
        f"warning: {first} is read-only (mode {mode:04o}){more}. An overlay gets its guest's mode: if {whose}"
        f" `chmod u+w {shell_word(first)}`"
    )


def _warn_of_the_unseen(console: Console, devices: dict[str, int], retire: Retire) -> None:
    first: dict[int, str] = {}
    for path, device in devices.items():
        first.setdefault(device, path)
    for device, path in first.items():
        if why := _why_unseen(path):
            others = sum(1 for each in devices.values() if each == device) - 1
            more = (
                f"; {count_of(others, 'more guest')} {'is' if others == 1 else 'are'} on the same filesystem"
                if others
                else ""
            )
            originals, files = ("originals", "files") if others else ("original", "file")
            sentence = (
                f"{path}: {why}{more}. Deleting the {originals}, by `apply --retire delete` or `purge`, needs"
                f" `--unseen`; add it only if you are sure that no VM has the {files} open"
            )
            if retire is Retire.DELETE:
                console.warn(f"warning: {sentence}")
            else:
                console.say(f"batchdiff: note: {sentence}")


def _why_unseen(path: str) -> str:
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)  # does not open the file, so it breaks no lease
        try:
            return why_unknown(fd)
        finally:
            os.close(fd)
    return ""
