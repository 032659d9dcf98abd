"""The incoming file, which takes the place of the outgoing one: its state, its name, its fingerprint.

::

    NONE -> temporary file written -> READY -> published -> PUBLISHED
    UNFINISHED: left behind by a process that died          LOST: published before, and not there now
"""

from __future__ import annotations

import os
from dataclasses import replace

from batchdiff.applying.guests.next_action import IncomingAt
from batchdiff.applying.swap import retire
from batchdiff.applying.swap.task import Task
from batchdiff.errors import GuestError
from batchdiff.files.fingerprint import NO_FILE, Fingerprint, fingerprint_at
from batchdiff.image.files import identify, open_image_file
from batchdiff.image_source import ImageSource
from batchdiff.linux.call_failures import AGAIN


class IncomingFile:
    """The incoming file of one task. ``known``: its fingerprint, once it was verified or published."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.known = task.incoming.known
        self.ready = task.incoming.ready
        self._compared: Fingerprint | None = None

    @property
    def path(self) -> str:
        """The path that it has once it is published."""
        return self._task.incoming.source.path

    def at(self, temporary: str | None) -> IncomingAt:
        """Return its state; ``temporary``: the unfinished file that the journal knows."""
        now = fingerprint_at(self.path)
        if self._task.incoming.published:
            # Any file there is what the VM sees; but once it was compared, no other file may take its place.
            is_outgoing = self._task.one_name and self._task.outgoing.known.differs_in_ctime_only(now or NO_FILE)
            if now is None or is_outgoing:
                return IncomingAt.LOST  # the outgoing file was given this name
            if self._compared is not None and not self._compared.is_same_file(now):
                return IncomingAt.LOST
            return IncomingAt.PUBLISHED
        if self.known is not None and now is not None and self.known.differs_in_ctime_only(now):
            return IncomingAt.PUBLISHED
        if self.ready is not None:
            return IncomingAt.READY
        return IncomingAt.UNFINISHED if temporary is not None and os.path.lexists(temporary) else IncomingAt.NONE

    def to_compare(self) -> ImageSource:
        """Return the image at its present path, about to be compared."""
        source = self._task.incoming.source
        if self.ready is not None:
            return replace(source, path=self.ready)
        self._compared = fingerprint_at(source.path)
        return source

    def forget(self) -> None:
        """Forget the file that was written, if any; an original that was ready stays ready."""
        self.ready = self._task.incoming.ready

    def publish(self) -> Fingerprint:
        """Give it its own name, durably and without replacing a file; return its fingerprint afterwards.

        :raises GuestError: it is not the file that was verified, or a file has the name already.
        """
        source = str(self.ready)
        fd = open_image_file(source)
        try:
            if self.known is None or not self.known.differs_in_ctime_only(identify(fd)):
                raise GuestError(
                    f"{source} was not given its final name",
                    why="it is not the file that was verified",
                    remedy=f"End what writes to it, {AGAIN}",
                )
            retire.move(fd, source, self.path)
            self.ready, self.known = None, identify(fd)
        finally:
            os.close(fd)
        return self.known
