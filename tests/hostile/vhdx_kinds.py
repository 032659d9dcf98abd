"""Hostile VHDX images, whose checksums are right unless these are what is wrong.

Sources: Microsoft, [MS-VHDX]; QEMU ``block/vhdx.c``.
"""

from __future__ import annotations

import struct
import uuid

from kinds import READ, Change, Field, Kind, both, cut, cuts, grow, named, put

from batchdiff.foreign.crc32c import vhdx_checksum

MOST, LONGEST, MIB = 0xFFFFFFFF, (1 << 64) - 1, 1 << 20
BLOCKS = "-o block_size=1M"
HEADERS, HEADER_BYTES = (0x10000, 0x20000), 0x1000
REGIONS, REGION_BYTES = 0x30000, 0x10000
LOG, TABLE, METADATA = MIB, 2 * MIB, 3 * MIB
"""Where QEMU puts the log, the block table and the metadata of images of this size."""
ITEMS, PARAMETERS = METADATA + 32, METADATA + 0x10000
SIZE, PAGE_83, SECTOR_SIZE, PHYSICAL_SIZE = (PARAMETERS + at for at in (8, 16, 32, 36))
PARAMETERS_ITEM, SIZE_ITEM, PAGE_83_ITEM, SECTOR_ITEM, PHYSICAL_ITEM = range(5)
"""Items of metadata, in the order in which QEMU writes them, and where it writes each."""
STATE, PRESENT, PARTIAL = 7, 6, 7
DATA = 1
"""The block with the second MiB of the disk."""

NO_HEADER = "neither of its headers"
NEITHER = "neither is the newer one"
NO_REGIONS = "region table is not valid"
NO_ITEM = "an item of its metadata is not valid"
PARENT = "differences from a parent image"


def guid(text: str) -> bytes:
    """A GUID as images store it."""
    return uuid.UUID(text).bytes_le


BAT, REGION_OF_METADATA = (
    guid("2dc27766-f623-4200-9d64-115e9bfd4a08"),
    guid("8b7ca206-4790-4b9a-b8fe-575f050f886e"),
)
LOCATOR, OF_VHDX = guid("a8d35f2d-b30b-454d-abf7-d3d84834ab0c"), guid("b04aefb7-d19e-4a81-b789-25b8e9445913")
PARAMETERS_GUID, UNKNOWN = guid("caa16737-fa36-4d43-b3b6-33f0aa44e76b"), b"an-unknown-guid!"


def sealed(start: int, length: int) -> Change:
    """A change that gives a structure the right checksum."""
    return lambda image: put(start + 4, "<I", vhdx_checksum(bytes(image[start : start + length])))(image)


def in_header(at, form, *values, which=(0, 1)):
    """A change of both headers, or of one."""
    return both(
        *(
            both(put(HEADERS[number] + at, form, *values), sealed(HEADERS[number], HEADER_BYTES))
            for number in which
        )
    )


def in_regions(at, form, *values):
    return both(put(REGIONS + at, form, *values), sealed(REGIONS, REGION_BYTES))


def region(number, kind, start, length, flags):
    """A change of an entry of the region table."""
    return in_regions(16 + 32 * number, "<16sQII", kind, start, length, flags)


def item(number, at, form, *values):
    """A change of an entry of the metadata: GUID (0), offset (16), length (20) or flags (24)."""
    return put(ITEMS + 32 * number + at, form, *values)


def entry(number, value):
    """A change of an entry of the block table; callables are given what it was."""

    def change(image):
        (found,) = struct.unpack_from("<Q", image, TABLE + number * 8)
        put(TABLE + number * 8, "<Q", value(found) if callable(value) else value)(image)

    return change


def block(image, number=DATA):
    """The offset of a block in the file."""
    return struct.unpack_from("<Q", image, TABLE + number * 8)[0] & ~(MIB - 1)


def fields(found: dict[str, Field], how=put) -> list[Kind]:
    """One kind for each hostile value; ``how``: makes the change."""
    return [
        Kind(
            f"{name}={value if isinstance(value, bytes) else hex(value)}"[:60],
            how(at, form, value),
            expected,
            BLOCKS,
        )
        for name, (at, form, values) in found.items()
        for value, expected in values.items()
    ]


HEADER = {
    "header-signature": Field(
        0, "4s", {b"": NO_HEADER, b"HEAD": NO_HEADER, b"regi": NO_HEADER, b"loge": NO_HEADER}
    ),
    "sequence": Field(8, "<Q", {0: NEITHER, LONGEST: NEITHER}),
    "file-guid": Field(16, "16s", {b"": READ, b"\xff" * 16: READ}),
    "data-guid": Field(32, "16s", {b"": READ, b"\xff" * 16: READ}),
    "log-guid": Field(48, "16s", {b"\xff" * 16: READ}),
    "log-version": Field(64, "<H", {1: "version 1 of its log", 0xFFFF: "version 65535 of its log"}),
    "header-version": Field(66, "<H", {0: NO_HEADER, 2: NO_HEADER, 0xFFFF: NO_HEADER}),
    "log-length": Field(
        68,
        "<I",
        {
            0: READ,
            1: "log is not aligned",
            4096: "log is not aligned",
            2 * MIB: "overlap",
            1 << 31: "log ends past",
            MOST: "log is not aligned",
        },
    ),
    "log-offset": Field(
        72,
        "<Q",
        {
            0: "overlap",
            1: "log is not aligned",
            LOG + 4096: "log is not aligned",
            TABLE: "overlap",
            METADATA: "overlap",
            1 << 40: "log ends past",
            1 << 63: "log ends past",
            LONGEST - MIB + 1: "log ends past",
            LONGEST: "log is not aligned",
        },
    ),
    "header-reserved": Field(80, "4016s", {b"\xff" * 4016: READ, b"/etc/passwd": READ}),
}
REGION_TABLE = {
    "regions-signature": Field(0, "4s", {b"": NO_REGIONS, b"REGI": NO_REGIONS, b"head": NO_REGIONS}),
    "regions": Field(
        8, "<I", {0: "no block table", 1: "no block table", 3: "MiB boundary", 2048: NO_REGIONS, MOST: NO_REGIONS}
    ),
    "regions-reserved": Field(12, "<I", {MOST: READ}),
    "table-guid": Field(
        16, "16s", {b"": "no block table", UNKNOWN: "no block table", REGION_OF_METADATA: "twice"}
    ),
    "table-offset": Field(
        32,
        "<Q",
        {
            0: "overlap",
            1: "MiB boundary",
            LOG: "overlap",
            TABLE + 4096: "MiB boundary",
            METADATA: "overlap",
            1 << 40: "past the end of the file",
            1 << 63: "past the end of the file",
            LONGEST - MIB + 1: "past the end of the file",
            LONGEST: "MiB boundary",
        },
    ),
    "table-length": Field(
        40,
        "<I",
        {
            0: "MiB boundary",
            1: "MiB boundary",
            2 * MIB: "overlap",
            1 << 31: "past the end of the file",
            MOST: "MiB boundary",
        },
    ),
    "table-flags": Field(44, "<I", {0: READ, MOST: READ}),
    "metadata-guid": Field(48, "16s", {b"": "no block table", BAT: "twice"}),
    "metadata-offset": Field(
        64,
        "<Q",
        {
            0: "overlap",
            LOG: "overlap",
            TABLE: "overlap",
            METADATA + 512: "MiB boundary",
            1 << 62: "past the end of the file",
            LONGEST - MIB + 1: "past the end of the file",
        },
    ),
    "metadata-length": Field(
        72,
        "<I",
        {0: "MiB boundary", 65536: "MiB boundary", 1 << 31: "past the end of the file", MOST: "MiB boundary"},
    ),
    "metadata-flags": Field(76, "<I", {0: READ}),
}
REST = {
    "signature": Field(
        0,
        "8s",
        {
            b"": "signature",
            b"vhdxfilf": "signature",
            b"VHDXFILE": "signature",
            b"elifxdhv": "signature",
            b"conectix": "signature",
            b"QFI\xfb\0\0\0\3": "signature",
            b"KDMV\1": "signature",
        },
    ),
    "creator": Field(8, "512s", {b"": READ, b"\xff" * 512: READ, "file:///etc/passwd".encode("utf-16-le"): READ}),
    "regions-checksum": Field(REGIONS + 4, "<I", {0: NO_REGIONS, MOST: NO_REGIONS}),
    "second-regions": Field(REGIONS + REGION_BYTES, "4s", {b"": READ}),
    "metadata-signature": Field(
        METADATA, "8s", {b"": "metadata is not valid", b"METADATA": "metadata is not valid"}
    ),
    "items": Field(
        METADATA + 10,
        "<H",
        {
            0: "metadata is missing",
            1: "metadata is missing",
            4: "metadata is missing",
            6: READ,
            2047: READ,
            2048: "metadata is not valid",
            0xFFFF: "metadata is not valid",
        },
    ),
    "block-size": Field(
        PARAMETERS,
        "<I",
        {
            0: "block size of 0 B",
            1: "block size of 1 B",
            1 << 19: "block size of 524288 B",
            MIB + 1: "block size of 1048577 B",
            3 * MIB: "block size of 3145728 B",
            256 * MIB: READ,
            512 * MIB: "block size of 536870912 B",
            1 << 31: "block size of 2147483648 B",
            MOST: "block size of 4294967295 B",
        },
    ),
    "parameter-flags": Field(PARAMETERS + 4, "<I", {1: READ, 2: PARENT, 3: PARENT, MOST: PARENT}),
    "virtual-size": Field(
        SIZE,
        "<Q",
        {
            0: "its size is 0",
            1: "whole number of sectors",
            512: "smaller than the template's",
            (4 << 20) + 1: "whole number of sectors",
            5 << 20: READ,
            1 << 40: "too short for all blocks",
            (1 << 46) + 512: "exceeds 64 TiB",
            1 << 63: "exceeds 64 TiB",
            LONGEST - 511: "exceeds 64 TiB",
            LONGEST: "exceeds 64 TiB",
        },
    ),
    "page-83": Field(PAGE_83, "16s", {b"": READ, b"\xff" * 16: READ}),
    "sector": Field(
        SECTOR_SIZE,
        "<I",
        {
            0: "sector size is 0 B",
            1: "sector size is 1 B",
            511: "sector size is 511 B",
            4096: "sector size is 4096 B",
            1 << 31: "sector size is 2147483648 B",
        },
    ),
    "physical-sector": Field(PHYSICAL_SIZE, "<I", {0: READ, 1: READ, 4096: READ, MOST: READ}),
}


def log_entry(length=8192, sector=3, *, of=1, sequence=7, seal=True):
    """A change that puts an entry with nothing to do into the log; it may wrap."""

    def change(image):
        end = len(image)
        data = bytearray(
            struct.pack("<4sIIIQIIQQQQ", b"loge", 0, length, sector * 4096, sequence, 0, 0, of, 0, end, end)
        ).ljust(length, b"\0")
        struct.pack_into("<I", data, 4, vhdx_checksum(bytes(data)) if seal else 1)
        for at in range(0, length, 4096):
            start = LOG + (sector * 4096 + at) % MIB
            image[start : start + 4096] = data[at : at + 4096]

    return both(in_header(48, "<QQ", 1, 0), change)


def entries_that_overlap(image):
    """Entries whose checksums would take a minute."""
    in_header(48, "<QQ", 1, 0)(image)
    for sector in range(256):
        put(LOG + sector * 4096, "<4sIIIQIIQQ", b"loge", 5, MIB, 0, 7, 0, 0, 1, 0)(image)


def large_log(image):
    """A log of 65 MiB, after everything else; returns the size of the file."""
    in_header(48, "<QQ", 1, 0)(image)
    in_header(68, "<IQ", 65 * MIB, 16 * MIB)(image)
    return 100 * MIB


def locator(*pairs):
    """A change that adds a parent locator, in place of an item that may be missing."""
    count, body, entries = len(pairs), b"", []
    for key, value in pairs:
        texts = [text.encode("utf-16-le") for text in (key, value)]
        at = 20 + 12 * count + len(body)
        entries.append(struct.pack("<IIHH", at, at + len(texts[0]), *map(len, texts)))
        body += b"".join(texts)
    data = OF_VHDX + struct.pack("<HH", 0, count) + b"".join(entries) + body
    return both(
        put(METADATA + 10, "<H", 6),
        item(5, 0, "<16sIII", LOCATOR, 0x11000, len(data), 4),
        put(METADATA + 0x11000, f"{len(data)}s", data),
    )


def parent(name, text, *, flag=True):
    links = (("parent_linkage", "{12345678-1234-1234-1234-123456789012}"), ("relative_path", text))
    more = (("volume_path", text), ("absolute_win32_path", text))
    return Kind(name, both(locator(*links, *more), put(PARAMETERS + 4, "<I", 2 if flag else 0)), PARENT, BLOCKS)


def third(start, flags=0):
    """A change that adds a region of an unknown kind."""
    return both(in_regions(8, "<I", 3), region(2, UNKNOWN, start, MIB, flags))


def at_the_end(flags):
    """The same, behind all blocks."""

    def change(image):
        image.extend(bytes(-len(image) % MIB))
        third(len(image), flags)(image)
        grow(MIB)(image)

    return change


def far_table(blocks, size, length):
    """A change to a disk whose block table is a hole at the end of the file; returns the size of that."""

    def change(image):
        start = -(-len(image) // MIB) * MIB
        put(PARAMETERS, "<I", blocks)(image)
        put(SIZE, "<Q", size)(image)
        in_regions(32, "<QI", start, length)(image)
        return start + length

    return change


def bomb_of_one_block(image):
    """All entries of the table are one block."""
    put(SIZE, "<Q", 131_000 * MIB)(image)
    put(TABLE, "<131072Q", *[block(image) | PRESENT] * 131_072)(image)


def tables() -> list[Kind]:
    """Kinds with invalid entries of the block table."""
    changes = {
        "not-present": (entry(DATA, lambda word: word & ~STATE), READ),
        "undefined": (entry(DATA, lambda word: word & ~STATE | 1), READ),
        "zero": (entry(DATA, lambda word: word & ~STATE | 2), READ),
        "unmapped": (entry(DATA, lambda word: word & ~STATE | 3), READ),
        "state-4": (entry(DATA, lambda word: word & ~STATE | 4), "unknown state"),
        "state-5": (entry(DATA, lambda word: word & ~STATE | 5), READ),
        "partial": (entry(DATA, lambda word: word | PARTIAL), PARENT),
        "reserved-bits": (entry(DATA, lambda word: word | 0xFFFF8), READ),
        "on-the-header": (entry(0, PRESENT), "overlaps its header"),
        "on-the-log": (entry(0, LOG | PRESENT), "overlaps its log"),
        "on-its-table": (entry(0, TABLE | PRESENT), "overlaps its block table"),
        "on-the-metadata": (entry(0, METADATA | PRESENT), "overlaps its metadata"),
        "at-the-end": (lambda image: entry(0, len(image) | PRESENT)(image), "past the end of the file"),
        "past-the-end": (entry(0, 1 << 40 | PRESENT), "past the end of the file"),
        "of-2^62": (entry(0, 1 << 62 | PRESENT), "past the end of the file"),
        "of-2^63": (entry(0, 1 << 63 | PRESENT), "past the end of the file"),
        "of-ones": (entry(0, LONGEST - 1), "past the end of the file"),
        "twice": (lambda image: entry(0, block(image) | PRESENT)(image), "used for several parts"),
        "past-the-disk": (entry(4, LONGEST), READ),
        "of-a-bitmap": (entry(4096, 1 << 40 | PRESENT), READ),
    }
    return [Kind(f"entry-{name}", change, expected, BLOCKS) for name, (change, expected) in changes.items()]


def items() -> list[Kind]:
    """Kinds with invalid entries of the metadata."""
    found = []
    for name, number in {"parameters": PARAMETERS_ITEM, "size": SIZE_ITEM, "sector": SECTOR_ITEM}.items():
        changes = {
            "in-the-table": (item(number, 16, "<I", 64), NO_ITEM),
            "before-the-items": (item(number, 16, "<I", 65535), NO_ITEM),
            "outside": (item(number, 16, "<I", MIB - 1), NO_ITEM),
            "far-outside": (item(number, 16, "<I", MOST - 7), NO_ITEM),
            "empty": (item(number, 20, "<I", 0), NO_ITEM),
            "too-long": (item(number, 20, "<I", MOST), NO_ITEM),
            "unknown": (item(number, 0, "16s", UNKNOWN), "unknown metadata"),
            "missing": (both(item(number, 0, "16s", UNKNOWN), item(number, 24, "<I", 0)), "metadata is missing"),
        }
        found += [Kind(f"{name}-{what}", *row, BLOCKS) for what, row in changes.items()]
    missing = {"page-83": PAGE_83_ITEM, "physical-sector": PHYSICAL_ITEM}
    return [
        *found,
        *(
            Kind(
                f"{name}-missing",
                both(item(number, 0, "16s", UNKNOWN), item(number, 24, "<I", 0)),
                "metadata is missing",
                BLOCKS,
            )
            for name, number in missing.items()
        ),
        Kind("item-twice", item(SIZE_ITEM, 0, "16s", PARAMETERS_GUID), NO_ITEM, BLOCKS),
        Kind("item-flags", item(SIZE_ITEM, 24, "<I", 0), READ, BLOCKS),
        Kind("item-on-another", item(SIZE_ITEM, 16, "<I", 0x10000), "smaller than the template's", BLOCKS),
    ]


def kinds(outside: dict[str, str]) -> list[Kind]:
    """All kinds; ``outside``: names of other files, by what they are."""
    unsealed = [put(at + 99, "B", 7) for at in HEADERS]
    return [
        *fields(HEADER, in_header),
        *fields(REGION_TABLE, in_regions),
        *fields(REST),
        *items(),
        *tables(),
        *(parent(name, text) for name, text in named("parent", outside)),
        *(
            parent(f"forgotten-parent-{name}", outside[name], flag=False)
            for name in ("passwd", "a-fifo", "nbd", "self")
        ),
        Kind("locator-of-nothing", locator(), PARENT, BLOCKS),
        Kind("locator-far-away", both(locator(), item(5, 16, "<II", MOST, MOST)), PARENT, BLOCKS),
        Kind("first-header-damaged", unsealed[0], READ, BLOCKS),
        Kind("second-header-damaged", unsealed[1], READ, BLOCKS),
        Kind("both-headers-damaged", both(*unsealed), NO_HEADER, BLOCKS),
        Kind(
            "headers-of-one-age",
            both(in_header(8, "<Q", 5), in_header(16, "<Q", 1, which=(0,))),
            NEITHER,
            BLOCKS,
        ),
        Kind("log-and-header", in_header(68, "<IQ", 0, 0), "log", BLOCKS),
        Kind("log-to-replay", log_entry(), "its log may have changes", BLOCKS),
        Kind("log-that-wraps", log_entry(sector=255), "its log may have changes", BLOCKS),
        Kind("log-entry-as-long-as-the-log", log_entry(MIB, 0), "its log may have changes", BLOCKS),
        Kind("log-of-another-image", log_entry(of=2), READ, BLOCKS),
        Kind("log-entry-of-no-sequence", log_entry(sequence=0), READ, BLOCKS),
        Kind("log-entry-with-a-wrong-checksum", log_entry(seal=False), READ, BLOCKS),
        Kind("log-of-65-MiB", large_log, "its log may have changes", BLOCKS),
        Kind("log-entries-that-overlap", entries_that_overlap, "its log may have changes", BLOCKS),
        Kind("third-region", at_the_end(0), READ, BLOCKS),
        Kind("third-region-required", at_the_end(1), "unknown region", BLOCKS),
        Kind("third-region-past-the-end", both(at_the_end(0), cut(-1)), "ends past the end of the file", BLOCKS),
        Kind(
            "third-region-on-a-block",
            lambda image: third(block(image))(image),
            "overlaps its region",
            BLOCKS,
        ),
        Kind("third-region-on-the-header", third(0), "overlap", BLOCKS),
        Kind("all-regions-empty", in_regions(8, "<I", 2047), "MiB boundary", BLOCKS),
        *cuts(
            {
                0: "signature",
                7: "signature",
                8: "header is incomplete",
                0x10010: "header is incomplete",
                0x20FFF: "header is incomplete",
                0x21000: "log ends past",
                0x3FFFF: "log ends past",
                0x40000: "log ends past",
                LOG: "log ends past",
                TABLE: "block table ends past",
                METADATA: "metadata ends past",
                METADATA + 0x10008: "metadata ends past",
                4 * MIB: "past the end of the file",
            },
            BLOCKS,
        ),
        Kind("cut-by-a-byte", cut(-1), "past the end of the file", BLOCKS),
        Kind("grown-by-an-odd-byte", grow(1), READ, BLOCKS),
        Kind("zeros", lambda image: put(0, f"{len(image)}s", b"")(image), "signature", BLOCKS),
        Kind("ones", put(0, "64s", b"\xff" * 64), "signature", BLOCKS),
        Kind("byte-order", in_header(66, ">H", 1), NO_HEADER, BLOCKS),
        Kind(
            "a-descriptor-at-the-start",
            put(0, "64s", b'# Disk DescriptorFile\nRW 1 FLAT "/etc/passwd" 0'),
            "signature",
            BLOCKS,
        ),
        Kind("a-vhd-at-the-end", both(grow(512), put(-512, "8s", b"conectix")), READ, BLOCKS),
        Kind("bomb-of-one-block", bomb_of_one_block, "used for several parts", BLOCKS),
        Kind("bomb-of-64-TiB", far_table(MIB, 1 << 46, 513 * MIB), "too many to map", BLOCKS),
        Kind("bomb-of-a-table-of-2-GiB", far_table(MIB, 4 * MIB, 2 << 30), "is too long for", BLOCKS),
    ]
