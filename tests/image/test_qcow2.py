"""qcow2 images of every shape that QEMU can make, read as QEMU reads them."""

from __future__ import annotations

import notation
import pytest
from oracle import assert_reads_like_qemu, assert_same, guest_bytes, source
from seeds import seeded

from batchdiff.image.open import open_image
from batchdiff.qcow2.entries import Origin

MIX = "64k:A 64k:- 64k:0 64k:B 128k:c 68k:D 60k:- 4k:0 64k:- 512:E"
SUBCLUSTERS = "2k:A 2k:- 2k:0 6k:B 4k:- 48k:0 64k:c 32k:D 32k:- 64k:0 62k:- 2k:E 64k:F"


@pytest.mark.parametrize("bits", range(9, 22))
def test_cluster_sizes(tmp_path, bits):
    one = 1 << bits
    text = f"{one}:A {one}:- {2 * one}:0 {one}:b {3 * one}:C {one}:- {one}:d 512:E"
    path = notation.write_qcow2(tmp_path / "a.qcow2", text, options=f"cluster_size={one}")
    assert_reads_like_qemu(path, expected=notation.content(text))


OPTIONS = [
    "compat=0.10",
    "compat=0.10,cluster_size=4k",
    "compression_type=zstd",
    "lazy_refcounts=on",
    *(f"refcount_bits={1 << order}" for order in range(7)),
    "preallocation=metadata",
    "preallocation=falloc",
    "preallocation=full",
]


@pytest.mark.parametrize("options", OPTIONS)
def test_options(tmp_path, options):
    # QEMU writes no compressed cluster where one is preallocated.
    text = MIX.replace("c", "C") if "preallocation" in options else MIX
    path = notation.write_qcow2(tmp_path / "a.qcow2", text, options=options)
    assert_reads_like_qemu(path, expected=notation.content(text))


@pytest.mark.parametrize("options", ["", "compression_type=zstd"])
def test_everything_compressed(tmp_path, options):
    text = "1M:A 64k:- 64k:0 192k:B"
    path = notation.write_qcow2(tmp_path / "a.qcow2", text, options=options, compressed=True)
    assert_reads_like_qemu(path, expected=notation.content(text))
    with open_image(source(path)) as image:
        assert {segment.origin for segment in image.segments(0, 1 << 20)} == {Origin.COMPRESSED}


@pytest.mark.parametrize("more", ["", "compression_type=zstd", "preallocation=metadata", "lazy_refcounts=on"])
@pytest.mark.parametrize("cluster", ["16k", "64k", "2M"])
def test_extended_l2(tmp_path, cluster, more):
    whole_clusters = cluster == "64k" and "preallocation" not in more
    text = SUBCLUSTERS if whole_clusters else SUBCLUSTERS.replace("c", "C")
    options = f"extended_l2=on,cluster_size={cluster},{more}".strip(",")
    path = notation.write_qcow2(tmp_path / "a.qcow2", text, options=options)
    assert_reads_like_qemu(path, expected=notation.content(text))


def padded(text, size):
    return f"{text} {size - notation.size(text)}:-"


OVERWRITTEN = {
    "data-by-data": ("192k:A", "64k:- 64k:B"),
    "data-in-the-middle-of-data": ("192k:A", "70k:- 3k:B"),
    "zero-by-data": ("192k:0", "64k:- 70k:B"),
    "compressed-by-data": ("256k:a", "64k:- 64k:B 1k:C"),
    "unallocated-by-compressed": ("64k:a 64k:- 128k:B", "64k:- 64k:c"),
    "compressed-by-zero": ("256k:a", "64k:- 64k:0 4k:0"),
    "data-by-preallocated-zero": ("192k:A", "64k:- 64k:0"),
    "a-part-by-zero": ("192k:A", "68k:- 4k:0"),
}


@pytest.mark.parametrize("options", ["", "compat=0.10", "extended_l2=on"])
@pytest.mark.parametrize(("first", "then"), OVERWRITTEN.values(), ids=OVERWRITTEN)
def test_overwritten(tmp_path, first, then, options):
    path = notation.write_qcow2(tmp_path / "a.qcow2", first, options=options)
    notation.write_into(path, then)
    then = padded(then, notation.size(first))
    assert_reads_like_qemu(path, expected=notation.content(then, below=notation.content(first)))


DISCARDED = {
    "unmapping-zeros": ("write -zu 64k 64k", "64k:- 64k:0 128k:-"),
    "cluster": ("discard 64k 64k", "64k:- 64k:0 128k:-"),
    "compressed": ("discard 192k 64k", "192k:- 64k:0"),
    "more-than-a-cluster": ("discard 60k 140k", "64k:- 128k:0 64k:-"),
    "part": ("discard 64k 32k", "256k:-"),
}


@pytest.mark.parametrize("options", ["", "compat=0.10"])
@pytest.mark.parametrize(("command", "zeros"), DISCARDED.values(), ids=DISCARDED)
def test_discarded(tmp_path, command, zeros, options):
    text = "192k:A 64k:b"
    path = notation.write_qcow2(tmp_path / "a.qcow2", text, options=options)
    notation.qemu_io(path, command)
    assert_reads_like_qemu(path, expected=notation.content(zeros, below=notation.content(text)))


def test_subclusters_unmapped_and_written_again(tmp_path):
    path = notation.write_qcow2(tmp_path / "a.qcow2", "128k:A", options="extended_l2=on")
    notation.qemu_io(path, "write -zu 4k 8k", "write -zu 64k 6k")
    notation.write_into(path, "6k:- 1k:B 121k:-")
    expected = notation.content("4k:- 2k:0 1k:B 5k:0 52k:- 6k:0 58k:-", below=notation.content("128k:A"))
    assert_reads_like_qemu(path, expected=expected)


@pytest.mark.parametrize("options", ["", "extended_l2=on"])
def test_clusters_that_lie_in_the_file_in_another_order(tmp_path, options):
    path = notation.write_qcow2(tmp_path / "a.qcow2", "448k:-", options=options)
    for text in ("320k:- 128k:A", "64k:- 128k:A", "256k:- 64k:A", "64k:A", "192k:- 64k:A"):
        notation.write_into(path, text)
    assert_reads_like_qemu(path, expected=notation.content("448k:A"))


@pytest.mark.parametrize("odd", [-65536, -4096, -512, 0, 512, 4096])
@pytest.mark.parametrize("options", ["", "cluster_size=4k", "extended_l2=on"])
@pytest.mark.parametrize("what", "A-0")
def test_odd_sizes(tmp_path, options, odd, what):
    text = f"128k:A {(128 << 10) + odd}:{what}"
    path = notation.write_qcow2(tmp_path / "a.qcow2", text, options=options)
    assert_reads_like_qemu(path, expected=notation.content(text))


def test_an_image_far_larger_than_its_file(tmp_path):
    path = notation.write_qcow2(tmp_path / "a.qcow2", f"64k:A {15 << 40}:-")
    with open_image(source(path)) as image:
        assert image.virtual_size == (15 << 40) + (64 << 10)
        assert guest_bytes(image, 0, 65536) == notation.data("A", 0, 65536)
        assert image.next_data(1 << 40) is None
        assert [segment.origin for segment in image.segments(1 << 40, 2 << 40)] == [Origin.ZERO]


@pytest.mark.parametrize("options", ["", "compression_type=zstd,extended_l2=on", "cluster_size=512"])
def test_random_reads(tmp_path, options):
    expected = notation.content(MIX).ljust(1 << 20, b"\0")
    chosen = seeded()
    with open_image(source(notation.write_qcow2(tmp_path / "a.qcow2", MIX, options=options))) as image:
        for _ in range(300):
            start, length = chosen.randrange(700_000), chosen.choice([1, 511, 4096, 70_001])
            assert_same(guest_bytes(image, start, length), expected[start : start + length])


def random_text(chosen, cluster, letters):
    """Up to a dozen parts, some of them whole clusters; only these may be compressed."""
    words, offset = [], 0
    for _ in range(chosen.randrange(1, 12)):
        size = cluster * chosen.randrange(1, 4) if chosen.random() < 0.6 else 512 * chosen.randrange(1, 300)
        aligned = offset % cluster == 0 and size % cluster == 0
        words.append(f"{size}:{chosen.choice(letters if aligned else letters.upper())}")
        offset += size
    return " ".join(words)


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.long)])
def test_random_images(tmp_path, count):
    chosen = seeded()
    for _ in range(count):
        bits = chosen.randrange(9, 19)
        options = [f"cluster_size={1 << bits}"]
        options += chosen.sample(["compression_type=zstd", "lazy_refcounts=on"], chosen.randrange(3))
        options += ["extended_l2=on"] if bits >= 14 and chosen.random() < 0.5 else []
        first, then = random_text(chosen, 1 << bits, "AB0-ab"), random_text(chosen, 1 << bits, "CD0-")
        print(options, first, "then", then)
        size = max(notation.size(first), notation.size(then))
        path = notation.write_qcow2(tmp_path / "a.qcow2", padded(first, size), options=",".join(options))
        notation.write_into(path, then)
        expected = notation.content(padded(then, size), below=notation.content(padded(first, size)))
        assert_reads_like_qemu(path, expected=expected)
