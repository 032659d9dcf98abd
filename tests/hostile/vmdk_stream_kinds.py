"""Hostile compressed VMDK images (streamOptimized), as QEMU writes them, and with a footer as VMware does.

Sources: VMware, "Virtual Disk Format 5.0", "Stream-Optimized Compressed Sparse Extents"; QEMU ``block/vmdk.c``.
"""

from __future__ import annotations

import struct
import zlib

from kinds import READ, Field, Kind, both, cut, cuts, grow, named, of_fields, put
from vmdk_kinds import LONGEST, MOST, TEXT_BYTES, directory, extents, grains, line, replaced, table, tables, text

STREAM = "-o subformat=streamOptimized"
FOOTER = -1024
MARKER = 12
"""Bytes of a grain's marker: its first sector on the disk, and the length of its data."""

NO_SIGNATURE, NO_TEXT, SIZES = "signature is missing", "descriptor is missing", "invalid sizes"
OUTSIDE, NO_FOOTER, TABLES = "grain directory is outside", "its footer is missing", "its grain tables overlap"
PARENT, EXTENT = "differences from a parent image", "exactly one sparse extent"
FIRST, BROKEN = "first grain is missing", "cannot read"


def footer(image):
    """A change that moves the directory's place to a footer, as VMware writes it."""
    header = bytes(image[:512])
    image.extend(bytes(-len(image) % 512))
    image.extend(struct.pack("<QII496x", 1, 0, 3) + header + bytes(512))
    put(56, "<Q", LONGEST)(image)


FIELDS = {
    "magic": Field(
        0,
        "4s",
        {b"": NO_SIGNATURE, b"VMDK": NO_SIGNATURE, b"kdmv": NO_SIGNATURE, b"QFI\xfb": NO_SIGNATURE},
    ),
    "version": Field(4, "<I", {0: READ, 3: READ, 4: "is unknown", 1 << 31: "is unknown", MOST: "is unknown"}),
    "flags": Field(8, "<I", {1: BROKEN, 0x10000: BROKEN, MOST: READ}),
    "capacity": Field(
        12,
        "<Q",
        {
            0: "its size is 0",
            1: "smaller than the template's",
            8191: READ,
            8193: READ,
            1 << 34: OUTSIDE,
            1 << 37: "are too many to map",
            (1 << 37) + 1: "exceeds 64 TiB",
            1 << 63: "exceeds 64 TiB",
            LONGEST: "exceeds 64 TiB",
        },
    ),
    "grain": Field(
        20,
        "<Q",
        {
            0: SIZES,
            1: SIZES,
            7: SIZES,
            127: SIZES,
            4096: SIZES,
            1 << 32: SIZES,
            1 << 63: SIZES,
            LONGEST: SIZES,
        },
    ),
    "descriptor-offset": Field(
        28, "<Q", {0: NO_TEXT, 2: NO_TEXT, 1 << 30: NO_TEXT, 1 << 55: NO_TEXT, LONGEST: NO_TEXT}
    ),
    "descriptor-size": Field(36, "<Q", {0: NO_TEXT, 1: READ, 21: NO_TEXT, 1 << 55: NO_TEXT, LONGEST: NO_TEXT}),
    "entries-of-a-table": Field(44, "<I", {0: SIZES, 513: SIZES, 1 << 31: SIZES, MOST: SIZES}),
    "spare-directory": Field(48, "<Q", {1 << 40: READ}),
    "directory": Field(
        56,
        "<Q",
        {
            0: TABLES,
            1 << 30: OUTSIDE,
            1 << 55: OUTSIDE,
            1 << 63: OUTSIDE,
            LONGEST - 1: OUTSIDE,
            LONGEST: NO_FOOTER,
        },
    ),
    "overhead": Field(64, "<Q", {1 << 30: FIRST, LONGEST: FIRST}),
    "unclean-and-line-ends": Field(72, "5s", {b"\1": READ}),
    "compression": Field(
        77, "<H", {0: "contradicts its header", 2: "compression method 2 is not", 0xFFFF: "method 65535 is not"}
    ),
}
AT_END = {
    "magic": Field(0, "4s", {b"": NO_FOOTER, b"COWD": NO_FOOTER, b"QFI\xfb": NO_FOOTER}),
    "version": Field(4, "<I", {3: READ, 4: "is unknown", MOST: "is unknown"}),
    "capacity": Field(12, "<Q", {0: "different sizes", 8191: "different sizes", LONGEST: "different sizes"}),
    "grain": Field(20, "<Q", {0: SIZES, 1: SIZES, 100: SIZES, 1 << 21: SIZES, LONGEST: SIZES}),
    "descriptor-offset": Field(28, "<Q", {1 << 40: READ}),
    "entries-of-a-table": Field(44, "<I", {0: SIZES, 513: SIZES, MOST: SIZES}),
    "directory": Field(56, "<Q", {1 << 30: OUTSIDE, 1 << 63: OUTSIDE, LONGEST: OUTSIDE}),
    "overhead": Field(64, "<Q", {1 << 30: FIRST}),
    "compression": Field(77, "<H", {0: "different compression methods", 2: "different compression methods"}),
}
MARKERS = {
    "footer-marker-size": Field(-1536 + 8, "<I", {1: NO_FOOTER, 512: NO_FOOTER, MOST: NO_FOOTER}),
    "footer-marker-type": Field(-1536 + 12, "<I", {0: NO_FOOTER, 1: NO_FOOTER, 2: NO_FOOTER, MOST: NO_FOOTER}),
    "footer-marker-sectors": Field(-1536, "<Q", {LONGEST: READ}),
    "end-sectors": Field(-512, "<Q", {1: NO_FOOTER}),
    "end-size": Field(-512 + 8, "<I", {1: NO_FOOTER}),
    "end-type": Field(-512 + 12, "<I", {3: NO_FOOTER}),
}


def used(image, index=0):
    """The offset of a grain in use: the disk's second MiB begins with the first."""
    return struct.unpack_from("<I", image, table(image) + 4 * (16 + index))[0] * 512


def in_marker(form, *values, at=0):
    """A change of the marker of the first grain in use."""
    return lambda image: put(used(image) + at, form, *values)(image)


def stream(data):
    """A change of the data of the first grain in use; the grains after it are overwritten where it is long."""
    return lambda image: put(used(image) + 8, f"<I{len(data)}s", len(data), data)(image)


def at_end(at, form, *values):
    return both(footer, put(at, form, *values))


def descriptors(outside):
    """Kinds with a hostile descriptor."""
    return [
        *(Kind(name, line(f'parentFileNameHint="{to}"'), PARENT, STREAM) for name, to in named("parent", outside)),
        *(Kind(name, extents(f'RW 8192 FLAT "{to}" 0'), EXTENT, STREAM) for name, to in named("extent", outside)),
        *(
            Kind(f"sparse-extent-{name}", extents(f'RW 8192 SPARSE "{outside[name]}"'), READ, STREAM)
            for name in ("passwd", "nbd")
        ),
        Kind("second-extent", extents('RW 4096 SPARSE "x"', 'RW 4096 FLAT "/etc/passwd" 0'), EXTENT, STREAM),
        Kind("no-extent", extents("# none"), EXTENT, STREAM),
        Kind("extent-of-a-device", extents('RW 8192 VMFSRDM "/dev/sda"'), EXTENT, STREAM),
        *(
            Kind(f"type-{kind}", replaced(b"streamOptimized", kind.encode()), expected, STREAM)
            for kind, expected in {
                "monolithicSparse": "contradicts its header",
                "monolithicFlat": "its type",
                "twoGbMaxExtentFlat": "its type",
                "vmfs": "its type",
                "vmfsSparse": "its type",
                "seSparse": "its type",
                "STREAMOPTIMIZED": READ,
                "": "has no type",
            }.items()
        ),
        Kind("type-twice", line('createType="monolithicFlat"'), "more than once", STREAM),
        Kind("parent-cid", replaced(b"parentCID=ffffffff", b"parentCID=00000001"), PARENT, STREAM),
        Kind("parent-cid-missing", replaced(b"parentCID=ffffffff", b""), "QEMU cannot open", STREAM),
        Kind("hint-in-a-comment", line('#parentFileNameHint="/etc/passwd"'), PARENT, STREAM),
        Kind(
            "hint-after-a-null-byte",
            text(lambda found: found + b'\0parentFileNameHint="/etc/passwd"'),
            READ,
            STREAM,
        ),
        Kind("descriptor-empty", text(lambda _: b""), "has no type", STREAM),
        Kind("descriptor-of-noise", text(lambda _: bytes(range(1, 256)) * 8), "has no type", STREAM),
        Kind("descriptor-fills-its-place", text(lambda found: found.ljust(TEXT_BYTES, b"\n")), READ, STREAM),
    ]


def stored():
    """Kinds with hostile grains and tables."""
    changes = {
        "grain-two-on-one": (lambda image: grains(17, used(image) // 512)(image), "used for several parts"),
        "grain-all-one": (lambda image: grains(0, *[used(image) // 512] * 64)(image), "used for several parts"),
        "grain-zero": (grains(16, 1), BROKEN),
        "grain-on-the-header": (grains(16, 2), BROKEN),
        "grain-on-its-table": (lambda image: grains(16, table(image) // 512)(image), BROKEN),
        "grain-misaligned": (lambda image: grains(16, used(image) // 512 + 1)(image), BROKEN),
        "grain-at-the-end": (lambda image: grains(16, -(-len(image) // 512))(image), "past the end of the file"),
        "grain-far-past-the-end": (grains(16, MOST), "past the end of the file"),
        "table-missing": (tables(0), READ),
        "table-at-the-end": (lambda image: tables(-(-len(image) // 512))(image), TABLES),
        "table-far-past-the-end": (tables(MOST), TABLES),
        "marker-of-2^63": (in_marker("<Q", 1 << 63), READ),
        "marker-of-a-byte": (in_marker("<I", 1, at=8), BROKEN),
        "marker-of-4-GiB": (in_marker("<I", MOST, at=8), BROKEN),
        "stream-of-ones": (in_marker("64s", b"\xff" * 64, at=MARKER), BROKEN),
        "stream-of-zeros": (in_marker("64s", b"", at=MARKER), BROKEN),
        "stream-of-a-sector": (stream(zlib.compress(b"x" * 512)), BROKEN),
        "stream-of-64-MiB": (stream(zlib.compress(bytes(64 << 20))), BROKEN),
        "stream-without-its-end": (stream(zlib.compress(bytes(65536))[:20]), BROKEN),
    }
    return [Kind(name, change, expected, STREAM) for name, (change, expected) in changes.items()]


def kinds(outside: dict[str, str]) -> list[Kind]:
    """All kinds; ``outside``: names of other files, by what they are."""
    return [
        *(kind._replace(base=STREAM) for kind in of_fields(FIELDS)),
        *(
            Kind(
                f"footer-{name}={value if isinstance(value, bytes) else hex(value)}",
                at_end(FOOTER + at, form, value),
                expected,
                STREAM,
            )
            for name, (at, form, values) in AT_END.items()
            for value, expected in values.items()
        ),
        *(
            Kind(f"{name}={hex(value)}", at_end(at, form, value), expected, STREAM)
            for name, (at, form, values) in MARKERS.items()
            for value, expected in values.items()
        ),
        Kind("footer-sound", footer, READ, STREAM),
        Kind("footer-cut-by-a-byte", both(footer, cut(-1)), READ, STREAM),
        Kind("footer-cut-by-a-sector", both(footer, cut(-512)), NO_FOOTER, STREAM),
        Kind("footer-and-more", both(footer, grow(512)), NO_FOOTER, STREAM),
        Kind("footer-twice", both(footer, footer), OUTSIDE, STREAM),
        *descriptors(outside),
        *stored(),
        *cuts(
            {
                0: "header is incomplete",
                4: "header is incomplete",
                78: "header is incomplete",
                79: "descriptor is incomplete",
                512: "descriptor is incomplete",
                10752: FIRST,
            },
            STREAM,
        ),
        Kind("cut-at-the-directory", lambda image: cut(directory(image))(image), FIRST, STREAM),
        Kind("cut-at-the-table", lambda image: cut(table(image))(image), FIRST, STREAM),
        Kind("grown-by-an-odd-byte", grow(1), READ, STREAM),
        Kind("zeros", lambda image: put(0, f"{len(image)}s", b"")(image), NO_SIGNATURE, STREAM),
        Kind("ones", put(0, "79s", b"\xff" * 79), NO_SIGNATURE, STREAM),
        Kind("byte-order", put(4, ">I", 1), "is unknown", STREAM),
        Kind("a-vhd-at-the-end", both(grow(512), put(-512, "8s", b"conectix")), READ, STREAM),
        Kind(
            "bomb-of-a-tebibyte",
            lambda image: both(
                put(12, "<QQ", 1 << 31, 128), put(56, "<Q", -(-len(image) // 512)), grow(256 << 10)
            )(image),
            READ,
            STREAM,
        ),
        Kind(
            "bomb-of-32-tebibytes",
            lambda image: both(put(12, "<Q", 1 << 36), put(56, "<Q", -(-len(image) // 512)), grow(5 << 20))(image),
            "are too many to map",
            STREAM,
        ),
        Kind("bomb-of-small-grains", put(12, "<QQ", 1 << 31, 8), "are too many to map", STREAM),
        Kind(
            "bomb-of-one-table",
            lambda image: both(
                put(12, "<Q", 1 << 22), put(directory(image), "<128I", *[table(image) // 512] * 128)
            )(image),
            TABLES,
            STREAM,
        ),
    ]
