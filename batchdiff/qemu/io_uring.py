"""Reading with io_uring, which takes QEMU less processor time than the threads that it uses by default."""

from __future__ import annotations

import contextlib
import functools
import re
import threading
from collections.abc import Mapping

from batchdiff.errors import ProgramError
from batchdiff.qemu.installed import installed_version
from batchdiff.qemu.programs import CompletedProgram

_FIRST_SOUND = (7, 1)
"""The first version of QEMU that takes the rest of a short read from the right place in the file.

Source: QEMU's commit c06fc7ce147e, "io_uring: fix short read slow path".
"""

_refused = threading.Event()
"""Set once QEMU has refused it: it may be built without, or the kernel or a container may forbid it."""


def options() -> Mapping[str, object]:
    """Return the options of a file that make QEMU read it with io_uring; none if QEMU cannot or should not."""
    return {"aio": "io_uring"} if _is_sound() and not _refused.is_set() else {}


def is_refused(done: CompletedProgram) -> bool:
    """Return whether a program may have failed because of these options; from then on there are none."""
    refused = done.code != 0 and "io_uring" in done.output
    if refused:
        _refused.set()
    return refused


@functools.cache
def _is_sound() -> bool:
    with contextlib.suppress(ProgramError):  # the verb itself reports it
        numbers = re.match(r"(\d+)\.(\d+)", installed_version())
        return numbers is not None and (int(numbers[1]), int(numbers[2])) >= _FIRST_SOUND
    return False
