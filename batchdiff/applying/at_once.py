"""Limit the number of guests in progress at once: at most one is written while the others are verified.

::

    requested with --jobs   (default: one for each CPU)
      |  memory             one qemu-img for each guest
      |  open files         for each: the guest's chain and its overlay's, each twice, and a program's files
      |  disk space         the overlays beside their originals       (applying/checks/space.py, apply only)
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
"""The memory assumed for a `qemu-img compare`: 32 MiB of tables for each of three qcow2 files, and 32 MiB more.

Measured with QEMU 7.2: 11 MiB for raw images; 23 MiB for two qcow2 images, each with 4 KiB clusters and 4 MiB of
tables.
Source: QEMU ``docs/qcow2-cache.txt``.
"""

_OURS = 8
"""Files that may be open besides those of guests, such as a folder or the sidecar."""

_OF_A_PROGRAM = 4
"""Two files for the pipe from a qemu-img, and two to confine it."""


def at_once(jobs: int, guests: Iterable[GuestToConvert], template: ImageSource) -> int:
    """Return how many of these guests may be in progress at once, from one to ``jobs``."""
    files = max((_files(guest, template) for guest in guests), default=1)
    memory = available_memory()
    by_memory = jobs if memory is None else memory // _MEMORY
    return max(min(jobs, by_memory, (free_descriptors() - _OURS) // files), 1)


def _files(guest: GuestToConvert, template: ImageSource) -> int:
    """Return the number of files to allow for one guest: both images may be held, and opened to be compared."""
    overlay = 1 + (guest.options.data_file is not None) + len(template.files)
    return 2 * (len(guest.source.files) + overlay) + _OF_A_PROGRAM
