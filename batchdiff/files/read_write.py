"""Complete writes to file descriptors."""

from __future__ import annotations

import os


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data`` at a file offset.

    :raises OSError: a write fails.
    """
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done
