"""A client of an NBD server.

::

    options, GO last   ->  size of the disk
    READ, READ, ...    ->  chunks of data      each request has a cookie, which its replies repeat
    BLOCK_STATUS       ->  lengths and flags

Source: NetworkBlockDevice/nbd, ``doc/proto.md`` (fixed newstyle negotiation, structured replies,
``base:allocation``).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

from batchdiff.units import KIB, MIB

_GREETING = struct.Struct(">8s8sH")
_OPTION, _REPLY = struct.Struct(">8sII"), struct.Struct(">QIII")
_REQUEST, _CHUNK = struct.Struct(">IHHQQI"), struct.Struct(">IHHQI")
_MAGIC, _OPTION_MAGIC, _REPLY_MAGIC = b"NBDMAGIC", b"IHAVEOPT", 0x3E889045565A9
_REQUEST_MAGIC, _CHUNK_MAGIC = 0x25609513, 0x668E33EF
_FIXED, _NO_ZEROES = 1, 2
_GO, _STRUCTURED, _SET_CONTEXT = 7, 8, 10
_ACK, _INFO, _CONTEXT, _ERROR_BIT = 1, 3, 4, 1 << 31
_INFO_EXPORT, _INFO_BLOCK_SIZE = 0, 3
_READ, _BLOCK_STATUS = 0, 7
_ONE_CHUNK = 4
"""The flag DF of a read: answer in one piece."""
_DATA, _STATUS, _FAILED = 1, 5, 1 << 15
_LAST = 1
_ALLOCATION = b"base:allocation"
_ZERO = 2

_AT_ONCE = 256 * KIB
"""Bytes of one read request."""
_AHEAD = 4
"""The maximum number of requests at once: while one answer is copied, the server prepares the next."""
_MOST_ASKED = 1 << 31
"""Bytes of one request for block status."""
_LARGEST_REPLY = 16 * MIB


class NbdConnection:
    """A connection, to be used in one thread at a time, never after an error. ``size``: bytes of the disk."""

    def __init__(self, address: str, seconds: float) -> None:
        """Connect to a Unix socket; each wait may take at most ``seconds``.

        :raises OSError: there is no server, or it fails.
        """
        self._cookie = 0
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(seconds)
            self._socket.connect(address)
            self.size = self._negotiated()
        except BaseException:
            self.close()
            raise

    def _negotiated(self) -> int:
        magic, option_magic, flags = _GREETING.unpack(self._received(_GREETING.size))
        _expect(magic == _MAGIC and option_magic == _OPTION_MAGIC and flags & _FIXED)
        self._socket.sendall(struct.pack(">I", flags & (_FIXED | _NO_ZEROES)))
        _expect([kind for kind, _ in self._option(_STRUCTURED, b"")] == [_ACK])
        query = struct.pack(">III", 0, 1, len(_ALLOCATION)) + _ALLOCATION
        kinds = [kind for kind, _ in self._option(_SET_CONTEXT, query)]
        _expect(kinds == [_CONTEXT, _ACK])
        size = None
        for kind, data in self._option(_GO, struct.pack(">IHH", 0, 1, _INFO_BLOCK_SIZE)):
            _expect(not kind & _ERROR_BIT)
            if kind == _INFO and data[:2] == struct.pack(">H", _INFO_EXPORT):
                _expect(len(data) >= 10)
                (size,) = struct.unpack_from(">Q", data, 2)
        if size is None:
            raise _not_the_protocol()
        return int(size)

    def _option(self, option: int, data: bytes) -> list[tuple[int, bytes]]:
        self._socket.sendall(_OPTION.pack(_OPTION_MAGIC, option, len(data)) + data)
        replies: list[tuple[int, bytes]] = []
        while not replies or not (replies[-1][0] == _ACK or replies[-1][0] & _ERROR_BIT):
            magic, of, kind, length = _REPLY.unpack(self._received(_REPLY.size))
            _expect(magic == _REPLY_MAGIC and of == option and length <= _LARGEST_REPLY)
            replies.append((kind, self._received(length)))
        return replies

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the bytes from ``offset`` on.

        :raises OSError: the server fails.
        """
        first = self._cookie + 1
        asked = answered = 0
        while answered < len(buffer):
            while asked < len(buffer) and asked - answered < _AHEAD * _AT_ONCE:
                self._ask(_READ, _ONE_CHUNK, offset + asked, min(_AT_ONCE, len(buffer) - asked))
                asked += _AT_ONCE
            answered += self._one_read(offset, buffer, first)

    def _one_read(self, offset: int, buffer: memoryview, first: int) -> int:
        """Receive the answer to one of the reads, whose cookies begin at ``first``."""
        done = 0
        for kind, cookie, length in self._chunks():
            start = (cookie - first) * _AT_ONCE
            wanted = min(_AT_ONCE, len(buffer) - start)
            _expect(start >= 0 and kind in {0, _DATA} and length in {0, wanted + 8} and not done * length)
            if length:
                (at,) = struct.unpack(">Q", self._received(8))
                _expect(at == offset + start)
                self._receive(buffer[start : start + wanted])
                done = wanted
        _expect(done)
        return done

    def data_runs(self) -> Iterator[tuple[int, int]]:
        """Yield the start and end of each part of the disk that may hold data, ascending; the rest reads as zeros.

        :raises OSError: the server fails.
        """
        at = 0
        while at < self.size:
            end = min(at + _MOST_ASKED, self.size)
            self._ask(_BLOCK_STATUS, 0, at, end - at)
            before = at
            for length, flags in self._statuses():
                # The last length may reach past the bytes that were asked for.
                stop = min(at + length, self.size)
                if not flags & _ZERO:
                    yield at, stop
                at = stop
            _expect(at > before)

    def _statuses(self) -> Iterator[tuple[int, int]]:
        words: tuple[int, ...] = ()
        for kind, _, length in self._chunks():
            _expect(kind in {0, _STATUS} and length <= _LARGEST_REPLY and (length % 8 == 4 or not length))
            if length:
                words = struct.unpack(f">{length // 4}I", self._received(length))[1:]
        return zip(words[::2], words[1::2], strict=True)

    def _ask(self, what: int, flags: int, offset: int, length: int) -> None:
        self._cookie += 1
        self._socket.sendall(_REQUEST.pack(_REQUEST_MAGIC, flags, what, self._cookie, offset, length))

    def _chunks(self) -> Iterator[tuple[int, int, int]]:
        """Yield the kind, cookie and length of each chunk of an answer.

        The caller must receive the bytes of each chunk.
        """
        flags = 0
        while not flags & _LAST:
            magic, flags, kind, cookie, length = _CHUNK.unpack(self._received(_CHUNK.size))
            _expect(magic == _CHUNK_MAGIC)
            if kind & _FAILED:
                _expect(6 <= length <= _LARGEST_REPLY)
                number, text_length = struct.unpack_from(">IH", data := self._received(length))
                raise OSError(number, data[6 : 6 + text_length].decode("utf-8", "replace") or os.strerror(number))
            yield kind, cookie, length

    def _received(self, length: int) -> bytes:
        data = bytearray(length)
        self._receive(memoryview(data))
        return bytes(data)

    def _receive(self, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            got = self._socket.recv_into(buffer[done:], 0, socket.MSG_WAITALL)
            if not got:
                raise ConnectionResetError("the server has ended")
            done += got

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def _expect(condition: object) -> None:
    if not condition:
        raise _not_the_protocol()


def _not_the_protocol() -> OSError:
    return OSError(errno.EPROTO, "the server does not follow the NBD protocol")
