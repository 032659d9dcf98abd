"""References and refcounts: what `qemu-img check` finds is refused, leaks are not, at every width of refcounts.

Guards qcow2/references.py, qcow2/refcounts.py.
"""

from __future__ import annotations

import re
import subprocess

import notation
import numpy as np
import pytest
import zstandard
from oracle import assert_same, read_all, source
from patching import OFFSET, Patched

from batchdiff.errors import ImageError
from batchdiff.image.open import inspect, open_image
from batchdiff.qcow2 import references
from batchdiff.qcow2.compression import decompress
from batchdiff.qcow2.faults import FormatError
from batchdiff.qcow2.geometry import CompressionType

TEXT = "16k:A 8k:b 4k:- 4k:0 2M:- 16k:C"
EXTENDED = "64k:A 64k:b 64k:- 64k:C"

MADE = {
    **{f"{bits}-bits": (TEXT, f"cluster_size=4k,refcount_bits={bits}") for bits in (1, 2, 4, 8, 16, 32, 64)},
    "512-bytes": ("16k:A 8k:b 512:- 16k:C", "cluster_size=512"),
    "64-KiB": ("64k:A 192k:b 64k:0 64k:C", ""),
    "2-MiB": ("2M:A 2M:b 2M:C", "cluster_size=2M"),
    "version-2": (TEXT, "cluster_size=4k,compat=0.10"),
    "zstd": (TEXT, "cluster_size=4k,compression_type=zstd"),
    "subclusters": (EXTENDED, "extended_l2=on"),
    "preallocated": ("16k:A 48k:-", "cluster_size=4k,preallocation=metadata"),
    "lazy": (TEXT, "cluster_size=4k,lazy_refcounts=on"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Makes a sound image, each only once; the result is a fresh copy's bytes."""
    kept = {}

    def make(name):
        if name not in kept:
            text, options = MADE[name]
            if name == "1-bits":  # its compressed clusters cannot share one of the file
                text = text.replace("b", "B")
            kept[name] = notation.write_qcow2(tmp_path_factory.mktemp("made") / "a.qcow2", text, options=options)
        return Patched(kept[name])

    return make


def refused(path):
    """Returns the reason for which the image is refused; None if it is accepted."""
    try:
        with open_image(source(path)) as image:
            inspect(image, refcounts=True)
    except ImageError as error:
        return error.why if str(path) in error.what else str(error)
    return None


def errors(path):
    """Returns whether `qemu-img check` finds errors; leaks are not."""
    done = subprocess.run(["qemu-img", "check", str(path)], capture_output=True, text=True, check=False)
    return done.returncode not in {0, 3}


def set_refcount(image, cluster, value):
    order = image["refcount_order"] if image["version"] == 3 else 4
    in_block = (image.cluster * 8) >> order
    block = image[image["refcount_offset"] + cluster // in_block * 8]
    place = cluster % in_block
    if order < 3:
        at, shift = block + (place << order) // 8, (place << order) % 8
        kept = image.data[at] & ~(((1 << (1 << order)) - 1) << shift)
        image.data[at] = kept | value << shift
    else:
        width = 1 << (order - 3)
        image.put(block + place * width, value.to_bytes(width, "big"))


@pytest.mark.parametrize("name", MADE)
def test_sound_images_are_accepted(tmp_path, made, name):
    path = made(name).save(tmp_path / "a.qcow2")
    assert not errors(path)
    assert refused(path) is None


@pytest.mark.parametrize("name", [name for name in MADE if name != "lazy"])
def test_a_refcount_of_0_is_refused_for_each_cluster_in_use(tmp_path, made, name):
    clusters = -(-len(made(name).data) // made(name).cluster)
    for cluster in range(0, clusters, max(clusters // 40, 1)):
        image = made(name)
        set_refcount(image, cluster, 0)
        path = image.save(tmp_path / "a.qcow2")
        found = refused(path)
        assert (found is not None) == errors(path), cluster
        if found:
            assert re.search(rf"the cluster at {cluster * image.cluster} is (in use|used)", found), found


def test_a_higher_refcount_is_a_leak(tmp_path, made):
    image = made("16-bits")
    for cluster in range(len(image.data) // image.cluster):
        set_refcount(image, cluster, 9)
    path = image.save(tmp_path / "a.qcow2")
    assert refused(path) is None
    assert_same(read_all(path), notation.content(TEXT))


def test_data_clusters_on_every_cluster_of_the_file(tmp_path, made):
    """An entry is refused on metadata, on a free cluster, and on data whose refcount is 1."""
    original = made("64-KiB")
    messages = set()
    for cluster in range(1, -(-len(original.data) // original.cluster)):
        image = made("64-KiB")
        entry = image.l2(5)
        if image[entry] & OFFSET == cluster * image.cluster:
            continue
        image[entry] = cluster * image.cluster | 1 << 63
        path = image.save(tmp_path / "a.qcow2")
        assert errors(path)
        messages.add(re.sub(r"\d\d+", "N", refused(path)))
    assert messages >= {
        "a data cluster overlaps the L1 table, at N",
        "a data cluster overlaps the refcount table, at N",
        "a data cluster overlaps a refcount block, at N",
        "a data cluster overlaps an L2 table, at N",
        "the cluster at N is used 2 times, but its refcount is 1",
    }


@pytest.mark.parametrize(("count", "is_refused"), [(1, True), (2, False), (3, False)])
def test_one_data_cluster_for_two_parts_of_the_disk(tmp_path, made, count, is_refused):
    """Only with a refcount that allows it, as `check` wants it."""
    image = made("64-KiB")
    first = image[image.l2(0)] & OFFSET
    for index in (0, 1):
        image[image.l2(index)] = first
    set_refcount(image, first // image.cluster, count)
    path = image.save(tmp_path / "a.qcow2")
    assert (refused(path) is not None) == is_refused == errors(path)


def test_a_cluster_that_no_refcount_block_covers(tmp_path, made):
    image = made("16-bits")
    image[image["refcount_offset"]] = 0
    path = image.save(tmp_path / "a.qcow2")
    assert "is in use, but its refcount is 0" in refused(path)
    assert errors(path)


def test_snapshots_and_bitmaps_share_and_have_clusters(tmp_path, made):
    path = made("16-bits").save(tmp_path / "a.qcow2")
    for name in ("one", "two"):
        notation.run("qemu-img", "snapshot", "-c", name, str(path))
    notation.run("qemu-io", "-c", "write -P 7 4k 64k", "-c", "write -P 8 2M 4k", str(path))
    notation.run("qemu-img", "bitmap", "--add", "-f", "qcow2", str(path), "b")
    assert refused(path) is None
    assert_same(read_all(path), notation.qemu_content(path, "qcow2"))


def test_a_data_cluster_on_a_snapshots_l1_table(tmp_path, made):
    path = made("64-KiB").save(tmp_path / "a.qcow2")
    notation.run("qemu-img", "snapshot", "-c", "one", str(path))
    image = Patched(path)
    image[image.l2(1)] = image[image["snapshots_offset"]]
    assert "a data cluster overlaps a snapshot's L1 table" in refused(image.save(path))
    assert errors(path)


def test_in_parts_the_same_is_found(tmp_path, made, monkeypatch):
    """Large images are checked a few million references at a time; here it is ten."""
    monkeypatch.setattr(references, "_COUNTED_AT_ONCE", 10)
    monkeypatch.setattr(references, "_IN_BATCH", 1)
    for name in ("512-bytes", "16-bits", "subclusters"):
        image = made(name)
        path = image.save(tmp_path / "a.qcow2")
        assert refused(path) is None
        last = -(-len(image.data) // image.cluster) - 1
        set_refcount(image, last, 0)
        assert f"the cluster at {last * image.cluster} is in use" in refused(image.save(path))


def test_all_references_come_once_and_in_order(made, monkeypatch):
    rng = np.random.default_rng(7)
    clusters = np.concatenate([rng.integers(1, 5000, 3000), np.full(50, 700)])
    entries = (clusters.astype(np.uint64) << np.uint64(16)).reshape(61, 50)
    geometry = references.Geometry(65536)
    for most in (10, 100, 1000, 10_000):
        monkeypatch.setattr(references, "_COUNTED_AT_ONCE", most)
        found = list(references._sorted_references(lambda: iter(entries), geometry, 5000 << 16))
        assert max(map(len, found)) <= max(most, 60) or most == 10
        assert np.concatenate(found).tolist() == sorted(clusters.tolist())


def test_the_ignored_bitmap_of_a_compressed_cluster(tmp_path, made):
    """QEMU's check finds fault with it, but QEMU reads past it."""
    for bitmap in (1, 1 << 32, 1 | 1 << 32):
        image = made("subclusters")
        image[image.l2(1, entry_size=16) + 8] = bitmap
        path = image.save(tmp_path / "a.qcow2")
        assert_same(read_all(path), notation.content(EXTENDED))
        assert_same(notation.qemu_content(path, "qcow2"), notation.content(EXTENDED))


FRAMES = {
    "one": [4096],
    "two": [1000, 3096],
    "with-an-empty-one": [0, 4096, 0],
    "one-byte-each": [1] * 40 + [4056],
    "more-than-a-cluster-later": [4096, 4096],
}


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("lengths", FRAMES.values(), ids=FRAMES)
def test_several_zstd_frames(tmp_path, made, lengths, checksum):
    pack = zstandard.ZstdCompressor(write_checksum=checksum).compress
    skippable = b"\x5a\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"xyz"
    content = notation.content("4k:0") if len(lengths) > 10 else notation.content(TEXT)[16384:20480]
    whole, at, stream = content + content, 0, skippable
    for length in lengths:
        stream += pack(whole[at : at + length])
        at += length
    path = with_stream(made("zstd"), stream).save(tmp_path / "a.qcow2")
    found = read_all(path)
    assert found[16384:20480] == content
    assert_same(found, notation.qemu_content(path, "qcow2"))


@pytest.mark.parametrize(
    ("lengths", "cut", "why"),
    [
        ([1000, 3097], 0, "more than 4096 bytes"),
        ([1000, 3000], 0, "damaged|instead of 4096"),
        ([1000, 3096], 1, "damaged"),
        ([0] * 1001, 0, "more than 1000 zstd frames"),
    ],
)
def test_zstd_frames_that_are_no_cluster(lengths, cut, why):
    content = notation.content("8k:A")
    stream = b"".join(zstandard.compress(content[:length]) for length in lengths)
    with pytest.raises(FormatError, match=why):
        decompress(stream[: len(stream) - cut], CompressionType.ZSTD, 4096)


def with_stream(image, stream):
    """The image whose first compressed cluster is at its end, with other data."""
    at = -(-len(image.data) // 4096) * 4096
    entry = image.l2(4)
    image[entry] = 1 << 62 | (len(stream) // 512) << 58 | at
    image.put(len(image.data), bytes(at - len(image.data)) + stream + bytes(512))
    set_refcount(image, at // 4096, 1)
    set_refcount(image, at // 4096 + 1, 1)
    return image
