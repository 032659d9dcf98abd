"""An export shared by the layers of one process and by its forked workers.

::

    process   start --> qemu-nbd <-- connection, for one read at a time; kept for the next read
    worker                 ^-------- connection of its own

Only the process that started the export ends it, and starts another if it reads again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from batchdiff.errors import ImageError, ProgramError
from batchdiff.qemu.export import BlockDevice, Export
from batchdiff.qemu.nbd import NbdConnection


class SharedExport:
    """An export that is started when it is needed; ``users``: how many of this process's layers share it."""

    def __init__(self, path: str, fd: int, device: BlockDevice) -> None:
        """Prepare the export of the image that is open as ``fd``; ``path`` is for messages.

        :raises ImageError: no further file can be opened.
        """
        try:
            self._path, self._fd, self._device = path, os.dup(fd), device
        except OSError as error:
            raise _unreadable(path, error) from error
        self._lock = threading.Lock()
        self._export: Export | None = None
        self._free: list[NbdConnection] = []
        self._process = self._starter = os.getpid()
        self.users = 0

    @contextmanager
    def connection(self) -> Iterator[NbdConnection]:
        """Yield a connection for this caller alone.

        :raises ImageError: the export cannot be started or reached, or a read in the block fails.
        """
        with self._lock:
            if self._process != os.getpid():  # a forked worker must not use its parent's connections
                self._free, self._process = [], os.getpid()
            if self._export is None:
                self._export, self._starter = self._started(), os.getpid()
            export = self._export
            connection = self._free.pop() if self._free else None
        connection = connection or export.connect()
        try:
            yield connection
        except OSError as error:
            connection.close()
            raise export.failure(error) from error
        except BaseException:
            connection.close()  # an answer may still be on its way
            raise
        with self._lock:
            if export is self._export:
                self._free.append(connection)
            else:
                connection.close()

    def _started(self) -> Export:
        try:
            return Export(self._path, self._fd, self._device)
        except ProgramError as error:
            # Without qemu-nbd, only images that must be exported are refused; the others can still be planned.
            raise ImageError(
                f"cannot read {self._path}", path=self._path, why=error.reason, remedy=error.remedy
            ) from error
        except OSError as error:
            raise _unreadable(self._path, error) from error

    def is_of(self, fd: int) -> bool:
        """Return whether this is an export of the file that is open as ``fd``."""
        return os.path.sameopenfile(self._fd, fd)

    def end(self) -> None:
        """Close this process's free connections, and end the export if this process started it."""
        with self._lock:
            export, self._export = self._export, None
            free, self._free = self._free, []
            if self._process == os.getpid():
                for each in free:
                    each.close()
            if export is not None and self._starter == os.getpid():
                export.close()

    def close(self) -> None:
        """End the export as :meth:`end` does, and close the image's descriptor."""
        self.end()
        os.close(self._fd)


def _unreadable(path: str, error: OSError) -> ImageError:
    return ImageError(f"cannot read {path}", path=path, why=error.strerror or str(error))
