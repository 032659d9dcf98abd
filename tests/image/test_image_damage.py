"""Damaged qcow2 data: compressed clusters with wrong streams, and files cut off anywhere."""

from __future__ import annotations

import zlib

import notation
import pytest
import zstandard
from oracle import assert_refused, assert_same, guest_bytes, read_all, source
from patching import Patched
from seeds import seeded

from batchdiff.errors import ImageError
from batchdiff.image.open import open_image

TEXT = "16k:A 8k:b 16k:C"
ZLIB, ZSTD = "cluster_size=4k", "cluster_size=4k,compression_type=zstd"
PACKED = 4
"""The number of the first compressed cluster."""


def deflated(data):
    stream = zlib.compressobj(wbits=-12)
    return stream.compress(data) + stream.flush()


STREAMS = {
    "garbage": (lambda pack: b"\xff" * 512, "damaged|instead of"),
    "zeros": (lambda pack: bytes(512), "damaged|instead of"),
    "nothing-in-it": (lambda pack: pack(b""), "damaged|0 instead of 4096 bytes"),
    "a-byte-too-short": (lambda pack: pack(b"A" * 4095), "4095 instead of 4096 bytes|damaged"),
    "a-byte-too-long": (lambda pack: pack(b"A" * 4097), "more than 4096 bytes"),
    "a-bomb": (lambda pack: pack(bytes(512 << 10)), "more than 4096 bytes"),
}


@pytest.mark.parametrize("options", [ZLIB, ZSTD], ids=["zlib", "zstd"])
@pytest.mark.parametrize(("stream", "match"), STREAMS.values(), ids=STREAMS)
def test_compressed_clusters(tmp_path, options, stream, match):
    path = notation.write_qcow2(tmp_path / "a.qcow2", TEXT, options=options)
    image = Patched(path)
    offset = image[image.l2(PACKED)] & ((1 << 58) - 1)
    image.put(offset, stream(zstandard.compress if "zstd" in options else deflated))
    assert_refused(image.save(path), match)
    with open_image(source(path)) as opened:
        assert guest_bytes(opened, 0, 16 << 10) == notation.content("16k:A")


@pytest.mark.parametrize("options", [ZLIB, ZSTD], ids=["zlib", "zstd"])
def test_a_compressed_cluster_cut_off_by_its_entry(tmp_path, options):
    path = notation.write_qcow2(tmp_path / "a.qcow2", TEXT, options=options)
    image = Patched(path)
    image[image.l2(PACKED)] &= ~(0xF << 58)
    assert_refused(image.save(path), "damaged|instead of")


def can_be_read(path):
    try:
        read_all(path)
    except ImageError:
        return False
    return True


@pytest.mark.parametrize("text", ["64k:A 64k:b 64k:- 1M:C", "64k:A 64k:- 128k:b"], ids=["data", "compressed"])
@pytest.mark.parametrize("options", ["", ZLIB, ZSTD, "compat=0.10", "extended_l2=on"])
def test_truncated_files(tmp_path, text, options):
    path = notation.write_qcow2(tmp_path / "a.qcow2", text, options=options)
    whole = path.read_bytes()
    chosen = seeded()
    edges = [0, 1, 71, 72, 103, 104, 111, 112, 4095, 4096, len(whole) - 1]
    for length in edges + chosen.sample(range(len(whole)), 60):
        path.write_bytes(whole[:length])
        print(length)
        # The last byte of a compressed cluster may be only its end mark; then nothing is lost.
        if text.endswith("b") and length == len(whole) - 1 and can_be_read(path):
            assert_same(read_all(path), notation.content(text))
        else:
            assert_refused(path, "truncated|not a qcow2 image|instead of|ends inside|outside the file")
