"""Hostile VMDK images, monolithicSparse and descriptors only.

Sources: VMware, "Virtual Disk Format 5.0"; QEMU ``block/vmdk.c``.
"""

from __future__ import annotations

import struct

from kinds import READ, Field, Kind, both, cut, cuts, grow, named, of_data, of_data_name, of_fields, put

MOST, LONGEST = 0xFFFFFFFF, (1 << 64) - 1
TEXT, TEXT_BYTES = 512, 20 * 512

FIELDS = {
    "magic": Field(
        0,
        "4s",
        {
            b"": "signature is missing",
            b"COWD": "extent of an image of type vmfsSparse",
            b"\xbe\xba\xfe\xca": "extent of an image of type seSparse",
            b"VMDK": "signature is missing",
            b"kdmv": "signature is missing",
            b"QFI\xfb": "signature is missing",
        },
    ),
    "version": Field(
        4, "<I", {0: READ, 2: READ, 3: READ, 4: "is unknown", 1 << 31: "is unknown", MOST: "is unknown"}
    ),
    "flags": Field(8, "<I", {0: READ, 1: READ, 2: READ, 4: READ, 1 << 16: READ, 1 << 17: READ, MOST: READ}),
    "capacity": Field(
        12,
        "<Q",
        {
            0: "its size is 0",
            1: "smaller than the template's",
            8191: READ,
            8193: READ,
            1 << 34: "is truncated",
            1 << 37: "are too many to map",
            (1 << 37) + 1: "exceeds 64 TiB",
            1 << 54: "exceeds 64 TiB",
            1 << 63: "exceeds 64 TiB",
            LONGEST: "exceeds 64 TiB",
        },
    ),
    "grain": Field(
        20,
        "<Q",
        {
            0: "invalid sizes",
            1: "invalid sizes",
            7: "invalid sizes",
            8: READ,
            9: "invalid sizes",
            127: "invalid sizes",
            256: "used for several parts",
            1 << 18: READ,
            1 << 32: "invalid sizes",
            1 << 63: "invalid sizes",
            LONGEST: "invalid sizes",
        },
    ),
    "descriptor-offset": Field(
        28,
        "<Q",
        {
            0: "it has no descriptor",
            2: "descriptor is missing",
            1 << 30: "descriptor is missing",
            1 << 55: "descriptor is missing",
            1 << 63: "descriptor is missing",
            LONGEST: "descriptor is missing",
        },
    ),
    "descriptor-size": Field(
        36,
        "<Q",
        {
            0: "descriptor is missing",
            1: READ,
            21: "descriptor is missing",
            1 << 20: "descriptor is missing",
            1 << 55: "descriptor is missing",
            LONGEST: "descriptor is missing",
        },
    ),
    "entries-of-a-table": Field(
        44,
        "<I",
        {
            0: "invalid sizes",
            1: READ,
            256: READ,
            513: "invalid sizes",
            1 << 31: "invalid sizes",
            MOST: "invalid sizes",
        },
    ),
    "spare-directory": Field(48, "<Q", {0: READ, 1 << 40: READ, LONGEST: "QEMU cannot open"}),
    "directory": Field(
        56,
        "<Q",
        {
            0: "is truncated",
            1: "is truncated",
            1 << 30: "grain directory is outside",
            1 << 55: "grain directory is outside",
            1 << 63: "grain directory is outside",
            LONGEST: "compress",
        },
    ),
    "overhead": Field(64, "<Q", {0: READ, 1: READ, LONGEST: "QEMU cannot open"}),
    "unclean": Field(72, "B", {1: READ, 255: READ}),
    "line-ends": Field(73, "4s", {b"": READ, b"\n\n\r\n": READ}),
    "compression": Field(77, "<H", {1: "compress", 2: "compress", 65535: "compress"}),
}


def text(change):
    """A change of the descriptor's text."""

    def changed(image):
        found = bytes(image[TEXT : TEXT + TEXT_BYTES]).rstrip(b"\0")
        image[TEXT : TEXT + TEXT_BYTES] = change(found).ljust(TEXT_BYTES, b"\0")

    return changed


def replaced(old, new):
    def change(found):
        assert old in found, found
        return found.replace(old, new)

    return text(change)


def line(added):
    """A change that adds a line to the descriptor, before its extents."""
    return replaced(b"# Extent description", added.encode() + b"\n# Extent description")


def extents(*lines):
    """A change of the list of extents to some lines."""

    def change(found):
        start = found.index(b"RW ")
        end = found.index(b"\n", start)
        return found[:start] + "\n".join(lines).encode() + found[end:]

    return text(change)


def described(kind, *lines):
    """A change to a file that is a descriptor only, of that type and with those lines."""
    head = ["# Disk DescriptorFile", "version=1", "CID=12345678", "parentCID=ffffffff", f'createType="{kind}"']

    def change(image):
        image[:] = "\n".join([*head, *lines, ""]).encode()

    return change


def of_extent(name, to, own):
    """The reason to refuse a descriptor with an extent of that name; ``own``: if that is its own file."""
    if to == name:
        return own
    if '"' in to:
        return "of its descriptor does not have the form"
    return "contains control characters" if "\n" in to else of_data_name(to)


def described_kinds(outside, parent):
    """Descriptors whose extents are files outside: what these files have does not matter, as none is opened."""
    data = outside["a-file"]
    flat = f'RW 8 FLAT "{data}" 0'
    return [
        *(
            Kind(
                name,
                described("twoGbMaxExtentFlat", f'RW 8 FLAT "{to}" 0'),
                of_extent(name, to, "its extent"),
            )
            for name, to in named("described-flat", outside)
        ),
        *(
            Kind(
                name,
                described("twoGbMaxExtentSparse", f'RW 8192 SPARSE "{to}"'),
                of_extent(name, to, "its extent"),
            )
            for name, to in named("described-sparse", outside)
        ),
        *(
            Kind(f"described-{kind}", described(kind, f'RW 8 {word} "{data}"{end}'), expected)
            for kind, word, end, expected in (
                ("monolithicFlat", "FLAT", " 0", "neither beside the image"),
                ("vmfs", "VMFS", "", "neither beside the image"),
                ("monolithicSparse", "SPARSE", "", "its type"),
                ("streamOptimized", "SPARSE", "", "its type"),
                ("vmfsSparse", "VMFSSPARSE", "", "its type vmfsSparse is not supported"),
                ("seSparse", "SESPARSE", "", "its type seSparse is not supported"),
                ("fullDevice", "FLAT", " 0", "its type"),
                ("partitionedDevice", "FLAT", " 0", "its type"),
                ("vmfsRawDeviceMap", "VMFSRDM", "", "its type"),
                ("custom", "FLAT", " 0", "its type"),
            )
        ),
        Kind(
            "described-with-a-parent",
            described("monolithicFlat", f'parentFileNameHint="{parent}"', flat),
            "differences from a parent image",
        ),
        Kind("described-behind-an-empty-line", described("monolithicFlat", "", flat), "is empty"),
        Kind(
            "described-read-only",
            described("monolithicFlat", f'RDONLY 8 FLAT "{data}" 0'),
            "does not have the form",
        ),
        Kind(
            "described-in-small-letters",
            described("monolithicFlat", f'rw 8 flat "{data}" 0'),
            "does not have the form",
        ),
        Kind("described-by-two", described("monolithicFlat", flat, flat), "but it has 2 extents"),
        Kind("described-twice", described("twoGbMaxExtentFlat", flat, flat), "neither beside the image"),
        Kind("described-without-extents", described("monolithicFlat"), "names no extent"),
        Kind("described-in-too-many-words", described("monolithicFlat", "#" * (64 << 10), flat), "is too long"),
        Kind(
            "described-a-thousand-times",
            described("twoGbMaxExtentFlat", *[flat] * 500),
            "neither beside the image",
        ),
    ]


def directory(image):
    return int.from_bytes(image[56:64], "little") * 512


def table(image):
    return int.from_bytes(image[directory(image) : directory(image) + 4], "little") * 512


def grains(index, *values):
    """A change of entries of the first grain table; callables are given the image."""

    def change(image):
        found = [value(image) if callable(value) else value for value in values]
        struct.pack_into(f"<{len(found)}I", image, table(image) + 4 * index, *found)

    return change


def tables(*values):
    """A change of entries of the grain directory."""

    def change(image):
        found = [value(image) if callable(value) else value for value in values]
        struct.pack_into(f"<{len(found)}I", image, directory(image), *found)

    return change


def end(image):
    return -(-len(image) // 512)


def used(image):
    """The sector of the first grain in use."""
    return struct.unpack_from("<I", image, table(image) + 16 * 4)[0]


def kinds(outside: dict[str, str]) -> list[Kind]:
    """All kinds; ``outside``: names of other files, by what they are."""
    return [
        *of_fields(FIELDS),
        *described_kinds(of_data(outside), outside["a-file"]),
        *(
            Kind(name, line(f'parentFileNameHint="{to}"'), "differences from a parent image")
            for name, to in named("parent", outside)
        ),
        *(Kind(name, extents(f'RW 8192 FLAT "{to}" 0'), "extent") for name, to in named("extent", outside)),
        *(
            Kind(f"sparse-extent-{name}", extents(f'RW 8192 SPARSE "{outside[name]}"'), READ)
            for name in ("passwd", "a-fifo", "nbd", "json", "a-parent-folder")
        ),
        Kind("second-extent", extents('RW 4096 SPARSE "image"', 'RW 4096 FLAT "/etc/passwd" 0'), "extent"),
        Kind(
            "second-extent-in-capitals",
            extents('RW 4096 SPARSE "image"', 'RDONLY 4096 VMFS "/etc/passwd"'),
            "extent",
        ),
        Kind("extent-of-zeros", extents("RW 8192 ZERO"), "extent"),
        Kind("extent-without-access", extents('NOACCESS 8192 SPARSE "image"'), READ),
        Kind("extent-of-a-device", extents('RW 8192 VMFSRDM "/dev/sda"'), "extent"),
        Kind("extent-of-a-raw-device", extents('RW 8192 FULLDEVICE "/dev/sda"'), "extent"),
        Kind("no-extent", extents("# none"), "extent"),
        Kind("extent-of-another-size", extents('RW 1 SPARSE "image"'), READ),
        Kind("extent-of-2^63", extents('RW 9223372036854775808 SPARSE "image"'), READ),
        Kind("extent-in-small-letters", extents('rw 8192 sparse "image"'), READ),
        Kind("extent-behind-a-tab", extents('RW\t8192\tSPARSE\t"image"', '\tRW 1 FLAT "/etc/passwd" 0'), "extent"),
        Kind(
            "type-streamOptimized",
            replaced(b"monolithicSparse", b"streamOptimized"),
            "which contradicts its header",
        ),
        *(
            Kind(f"type-{kind}", replaced(b"monolithicSparse", kind.encode()), "its type")
            for kind in (
                "monolithicFlat",
                "twoGbMaxExtentFlat",
                "twoGbMaxExtentSparse",
                "vmfs",
                "vmfsSparse",
                "fullDevice",
                "partitionedDevice",
                "vmfsRawDeviceMap",
                "custom",
            )
        ),
        Kind("type-in-capitals", replaced(b"monolithicSparse", b"MONOLITHICSPARSE"), READ),
        Kind("type-empty", replaced(b"monolithicSparse", b""), "has no type"),
        Kind("no-type", replaced(b'createType="monolithicSparse"', b""), "has no type"),
        Kind("type-twice", line('createType="monolithicFlat"'), "more than once"),
        Kind("type-in-a-comment", line('#createType="monolithicFlat"'), "more than once"),
        Kind("type-without-quotes", replaced(b'"monolithicSparse"', b"monolithicSparse"), READ),
        Kind(
            "parent-cid", replaced(b"parentCID=ffffffff", b"parentCID=00000001"), "differences from a parent image"
        ),
        Kind(
            "parent-cid-in-capitals",
            replaced(b"parentCID=ffffffff", b"parentCID=FFFFFFFE"),
            "differences from a parent image",
        ),
        Kind("parent-cid-missing", replaced(b"parentCID=ffffffff", b""), "QEMU cannot open"),
        Kind("parent-cid-twice", line("parentCID=ffffffff"), "more than once"),
        Kind("cid-missing", replaced(b"CID=", b"DIC="), "QEMU cannot open"),
        Kind("hint-in-capitals", line('PARENTFILENAMEHINT="/etc/passwd"'), "differences from a parent image"),
        Kind("hint-in-a-comment", line('#parentFileNameHint="/etc/passwd"'), "differences from a parent image"),
        Kind("hint-after-a-null-byte", text(lambda found: found + b'\0parentFileNameHint="/etc/passwd"'), READ),
        Kind(
            "hint-of-1024-bytes",
            line('parentFileNameHint="' + "x" * 1024 + '"'),
            "differences from a parent image",
        ),
        Kind(
            "hint-without-its-end",
            text(lambda found: found + b'\nparentFileNameHint="/etc/passwd'),
            "differences from a parent image",
        ),
        Kind("descriptor-empty", text(lambda _: b""), "has no type"),
        Kind("descriptor-of-noise", text(lambda _: bytes(range(1, 256)) * 8), "has no type"),
        Kind("descriptor-without-ends-of-lines", text(lambda found: found.replace(b"\n", b" ")), "has no type"),
        Kind("descriptor-with-returns", text(lambda found: found.replace(b"\n", b"\r\n")), READ),
        Kind("descriptor-begins-with-a-null-byte", text(lambda found: b"\0" + found), "has no type"),
        Kind("descriptor-fills-its-place", text(lambda found: found.ljust(TEXT_BYTES, b"\n")), READ),
        Kind("grain-two-on-one", grains(16, used, used), "used for several parts"),
        Kind("grain-all-one", lambda image: grains(0, *[used(image)] * 64)(image), "used for several parts"),
        Kind("grain-zero", grains(16, 1), READ),
        Kind("grain-on-the-header", grains(16, 2), READ),
        Kind("grain-on-the-directory", grains(16, lambda image: directory(image) // 512), READ),
        Kind("grain-on-its-table", grains(16, lambda image: table(image) // 512), READ),
        Kind("grain-at-the-end", grains(16, end), "is truncated"),
        Kind("grain-past-the-end", grains(16, 1 << 30), "is truncated"),
        Kind("grain-far-past-the-end", grains(16, MOST), "is truncated"),
        Kind("grain-misaligned", grains(16, lambda image: used(image) + 1), "used for several parts"),
        Kind("table-missing", tables(0), READ),
        Kind("table-on-the-header", tables(1), "is truncated"),
        Kind("table-on-the-directory", tables(lambda image: directory(image) // 512), READ),
        Kind("table-at-the-end", tables(end), "is truncated"),
        Kind("table-past-the-end", tables(1 << 30), "is truncated"),
        Kind("table-far-past-the-end", tables(MOST), "is truncated"),
        Kind("table-in-data", tables(used), "is truncated"),
        *cuts(
            {
                0: "header is incomplete",
                4: "header is incomplete",
                78: "header is incomplete",
                79: "grain directory is outside",
                512: "grain directory is outside",
                1024: "grain directory is outside",
                10752: "grain directory is outside",
            }
        ),
        Kind("cut-at-the-directory", lambda image: cut(directory(image))(image), "grain directory is outside"),
        Kind("cut-in-the-directory", lambda image: cut(directory(image) + 2)(image), "grain directory is outside"),
        Kind("cut-at-the-table", lambda image: cut(table(image))(image), "is truncated"),
        Kind("cut-in-the-table", lambda image: cut(table(image) + 4)(image), "is truncated"),
        Kind("cut-in-a-grain", cut(-1), "is truncated"),
        Kind("grown-by-an-odd-byte", grow(1), READ),
        Kind("zeros", lambda image: put(0, f"{len(image)}s", b"")(image), "signature is missing"),
        Kind("ones", put(0, "79s", b"\xff" * 79), "signature is missing"),
        Kind("byte-order", put(4, ">I", 1), "is unknown"),
        Kind(
            "only-a-descriptor",
            put(0, "128s", b'# Disk DescriptorFile\ncreateType="monolithicFlat"\nRW 8192 FLAT "/etc/passwd" 0\n'),
            # Until its end, a file that begins like a descriptor is one, and this is a descriptor of a megabyte.
            "is too long",
        ),
        Kind(
            "only-a-descriptor-after-a-comment",
            put(0, "128s", b'# a comment\n\n# Disk DescriptorFile\nversion=1\nRW 8192 FLAT "/etc/passwd" 0\n'),
            "signature is missing",
        ),
        Kind("a-footer-elsewhere", both(put(56, "<Q", LONGEST), grow(1536)), "compress"),
        Kind("a-vhd-at-the-end", put(-512, "8s", b"conectix"), READ),
        Kind(
            "bomb-of-a-tebibyte",
            both(put(12, "<Q", 1 << 31), lambda image: put(56, "<Q", end(image))(image), grow(128 << 10)),
            READ,
        ),
        Kind(
            "bomb-of-32-tebibytes",
            both(put(12, "<Q", 1 << 36), lambda image: put(56, "<Q", end(image))(image), grow(4 << 20)),
            "are too many to map",
        ),
        Kind("bomb-of-small-grains", put(12, "<QQ", 1 << 31, 8), "are too many to map"),
        Kind(
            "bomb-of-one-table",
            both(
                put(12, "<Q", 1 << 22),
                lambda image: put(directory(image), "<128I", *[table(image) // 512] * 128)(image),
            ),
            "used for several parts",
        ),
    ]
