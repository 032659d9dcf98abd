"""Hostile VHD images. Source of the layout: Microsoft, "Virtual Hard Disk Image Format Specification", 1.0."""

from __future__ import annotations

from kinds import READ, Field, Kind, both, cut, cuts, grow, named, of_fields, put
from vhd import right_checksums

MOST, HEAD, TABLE = 0xFFFFFFFF, 512, 1536
FIXED = "-o subformat=fixed"


def in_footers(at, form, *values):
    """A change of the footer and of its copy at the start, whose checksums then are right."""
    return both(put(at, form, *values), put(at - 512, form, *values), right_checksums)


def footer_fields(fields):
    return [
        Kind(f"{name}={value if isinstance(value, bytes) else hex(value)}", in_footers(at, form, value), expected)
        for name, (at, form, values) in fields.items()
        for value, expected in values.items()
    ]


FOOTER = {
    "features": Field(8, ">I", {0: READ, 3: READ, MOST: READ}),
    "version": Field(12, ">I", {0: READ, 0x00010001: READ, 0x00020000: READ, MOST: READ}),
    "data-offset": Field(
        16,
        ">Q",
        {
            0: "header of its block table",
            1: "header of its block table",
            513: "header of its block table",
            1 << 40: "is truncated",
            1 << 63: "is truncated",
            (1 << 64) - 512: "is truncated",
            (1 << 64) - 1: "is truncated",
        },
    ),
    "timestamp": Field(24, ">I", {MOST: READ}),
    "creator": Field(
        28,
        "4s",
        {b"": READ, b"vpc ": READ, b"win ": READ, b"qem2": READ, b"d2v ": READ, b"vbox": READ, b"\xff" * 4: READ},
    ),
    "creator-version": Field(32, ">I", {MOST: READ}),
    "creator-os": Field(36, "4s", {b"Mac ": READ, b"\xff" * 4: READ}),
    "original-size": Field(40, ">Q", {0: READ, (1 << 64) - 1: READ}),
    "size": Field(48, ">Q", {0: READ, 1: READ, 1 << 62: READ, (1 << 64) - 1: READ}),
    "cylinders": Field(56, ">H", {0: "it is empty", 1: "smaller than the template's", 65535: "QEMU cannot open"}),
    "heads": Field(58, "B", {0: "it is empty", 255: "QEMU cannot open"}),
    "sectors": Field(59, "B", {0: "it is empty", 255: "QEMU cannot open"}),
    "type": Field(
        60,
        ">I",
        {
            0: "is unknown",
            1: "is unknown",
            2: "forged",
            4: "differences from a parent image",
            5: "is unknown",
            6: "is unknown",
            MOST: "is unknown",
        },
    ),
    "uuid": Field(68, "16s", {bytes(16): READ}),
    "saved-state": Field(84, "B", {1: READ, 255: READ}),
    "reserved": Field(85, "427s", {b"\xff" * 427: READ, b"/etc/passwd": READ}),
}
ONE_FOOTER = {
    "checksum": Field(64, ">I", {0: "checksum of its footer", MOST: "checksum of its footer"}),
    "mark": Field(
        0,
        "8s",
        {
            b"": "is unknown",
            b"conectiX": "is unknown",
            b"xitcenoc": "is unknown",
            b"KDMV": "is unknown",
            b"QFI\xfb": "is unknown",
        },
    ),
    "last-checksum": Field(64 - 512, ">I", {0: READ}),
    "last-mark": Field(-512, "8s", {b"": READ, b"conectiX": READ}),
    "last-type": Field(60 - 512, ">I", {2: "forged", 4: "contradict each other"}),
}
TABLE_HEADER = {
    "table-mark": Field(
        HEAD,
        "8s",
        {
            b"": "header of its block table",
            b"cxsparsE": "header of its block table",
            b"conectix": "header of its block table",
        },
    ),
    "next": Field(HEAD + 8, ">Q", {0: READ, 512: READ}),
    "table-offset": Field(
        HEAD + 16,
        ">Q",
        {
            0: "QEMU cannot open",
            1: "QEMU cannot open",
            512: "QEMU cannot open",
            1537: "QEMU cannot open",
            1 << 40: "block table ends past",
            1 << 63: "block table ends past",
            (1 << 64) - 512: "block table ends past",
            (1 << 64) - 1: "block table ends past",
        },
    ),
    "table-version": Field(HEAD + 24, ">I", {0: READ, MOST: READ}),
    "blocks": Field(
        HEAD + 28,
        ">I",
        {
            0: "QEMU cannot open",
            1: "QEMU cannot open",
            1 << 20: "QEMU cannot open",
            (1 << 27) + 1: "are too many to map",
            1 << 31: "are too many to map",
            MOST: "are too many to map",
        },
    ),
    "block-size": Field(
        HEAD + 32,
        ">I",
        {
            0: "is invalid",
            1: "is invalid",
            256: "is invalid",
            512: "QEMU cannot open",
            3 << 20: "is invalid",
            1 << 20: "QEMU cannot open",
            4 << 20: "QEMU cannot open",
            1 << 31: "QEMU cannot open",
            MOST: "is invalid",
        },
    ),
    "table-checksum": Field(HEAD + 36, ">I", {0: READ}),
    "parent-uuid": Field(HEAD + 40, "16s", {b"a parent's uuid.": READ}),
    "parent-timestamp": Field(HEAD + 56, ">I", {MOST: READ}),
    "table-reserved": Field(HEAD + 256 + 512, "256s", {b"\xff" * 256: READ}),
}


def entries(*values):
    return put(TABLE, f">{len(values)}I", *values)


def locator(platform, text, *, at=None):
    """A change that names a parent in the first locator, and its name in the place that the locator gives."""

    def change(image):
        data = text.encode("utf-16-le")
        start = len(image) - 512 if at is None else at
        if at is None:
            image[start:start] = data.ljust(-(-len(data) // 512) * 512, b"\0")
        put(HEAD + 576, ">4sIII Q".replace(" ", ""), platform, 1, len(data), 0, start)(image)
        right_checksums(image)

    return change


def parent(text, kind=4):
    """A change to a differencing image of a named parent."""
    name = text.encode("utf-16-be")[:512]
    return both(put(HEAD + 64, "512s", name), locator(b"W2ku", text), in_footers(60, ">I", kind))


def kinds(outside: dict[str, str]) -> list[Kind]:
    """All kinds; ``outside``: names of other files, by what they are."""
    return [
        *footer_fields(FOOTER),
        *of_fields(ONE_FOOTER),
        *of_fields(TABLE_HEADER),
        Kind("map-two-on-one-block", entries(5, 5), "used for several parts"),
        Kind("map-on-the-footer", entries(0, MOST), READ),
        Kind("map-on-itself", entries(3, MOST), READ),
        Kind("map-at-the-end", lambda image: entries(len(image) // 512, MOST)(image), "QEMU cannot open"),
        Kind("map-past-the-end", entries(1 << 30, MOST), "QEMU cannot open"),
        Kind("map-far-past-the-end", entries(0xFFFFFFFE, MOST), "QEMU cannot open"),
        Kind("map-overlapping", entries(5, 6), "used for several parts"),
        Kind("map-empty", entries(MOST, MOST), READ),
        Kind("map-of-zeros", entries(0, 0), "used for several parts"),
        *(Kind(name, parent(text), "differences from a parent image") for name, text in named("parent", outside)),
        *(
            Kind(f"forgotten-parent-{name}", parent(outside[name], 3), READ)
            for name in ("passwd", "a-fifo", "nbd")
        ),
        Kind("locator-of-a-mac", locator(b"MacX", "file:///etc/passwd"), READ),
        Kind("locator-far-away", put(HEAD + 576, ">4sIIIQ", b"W2ku", MOST, MOST, 0, (1 << 64) - 1), READ),
        *cuts(
            {
                0: "has no footer",
                8: "has no footer",
                64: "has no footer",
                511: "has no footer",
                512: "block table header is incomplete",
                513: "block table header is incomplete",
                544: "block table header is incomplete",
                1536: "block table ends past",
                1540: "block table ends past",
                2048: "QEMU cannot open",
            }
        ),
        Kind("cut-by-the-footer", cut(-512), READ),
        Kind("cut-by-a-byte", cut(-1), READ),
        Kind("cut-in-a-block", cut(4096), "QEMU cannot open"),
        Kind("grown", grow(512), READ),
        Kind("zeros", lambda image: put(0, f"{len(image)}s", b"")(image), "has no footer"),
        Kind("ones", put(0, "1024s", b"\xff" * 1024), "is unknown"),
        Kind("byte-order", in_footers(16, "<Q", 512), "is truncated"),
        Kind(
            "a-descriptor-at-the-start",
            put(0, "64s", b'# Disk DescriptorFile\nRW 1 FLAT "/etc/passwd" 0'),
            "is unknown",
        ),
        Kind("fixed-sound", grow(0), READ, FIXED),
        Kind(
            "fixed-that-its-guest-made-dynamic",
            lambda image: put(0, "512s", bytes(image[-512:]))(image),
            "forged",
            FIXED,
        ),
        Kind("fixed-with-a-qcow2-inside", put(0, "4sI", b"QFI\xfb", 3), READ, FIXED),
        Kind(
            "fixed-with-a-descriptor-inside",
            put(0, "64s", b'# Disk DescriptorFile\nRW 1 FLAT "/etc/passwd" 0'),
            READ,
            FIXED,
        ),
        Kind("fixed-without-a-mark", put(-512, "8s", b""), "has no footer", FIXED),
        Kind("fixed-of-type-3", both(put(60 - 512, ">I", 3), right_checksums), "is unknown", FIXED),
        Kind(
            "fixed-of-type-4",
            both(put(60 - 512, ">I", 4), right_checksums),
            "differences from a parent image",
            FIXED,
        ),
        Kind("fixed-wrong-checksum", put(64 - 512, ">I", 0), "checksum of its footer", FIXED),
        Kind(
            "fixed-larger-than-its-file",
            both(put(48 - 512, ">Q", 1 << 40), put(28 - 512, "4s", b"win "), right_checksums),
            "is truncated",
            FIXED,
        ),
        Kind("fixed-cut", cut(-513), "has no footer", FIXED),
        Kind(
            "fixed-only-the-footer", lambda image: image.__delitem__(slice(0, len(image) - 512)), "forged", FIXED
        ),
        Kind(
            "bomb-of-2-TiB",
            both(
                put(HEAD + 28, ">I", 1 << 20),
                grow(4 << 20),
                lambda image: put(-512, "512s", bytes(image[:512]))(image),
            ),
            "QEMU cannot open",
        ),
        Kind("bomb-of-one-block", put(TABLE, ">128I", *[5] * 128), "used for several parts"),
    ]
