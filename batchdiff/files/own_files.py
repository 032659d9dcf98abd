"""The names of batchdiff's own files."""

from __future__ import annotations

import os
import re

QUARANTINE = ".batchdiff-original"
"""A complete original, moved out of the way."""

OVERLAY_ASIDE = ".batchdiff-overlay"
"""An overlay, moved out of the way."""

DELETING = ".batchdiff-deleting"

TEMPORARY = ".batchdiff-tmp"

SIDECAR = ".batchdiff-template.json"
"""The record of a template and its overlays."""

CRASH = ".batchdiff-crash"

_KEPT = 200
"""In bytes: the kept part of a name."""

ALL = (QUARANTINE, OVERLAY_ASIDE, DELETING, TEMPORARY, SIDECAR, CRASH)

BESIDE_PLAN = (".journal", ".partial", ".definitions")
"""A plan's journal, checkpoint, and folder of saved definitions."""

RESERVED = (*ALL, ".plan.json", *BESIDE_PLAN)
"""Forbidden at the end of the name of an overlay or a data file."""


def temporary(path: str) -> str:
    """Return a temporary path in the same folder.

    Random digits make it unique. A process ID would not: it can be the same in every run of a container.
    """
    folder, name = os.path.split(path)
    # Most filesystems limit a name to 255 bytes; the random part keeps shortened names apart.
    return os.path.join(folder, f".{_cut(name)}.{os.urandom(4).hex()}{TEMPORARY}")


def temporary_data_file(overlay: str) -> str:
    """Return the temporary path of a data file, given that of its overlay."""
    return f"{overlay.removesuffix(TEMPORARY)}.data{TEMPORARY}"


def _cut(name: str) -> str:
    """Cut a long name at the end of a character: qemu-img needs valid UTF-8."""
    data, end = os.fsencode(name), _KEPT
    while _KEPT - 3 < end < len(data) and data[end] & 0xC0 == 0x80:
        end -= 1
    return os.fsdecode(data[:end])


def is_temporary_of(name: str, path: str) -> bool:
    """Return whether :func:`temporary` can make ``name`` for ``path``, and for no other path in the same folder.

    False if the name of ``path`` is shortened: several names can have the same shortened form.
    """
    own = os.path.basename(path)
    found = re.fullmatch(rf"\.(.+)\.[0-9a-f]{{8}}{re.escape(TEMPORARY)}", name, re.DOTALL)
    return found is not None and found[1] == own and len(os.fsencode(own)) <= _KEPT
