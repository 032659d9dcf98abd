"""Hostile or damaged qcow2 metadata: each refused with an ImageError, soon (as in QEMU's iotests 060, 080).

Guards image/qcow2_extras.py, qcow2/bitmaps.py, qcow2/extensions.py.
"""

from __future__ import annotations

import struct
import subprocess

import notation
import pytest
from oracle import assert_refused, assert_same, guest_bytes, read_all, source
from patching import OFFSET, Patched

from batchdiff.image.open import inspect, open_image

TEXT = "16k:A 8k:b 4k:- 4k:0 2M:- 16k:C"
"""With clusters of 4 KiB two L2 tables, and data in the file's last cluster."""

TEXT_EXTENDED = "64k:A 64k:b 64k:- 64k:C"

ZLIB, ZSTD, EXTENDED = "cluster_size=4k", "cluster_size=4k,compression_type=zstd", "extended_l2=on"
PACKED = 4
"""The number of the first compressed cluster."""

COMPRESSED = 1 << 62
RESERVED = 1 << 56


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Makes sound images to be damaged, each only once; the result is a fresh copy's bytes."""
    made = {}

    def make(options=ZLIB):
        if options not in made:
            text = TEXT if "4k" in options else TEXT_EXTENDED
            path = tmp_path_factory.mktemp("good") / "a.qcow2"
            made[options] = notation.write_qcow2(path, text, options=options)
        return Patched(made[options])

    return make


def test_the_sound_images_are_read(good, tmp_path):
    for options in (ZLIB, ZSTD):
        assert_same(read_all(good(options).save(tmp_path / "a.qcow2")), notation.content(TEXT))
    assert_same(read_all(good(EXTENDED).save(tmp_path / "a.qcow2")), notation.content(TEXT_EXTENDED))


FIELDS = [
    ("magic", 0x514649FA, "not a qcow2 image"),
    ("version", 0, "version 0 is unknown.* If a newer QEMU made it"),
    ("version", 1, "its version is 1, the older format qcow.*`qemu-img convert -f qcow -O qcow2`"),
    ("version", 4, "version 4 is unknown"),
    ("cluster_bits", 8, "cluster size of 2.8 bytes is outside"),
    ("cluster_bits", 22, "cluster size of 2.22 bytes is outside"),
    ("cluster_bits", 0xFFFFFFFF, "cluster size of 2.4294967295 bytes is outside"),
    ("incompatible", 1 << 0, "marked dirty.*shut the VM down. Otherwise run `qemu-img check -r all` on a copy"),
    ("incompatible", 1 << 1, "marked corrupt"),
    ("incompatible", 1 << 2, "external file"),
    ("incompatible", 1 << 3, "compression type and the feature bit for it contradict"),
    ("incompatible", 1 << 4, "extended L2 needs clusters of 16 KiB"),
    ("incompatible", 1 << 5, "unknown features .incompatible bits 0x20.*If a newer QEMU made it, use the"),
    ("incompatible", 1 << 63, "unknown features .incompatible bits 0x8000000000000000"),
    ("compression_type", 1, "compression type and the feature bit for it contradict"),
    ("encryption", 1, "encrypted"),
    ("encryption", 2, "encrypted"),
    ("virtual_size", 0, "virtual size is less than a sector.*If it should have content, restore it"),
    ("virtual_size", 511, "virtual size is less than a sector"),
    ("virtual_size", (4 << 20) + 1, "too few entries: 2 instead of 3"),
    ("virtual_size", 16 << 20, "too few entries: 2 instead of 8"),
    ("virtual_size", 1 << 63, "invalid"),
    ("virtual_size", (1 << 64) - 512, "invalid"),
    ("l1_entries", 0, "too few entries: 0 instead of 2"),
    ("l1_entries", 1, "too few entries: 1 instead of 2"),
    ("l1_entries", (4 << 20) + 1, "exceeds QEMU's limit of 32 MiB"),
    ("l1_entries", 0xFFFFFFFF, "exceeds QEMU's limit of 32 MiB"),
    ("l1_entries", 4 << 20, "L1 table .* (past the end|overlap)"),
    ("l1_offset", 0, "overlap"),
    ("l1_offset", 512, "not aligned"),
    ("l1_offset", 1 << 30, "L1 table .* past the end of the file"),
    ("l1_offset", (1 << 64) - 4096, "L1 table .* past the end of the file"),
    ("l1_offset", 4096, "overlap"),
    ("refcount_offset", 0, "overlap"),
    ("refcount_offset", 4608, "not aligned"),
    ("refcount_offset", 1 << 30, "refcount table .* past the end of the file"),
    ("refcount_clusters", 0, "refcount table of 0 bytes"),
    ("refcount_clusters", 2049, "refcount table of .* outside"),
    ("refcount_clusters", 2048, "refcount table .* (past the end|overlap)"),
    ("refcount_order", 7, "refcount width"),
    ("header_length", 0, "header length 0"),
    ("header_length", 96, "header length 96"),
    ("header_length", 108, "header length 108"),
    ("header_length", 8192, "header length 8192"),
    ("snapshots", 65537, "snapshots exceed"),
    ("snapshots", 1, "snapshot table and its header overlap"),
    ("snapshots_offset", 512, "snapshot table at 512 is not aligned"),
    ("snapshots_offset", 1 << 63, "the offset of its snapshot table is 2"),
    ("autoclear", 2, "has none"),
    ("backing_offset", 4097, "backing file name"),
]


@pytest.mark.parametrize(("field", "value", "match"), FIELDS, ids=[f"{f[0]}={f[1]:#x}" for f in FIELDS])
def test_header_fields(good, tmp_path, field, value, match):
    image = good()
    image[field] = value
    assert_refused(image.save(tmp_path / "a.qcow2"), match)


@pytest.mark.parametrize(
    ("offset", "size", "match"),
    [
        pytest.param(112, 1024, "1024 bytes, more than the limit of 1023", id="too-long"),
        pytest.param(4100, 0, "outside the header", id="empty-and-outside"),
        pytest.param(100, 8, "overlaps the header's fields", id="inside-the-fixed-fields"),
        pytest.param(4090, 8, "outside the header", id="over-the-end-of-the-cluster"),
        pytest.param(1 << 63, 8, "outside the header", id="far-away"),
    ],
)
def test_backing_names_out_of_bounds(good, tmp_path, offset, size, match):
    image = good()
    image.put(image["header_length"], bytes(8))
    image["backing_offset"], image["backing_size"] = offset, size
    assert_refused(image.save(tmp_path / "a.qcow2"), match)


@pytest.mark.parametrize(
    ("kind", "size", "match"),
    [
        pytest.param(0xE2792ACA, 0xFFFFFFFF, "does not fit", id="overrun"),
        pytest.param(0x12345678, 4096 - 112 - 7, "does not fit", id="overrun-by-a-byte"),
        pytest.param(0x44415441, 8, "external data file", id="data-file"),
        pytest.param(0x0537BE77, 16, "not encrypted with LUKS", id="encryption"),
    ],
)
def test_header_extensions(good, tmp_path, kind, size, match):
    image = good()
    assert image["header_length"] == 112
    image.put(112, struct.pack(">II", kind, size))
    assert_refused(image.save(tmp_path / "a.qcow2"), match)


def test_an_unknown_compression_type(good, tmp_path):
    image = good(ZSTD)
    image["compression_type"] = 2
    assert_refused(image.save(tmp_path / "a.qcow2"), "compression type 2 is unknown")


L1_ENTRIES = {
    "misaligned": (lambda image, entry: entry + 512, "L2 table is not aligned"),
    "past-the-end": (lambda image, entry: 1 << 40, "L2 table .* past the end of the file"),
    "at-the-end": (lambda image, entry: len(image.data), "L2 table .* past the end of the file"),
    "reserved-bits": (lambda image, entry: entry | RESERVED, "L1 entry has reserved bits"),
    "low-reserved-bits": (lambda image, entry: entry | 1, "L1 entry has reserved bits"),
    "shared": (lambda image, entry: image[image.l1(1)], "one L2 table is used for two parts"),
    "on-the-l1-table": (lambda image, entry: image["l1_offset"], "L2 table overlaps the L1 table"),
    "on-the-refcounts": (lambda image, entry: image["refcount_offset"], "L2 table overlaps the refcount"),
    "on-data": (lambda image, entry: image[image.l2(0)] & OFFSET, "L2 entry|not aligned|past the end|compressed"),
}


@pytest.mark.parametrize(("change", "match"), L1_ENTRIES.values(), ids=L1_ENTRIES)
def test_l1_entries(good, tmp_path, change, match):
    image = good()
    image[image.l1(0)] = change(image, image[image.l1(0)])
    assert_refused(image.save(tmp_path / "a.qcow2"), match)


def first_block(image):
    """The refcount table's first entry."""
    return image["refcount_offset"]


REFCOUNT_TABLE = {
    "misaligned": (lambda image: image[first_block(image)] + 512, "refcount block is not aligned"),
    "past-the-end": (lambda image: 1 << 40, "refcount block .* past the end of the file"),
    "far-past-the-end": (lambda image: 1 << 63, "refcount block .* past the end of the file"),
    "at-the-end": (lambda image: -(-len(image.data) // 4096) * 4096, "refcount block .* past the end"),
    "reserved-bits": (lambda image: image[first_block(image)] | 1, "refcount table entry has reserved bits"),
    "on-the-l1-table": (lambda image: image["l1_offset"], "refcount block overlaps the L1 table"),
    "on-itself": (lambda image: image["refcount_offset"], "refcount block overlaps the refcount table"),
    "on-an-l2-table": (lambda image: image[image.l1(0)] & OFFSET, "L2 table overlaps a refcount block"),
}


@pytest.mark.parametrize(("change", "match"), REFCOUNT_TABLE.values(), ids=REFCOUNT_TABLE)
def test_refcount_table(good, tmp_path, change, match):
    image = good()
    image[first_block(image)] = change(image)
    assert_refused(image.save(tmp_path / "a.qcow2"), match)
    assert_found_by_qemu(tmp_path / "a.qcow2")


def test_one_refcount_block_twice(good, tmp_path):
    image = good()
    image[first_block(image) + 8] = image[first_block(image)]
    assert_refused(image.save(tmp_path / "a.qcow2"), "one refcount block is used for two parts")
    assert_found_by_qemu(tmp_path / "a.qcow2")


def assert_found_by_qemu(path):
    """`qemu-img check` finds an error, or cannot open the image at all."""
    assert subprocess.run(["qemu-img", "check", str(path)], capture_output=True, check=False).returncode in {1, 2}


def with_tables(good, tmp_path):
    """A sound image with a snapshot and a bitmap, and where the header keeps their offsets."""
    path = good().save(tmp_path / "a.qcow2")
    notation.run("qemu-img", "snapshot", "-c", "one", str(path))
    notation.run("qemu-img", "bitmap", "--add", "-f", "qcow2", str(path), "b")
    image = Patched(path)
    extension = image.data.index(struct.pack(">II", 0x23852875, 24)) + 8
    return (
        path,
        image,
        {"snapshot table": 64, "bitmap directory": extension + 16, "directory length": extension + 8},
    )


def test_snapshots_and_bitmaps_that_are_sound(good, tmp_path):
    path, _, _ = with_tables(good, tmp_path)
    with open_image(source(path)) as image:
        inspect(image)
        header = image.layers[0].header
        assert (header.snapshots, header.bitmaps) == (1, 1)
        assert {name for _, _, name in header.tables()} >= {"snapshot table", "bitmap directory"}
        assert guest_bytes(image, 0, image.virtual_size) == notation.content(TEXT)


TABLES = {
    "misaligned": (lambda image, offset: offset + 8, "is not aligned to a cluster"),
    "past-the-end": (lambda image, offset: 1 << 40, "ends past the end of the file"),
    "at-the-end": (lambda image, offset: -(-len(image.data) // 4096) * 4096, "ends past the end of the file"),
    "in-the-header": (lambda image, offset: 0, "and its header overlap|header and its .* overlap"),
    "on-the-l1-table": (lambda image, offset: image["l1_offset"], "overlap"),
    "on-the-refcount-table": (lambda image, offset: image["refcount_offset"], "overlap"),
    "on-an-l2-table": (lambda image, offset: image[image.l1(0)] & OFFSET, "L2 table overlaps the"),
    "on-a-refcount-block": (lambda image, offset: image[image["refcount_offset"]], "refcount block overlaps the"),
}


@pytest.mark.parametrize("table", ["snapshot table", "bitmap directory"])
@pytest.mark.parametrize(("change", "match"), TABLES.values(), ids=TABLES)
def test_tables_of_snapshots_and_bitmaps(good, tmp_path, table, change, match):
    path, image, places = with_tables(good, tmp_path)
    at = places[table]
    image[at] = change(image, image[at])
    image.save(path)
    assert_refused(path, match)
    assert_refused(path, table)
    assert_found_by_qemu(path)


def test_a_bitmap_directory_that_is_too_short(good, tmp_path):
    path, image, places = with_tables(good, tmp_path)
    image[places["directory length"]] = 16
    assert_refused(image.save(path), "bitmap directory of 16 B is too long, or too short")
    assert_found_by_qemu(path)


L2_ENTRIES = {
    "misaligned": (lambda image, entry: entry + 512, "data cluster is not aligned"),
    "past-the-end": (lambda image, entry: 1 << 40, "data cluster .* past the end of the file"),
    "at-the-end": (lambda image, entry: -(-len(image.data) // 4096) * 4096, "data cluster .* past the end"),
    "reserved-bits": (lambda image, entry: entry | RESERVED, "L2 entry has reserved bits"),
    "low-reserved-bits": (lambda image, entry: entry | 2, "L2 entry has reserved bits"),
    "into-cluster-0": (lambda image, entry: 512, "data cluster is not aligned"),
    "zero-past-the-end": (lambda image, entry: 1 << 40 | 1, "data cluster .* past the end of the file"),
    "compressed-in-cluster-0": (
        lambda image, entry: COMPRESSED | 512,
        "compressed cluster lies in the header or outside",
    ),
    "compressed-at-0": (lambda image, entry: COMPRESSED, "compressed cluster lies in the header or outside"),
    "compressed-past-the-end": (
        lambda image, entry: COMPRESSED | 1 << 40,
        "compressed cluster lies in the header or outside",
    ),
    "compressed-at-the-end": (lambda image, entry: COMPRESSED | len(image.data), "compressed cluster lies"),
}


@pytest.mark.parametrize(("change", "match"), L2_ENTRIES.values(), ids=L2_ENTRIES)
def test_l2_entries(good, tmp_path, change, match):
    image = good()
    image[image.l2(1)] = change(image, image[image.l2(1)])
    assert_refused(image.save(tmp_path / "a.qcow2"), match)


def test_zero_flag_in_version_2(tmp_path):
    path = notation.write_qcow2(tmp_path / "a.qcow2", "64k:A", options="compat=0.10")
    image = Patched(path)
    image[image.l2(0)] |= 1
    assert_refused(image.save(path), "L2 entry has reserved bits")


def test_a_table_that_maps_one_cluster_again_and_again(good, tmp_path):
    image = good()
    for index in range(512):
        image[image.l2(index)] = image[image.l2(0)]
    assert_refused(image.save(tmp_path / "a.qcow2"), "map more bytes than the file has")


def test_a_table_that_maps_one_compressed_cluster_again_and_again(good, tmp_path):
    image = good()
    for index in range(512):
        image[image.l2(index)] = image[image.l2(PACKED)]
    assert_refused(image.save(tmp_path / "a.qcow2"), "map more bytes than the file has")


def test_a_terabyte_from_one_shared_table(tmp_path):
    path = notation.write_qcow2(tmp_path / "a.qcow2", f"64k:A {1 << 40}:-")
    image = Patched(path)
    for index in range(1, image["l1_entries"]):
        image[image.l1(index)] = image[image.l1(0)]
    assert_refused(image.save(path), "one L2 table is used for two parts")


BITMAPS = {
    "both-allocated-and-zero": (0, lambda bitmap: bitmap | 1 << 32, "both allocated and zero"),
    "allocated-without-a-cluster": (2, lambda bitmap: 1, "allocated in a cluster that is not"),
}


@pytest.mark.parametrize(("index", "change", "match"), BITMAPS.values(), ids=BITMAPS)
def test_subcluster_bitmaps(good, tmp_path, index, change, match):
    image = good(EXTENDED)
    at = image.l2(index, entry_size=16) + 8
    image[at] = change(image[at])
    assert_refused(image.save(tmp_path / "a.qcow2"), match)


def test_zero_flag_with_subclusters(good, tmp_path):
    image = good(EXTENDED)
    image[image.l2(0, entry_size=16)] |= 1
    assert_refused(image.save(tmp_path / "a.qcow2"), "L2 entry has reserved bits")


def test_inspection_says_nothing_about_a_raw_image(good, tmp_path):
    """Whatever its guest has written to it: here a qcow2 image that is refused as one."""
    image = good()
    image[image.l2(0)] |= RESERVED
    assert_refused(image.save(tmp_path / "a.qcow2"), "L2 entry has reserved bits")
    assert_same(read_all(image.save(tmp_path / "a.raw"))[: len(image.data)], bytes(image.data))
