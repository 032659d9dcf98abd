"""One cluster compressed or decompressed, as QEMU does it.

zlib: a raw deflate stream with a window of 4 KiB (QEMU ``block/qcow2-threads.c``: windowBits -12). zstd: one
frame. Both release the interpreter's lock, so threads compress in parallel.
"""

from __future__ import annotations

import threading
import zlib

import zstandard

from batchdiff.qcow2.faults import FormatError
from batchdiff.qcow2.geometry import CompressionType

_WINDOW_BITS = -12
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
            data = zlib.decompressobj(zlib.MAX_WBITS * -1).decompress(packed, cluster_size + 1)
    except (zlib.error, zstandard.ZstdError) as error:
        raise FormatError(f"a compressed cluster is damaged ({error})") from error
    if len(data) > cluster_size:
        raise FormatError(f"a compressed cluster has more than the {cluster_size} bytes of a cluster")
    if len(data) != cluster_size:
        raise FormatError(f"a compressed cluster has {len(data)} bytes in place of {cluster_size}")
    return data


def _zstd_compressor() -> zstandard.ZstdCompressor:
    # One a thread: the object holds a context that must not be shared, and making it costs more than a use.
    found: zstandard.ZstdCompressor | None = getattr(_per_thread, "compressor", None)
    if found is None:
        found = _per_thread.compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
    return found


def _zstd_decompress(packed: bytes, most: int) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=False) as reader:
        return reader.read(most)
