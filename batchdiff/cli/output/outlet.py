"""stdout and stderr, written so that a reader cannot hold up the work: unread text waits in memory.

::

    put("line")    -> pending -> as much as the reader takes right now; texts from several threads never mix
    put_event("progress", may_drop=True)     left out if the reader is behind: the next one replaces it
    flush()        wait until all is written

If both are the same terminal, their texts wait in one queue, so messages never get into the middle of a result.

If output cannot be written, the rest is dropped. This is an error unless the reader has gone, as with ``| head``.
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
"""Bytes that a pipe takes at once if poll() reports it as writable."""


class Drawn(Protocol):
    """Something drawn at the end of a stream, such as a bar."""

    def lifted(self) -> contextlib.AbstractContextManager[None]:
        """Remove the drawing, and draw it again after the block."""


class _Queue:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.pending: deque[bytes] = deque()

    def put(self, fd: int, data: bytes, *, may_drop: bool) -> None:
        self._write(fd)
        if not (may_drop and self.pending):
            self.pending.extend(data[at : at + _PIECE] for at in range(0, len(data), _PIECE))
            self._write(fd)

    def flush(self, fd: int) -> None:
        while self.pending:
            _wait(fd, forever=True)
            self._write(fd)

    def _write(self, fd: int) -> None:
        while self.pending and _wait(fd):
            # Taken out first: a command that is interrupted after the write must not write the piece again.
            piece = self.pending.popleft()
            try:
                done = os.write(fd, piece)
            except BlockingIOError:  # for example, another writer was quicker
                self.pending.appendleft(piece)
                return
            if done < len(piece):
                self.pending.appendleft(piece[done:])


class Outlet:
    """stdout or stderr, by its name in :mod:`sys`. ``drawn``: the drawing at its end, if any."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._own_queue = _Queue()
        self._terminal: tuple[TextIO, int | None] | None = None
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
        """Write a text as :meth:`put` does, but leave it to :meth:`flush` to raise an error."""
        drawn = self._drawn_beside()
        try:
            with contextlib.nullcontext() if drawn is None else drawn.lifted():
                self._put(text, may_drop=may_drop)
        except UsageError as error:
            self._failure = error

    def _drawn_beside(self) -> Drawn | None:
        """Return the drawing to lift for an event. Events on stderr are the drawing itself."""
        drawn = None if self is STDERR else STDERR.drawn
        return drawn if drawn is not None and self.stream.isatty() and STDERR.stream.isatty() else None

    def flush(self) -> None:
        """Wait until all text is written.

        :raises UsageError: pending text or an earlier event could not be written.
        """
        queue = self._queue
        with queue.lock, self._guarded(queue):
            fd = self._descriptor()
            if fd is not None:
                queue.flush(fd)
            self._close_terminal()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    @property
    def _queue(self) -> _Queue:
        device = _terminal_device(self.stream) if self is STDERR else None
        is_shared = device is not None and device == _terminal_device(STDOUT.stream)
        return STDOUT._own_queue if is_shared else self._own_queue

    def _put(self, text: str, *, may_drop: bool) -> None:
        queue, stream = self._queue, self.stream
        with queue.lock, self._guarded(queue):
            fd = self._descriptor()
            if fd is None:  # a stream in memory
                stream.write(text)
                stream.flush()
            else:
                queue.put(fd, text.encode(stream.encoding, stream.errors or "strict"), may_drop=may_drop)

    def _descriptor(self) -> int | None:
        stream = self.stream
        if self._terminal is None or self._terminal[0] is not stream:
            self._close_terminal()
            self._terminal = stream, _reopened(stream)
        terminal = self._terminal[1]
        return _descriptor(stream) if terminal is None else terminal

    def _close_terminal(self) -> None:
        if self._terminal is not None and self._terminal[1] is not None:
            os.close(self._terminal[1])
        self._terminal = None

    @contextmanager
    def _guarded(self, queue: _Queue) -> Iterator[None]:
        """Drop all output if writing fails; raise UsageError unless only the reader has gone."""
        try:
            yield
        except BrokenPipeError:
            self._silence(queue)
        except OSError as error:
            self._silence(queue)
            raise UsageError("cannot write the output", why=error.strerror or str(error)) from error

    def _silence(self, queue: _Queue) -> None:
        queue.pending.clear()
        self._close_terminal()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except OSError:  # io.UnsupportedOperation
        return None


def _terminal_device(stream: TextIO) -> int | None:
    fd = _descriptor(stream)
    return os.fstat(fd).st_rdev if fd is not None and os.isatty(fd) else None


def _reopened(stream: TextIO) -> int | None:
    """Open a stream's terminal again; None if there is none, or if it cannot be opened, as after su.

    poll() reports a terminal as writable if it has room for a byte, but then a write waits until all of it fits,
    unless the descriptor is non-blocking. The stream's own descriptor must stay blocking: the shell shares it.
    """
    if _terminal_device(stream) is None:
        return None
    try:
        return os.open(f"/proc/self/fd/{stream.fileno()}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None


def _wait(fd: int, *, forever: bool = False) -> bool:
    """Return whether a write would succeed or fail at once; ``forever``: wait until it would."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(None if forever else 0))


STDOUT, STDERR = Outlet("stdout"), Outlet("stderr")
