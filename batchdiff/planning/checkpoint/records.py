"""The records of a checkpoint file, and their encoding.

::

    file     magic | record | record | ...        reading ends at a truncated or damaged record
    record   length of the payload (u32), xxh3-128 of the payload, payload
    payload  B binding        text: the template, and the way it is scanned; once, first
             G guests         JSON list of texts: the guests that the following results refer to by number
             R result         of one range: number, digest, count of the template's nonzero units, guests left
                              out; for each guest that differs: in how many of these units it has other data,
                              and its runs

All numbers are little-endian. A guest without runs equals the template in that range, unless it is left out.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import xxhash

from batchdiff.extents import Extents, Kind
from batchdiff.frozen import frozen
from batchdiff.planning.scan.results import RangeResult

CHECKPOINT_MAGIC = b"batchdiff unfinished scan 1\n"

_FRAME = struct.Struct("<I16s")
_RESULT = struct.Struct("<Q?16sIII")
_GUEST = struct.Struct("<III")
_RUN = np.dtype([("first", "<i8"), ("count", "<i4"), ("kind", "u1")])
_LAST_UNIT = 1 << 51
"""2^63 bytes, the limit on offsets in a file, in units of 4 KiB."""


@frozen
class Binding:
    """The first record: the state and settings on which all results depend."""

    text: str


@frozen
class Guests:
    """The guests of the following results; a key is a guest's state as text, or empty."""

    keys: tuple[str, ...]


@frozen
class RangeRecord:
    """The result of one range; ``left_out``: the numbers of the guests that it does not cover."""

    result: RangeResult
    left_out: frozenset[int]


Record = Binding | Guests | RangeRecord


def encode_record(record: Binding | Guests | RangeResult) -> bytes:
    """Encode a record with its frame."""
    match record:
        case Binding(text):
            payload = b"B" + text.encode()
        case Guests(keys):
            payload = b"G" + json.dumps(keys).encode()
        case RangeResult():
            payload = b"R" + _result_bytes(record)
    return _FRAME.pack(len(payload), _digest(payload)) + payload


def decode(file: BinaryIO, size: int) -> Iterator[tuple[Record, int]]:
    """Yield the records before the first invalid one, each with the offset of its end.

    ``file``: positioned after the magic; ``size``: its length in bytes.

    :raises OSError: the file cannot be read.
    """
    at = file.tell()
    while at + _FRAME.size <= size:
        frame = file.read(_FRAME.size)
        if len(frame) < _FRAME.size:  # another program has truncated the file
            return
        length, digest = _FRAME.unpack(frame)
        at += _FRAME.size + length
        if at > size:
            return
        payload = file.read(length)
        if _digest(payload) != digest:
            return
        try:
            record = _record(payload)
        except (ValueError, struct.error):  # complete, but not written by batchdiff
            return
        yield record, at


def _digest(payload: bytes) -> bytes:
    return xxhash.xxh3_128_digest(payload)


def _result_bytes(result: RangeResult) -> bytes:
    digest = result.template_digest
    left_out, found = sorted(result.failures), sorted(result.differences.items())
    head = (result.number, digest is not None, digest or b"", result.template_units)
    parts = [_RESULT.pack(*head, len(left_out), len(found))]
    parts += [struct.pack(f"<{len(left_out)}I", *left_out)]
    for guest, extents in found:
        runs = np.empty(len(extents), dtype=_RUN)
        runs["first"], runs["count"], runs["kind"] = extents.first, extents.count, extents.kind
        parts += [_GUEST.pack(guest, result.replaced.get(guest, 0), len(runs)), runs.tobytes()]
    return b"".join(parts)


def _record(payload: bytes) -> Record:
    kind, body = payload[:1], payload[1:]
    if kind == b"B":
        return Binding(body.decode())
    if kind == b"G":
        keys = json.loads(body)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ValueError("not a list of guests")
        return Guests(tuple(keys))
    if kind == b"R":
        return _range_record(body)
    raise ValueError("unknown kind of record")


def _range_record(body: bytes) -> RangeRecord:
    number, has_digest, digest, units, left, guests = _RESULT.unpack_from(body)
    at = _RESULT.size
    left_out = struct.unpack_from(f"<{left}I", body, at)
    at += 4 * left
    result = RangeResult(number, digest if has_digest else None, template_units=units)
    for _ in range(guests):
        guest, replaced, count = _GUEST.unpack_from(body, at)
        result.replaced[guest] = replaced
        at += _GUEST.size
        result.differences[guest] = _extents(np.frombuffer(body, _RUN, count, at))
        at += count * _RUN.itemsize
    if at != len(body):
        raise ValueError("bytes after the last run")
    return RangeRecord(result, frozenset(left_out))


def _extents(runs: np.ndarray[tuple[int], np.dtype[np.void]]) -> Extents:
    first, count = runs["first"].astype(np.int64), runs["count"].astype(np.int64)
    kind = runs["kind"].copy()
    end = first + count
    sound = (
        (count > 0).all() and (first[1:] >= end[:-1]).all() and (first >= 0).all() and (end <= _LAST_UNIT).all()
    )
    if not sound or not ((kind > Kind.SAME_ZERO) & (kind <= Kind.DATA)).all():
        raise ValueError("invalid runs")
    return Extents(first, count, kind)
