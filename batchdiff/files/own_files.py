"""The suffixes of the files that batchdiff makes beside images and plans, and never takes for images."""

from __future__ import annotations

import os
import re

QUARANTINE = ".batchdiff-original"
"""A complete original that was moved out of the way."""

OVERLAY_ASIDE = ".batchdiff-overlay"
"""An overlay that was moved out of the way of a restored original."""

DELETING = ".batchdiff-deleting"
"""A file that is about to be deleted."""

TEMPORARY = ".batchdiff-tmp"
"""A file that is not complete yet."""

SIDECAR = ".batchdiff-template.json"
"""The record of a template and its overlays, beside the template."""

CRASH = ".batchdiff-crash"
"""The traceback of a bug: beside a plan or a manifest, or in the folder for temporary files."""

_KEPT = 200
"""The most bytes of a file's name that its temporary name keeps."""

ALL = (QUARANTINE, OVERLAY_ASIDE, DELETING, TEMPORARY, SIDECAR, CRASH)

BESIDE_PLAN = (".journal", ".partial", ".definitions")
"""The suffixes of files beside a plan: its journal, an unfinished scan, and earlier definitions of VMs."""

RESERVED = (*ALL, ".plan.json", *BESIDE_PLAN)
"""The suffixes that no file that batchdiff writes for a VM may have."""


def temporary(path: str) -> str:
    """Return a unique name for a file that is being written, in the folder of its final path.

    It contains random digits instead of the process ID, which can be the same in every run of a container.
    """
    folder, name = os.path.split(path)
    # Filesystems limit a name to 255 bytes; the random part keeps shortened names apart.
    return os.path.join(folder, f".{_cut(name)}.{os.urandom(4).hex()}{TEMPORARY}")


def temporary_data_file(overlay: str) -> str:
    """Return the temporary name of an overlay's data file; ``overlay``: the overlay's own temporary name."""
    return f"{overlay.removesuffix(TEMPORARY)}.data{TEMPORARY}"


def _cut(name: str) -> str:
    """Return at most ``_KEPT`` bytes of a name, without cutting a character in two: qemu-img needs valid UTF-8."""
    data, end = os.fsencode(name), _KEPT
    while _KEPT - 3 < end < len(data) and data[end] & 0xC0 == 0x80:
        end -= 1
    return os.fsdecode(data[:end])


def is_temporary_of(name: str, path: str) -> bool:
    """Return whether ``name``, in the folder of ``path``, must be a name that :func:`temporary` made for ``path``.

    False if ``path`` has a name so long that :func:`temporary` shortens it: several files can have the same
    shortened name.
    """
    own = os.path.basename(path)
    found = re.fullmatch(rf"\.(.+)\.[0-9a-f]{{8}}{re.escape(TEMPORARY)}", name, re.DOTALL)
    return found is not None and found[1] == own and len(os.fsencode(own)) <= _KEPT
