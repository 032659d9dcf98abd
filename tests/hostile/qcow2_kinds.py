"""Hostile qcow2 images, as in QEMU's iotests 060 and 080. Source: QEMU ``docs/interop/qcow2.txt``."""

from __future__ import annotations

import struct

from kinds import (
    READ,
    Field,
    Kind,
    both,
    cut,
    cuts,
    grow,
    named,
    of_backing,
    of_data,
    of_data_name,
    of_fields,
    put,
)

MOST, LONGEST = 0xFFFFFFFF, (1 << 64) - 1
CLUSTER = 4096
COPIED, COMPRESSED, OFFSET = 1 << 63, 1 << 62, 0x00FFFFFFFFFFFE00
SMALL, EXTENDED, ZSTD, OLD, PACKED = (
    "-o cluster_size=4k",
    "-o extended_l2=on",
    "-c -o cluster_size=4k,compression_type=zstd",
    "-o cluster_size=4k,compat=0.10",
    "-c -o cluster_size=4k",
)
BACKING_FORMAT, BITMAPS, FEATURES, ENCRYPTION, DATA_FILE = (
    0xE2792ACA,
    0x23852875,
    0x6803F857,
    0x0537BE77,
    0x44415441,
)

FIELDS = {
    "magic": Field(
        0,
        "4s",
        {b"": "magic number", b"QFI\xfa": "magic number", b"\xfbIFQ": "magic number", b"KDMV": "magic number"},
    ),
    "version": Field(
        4, ">I", {0: "is unknown", 1: "the older format qcow", 2: READ, 4: "is unknown", MOST: "is unknown"}
    ),
    "backing-offset": Field(
        8,
        ">Q",
        {
            1: READ,
            100: READ,
            CLUSTER: READ,
            CLUSTER + 1: "outside the header",
            1 << 63: "outside the header",
            LONGEST: "outside the header",
        },
    ),
    "backing-size": Field(16, ">I", {1: READ, 1024: READ, MOST: READ}),
    "cluster-bits": Field(
        20,
        ">I",
        {
            0: "outside the range 512 B to 2 MiB",
            8: "outside the range 512 B to 2 MiB",
            9: "L1 table has",
            21: "past the end of the file",
            22: "outside the range 512 B to 2 MiB",
            64: "outside the range 512 B to 2 MiB",
            MOST: "outside the range 512 B to 2 MiB",
        },
    ),
    "virtual-size": Field(
        24,
        ">Q",
        {
            0: "virtual size is less than a sector",
            511: "virtual size is less than a sector",
            513: "smaller than the template's",
            (4 << 20) + 1: "L1 table has",
            16 << 20: "L1 table has",
            1 << 40: "L1 table has",
            1 << 62: "L1 table has",
            1 << 63: "is invalid",
            LONGEST - 511: "is invalid",
            LONGEST: "is invalid",
        },
    ),
    "encryption": Field(32, ">I", {1: "encrypt", 2: "encrypt", 3: "encrypt", MOST: "encrypt"}),
    "l1-entries": Field(
        36,
        ">I",
        {
            0: "L1 table has",
            1: "L1 table has",
            3: READ,
            1 << 20: "is truncated",
            (4 << 20): "is truncated",
            (4 << 20) + 1: "exceeds QEMU's limit",
            1 << 31: "exceeds QEMU's limit",
            MOST: "exceeds QEMU's limit",
        },
    ),
    "l1-offset": Field(
        40,
        ">Q",
        {
            0: "overlap",
            512: "not aligned",
            CLUSTER: "overlap",
            1 << 30: "is truncated",
            1 << 56: "is truncated",
            1 << 63: "is truncated",
            LONGEST - 4095: "is truncated",
            LONGEST: "not aligned",
        },
    ),
    "refcount-offset": Field(
        48,
        ">Q",
        {
            0: "overlap",
            512: "not aligned",
            3 * CLUSTER: "overlap",
            1 << 30: "is truncated",
            1 << 63: "is truncated",
            LONGEST - 4095: "is truncated",
        },
    ),
    "refcount-clusters": Field(
        56,
        ">I",
        {
            0: "outside the range 1 cluster",
            2: "reserved bits",
            2048: "is truncated",
            2049: "outside the range 1 cluster",
            MOST: "outside the range 1 cluster",
        },
    ),
    "snapshots": Field(
        60, ">I", {1: "overlap", 65536: "is truncated", 65537: "exceed QEMU's limit", MOST: "exceed QEMU's limit"}
    ),
    "snapshots-offset": Field(
        64,
        ">Q",
        {512: "not aligned", CLUSTER: READ, 1 << 40: READ, 1 << 63: "2^63 or more", LONGEST: "not aligned"},
    ),
    "incompatible": Field(
        72,
        ">Q",
        {
            1: "was not closed cleanly",
            2: "marked corrupt",
            3: "marked corrupt",
            4: "data",
            8: "contradict each other",
            16: "extended L2 needs",
            32: "unknown features",
            1 << 63: "unknown features",
        },
    ),
    "compatible": Field(80, ">Q", {1: READ, 2: READ, 1 << 63: READ}),
    "autoclear": Field(88, ">Q", {1: READ, 2: "raw data file", 4: READ, 1 << 63: READ}),
    "refcount-order": Field(
        96,
        ">I",
        {
            0: "refcount is 0",
            3: "refcount is 0",
            5: "refcount is 0",
            6: "refcount is 0",
            7: "refcount width",
            MOST: "refcount width",
        },
    ),
    "header-length": Field(
        100,
        ">I",
        {
            0: "header length",
            72: "header length",
            96: "header length",
            103: "header length",
            108: "not a multiple of 8",
            CLUSTER: READ,
            CLUSTER + 8: "exceeds the cluster size",
            MOST: "exceeds the cluster size",
        },
    ),
    "compression-type": Field(
        104, "B", {1: "contradict each other", 2: "contradict each other", 255: "contradict each other"}
    ),
    "padding": Field(105, "7s", {b"\xff" * 7: READ}),
}


def word(image, at):
    return struct.unpack_from(">Q", image, at)[0]


def cluster(image):
    return 1 << struct.unpack_from(">I", image, 20)[0]


def l1(image):
    return word(image, 40)


def table(image, index=0):
    return word(image, l1(image) + 8 * index) & OFFSET


def block(image):
    return word(image, word(image, 48))


def end(image):
    return -(-len(image) // cluster(image)) * cluster(image)


def in_l1(index, value):
    """A change of an entry of the L1 table; callables are given the image."""
    return lambda image: put(l1(image) + 8 * index, ">Q", value(image) if callable(value) else value)(image)


def in_l2(index, value, *, width=8):
    """A change of an entry of the L2 table of the first data, with which the disk's second MiB begins."""

    def change(image):
        index_of_table, place = divmod((1 << 20) // cluster(image) + index, cluster(image) // width)
        at = table(image, index_of_table) + width * place
        put(at, ">Q", value(image) if callable(value) else value)(image)

    return change


def entry(image, index=0):
    """The L2 entry of the disk's second MiB."""
    index_of_table, place = divmod((1 << 20) // cluster(image) + index, cluster(image) // 8)
    return word(image, table(image, index_of_table) + 8 * place)


def in_refcounts(number, value):
    """A change of a refcount of 16 bits; ``number``: of the cluster, callables are given the image."""

    def change(image):
        at = number(image) if callable(number) else number
        put(block(image) + 2 * at, ">H", value)(image)

    return change


def number_of(offset):
    return lambda image: offset(image) // cluster(image)


def data(image):
    return entry(image) & OFFSET


def extension(kind, text, *, length=None):
    return put(112, f">II{len(text)}s", kind, len(text) if length is None else length, text)


def backing(name, form=b"raw"):
    """A change that names a backing file, with its format."""
    text = name.encode()
    head = (
        struct.pack(">II", BACKING_FORMAT, len(form)) + form + bytes(-len(form) % 8) if form is not None else b""
    )
    head += bytes(8)
    return both(
        put(112, f"{len(head)}s", head),
        put(112 + len(head), f"{len(text)}s", text),
        put(8, ">QI", 112 + len(head), len(text)),
    )


def data_file(name):
    text = name.encode()
    return both(put(72, ">Q", 4), extension(DATA_FILE, text))


TABLES = {
    "the-header": lambda image: 0,
    "the-l1-table": l1,
    "the-refcount-table": lambda image: word(image, 48),
    "a-refcount-block": block,
}


def of_data_file(name, to):
    """The reason for which an image with a data file of that name is refused."""
    # Its own file is beside it, but the name is relative.
    return "is relative to the folder" if to == name else of_data_name(to)


def kinds(outside: dict[str, str]) -> list[Kind]:
    """All kinds; ``outside``: names of other files, by what they are."""
    return [
        *(kind._replace(base=SMALL) for kind in of_fields(FIELDS)),
        *(Kind(name, backing(to), of_backing(to), SMALL) for name, to in named("backing", outside)),
        *(
            Kind(name, data_file(to), of_data_file(name, to), SMALL)
            for name, to in named("data-file", of_data(outside))
        ),
        Kind("data-file-without-a-name", put(72, ">Q", 4), "but does not name that file", SMALL),
        Kind("data-file-without-its-bit", extension(DATA_FILE, b"/etc/passwd"), "data in its own file", SMALL),
        Kind("raw-data-file-bit", put(88, ">Q", 2), "raw data file", SMALL),
        Kind("backing-format-of-16-bytes", backing("low", b"r" * 16), "more than the limit of 15", SMALL),
        Kind("backing-format-unknown", backing("../template.img", b"nonsense"), READ, SMALL),
        Kind(
            "backing-size-0-with-an-offset",
            both(extension(BACKING_FORMAT, b"raw"), put(8, ">QI", 512, 0)),
            READ,
            SMALL,
        ),
        Kind(
            "backing-format-padded",
            both(extension(BACKING_FORMAT, b"raw\0\0\0\0\0"), put(8, ">QI", 512, 0)),
            READ,
            SMALL,
        ),
        Kind("backing-name-of-null-bytes", both(put(512, "8s", b""), put(8, ">QI", 512, 8)), READ, SMALL),
        Kind("backing-name-in-the-fields", put(8, ">QI", 64, 8), "outside the header", SMALL),
        Kind("backing-name-over-the-end", put(8, ">QI", CLUSTER - 4, 8), "outside the header", SMALL),
        Kind(
            "extension-over-the-end",
            extension(0x12345678, b"x", length=MOST),
            "does not fit into the header",
            SMALL,
        ),
        Kind(
            "extension-one-byte-over-the-end",
            extension(0x12345678, b"x", length=CLUSTER - 112 - 7),
            "does not fit into the header",
            SMALL,
        ),
        Kind("extension-unknown", extension(0x12345678, b"x" * 8), READ, SMALL),
        Kind("extension-of-encryption", extension(ENCRYPTION, bytes(16)), "encrypt", SMALL),
        Kind("extension-of-bitmaps-too-short", extension(BITMAPS, bytes(8)), "instead of 24", SMALL),
        Kind(
            "extension-of-no-bitmaps",
            both(put(88, ">Q", 1), extension(BITMAPS, bytes(24))),
            "claims 0 bitmaps",
            SMALL,
        ),
        Kind(
            "extension-of-bitmaps-far-away",
            both(put(88, ">Q", 1), extension(BITMAPS, struct.pack(">IIQQ", 1, 0, 24, 1 << 62))),
            "is truncated",
            SMALL,
        ),
        Kind(
            "extension-of-a-long-directory",
            both(put(88, ">Q", 1), extension(BITMAPS, struct.pack(">IIQQ", 1, 0, 1 << 62, CLUSTER))),
            "is too long, or too short",
            SMALL,
        ),
        Kind(
            "extension-of-bitmaps-on-the-l1-table",
            lambda image: both(put(88, ">Q", 1), extension(BITMAPS, struct.pack(">IIQQ", 1, 0, 24, l1(image))))(
                image
            ),
            "overlap",
            SMALL,
        ),
        Kind("extensions-of-features-only", put(112, ">II", FEATURES, 0), READ, SMALL),
        Kind("l1-entry-misaligned", in_l1(0, lambda image: table(image) + 512), "not aligned", SMALL),
        Kind("l1-entry-reserved-bits", in_l1(0, lambda image: table(image) | 1 << 56), "reserved bits", SMALL),
        Kind("l1-entry-low-reserved-bit", in_l1(0, lambda image: table(image) | 1), "reserved bits", SMALL),
        Kind("l1-entry-past-the-end", in_l1(0, 1 << 40), "is truncated", SMALL),
        Kind("l1-entry-at-the-end", in_l1(0, end), "is truncated", SMALL),
        Kind("l1-entry-of-2^63", in_l1(0, 1 << 63), "an L2 table overlaps the header", SMALL),
        Kind("l1-entry-of-ones", in_l1(0, LONGEST), "reserved bits", SMALL),
        Kind("l1-entry-twice", in_l1(1, table), "twice", SMALL),
        Kind("l1-entry-on-data", in_l1(1, data), "reserved bits", SMALL),
        Kind(
            "l1-entry-on-a-free-cluster",
            both(grow(CLUSTER), in_l1(1, lambda image: end(image) - CLUSTER)),
            "refcount is 0",
            SMALL,
        ),
        *(
            Kind(f"l1-entry-on-{name}", in_l1(0, where), "overlaps", SMALL)
            for name, where in TABLES.items()
            if name != "the-header"
        ),
        Kind("l1-on-an-l2-table", lambda image: put(40, ">Q", table(image))(image), READ, SMALL),
        Kind("l1-on-the-refcount-block", lambda image: put(40, ">Q", block(image))(image), "reserved bits", SMALL),
        Kind("l1-at-the-end", lambda image: put(40, ">Q", end(image))(image), "is truncated", SMALL),
        Kind("l2-entry-misaligned", in_l2(0, lambda image: data(image) + 512), "not aligned", SMALL),
        Kind("l2-entry-reserved-bits", in_l2(0, lambda image: data(image) | 1 << 56), "reserved bits", SMALL),
        Kind("l2-entry-low-reserved-bit", in_l2(0, lambda image: data(image) | 2), "reserved bits", SMALL),
        Kind("l2-entry-in-the-header", in_l2(0, 512 | COPIED), "not aligned", SMALL),
        Kind("l2-entry-past-the-end", in_l2(0, 1 << 40), "is truncated", SMALL),
        Kind("l2-entry-at-the-end", in_l2(0, end), "is truncated", SMALL),
        Kind("l2-entry-zero-past-the-end", in_l2(0, 1 << 40 | 1), "is truncated", SMALL),
        Kind("l2-entry-of-ones", in_l2(0, LONGEST), "compressed cluster lies in the header or outside", SMALL),
        Kind("l2-entry-on-its-table", in_l2(0, table), "overlaps", SMALL),
        *(
            Kind(f"l2-entry-on-{name}", in_l2(0, where), "overlaps", SMALL)
            for name, where in TABLES.items()
            if name != "the-header"
        ),
        Kind("l2-entry-of-another-cluster", in_l2(1, entry), "times, but its refcount", SMALL),
        Kind(
            "l2-entry-of-another-cluster-with-refcount-2",
            both(in_l2(1, entry), in_refcounts(number_of(data), 2)),
            READ,
            SMALL,
        ),
        Kind(
            "l2-entry-on-a-free-cluster",
            both(grow(CLUSTER), in_l2(0, lambda image: end(image) - CLUSTER)),
            "refcount is 0",
            SMALL,
        ),
        Kind("l2-entry-without-its-copied-bit", in_l2(0, data), READ, SMALL),
        Kind("l2-entry-zero-flag", in_l2(0, lambda image: entry(image) | 1), READ, SMALL),
        Kind("l2-entry-zero-flag-in-version-2", in_l2(0, lambda image: entry(image) | 1), "version", OLD),
        Kind(
            "l2-one-cluster-again-and-again",
            lambda image: [in_l2(index, entry(image))(image) for index in range(200)],
            "times, but its refcount",
            SMALL,
        ),
        Kind(
            "compressed-in-the-header",
            in_l2(0, COMPRESSED | 512),
            "compressed cluster lies in the header or outside",
            PACKED,
        ),
        Kind("compressed-at-0", in_l2(0, COMPRESSED), "compressed cluster lies in the header or outside", PACKED),
        Kind(
            "compressed-past-the-end",
            in_l2(0, COMPRESSED | 1 << 40),
            "compressed cluster lies in the header or outside",
            PACKED,
        ),
        Kind(
            "compressed-at-the-end",
            in_l2(0, lambda image: COMPRESSED | len(image)),
            "compressed cluster lies in the header or outside",
            PACKED,
        ),
        Kind("compressed-on-its-table", in_l2(0, lambda image: COMPRESSED | table(image)), "overlaps", PACKED),
        Kind("compressed-on-the-l1-table", in_l2(0, lambda image: COMPRESSED | l1(image)), "overlaps", PACKED),
        Kind(
            "compressed-in-a-free-cluster",
            both(grow(2 * CLUSTER), in_l2(0, lambda image: COMPRESSED | end(image) - CLUSTER)),
            "refcount is 0",
            PACKED,
        ),
        Kind("compressed-longer-than-the-file", compressed_to_the_end, "ends past the end of the file", PACKED),
        Kind("l1-entry-past-the-disk", past_the_disk(1 << 40), "past the end of the file", SMALL),
        Kind("l1-entry-past-the-disk-on-the-header", past_the_disk(512), "not aligned", SMALL),
        Kind("l1-entry-past-the-disk-on-a-table", past_the_disk(table), "an L2 table overlaps another one", SMALL),
        Kind("compressed-with-the-copied-bit", in_l2(0, lambda image: entry(image) | COPIED), READ, PACKED),
        Kind(
            "compressed-one-again-and-again",
            lambda image: [in_l2(index, entry(image))(image) for index in range(256)],
            "times, but its refcount",
            PACKED,
        ),
        Kind(
            "compressed-stream-of-ones",
            lambda image: put(entry(image) & ((1 << 58) - 1), "64s", b"\xff" * 64)(image),
            "a compressed cluster is damaged",
            PACKED,
        ),
        Kind(
            "compressed-stream-of-zeros",
            lambda image: put(entry(image) & ((1 << 58) - 1), "64s", b"")(image),
            "a compressed cluster is damaged",
            PACKED,
        ),
        Kind(
            "compressed-frame-of-ones",
            lambda image: put(entry(image) & ((1 << 58) - 1), "64s", b"\xff" * 64)(image),
            "a compressed cluster is damaged",
            ZSTD,
        ),
        Kind(
            "compressed-frame-is-skippable",
            lambda image: put(entry(image) & ((1 << 58) - 1), "<II", 0x184D2A50, MOST)(image),
            "a compressed cluster is damaged",
            ZSTD,
        ),
        Kind("zstd-without-its-bit", put(72, ">Q", 0), "contradict each other", ZSTD),
        Kind("zstd-of-an-unknown-type", put(104, "B", 2), "is unknown", ZSTD),
        Kind(
            "zlib-read-as-zstd",
            both(put(72, ">Q", 8), put(104, "B", 1)),
            "a compressed cluster is damaged",
            PACKED,
        ),
        Kind(
            "subcluster-both-allocated-and-zero",
            lambda image: put(table(image) + 16 * 16 + 8, ">Q", 1 | 1 << 32)(image),
            "both allocated and zero",
            EXTENDED,
        ),
        Kind(
            "subcluster-allocated-nowhere",
            lambda image: put(table(image) + 8, ">Q", 1)(image),
            "allocated in a cluster",
            EXTENDED,
        ),
        Kind(
            "subcluster-zero-flag",
            lambda image: put(table(image) + 16 * 16 + 7, "B", 1)(image),
            "reserved bits",
            EXTENDED,
        ),
        Kind("subclusters-in-small-clusters", put(72, ">Q", 16), "extended L2 needs", SMALL),
        Kind("subclusters-without-their-bit", put(72, ">Q", 0), "reserved bits", EXTENDED),
        *(
            Kind(f"refcount-0-of-{name}", in_refcounts(number_of(where), 0), "refcount is 0", SMALL)
            for name, where in {**TABLES, "an-l2-table": table, "data": data}.items()
        ),
        Kind("refcount-too-high", in_refcounts(number_of(data), 9), READ, SMALL),
        Kind(
            "refcount-of-a-leak",
            both(grow(CLUSTER), in_refcounts(lambda image: len(image) // CLUSTER - 1, 1)),
            READ,
            SMALL,
        ),
        Kind("refcount-block-missing", lambda image: put(word(image, 48), ">Q", 0)(image), "refcount is 0", SMALL),
        Kind(
            "refcount-block-misaligned",
            lambda image: put(word(image, 48), ">Q", block(image) + 512)(image),
            "not aligned",
            SMALL,
        ),
        Kind(
            "refcount-block-reserved-bits",
            lambda image: put(word(image, 48), ">Q", block(image) | 1)(image),
            "reserved bits",
            SMALL,
        ),
        Kind(
            "refcount-block-past-the-end",
            lambda image: put(word(image, 48), ">Q", 1 << 40)(image),
            "is truncated",
            SMALL,
        ),
        Kind(
            "refcount-block-of-2^63",
            lambda image: put(word(image, 48), ">Q", 1 << 63)(image),
            "is truncated",
            SMALL,
        ),
        Kind(
            "refcount-block-twice",
            lambda image: put(word(image, 48) + 8, ">Q", block(image))(image),
            "twice",
            SMALL,
        ),
        Kind(
            "refcount-block-on-the-l1-table",
            lambda image: put(word(image, 48), ">Q", l1(image))(image),
            "overlaps",
            SMALL,
        ),
        Kind(
            "refcount-block-on-an-l2-table",
            lambda image: put(word(image, 48), ">Q", table(image))(image),
            "overlaps",
            SMALL,
        ),
        Kind(
            "refcount-block-on-its-table",
            lambda image: put(word(image, 48), ">Q", word(image, 48))(image),
            "overlaps",
            SMALL,
        ),
        Kind(
            "refcount-block-on-data",
            lambda image: put(word(image, 48), ">Q", data(image))(image),
            "overlaps",
            SMALL,
        ),
        *cuts(
            {
                0: "magic number",
                4: "it is truncated: it has",
                71: "it is truncated: it has",
                72: "ends inside its header",
                103: "ends inside its header",
                104: "ends inside its header",
                111: "ends inside its header",
                112: "is truncated",
                4096: "is truncated",
                8192: "is truncated",
                16384: "is truncated",
            },
            SMALL,
        ),
        Kind("cut-at-the-l1-table", lambda image: cut(l1(image))(image), "is truncated", SMALL),
        Kind("cut-in-the-l1-table", lambda image: cut(l1(image) + 8)(image), "is truncated", SMALL),
        Kind("cut-at-the-l2-table", lambda image: cut(table(image))(image), "is truncated", SMALL),
        Kind("cut-in-data", lambda image: cut(data(image) + 512)(image), "is truncated", SMALL),
        Kind("cut-by-a-byte", cut(-1), "is truncated", SMALL),
        Kind("cut-by-a-cluster", cut(-CLUSTER), "is truncated", SMALL),
        Kind("grown-by-an-odd-byte", grow(1), READ, SMALL),
        Kind("zeros", lambda image: put(0, f"{len(image)}s", b"")(image), "magic number", SMALL),
        Kind("ones", put(0, "512s", b"\xff" * 512), "magic number", SMALL),
        Kind("byte-order", put(4, "<I", 3), "is unknown", SMALL),
        Kind(
            "a-descriptor-at-the-start",
            put(0, "64s", b'# Disk DescriptorFile\nRW 1 FLAT "/etc/passwd" 0'),
            "magic number",
            SMALL,
        ),
        Kind("a-vhd-at-the-end", put(-512, "8s", b"conectix"), READ, SMALL),
        Kind("old-with-new-features", put(72, ">Q", 2), READ, OLD),
        Kind("old-with-a-new-version", put(4, ">I", 3), "version", OLD),
        Kind(
            "bomb-of-an-l1-table",
            lambda image: both(
                put(24, ">Q", 1 << 43), put(36, ">I", 4 << 20), put(40, ">Q", end(image)), grow(32 << 20)
            )(image),
            "refcount is 0",
            SMALL,
        ),
        Kind("bomb-of-tables-in-holes", bomb_of_tables, "refcount is 0", SMALL),
        Kind("bomb-of-one-table", bomb_of_one_table, "used for two parts", SMALL),
    ]


def past_the_disk(value):
    """A change that has one more entry in the L1 table than the disk needs."""
    return both(put(36, ">I", 3), in_l1(2, value))


def compressed_to_the_end(image):
    """A compressed cluster at the end of the file, whose entry counts all sectors that it can."""
    at = len(image) // 512 * 512 - 512
    in_l2(0, COMPRESSED | 0xF << 58 | at)(image)


def bomb_of_tables(image):
    """Half a million L2 tables that are holes; returns the size of the file."""
    start, count = end(image), 1 << 19
    put(24, ">Q", count << 21)(image)
    put(36, ">I", count)(image)
    put(40, ">Q", start)(image)
    tables = (start // CLUSTER + 1024 + n for n in range(count))
    image.extend(bytes(start - len(image)))
    image.extend(b"".join(struct.pack(">Q", number * CLUSTER) for number in tables))
    return start + (1024 + count) * CLUSTER


def bomb_of_one_table(image):
    """A GiB that one L2 table maps."""
    start = end(image)
    put(24, ">Q", 512 << 21)(image)
    put(36, ">I", 512)(image)
    used = table(image)
    put(40, ">Q", start)(image)
    image.extend(bytes(start - len(image)) + struct.pack(">Q", used | COPIED) * 512)
