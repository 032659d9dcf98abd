"""One cluster compressed or decompressed, as QEMU does it.

zlib: a raw deflate stream with a window of 4 KiB (QEMU ``block/qcow2-threads.c``: windowBits -12). zstd: one
frame. Both release the interpreter's lock, so threads compress in parallel.

ISA-L inflates in half of zlib's time (64 KiB of a program on an AMD EPYC: 137 and 250 us) and is used where it is
installed. A stream that it refuses goes to zlib, so what is accepted does not depend on it: ISA-L also refuses
some streams with all bytes of a cluster and damage behind them, which zlib and QEMU never look at.
"""

from __future__ import annotations

import contextlib
import threading
import zlib
from functools import cache
from types import ModuleType

import zstandard

from batchdiff.qcow2.faults import FormatError
from batchdiff.qcow2.geometry import CompressionType

_WINDOW_BITS = -12
_ANY_WINDOW_BITS = -zlib.MAX_WBITS
_ZLIB_LEVEL = zlib.Z_DEFAULT_COMPRESSION
_ZSTD_LEVEL = 3
"""zstd's own default; QEMU's too."""

_per_thread = threading.local()


def compressed(data: bytes | memoryview, kind: CompressionType) -> bytes | None:
    """The cluster compressed, or None where that would not make it smaller."""
    if kind is CompressionType.ZSTD:
        packed = _zstd_compressor().compress(data)
    else:
        stream = zlib.compressobj(_ZLIB_LEVEL, zlib.DEFLATED, _WINDOW_BITS)
        packed = stream.compress(data) + stream.flush()
    return packed if len(packed) < len(data) else None


def decompress(packed: bytes, kind: CompressionType, cluster_size: int) -> bytes:
    """The ``cluster_size`` bytes of a compressed cluster; bytes after its end are ignored, as they must be.

    Never makes more than that, whatever the stream holds.

    :raises FormatError: the stream is damaged, too short or too long.
    """
    try:
        # One byte more than there may be, so that a surplus shows.
        if kind is CompressionType.ZSTD:
            data = _zstd_decompress(packed, cluster_size + 1)
        else:
            data = _inflated(packed, cluster_size + 1)
    except (zlib.error, zstandard.ZstdError) as error:
        raise FormatError(f"a compressed cluster is damaged ({error})") from error
    if len(data) > cluster_size:
        raise FormatError(f"a compressed cluster has more than the {cluster_size} bytes of a cluster")
    if len(data) != cluster_size:
        raise FormatError(f"a compressed cluster has {len(data)} bytes in place of {cluster_size}")
    return data


def _inflated(packed: bytes, most: int) -> bytes:
    """Up to ``most`` bytes of a raw deflate stream.

    :raises zlib.error: it is damaged.
    """
    isal_zlib = _isal_zlib()
    if isal_zlib is not None:
        with contextlib.suppress(isal_zlib.error):
            data: bytes = isal_zlib.decompressobj(_ANY_WINDOW_BITS).decompress(packed, most)
            return data
    return zlib.decompressobj(_ANY_WINDOW_BITS).decompress(packed, most)


@cache
def _isal_zlib() -> ModuleType | None:
    """Return ISA-L's counterpart of zlib, loaded with the first cluster; None if it is not installed."""
    try:
        from isal import isal_zlib  # noqa: PLC0415
    except ImportError:
        return None
    return isal_zlib


def _zstd_compressor() -> zstandard.ZstdCompressor:
    # One a thread: the object holds a context that must not be shared, and making it costs more than a use.
    found: zstandard.ZstdCompressor | None = getattr(_per_thread, "compressor", None)
    if found is None:
        found = _per_thread.compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
    return found


def _zstd_decompress(packed: bytes, most: int) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=False) as reader:
        return reader.read(most)
