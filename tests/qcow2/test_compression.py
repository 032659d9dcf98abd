"""Compressed clusters: round trips, damage, and that QEMU's streams are read (the latter in tests/image)."""

from __future__ import annotations

import concurrent.futures
import contextlib
import random
import types
import zlib

import notation
import pytest
import zstandard
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from batchdiff.plan.overlay_options import COMPRESSION_LEVELS, Compression
from batchdiff.qcow2 import compression
from batchdiff.qcow2.compression import compress, decompress
from batchdiff.qcow2.faults import FormatError
from batchdiff.qcow2.geometry import CompressionType

CLUSTER = 4096
both = pytest.mark.parametrize("kind", CompressionType, ids=["zlib", "zstd"])


def packed_by_hand(data, kind):
    """A stream of any length, which :func:`compressed` would not make."""
    if kind is CompressionType.ZSTD:
        return zstandard.compress(data)
    stream = zlib.compressobj(wbits=-12)
    return stream.compress(data) + stream.flush()


@both
@given(st.binary(min_size=1, max_size=16), st.binary(max_size=600), st.binary(max_size=600))
def test_round_trip_also_with_bytes_behind_it(kind, pattern, noise, behind):
    data = (noise + pattern * CLUSTER)[:CLUSTER]
    packed = compress(data, kind)
    assert packed is not None
    assert len(packed) < CLUSTER
    assert decompress(packed + behind, kind, CLUSTER) == data


@both
def test_what_does_not_shrink_stays_as_it_is(kind):
    noise = b"".join(notation.data("A", sector * 512, 128) for sector in range(CLUSTER // 128))
    assert compress(noise, kind) is None


@both
def test_memory_views_are_compressed(kind):
    data = notation.data("A", 0, CLUSTER)
    assert compress(memoryview(data), kind) == compress(data, kind)


@both
def test_every_level_round_trips_and_the_default_is_that_of_qemu(kind):
    data = (b"guest template " * 999 + notation.data("A", 0, CLUSTER))[:65536]
    levels = COMPRESSION_LEVELS[Compression.ZSTD if kind is CompressionType.ZSTD else Compression.ZLIB]
    packed = {level: compress(data, kind, level) for level in levels}
    assert all(decompress(each, kind, len(data)) == data for each in packed.values())
    assert compress(data, kind) == packed[3 if kind is CompressionType.ZSTD else 6]
    # A thread keeps its compressor, but not for another level.
    assert compress(data, kind, levels[-1]) == packed[levels[-1]] != packed[levels[0]]


@both
@pytest.mark.parametrize("length", [0, 1, CLUSTER - 1])
def test_too_short_streams_are_refused(kind, length):
    with pytest.raises(
        FormatError, match=f"^a compressed cluster unpacks to {length} instead of {CLUSTER} bytes$"
    ):
        decompress(packed_by_hand(b"A" * length, kind), kind, CLUSTER)


@both
@pytest.mark.parametrize("length", [CLUSTER + 1, 64 << 20])
def test_too_long_streams_are_refused_without_unpacking_them(kind, length):
    with pytest.raises(FormatError, match=f"^a compressed cluster unpacks to more than {CLUSTER} bytes$"):
        decompress(packed_by_hand(bytes(length), kind), kind, CLUSTER)


@both
@given(st.data())
def test_truncated_streams_are_refused_or_whole(kind, data):
    content = notation.data("A", 0, CLUSTER)
    packed = compress(content, kind)
    cut = packed[: data.draw(st.integers(0, len(packed) - 1))]
    try:
        # zlib's last byte may be nothing but the end mark.
        assert decompress(cut, kind, CLUSTER) == content
    except FormatError:
        return
    assert len(cut) >= len(packed) - 2


@both
@given(st.binary(max_size=1000))
def test_noise_is_refused_or_a_cluster(kind, noise):
    with contextlib.suppress(FormatError):
        assert len(decompress(noise, kind, CLUSTER)) == CLUSTER


@both
def test_threads_compress_at_the_same_time(kind):
    clusters = [notation.data("A", at, CLUSTER) for at in range(0, 200 * CLUSTER, CLUSTER)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        packed = list(pool.map(lambda data: compress(data, kind), clusters))
    assert [decompress(each, kind, CLUSTER) for each in packed] == clusters


def test_zlib_looks_back_no_further_than_qemu_can():
    # The same 6 KiB of noise twice: only a window larger than QEMU's 4 KiB could see that.
    noise = b"".join(notation.data("A", sector * 512, 128) for sector in range(48))
    packed = compress((noise * 11)[:65536], CompressionType.ZLIB)
    assert packed is None


DAMAGE = ["none", "flip", "cut", "garbage behind", "zeros behind", "too long", "too short", "insert", "noise"]


@settings(max_examples=examples(150, slow=5000))
@given(st.integers(0, 2**32), st.sampled_from(DAMAGE), st.sampled_from([0, 1, 6, 9]))
def test_isal_accepts_what_zlib_accepts_and_gives_the_same(seed, damage, level):
    """Differential: with ISA-L and without it a stream is refused, or gives the same cluster."""
    rng = random.Random(seed)
    words = [rng.randbytes(rng.randrange(1, 9)) for _ in range(20)]
    content = b"".join(rng.choices(words, k=CLUSTER))[:CLUSTER]
    length = {"too long": CLUSTER + rng.randrange(1, 300), "too short": CLUSTER - rng.randrange(1, 300)}
    stream = zlib.compressobj(level, wbits=-12)
    packed = bytearray(stream.compress((content + content)[: length.get(damage, CLUSTER)]) + stream.flush())
    match damage:
        case "flip":
            for _ in range(rng.choice([1, 1, 8])):
                packed[rng.randrange(len(packed))] ^= 1 << rng.randrange(8)
        case "cut":
            del packed[rng.randrange(len(packed)) :]
        case "garbage behind":
            packed += rng.randbytes(rng.randrange(1, 600))
        case "zeros behind":
            packed += bytes(rng.randrange(1, 600))
        case "insert":
            at = rng.randrange(len(packed))
            packed[at:at] = rng.randbytes(5)
        case "noise":
            packed = bytearray(rng.randbytes(rng.randrange(1, 2000)))
    with pytest.MonkeyPatch.context() as patch:
        with_isal = _cluster_or_none(bytes(packed))
        patch.setattr(compression, "_isal_zlib", lambda: None)
        assert _cluster_or_none(bytes(packed)) == with_isal


def _cluster_or_none(packed):
    try:
        return decompress(packed, CompressionType.ZLIB, CLUSTER)
    except FormatError:
        return None


def test_isal_is_used_where_it_is_installed():
    assert compression._isal_zlib() is not None


def test_a_stream_that_isal_alone_refuses_is_read(monkeypatch):
    content = notation.data("A", 0, CLUSTER)
    refusing = types.SimpleNamespace(error=isal_zlib.error, decompressobj=_refuse)
    monkeypatch.setattr(compression, "_isal_zlib", lambda: refusing)
    assert decompress(compress(content, CompressionType.ZLIB), CompressionType.ZLIB, CLUSTER) == content


def _refuse(*_):
    raise isal_zlib.error("refused")
