"""batchdiff.foreign.vhdx: images are mapped as QEMU reads them, and faults are refused before QEMU sees one.

Guards foreign/crc32c.py and foreign/vhdx_log.py.
"""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import notation
import pytest
from commands import rarely
from oracle import guest_bytes, within

from batchdiff.errors import ImageError
from batchdiff.foreign import vhdx
from batchdiff.foreign.crc32c import crc32c
from batchdiff.foreign.header import require_stored
from batchdiff.foreign.vhdx import inspect_vhdx, map_vhdx
from batchdiff.image import mapped
from batchdiff.image.open import inspect, open_image
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.qcow2.entries import Origin
from batchdiff.qcow2.faults import FormatError

CONTENT = "100k:A 3M:- 64k:0 1M:B 9M:- 70k:C 900k:- 512:D"
HEADERS = (0x10000, 0x20000)
REGIONS, REGION_BYTES = 0x30000, 0x10000
LOG, TABLE, METADATA = 0x100000, 0x200000, 0x300000
"""Where QEMU puts the log, the block table and the metadata of images of this size."""
PARAMETERS, SIZE, SECTOR_SIZE = (METADATA + 0x10000, METADATA + 0x10008, METADATA + 0x10020)
ITEMS = METADATA + 32


@pytest.fixture(autouse=True)
def forget_maps(monkeypatch):
    monkeypatch.setattr(mapped, "_kept", {})


def make(folder, *options, content=CONTENT):
    raw, path = notation.write_raw(folder / "raw", content), folder / "image.vhdx"
    given = ",".join(("block_size=1M", *options))
    notation.run("qemu-img", "convert", "-f", "raw", "-O", "vhdx", "-o", given, str(raw), str(path))
    return path


def source(path):
    return ImageSource(str(path), ImageFormat.VHDX)


def read(path):
    with open_image(source(path)) as image:
        inspect(image)
        return guest_bytes(image, 0, image.virtual_size)


def by_qemu(path):
    target = f"{path}.by-qemu"
    notation.run("qemu-img", "convert", "-f", "vhdx", "-O", "raw", str(path), target)
    return Path(target).read_bytes()


def poke(path, offset, form, *values):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(struct.pack(form, *values))


def seal(path, offset, length):
    """Write the checksum of a structure."""
    with open(path, "r+b") as file:
        file.seek(offset)
        data = file.read(length)
        file.seek(offset + 4)
        file.write(struct.pack("<I", crc32c(data[:4] + bytes(4) + data[8:])))


def in_header(offset, form, *values, which=(0, 1)):
    """A change of both headers, or of one."""

    def change(path):
        for number in which:
            poke(path, HEADERS[number] + offset, form, *values)
            seal(path, HEADERS[number], 4096)

    return change


def in_regions(offset, form, *values):
    def change(path):
        poke(path, REGIONS + offset, form, *values)
        seal(path, REGIONS, REGION_BYTES)

    return change


def at(offset, form, *values):
    return lambda path: poke(path, offset, form, *values)


def entry(number):
    return TABLE + number * 8


@pytest.mark.parametrize(
    "options", [(), ("block_size=2M",), ("subformat=fixed",), ("block_state_zero=off",), ("log_size=2M",)]
)
@pytest.mark.parametrize("content", [CONTENT, "1M:A", "512:A", "5M:-"])
def test_reads_as_qemu_reads_it(tmp_path, options, content):
    path = make(tmp_path, *options, content=content)
    assert read(path) == by_qemu(path) == notation.content(content)


def test_holes_are_known(tmp_path):
    path = make(tmp_path)
    with open_image(source(path)) as image:
        holes = [each for each in image.segments(0, image.virtual_size) if each.origin is Origin.ZERO]
        start, end = notation.size("100k:A 3M:- 64k:0 1M:B"), notation.size("100k:A 3M:- 64k:0 1M:B 9M:-")
        assert (start, end) in [(each.start, each.end) for each in holes]
        assert image.next_data(7 << 20) == end


@pytest.mark.parametrize("state", [0, 1, 2, 3, 5, 6])
def test_states_of_blocks(tmp_path, state):
    path = make(tmp_path, content="4M:A")
    with open(path, "rb") as file:
        file.seek(entry(1))
        (word,) = struct.unpack("<Q", file.read(8))
    poke(path, entry(1), "<Q", word & ~7 | state)
    assert read(path) == by_qemu(path)
    assert any(read(path)[1 << 20 : 2 << 20]) is (state == 6)


def test_bitmap_entries_between_the_chunks(tmp_path):
    """With blocks of 256 MiB, each 17th entry of the table is that of a bitmap."""
    path = tmp_path / "image.vhdx"
    notation.run("qemu-img", "create", "-q", "-f", "vhdx", "-o", "block_size=256M", str(path), "17G")
    places = {15: 1, 16: 2, 17: 3, 33: 4, 67: 5}
    for block, value in places.items():
        offset = (block << 28) + 4096
        notation.run("qemu-io", "-f", "vhdx", "-c", f"write -q -P {value} {offset} 64k", str(path))
    with open_image(source(path)) as image:
        inspect(image)
        for block, value in places.items():
            assert guest_bytes(image, (block << 28) + 4096, 65536) == bytes([value]) * 65536
        assert image.next_data(0) >> 28 == 15
        assert image.next_data(18 << 28) >> 28 == 33


@pytest.mark.parametrize("damaged", [0, 1])
def test_one_header_is_enough(tmp_path, damaged):
    path = make(tmp_path)
    poke(path, HEADERS[damaged] + 100, "<I", 7)
    assert read(path) == by_qemu(path)


def test_equal_headers_as_disk2vhd_writes_them(tmp_path):
    path = make(tmp_path)
    data = path.read_bytes()
    poke(path, HEADERS[0], "4096s", data[HEADERS[1] : HEADERS[1] + 4096])
    assert read(path) == by_qemu(path)


@pytest.mark.parametrize("newer", [0, 1])
def test_the_newer_header_counts(tmp_path, newer):
    """The older one has a log, which is then over."""
    path = make(tmp_path)
    in_header(8, "<Q", 5, which=(newer,))(path)
    in_header(8, "<Q", 4, which=(1 - newer,))(path)
    in_header(48, "<Q", 1, which=(1 - newer,))(path)
    add_entry(path)
    assert read(path) == by_qemu(path)
    in_header(8, "<Q", 6, which=(1 - newer,))(path)
    with pytest.raises(ImageError, match="its log may have changes"):
        read(path)


def test_a_log_to_replay_and_what_to_do_about_it(tmp_path):
    """Its only entry writes zeros over the first half of the first block."""
    path = make(tmp_path, content="2M:A")
    with open(path, "rb") as file:
        (block,) = struct.unpack("<Q", os.pread(file.fileno(), 8, entry(0)))
    in_header(48, "<Q", 1)(path)
    add_entry(path, zeros=(block >> 20 << 20, 1 << 19))
    said = subprocess.run(["qemu-img", "info", "-f", "vhdx", path], capture_output=True, text=True, check=False)
    assert "contains a log that needs to be replayed" in said.stderr
    with pytest.raises(ImageError, match="in use, or was not closed cleanly: its log may have changes") as caught:
        read(path)
    assert "`qemu-img check -r all -f vhdx COPY`" in caught.value.remedy
    before, copy = path.read_bytes(), shutil.copy(path, tmp_path / "copy.vhdx")
    notation.run("qemu-img", "check", "-q", "-r", "all", "-f", "vhdx", str(copy))
    assert read(copy) == by_qemu(copy) == bytes(1 << 19) + notation.content("2M:A")[1 << 19 :]
    assert path.read_bytes() == before


def add_entry(path, sector=3, size=8192, zeros=None):
    """Add an entry to the log. ``zeros``: the place and length of what it fills with zeros, if anything."""
    fields = (
        b"loge",
        0,
        size,
        sector * 4096,
        7,
        1 if zeros else 0,
        1,
        0,
        os.path.getsize(path),
        os.path.getsize(path),
    )
    entry = bytearray(struct.pack("<4sIIIQI4xQQQQ", *fields).ljust(size, b"\0"))
    if zeros:
        struct.pack_into("<4s4xQQQ", entry, 64, b"zero", zeros[1], zeros[0], 7)
    struct.pack_into("<I", entry, 4, crc32c(bytes(entry)))
    for at in range(0, size, 4096):
        poke(path, LOG + (sector * 4096 + at) % (1 << 20), "4096s", bytes(entry[at : at + 4096]))


def add_entries(path):
    """Entries that overlap, whose checksums would take a minute."""
    for sector in range(256):
        poke(path, LOG + sector * 4096, "<4sIIIQI4xQQ", b"loge", 5, 1 << 20, 0, 7, 0, 1, 0)


def grown(path):
    os.truncate(path, 100 << 20)


def both(*changes):
    def change(path):
        for each in changes:
            each(path)

    return change


DIFFERENCES = "differences from a parent"
BAT, PARENT = "6677c22d23f600429d64115e9bfd4a08", "2d5fd3a80bb34d45abf7d3d84834ab0c"
PARAMETERS_ITEM = "3767a1ca36fa434db3b633f0aa44e76b"
third = in_regions(16 + 64, "<16sQII", b"?" * 16, 4 << 20, 1 << 20, 1)
older = in_header(16, "<Q", 1, which=(0,))
unsealed = both(at(HEADERS[0] + 99, "<B", 7), at(HEADERS[1] + 99, "<B", 7))
twice = both(at(entry(0), "<Q", 8 << 20 | 6), at(entry(2), "<Q", 8 << 20 | 6))

FAULTS = {
    "no signature": (at(0, "8s", b"vhdxfilf"), "signature"),
    "no header": (in_header(0, "4s", b"haed"), "neither of its headers"),
    "header checksums": (
        both(at(HEADERS[0] + 99, "<B", 7), at(HEADERS[1] + 99, "<B", 7)),
        "neither of its headers",
    ),
    "header version": (in_header(66, "<H", 2), "neither of its headers"),
    "headers of one age": (
        both(in_header(8, "<Q", 5), in_header(16, "<Q", 1, which=(0,))),
        "neither is the newer",
    ),
    "log": (both(in_header(48, "<Q", 1), add_entry), "its log may have"),
    "log that wraps": (both(in_header(48, "<Q", 1), lambda path: add_entry(path, 255)), "its log may have"),
    "large log": (
        both(in_header(48, "<QQ", 1, 0), in_header(68, "<IQ", 65 << 20, 16 << 20), grown),
        "its log may have",
    ),
    "long entries": (both(in_header(48, "<Q", 1), add_entries), "its log may have"),
    "log version": (in_header(64, "<H", 1), "version 1 of its log"),
    "log outside": (in_header(68, "<IQ", 1 << 20, 1 << 40), "log ends past"),
    "log unaligned": (in_header(68, "<IQ", 1 << 20, 12345), "log is not aligned"),
    "log on the header": (in_header(68, "<IQ", 1 << 20, 0), "log and its header overlap"),
    "log on the table": (in_header(68, "<IQ", 1 << 20, TABLE), "log and its block table overlap"),
    "region signature": (in_regions(0, "4s", b"regj"), "region table"),
    "region checksum": (at(REGIONS + 9000, "<B", 1), "region table"),
    "too many regions": (in_regions(8, "<I", 2048), "region table"),
    "no regions": (in_regions(8, "<I", 0), "no block table"),
    "one region": (in_regions(8, "<I", 1), "no block table"),
    "unknown region": (
        both(in_regions(8, "<I", 3), in_regions(16 + 64, "<16sQII", b"?" * 16, 4 << 20, 1 << 20, 1)),
        "unknown region",
    ),
    "region twice": (in_regions(16 + 32, "<16s", bytes.fromhex(BAT)), "twice"),
    "region unaligned": (in_regions(16 + 16, "<Q", TABLE + 4096), "MiB boundary"),
    "region empty": (in_regions(16 + 24, "<I", 0), "MiB boundary"),
    "region outside": (in_regions(16 + 16, "<Q", 1 << 50), "past the end of the file"),
    "region far outside": (in_regions(16 + 16, "<Q", (1 << 64) - (1 << 20)), "past the end of the file"),
    "regions overlap": (in_regions(16 + 32 + 16, "<Q", TABLE), "overlap"),
    "metadata signature": (at(METADATA, "8s", b"metadatb"), "metadata is not valid"),
    "too many items": (at(METADATA + 10, "<H", 2048), "metadata is not valid"),
    "no items": (at(METADATA + 10, "<H", 0), "metadata is missing"),
    "unknown item": (at(ITEMS, "<16s", b"?" * 16), "unknown metadata"),
    "a parent locator": (
        at(ITEMS + 64, "<16s", bytes.fromhex("2d5fd3a80bb34d45abf7d3d84834ab0c")),
        "differences from a parent",
    ),
    "a parent": (at(PARAMETERS + 4, "<I", 2), "differences from a parent"),
    "item twice": (
        at(ITEMS + 32, "<16s", bytes.fromhex(PARAMETERS_ITEM)),
        "item of its metadata",
    ),
    "item in the table": (at(ITEMS + 16, "<I", 64), "item of its metadata"),
    "item outside": (at(ITEMS + 16, "<I", 0xFFFFFFF8), "item of its metadata"),
    "item length": (at(ITEMS + 20, "<I", 4), "item of its metadata"),
    "small blocks": (at(PARAMETERS, "<I", 1 << 19), "block size of 524288 B"),
    "large blocks": (at(PARAMETERS, "<I", 1 << 29), "block size of 536870912 B"),
    "odd blocks": (at(PARAMETERS, "<I", 3 << 20), "block size of 3145728 B"),
    "no blocks": (at(PARAMETERS, "<I", 0), "block size of 0 B"),
    "sectors": (at(SECTOR_SIZE, "<I", 1024), "sector size is 1024 B"),
    "large sectors": (at(SECTOR_SIZE, "<I", 4096), "sector size is 4096 B; QEMU supports only 512 B"),
    "no sectors": (at(SECTOR_SIZE, "<I", 0), "sector size is 0 B"),
    "an odd size": (at(SIZE, "<Q", 12345), "whole number of sectors"),
    "a size beyond the table": (at(SIZE, "<Q", 1 << 40), "too short for all blocks"),
    "a size beyond the format": (at(SIZE, "<Q", 1 << 47), "64 TiB"),
    "a size beyond everything": (at(SIZE, "<Q", (1 << 64) - 512), "64 TiB"),
    "a size of zero": (at(SIZE, "<Q", 0), "its size is 0"),
    "a partial block": (at(entry(2), "<Q", 5 << 20 | 7), "differences from a parent"),
    "an unknown state": (at(entry(2), "<Q", 4), "unknown state"),
    "a block outside": (at(entry(0), "<Q", 1 << 40 | 6), "past the end of the file"),
    "a block far outside": (at(entry(0), "<Q", 0xFFFFFFFFFFF00000 | 6), "past the end of the file"),
    "a block in the header": (at(entry(0), "<Q", 6), "overlaps its header"),
    "a block in the log": (at(entry(0), "<Q", 1 << 20 | 6), "overlaps its log"),
    "a block in the table": (at(entry(0), "<Q", TABLE | 6), "overlaps its block table"),
    "a block in the metadata": (at(entry(0), "<Q", METADATA | 6), "overlaps its metadata"),
    "a block twice": (
        both(at(entry(0), "<Q", 8 << 20 | 6), at(entry(2), "<Q", 8 << 20 | 6)),
        "several parts of the disk",
    ),
    "truncated": (lambda path: os.truncate(path, os.path.getsize(path) - (1 << 20)), "past the end of the file"),
    "truncated more": (lambda path: os.truncate(path, METADATA), "past the end of the file"),
    "truncated most": (lambda path: os.truncate(path, HEADERS[1] + 10), "truncated"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused(tmp_path, fault):
    change, words = FAULTS[fault]
    path = make(tmp_path)
    change(path)
    before = path.read_bytes()
    with within(5), pytest.raises(ImageError) as caught:
        read(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_a_log_without_a_valid_entry_is_none(tmp_path):
    """As in QEMU, which never removes its GUID from the header."""
    path = make(tmp_path)
    in_header(48, "<Q", 1)(path)
    add_entry(path)
    poke(path, LOG + 3 * 4096 + 100, "<I", 1)
    assert read(path) == by_qemu(path)


def test_a_file_that_ends_inside_its_structures_is_refused(tmp_path):
    image = make(tmp_path).read_bytes()
    for length in [0, 7, 8, 4096, 0x10010, 0x11000, 0x20FFF, 0x30000, 0x3FFFF, 0x100000, 0x200000, 0x310000]:
        part = image[:length]
        with pytest.raises(FormatError):
            map_vhdx(lambda offset, count, part=part: part[offset : offset + count], length)


@pytest.mark.parametrize(("size", "blocks"), [("64T", "8M"), ("2T", "1M"), *rarely(("20T", "1M"), ("64T", "1M"))])
def test_a_large_empty_disk_is_mapped_quickly(tmp_path, size, blocks):
    path = tmp_path / "image.vhdx"
    notation.run("qemu-img", "create", "-q", "-f", "vhdx", "-o", f"block_size={blocks}", str(path), size)
    with within(10), open_image(source(path)) as image:
        inspect(image)
        assert image.virtual_size == int(size[:-1]) << 40
        assert image.next_data(0) is None


def test_a_stored_table_allows_a_block_for_each_entry(tmp_path):
    """QEMU holds it in memory, so one that is a hole may not be as long."""
    image = make(tmp_path).read_bytes()
    outline = inspect_vhdx(lambda offset, count: image[offset : offset + count], len(image))
    large = outline._replace(clusters=64 << 20)
    require_stored(large, 512 << 20)
    with pytest.raises(FormatError, match="too many to map for an image that takes 64 MiB on disk"):
        require_stored(large, 64 << 20)


def test_too_many_places(tmp_path, monkeypatch):
    monkeypatch.setattr(vhdx, "_MOST_RUNS", 2)
    with pytest.raises(ImageError, match="more than 2 places"):
        read(make(tmp_path, content="1M:A 1M:- 1M:A 1M:- 1M:A"))


def test_a_table_that_is_read_in_parts(tmp_path, monkeypatch):
    path = make(tmp_path)
    expected = read(path)
    monkeypatch.setattr(vhdx, "_AT_ONCE", 3)
    monkeypatch.setattr(mapped, "_kept", {})
    assert read(path) == expected


def test_an_image_whose_size_qemu_sees_differently(tmp_path, monkeypatch):
    """As if QEMU read a part of it in another way."""
    path = make(tmp_path)
    real = mapped.qemu_img.file_map
    monkeypatch.setattr(
        mapped.qemu_img,
        "file_map",
        lambda image, **limits: real(image, **limits).replace('"length": ', '"length": 1'),
    )
    with pytest.raises(ImageError, match="QEMU reads a disk of"):
        read(path)


def test_the_inspection_reads_nothing_of_the_blocks(tmp_path):
    image = make(tmp_path).read_bytes()
    read_at = []

    def part(offset, count):
        read_at.append(offset)
        return image[offset : offset + count]

    inspect_vhdx(part, len(image))
    assert max(read_at) < 4 << 20


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"", 0),
    ],
)
def test_crc32c(data, expected):
    """The values are those of RFC 3720, B.4."""
    assert crc32c(data) == expected


def test_crc32c_of_many_zeros():
    data, value = b"abc" + bytes(70_001), 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    assert crc32c(data) == value ^ 0xFFFFFFFF
