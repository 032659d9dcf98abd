"""How the files end that batchdiff makes beside images, so that none of them is ever taken for an image."""

from __future__ import annotations

import os
import re

QUARANTINE = ".batchdiff-original"
"""An original that is whole and out of the way."""

OVERLAY_ASIDE = ".batchdiff-overlay"
"""An overlay that made way for the original that is restored."""

DELETING = ".batchdiff-deleting"
"""What is about to be deleted."""

TEMPORARY = ".batchdiff-tmp"
"""What is not complete yet."""

SIDECAR = ".batchdiff-template.json"
"""What is known of a template, beside it."""

_KEPT = 200
"""Bytes of a file's name that are in its temporary one."""

ALL = (QUARANTINE, OVERLAY_ASIDE, DELETING, TEMPORARY, SIDECAR)


def temporary(path: str) -> str:
    """A name beside a file that is to be written, which nobody else has.

    It ends in something random: in a container the process's number is the same in every run.
    """
    folder, name = os.path.split(path)
    # The longest name that a filesystem takes is 255 bytes; what is cut off is told apart by the random part.
    return os.path.join(folder, f".{_cut(name)}.{os.urandom(4).hex()}{TEMPORARY}")


def _cut(name: str) -> str:
    """At most so many bytes of a name, and no part of a letter: qemu-img takes no name that is not UTF-8."""
    data, end = os.fsencode(name), _KEPT
    while _KEPT - 3 < end < len(data) and data[end] & 0xC0 == 0x80:
        end -= 1
    return os.fsdecode(data[:end])


def is_temporary_of(name: str, path: str) -> bool:
    """Whether a name in the same folder was surely made by :func:`temporary` for that file, and for no other."""
    own = os.path.basename(path)
    found = re.fullmatch(rf"\.(.+)\.[0-9a-f]{{8}}{re.escape(TEMPORARY)}", name, re.DOTALL)
    return found is not None and found[1] == own and len(os.fsencode(own)) <= _KEPT
