"""Compression and decompression of single clusters, compatible with QEMU.

A cluster is written as a raw deflate stream with a window of 4 KiB (QEMU ``block/qcow2-threads.c``: windowBits
-12) or as one zstd frame. zlib and zstandard release the interpreter's lock, so threads compress in parallel.

ISA-L, if installed, inflates in about half zlib's time. A stream that it refuses is given to zlib.
"""

from __future__ import annotations

import contextlib
import threading
import zlib
from functools import cache
from types import ModuleType

import zstandard

from batchdiff.qcow2.faults import FormatError, require
from batchdiff.qcow2.geometry import CompressionType

_WINDOW_BITS = -12
_ANY_WINDOW_BITS = -zlib.MAX_WBITS
_DEFAULT_LEVELS = {CompressionType.ZLIB: zlib.Z_DEFAULT_COMPRESSION, CompressionType.ZSTD: 3}
"""The default levels of the libraries, which are also QEMU's."""

_SKIPPABLE, _CHECKSUM, _REPEATED_BYTE = b"\x2a\x4d\x18", 1 << 2, 1
"""In zstd: the last three bytes of a skippable frame's magic number, the checksum bit of the byte after a frame's
magic number, and the type of a block that repeats one byte."""

_MOST_FRAMES = 1000
"""QEMU writes one frame per cluster; millions of empty ones would take seconds."""

_per_thread = threading.local()


def compress(data: bytes | memoryview, kind: CompressionType, level: int | None = None) -> bytes | None:
    """Compress a cluster; return None if this does not make it smaller. ``level``: None for the default."""
    level = _DEFAULT_LEVELS[kind] if level is None else level
    if kind is CompressionType.ZSTD:
        packed = _zstd_compressor(level).compress(data)
    else:
        stream = zlib.compressobj(level, zlib.DEFLATED, _WINDOW_BITS)
        packed = stream.compress(data) + stream.flush()
    return packed if len(packed) < len(data) else None


def decompress(packed: bytes, kind: CompressionType, cluster_size: int) -> bytes:
    """Return the ``cluster_size`` bytes of a compressed cluster.

    ``packed`` may continue past the end of the stream, because an L2 entry gives the length only in sectors.

    :raises FormatError: the cluster cannot be decompressed to that size.
    """
    try:
        # Unpack at most one byte too many, to detect a stream that is too long.
        if kind is CompressionType.ZSTD:
            data = _zstd_decompress(packed, cluster_size + 1)
        else:
            data = _inflated(packed, cluster_size + 1)
    except (zlib.error, zstandard.ZstdError) as error:
        raise FormatError(f"a compressed cluster is damaged ({error})") from error
    if len(data) > cluster_size:
        raise FormatError(f"a compressed cluster unpacks to more than {cluster_size} bytes")
    if len(data) != cluster_size:
        raise FormatError(f"a compressed cluster unpacks to {len(data)} instead of {cluster_size} bytes")
    return data


def _inflated(packed: bytes, most: int) -> bytes:
    isal_zlib = _isal_zlib()
    if isal_zlib is not None:
        with contextlib.suppress(isal_zlib.error):
            data: bytes = isal_zlib.decompressobj(_ANY_WINDOW_BITS).decompress(packed, most)
            return data
    return zlib.decompressobj(_ANY_WINDOW_BITS).decompress(packed, most)


@cache
def _isal_zlib() -> ModuleType | None:
    try:
        from isal import isal_zlib  # noqa: PLC0415
    except ImportError:
        return None
    return isal_zlib


def _zstd_compressor(level: int) -> zstandard.ZstdCompressor:
    # One per thread: threads must not share a compressor, and creating one costs more than using it once.
    found: tuple[int, zstandard.ZstdCompressor] | None = getattr(_per_thread, "compressor", None)
    if found is None or found[0] != level:
        found = _per_thread.compressor = level, zstandard.ZstdCompressor(level=level)
    return found[1]


def _zstd_decompress(packed: bytes, most: int) -> bytes:
    """Unpack zstd frames as QEMU does: until a cluster of ``most`` - 1 bytes is full."""
    data, at = b"", 0
    for _ in range(_MOST_FRAMES):
        length = _frame_length(packed, at)
        frame = memoryview(packed)[at : at + length]
        with zstandard.ZstdDecompressor().stream_reader(frame, read_across_frames=False) as reader:
            data += reader.read(most - len(data))
        at += length
        if len(data) >= most - 1 or at >= len(packed):
            return data
    raise FormatError(f"a compressed cluster has more than {_MOST_FRAMES} zstd frames")


def _frame_length(packed: bytes, at: int) -> int:
    """Return the length of the zstd frame at index ``at`` (RFC 8878, 3.1.1 and 3.1.2)."""
    mark, size = packed[at : at + 4], int.from_bytes(packed[at + 4 : at + 8], "little")
    if mark[1:] == _SKIPPABLE and mark[0] >> 4 == 5:
        end, is_last = at + 8 + size, True
    else:
        end, is_last = at + zstandard.frame_header_size(packed[at : at + 18]), False
    has_checksum = not is_last and packed[at + 4] & _CHECKSUM
    while not is_last:
        block = int.from_bytes(packed[end : end + 3], "little")
        is_last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
        end += 3 + (1 if kind == _REPEATED_BYTE else size)
        if end > len(packed):
            break
    end += 4 if has_checksum else 0
    require(end <= len(packed), "a compressed cluster is damaged (its zstd frame has no end)")
    return end - at
