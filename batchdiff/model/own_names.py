"""How the files end that batchdiff makes beside images, so that none of them is ever taken for an image."""

from __future__ import annotations

import os

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

ALL = (QUARANTINE, OVERLAY_ASIDE, DELETING, TEMPORARY, SIDECAR)


def temporary(path: str) -> str:
    """A name beside a file that is to be written, which nobody else has.

    It ends in something random: in a container the process's number is the same in every run.
    """
    folder, name = os.path.split(path)
    # The longest name that a filesystem takes is 255 bytes; what is cut off is told apart by the random part.
    kept = os.fsdecode(os.fsencode(name)[:200])
    return os.path.join(folder, f".{kept}.{os.urandom(4).hex()}{TEMPORARY}")
