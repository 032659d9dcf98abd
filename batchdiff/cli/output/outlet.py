"""stdout and stderr, written so that a pipe's reader cannot hold up the work: unread text waits in memory.

::

    put("line")    -> pending -> as much as the reader takes right now; texts from several threads never mix
    put_event("progress", may_drop=True)     left out if the reader is behind: the next one replaces it
    flush()        wait until all is written

If the reader has gone, as with ``| head``, output is dropped without an error. If output cannot be written, as on
a full disk, one error reports that, and later output is dropped.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from batchdiff.errors import UsageError

_PIECE = select.PIPE_BUF
"""Bytes that a pipe takes without waiting, once poll() reports that it can be written to."""


class Drawn(Protocol):
    """Something drawn at the end of a stream, such as a bar."""

    def lifted(self) -> contextlib.AbstractContextManager[None]:
        """Remove the drawing, and draw it again after the block."""


class Outlet:
    """stdout or stderr, by its name in :mod:`sys`. ``drawn``: what is drawn at its end; None if nothing is."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.RLock()
        self._pending: deque[bytes] = deque()
        self._failure: UsageError | None = None
        self.drawn: Drawn | None = None

    @property
    def stream(self) -> TextIO:
        """The stream that has this name now."""
        found: TextIO = getattr(sys, self._name)
        return found

    def put(self, text: str) -> None:
        """Write as much of a text as the reader takes now; later calls write the rest.

        :raises UsageError: output cannot be written.
        """
        drawn = self.drawn
        with contextlib.nullcontext() if drawn is None else drawn.lifted():
            self._put(text, may_drop=False)

    def put_event(self, text: str, *, may_drop: bool = False) -> None:
        """Write a text like :meth:`put`, but leave an error to :meth:`flush`.

        ``may_drop``: leave the text out if the reader is behind, because later text will replace it.
        """
        drawn = self._drawn_beside()
        try:
            with contextlib.nullcontext() if drawn is None else drawn.lifted():
                self._put(text, may_drop=may_drop)
        except UsageError as error:
            self._failure = error

    def _drawn_beside(self) -> Drawn | None:
        """Return what is drawn on stderr, if this is stdout and both streams are terminals; None otherwise.

        Events on stderr are the drawing itself.
        """
        drawn = None if self is STDERR else STDERR.drawn
        return drawn if drawn is not None and self.stream.isatty() and STDERR.stream.isatty() else None

    def flush(self) -> None:
        """Wait until all text is written.

        :raises UsageError: pending text or an earlier event could not be written.
        """
        with self._lock, self._guarded():
            fd = _descriptor(self.stream)
            while self._pending and fd is not None:
                _wait(fd, forever=True)
                self._write(fd)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _put(self, text: str, *, may_drop: bool) -> None:
        with self._lock, self._guarded():
            stream = self.stream
            fd = _descriptor(stream)
            if fd is None:  # a stream in memory
                stream.write(text)
                stream.flush()
                return
            self._write(fd)
            if not (may_drop and self._pending):
                data = text.encode(stream.encoding, stream.errors or "strict")
                self._pending.extend(data[at : at + _PIECE] for at in range(0, len(data), _PIECE))
                self._write(fd)

    def _write(self, fd: int) -> None:
        """Write pending text for as long as the reader takes it."""
        while self._pending and _wait(fd):
            # Taken out first: the reader of this piece may interrupt the command, which must not write it again.
            piece = self._pending.popleft()
            try:
                done = os.write(fd, piece)
            except BlockingIOError:  # another process has made the shared descriptor non-blocking
                self._pending.appendleft(piece)
                return
            if done < len(piece):
                self._pending.appendleft(piece[done:])

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Drop all output from now on if the reader has gone, or if output cannot be written.

        :raises UsageError: output cannot be written.
        """
        try:
            yield
        except BrokenPipeError:
            self._silence()
        except OSError as error:
            self._silence()
            raise UsageError("cannot write the output", why=error.strerror or str(error)) from error

    def _silence(self) -> None:
        """Drop pending text, and send all later output to /dev/null."""
        self._pending.clear()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except OSError:  # io.UnsupportedOperation
        return None


def _wait(fd: int, *, forever: bool = False) -> bool:
    """Return whether a descriptor takes output now, or fails at once; ``forever``: wait until it does."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(None if forever else 0))


STDOUT, STDERR = Outlet("stdout"), Outlet("stderr")
