"""Hostile VDI images. Source of the layout: QEMU ``block/vdi.c``."""

from __future__ import annotations

from kinds import READ, Field, Kind, both, cut, cuts, grow, of_fields, put

MOST = 0xFFFFFFFF
UUID = b"a parent's uuid."
MAP, BLOCK = 0x200, 1 << 20

FIELDS = {
    "text": Field(0, "64s", {b"": READ, b"<<< QEMU VM Virtual Disk Image >>>\xff" * 2: READ}),
    "signature": Field(0x40, "<I", {0: "signature is missing", 0x7F10DABE: "signature is missing"}),
    "version": Field(
        0x44,
        "<I",
        {
            0: "is unknown",
            0x00010000: "is unknown",
            0x00010002: "is unknown",
            0x00020001: "is unknown",
            MOST: "is unknown",
        },
    ),
    "header-size": Field(0x48, "<I", {0: READ, 0x100: READ, MOST: READ}),
    "type": Field(
        0x4C,
        "<I",
        {
            0: "unknown (1 for dynamic and 2 for fixed are known)",
            2: READ,
            3: "unknown (1 for dynamic and 2 for fixed are known)",
            4: "differences from a parent image",
            MOST: "unknown (1 for dynamic and 2 for fixed are known)",
        },
    ),
    "flags": Field(0x50, "<I", {1: READ, MOST: READ}),
    "description": Field(0x54, "256s", {b"\xff" * 256: READ, b"/etc/passwd": READ}),
    "map-offset": Field(
        0x154,
        "<I",
        {
            0: "is truncated",
            1: "block map at 1 is not aligned",
            0x180: "block map at 384 is not aligned",
            0x1FF: "block map at 511 is not aligned",
            0x400: "is truncated",
            0x7FFFFE00: "block map ends past",
            0xFFFFFE00: "block map ends past",
        },
    ),
    "data-offset": Field(
        0x158,
        "<I",
        {
            0: READ,
            1: "QEMU cannot open",
            0x200: READ,
            0x600: "is truncated",
            0x7FFFFE00: "is truncated",
            MOST: "QEMU cannot open",
        },
    ),
    "cylinders": Field(0x15C, "<I", {MOST: READ}),
    "heads": Field(0x160, "<I", {MOST: READ}),
    "sectors": Field(0x164, "<I", {MOST: READ}),
    "sector-size": Field(
        0x168,
        "<I",
        {
            0: "sectors are not 512 bytes",
            1: "sectors are not 512 bytes",
            4096: "sectors are not 512 bytes",
            MOST: "sectors are not 512 bytes",
        },
    ),
    "unused": Field(0x16C, "<I", {MOST: READ}),
    "disk-size": Field(
        0x170,
        "<Q",
        {
            0: "it is empty",
            1: "smaller than the template's",
            511: "smaller than the template's",
            513: "smaller than the template's",
            (4 << 20) + 1: "number of its blocks",
            1 << 62: "number of its blocks",
            1 << 63: "number of its blocks",
            (1 << 64) - 1: "number of its blocks",
        },
    ),
    "block-size": Field(
        0x178,
        "<I",
        {
            0: "sectors are not 512 bytes",
            512: "sectors are not 512 bytes",
            (1 << 20) - 1: "sectors are not 512 bytes",
            2 << 20: "sectors are not 512 bytes",
            1 << 31: "sectors are not 512 bytes",
            MOST: "sectors are not 512 bytes",
        },
    ),
    "block-extra": Field(0x17C, "<I", {1: "sectors are not 512 bytes", MOST: "sectors are not 512 bytes"}),
    "blocks": Field(
        0x180,
        "<I",
        {
            0: "number of its blocks",
            3: "number of its blocks",
            4: READ,
            5: READ,
            1 << 20: "block map ends past",
            0x1FFFFFFF: "block map ends past",
            0x20000000: "number of its blocks",
            MOST: "number of its blocks",
        },
    ),
    "blocks-allocated": Field(0x184, "<I", {0: READ, 5: READ, MOST: READ}),
    "uuid": Field(0x188, "16s", {bytes(16): READ, b"\xff" * 16: READ}),
    "uuid-of-snapshot": Field(0x198, "16s", {UUID: READ}),
    "uuid-of-link": Field(0x1A8, "16s", {UUID: "differences from a parent image"}),
    "uuid-of-parent": Field(0x1B8, "16s", {UUID: "differences from a parent image"}),
}


def entries(*values):
    """A change of the first entries of the block map."""
    return put(MAP, f"<{len(values)}I", *values)


def kinds(outside: dict[str, str]) -> list[Kind]:
    """All kinds; ``outside``: names of other files, by what they are."""
    return [
        *of_fields(FIELDS),
        Kind("map-all-one-block", entries(0, 0, 0, 0), "used for several parts"),
        Kind("map-two-on-one-block", entries(MOST, 1, 1, MOST), "used for several parts"),
        Kind("map-past-the-end", entries(2, MOST, MOST, MOST), "is truncated"),
        Kind("map-last-past-the-end", entries(0, 1, MOST, 1 << 20), "is truncated"),
        Kind("map-far-past-the-end", entries(0, 1, MOST, 0xFFFFFFFD), "is truncated"),
        Kind("map-discarded", entries(0xFFFFFFFE, 0, 0xFFFFFFFE, 1), READ),
        Kind("map-swapped", entries(1, MOST, MOST, 0), READ),
        Kind("map-empty", entries(MOST, MOST, MOST, MOST), READ),
        Kind("map-all-discarded", entries(*[0xFFFFFFFE] * 4), READ),
        Kind("map-negative", entries(0x80000000, MOST, MOST, MOST), "is truncated"),
        Kind("map-on-the-header", both(put(0x158, "<I", 0), entries(0, MOST, MOST, MOST)), READ),
        Kind("map-on-itself", both(put(0x158, "<I", 0x200), entries(0, MOST, MOST, MOST)), READ),
        Kind("map-without-a-block", both(put(0x154, "<I", 0x200), cut(0x208)), "block map ends past"),
        Kind("map-in-the-header", both(put(0x154, "<I", 0), put(0x180, "<I", 4)), "is truncated"),
        Kind(
            "map-at-the-end", lambda image: put(0x154, "<I", len(image) // 512 * 512)(image), "block map ends past"
        ),
        Kind("map-in-data", put(0x154, "<I", 0x400), "is truncated"),
        *cuts(
            {
                0: "header is incomplete",
                1: "header is incomplete",
                64: "header is incomplete",
                68: "header is incomplete",
                340: "header is incomplete",
                455: "header is incomplete",
                511: "block map ends past",
                512: "block map ends past",
                527: "block map ends past",
                528: "is truncated",
            }
        ),
        Kind("cut-in-the-first-block", cut(0x400 + 512), "is truncated"),
        Kind("cut-in-the-last-block", cut(-1), "is truncated"),
        Kind("cut-by-a-sector", cut(-512), "is truncated"),
        Kind("grown", grow(512), READ),
        Kind("grown-by-an-odd-byte", grow(1), READ),
        Kind("zeros", lambda image: put(0, f"{len(image)}s", b"")(image), "signature is missing"),
        Kind("ones", put(0, "1024s", b"\xff" * 1024), "signature is missing"),
        Kind("byte-order", put(0x40, ">II", 0xBEDA107F, 0x00010001), "signature is missing"),
        Kind("a-qcow2-at-the-start", put(0, "4s", b"QFI\xfb"), READ),
        Kind("a-vmdk-at-the-start", put(0, "4s", b"KDMV"), READ),
        Kind(
            "a-descriptor-at-the-start", put(0, "64s", b'# Disk DescriptorFile\nRW 1 FLAT "/etc/passwd" 0'), READ
        ),
        Kind("a-vhd-at-the-end", put(-512, "8s", b"conectix"), READ),
        Kind("a-dos-partition-table", put(0x1FE, "2s", b"\x55\xaa"), READ),
        Kind(
            "bomb-of-a-tebibyte",
            both(put(0x170, "<Q", 1 << 40), put(0x180, "<I", 1 << 20), grow(4 << 20)),
            "list of its ranges exceeds",
        ),
        Kind(
            "bomb-of-one-block",
            both(
                put(0x170, "<Q", 4096 << 20),
                put(0x180, "<I", 4096),
                put(MAP, "16384s", bytes(16384)),
            ),
            "used for several parts",
        ),
        Kind("size-of-no-block", both(put(0x170, "<Q", 0), put(0x180, "<I", 0)), "it is empty"),
        Kind("fixed-with-a-map", put(0x4C, "<I", 2), READ),
        Kind(
            "parent-and-difference",
            both(put(0x4C, "<I", 4), put(0x1B8, "16s", UUID)),
            "differences from a parent image",
        ),
        Kind("link-of-zeros-but-one", put(0x1A8 + 15, "B", 1), "differences from a parent image"),
        Kind("parent-of-zeros-but-one", put(0x1B8 + 15, "B", 1), "differences from a parent image"),
    ]
