"""Limit the number of guests in progress at once.

::

    requested with --jobs
      |  memory             one qemu-img for each guest
      |  open files         for each guest: both chains twice, and a program's files
      |  disk space         the overlays beside their originals (apply only)
      v
    at least one
"""

from __future__ import annotations

from collections.abc import Iterable

from batchdiff.files.descriptors import free_descriptors
from batchdiff.image_source import ImageSource
from batchdiff.linux.machine import available_memory
from batchdiff.plan.plan import GuestToConvert
from batchdiff.units import MIB

_MEMORY = 128 * MIB
"""Bytes assumed for a `qemu-img compare`: 32 MiB of tables for each of three qcow2 files, and 32 MiB more.

Source: QEMU ``docs/qcow2-cache.txt``.
"""

_OURS = 8
"""Files that are open besides those of guests."""

_OF_A_PROGRAM = 4
"""Open files: two for the pipe from qemu-img, and two to confine qemu-img."""


def at_once(jobs: int, guests: Iterable[GuestToConvert], template: ImageSource) -> int:
    """Return how many guests may be in progress at once, from one to ``jobs``."""
    files = max((_files(guest, template) for guest in guests), default=1)
    memory = available_memory()
    by_memory = jobs if memory is None else memory // _MEMORY
    return max(min(jobs, by_memory, (free_descriptors() - _OURS) // files), 1)


def _files(guest: GuestToConvert, template: ImageSource) -> int:
    """Count the files open for a guest. Both chains count twice: once to hold them, and once to compare them."""
    overlay = 1 + (guest.options.data_file is not None) + len(template.files)
    return 2 * (len(guest.source.files) + overlay) + _OF_A_PROGRAM
