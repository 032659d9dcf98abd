"""Complete writes to file descriptors: all bytes are written, or an error names the cause."""

from __future__ import annotations

import os


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data`` at a file offset.

    :raises OSError: the disk is full or has a fault.
    """
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done
