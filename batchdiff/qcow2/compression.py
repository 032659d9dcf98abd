"""Compression and decompression of single clusters, compatible with QEMU.

zlib: a raw deflate stream with a window of 4 KiB (QEMU ``block/qcow2-threads.c``: windowBits -12). zstd: one
frame. Both release the interpreter's lock, so threads compress in parallel.

ISA-L inflates in half of zlib's time (64 KiB of program code on an AMD EPYC: 137 and 250 us) and is used if it is
installed. A stream that it refuses is given to zlib, so installing ISA-L never changes which images are accepted:
ISA-L refuses some streams that are damaged only after the cluster's last byte, where zlib and QEMU never look.
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
_DEFAULT_LEVELS = {CompressionType.ZLIB: zlib.Z_DEFAULT_COMPRESSION, CompressionType.ZSTD: 3}
"""Those of the libraries, and of QEMU."""

_per_thread = threading.local()


def compress(data: bytes | memoryview, kind: CompressionType, level: int | None = None) -> bytes | None:
    """Compress a cluster; return None if that does not make it smaller. ``level``: None for the default."""
    level = _DEFAULT_LEVELS[kind] if level is None else level
    if kind is CompressionType.ZSTD:
        packed = _zstd_compressor(level).compress(data)
    else:
        stream = zlib.compressobj(level, zlib.DEFLATED, _WINDOW_BITS)
        packed = stream.compress(data) + stream.flush()
    return packed if len(packed) < len(data) else None


def decompress(packed: bytes, kind: CompressionType, cluster_size: int) -> bytes:
    """Return the ``cluster_size`` bytes of a compressed cluster.

    ``packed`` may continue past the end of the stream, because its length is known only in sectors. At most one
    byte more than a cluster is unpacked, whatever the stream contains.

    :raises FormatError: the stream is damaged, too short or too long.
    """
    try:
        # Ask for one byte too many, to detect a stream that is too long.
        if kind is CompressionType.ZSTD:
            data = _zstd_decompress(packed, cluster_size + 1)
        else:
            data = _inflated(packed, cluster_size + 1)
    except (zlib.error, zstandard.ZstdError) as error:
        raise FormatError(f"a compressed cluster is damaged ({error})") from error
    if len(data) > cluster_size:
        raise FormatError(f"a compressed cluster has more than the {cluster_size} bytes of a cluster")
    if len(data) != cluster_size:
        raise FormatError(f"a compressed cluster has {len(data)} bytes instead of {cluster_size}")
    return data


def _inflated(packed: bytes, most: int) -> bytes:
    """Inflate up to ``most`` bytes of a raw deflate stream.

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
    """Return ISA-L's replacement for zlib, imported at the first use; None if it is not installed."""
    try:
        from isal import isal_zlib  # noqa: PLC0415
    except ImportError:
        return None
    return isal_zlib


def _zstd_compressor(level: int) -> zstandard.ZstdCompressor:
    # One per thread: its context must not be shared, and creating it costs more than using it once.
    found: tuple[int, zstandard.ZstdCompressor] | None = getattr(_per_thread, "compressor", None)
    if found is None or found[0] != level:
        found = _per_thread.compressor = level, zstandard.ZstdCompressor(level=level)
    return found[1]


def _zstd_decompress(packed: bytes, most: int) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=False) as reader:
        return reader.read(most)
