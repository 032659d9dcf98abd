"""Reading with io_uring, which costs QEMU less CPU time than its default."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import threading
from collections.abc import Iterable, Mapping

from batchdiff.errors import ProgramError
from batchdiff.image_source import ImageSource
from batchdiff.qemu.installed import installed_version
from batchdiff.qemu.programs import CompletedProgram
from batchdiff.units import SECTOR

_FIRST_SOUND = (7, 1)
"""Older versions of QEMU continue a short read at the wrong place in the file.

Source: QEMU's commit c06fc7ce147e.
"""

_refused = threading.Event()
"""Set after a failure: QEMU may lack io_uring, or the kernel or a container may forbid it."""


def options(images: Iterable[ImageSource]) -> Mapping[str, object]:
    """Return the options that make QEMU read files with io_uring; empty if they could make it fail or hang."""
    chains = (each for image in images for each in (image, *image.backing))
    safe = not _refused.is_set() and all(_ends_with_a_sector(each.path) for each in chains) and _is_sound()
    return {"aio": "io_uring"} if safe else {}


def _ends_with_a_sector(path: str) -> bool:
    """Return whether a file's last sector is complete, so that no read of whole sectors is short.

    QEMU 7.2 may wait forever for the rest of a short read (``ioq_submit`` in ``block/io_uring.c``).
    """
    try:
        return os.stat(path).st_size % SECTOR == 0
    except OSError:  # QEMU reports the error
        return False


def is_refused(done: CompletedProgram) -> bool:
    """Return whether io_uring may be why a program failed; if so, :func:`options` is empty from now on."""
    refused = done.code != 0 and "io_uring" in done.output
    if refused:
        _refused.set()
    return refused


@functools.cache
def _is_sound() -> bool:
    with contextlib.suppress(ProgramError):  # the verb itself reports the error
        numbers = re.match(r"(\d+)\.(\d+)", installed_version())
        return numbers is not None and (int(numbers[1]), int(numbers[2])) >= _FIRST_SOUND
    return False
