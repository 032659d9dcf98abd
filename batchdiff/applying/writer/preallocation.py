"""Preallocate a new overlay, as `qemu-img create -o preallocation=` does.

::

    metadata    a place in the file for each cluster of the disk: a VM's write allocates no metadata
    falloc      as metadata, and the blocks of these places are reserved
    full        as falloc, and zeros are written to these blocks
"""

from __future__ import annotations

import os
from collections.abc import Callable

from batchdiff.files.read_write import write_all
from batchdiff.plan.overlay_options import Preallocation
from batchdiff.units import MIB


def preallocate(fd: int, size: int, how: Preallocation, check: Callable[[], None]) -> None:
    """Set the size of an empty file, and reserve or write its blocks if ``how`` requires that.

    :raises OSError: the file cannot be written.
    """
    os.ftruncate(fd, size)
    if how.reserves_blocks:
        os.posix_fallocate(fd, 0, size)
    if how is Preallocation.FULL:
        zeros = bytes(MIB)
        for at in range(0, size, MIB):
            check()
            write_all(fd, zeros[: size - at], at)
