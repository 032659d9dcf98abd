"""Hostile QED images. Source of the layout: QEMU ``docs/interop/qed_spec.txt``."""

from __future__ import annotations

from kinds import READ, Field, Kind, both, cut, cuts, grow, named, of_backing, of_fields, put

MOST, CLUSTER, TABLE = 0xFFFFFFFF, 65536, 4
L1 = CLUSTER
"""Where QEMU puts the L1 table."""
BITS = {number: 1 << number for number in range(64)}

FIELDS = {
    "magic": Field(
        0,
        "4s",
        {
            b"": "signature is missing",
            b"QED1": "signature is missing",
            b"qed\0": "signature is missing",
            b"QFI\xfb": "signature is missing",
        },
    ),
    "cluster-size": Field(
        4,
        "<I",
        {
            0: "is invalid",
            1: "is invalid",
            512: "is invalid",
            2048: "is invalid",
            4096: READ,
            65535: "is invalid",
            3 << 16: "is invalid",
            1 << 26: "is not aligned to a cluster",
            1 << 27: "is invalid",
            1 << 31: "is invalid",
            MOST: "is invalid",
        },
    ),
    "table-size": Field(
        8,
        "<I",
        {
            0: "is invalid",
            1: "QEMU cannot open",
            3: "is invalid",
            16: "QEMU cannot open",
            32: "is invalid",
            1 << 31: "is invalid",
            MOST: "is invalid",
        },
    ),
    "header-size": Field(12, "<I", {0: READ, 2: "QEMU cannot open", MOST: "QEMU cannot open"}),
    "features": Field(
        16,
        "<Q",
        {
            1: "backing file name is empty",
            2: "was not closed cleanly",
            4: READ,
            5: "backing file name is empty",
            8: "unknown features",
            1 << 32: "unknown features",
            1 << 63: "unknown features",
            (1 << 64) - 1: "unknown features",
        },
    ),
    "compatible-features": Field(24, "<Q", {1: READ, (1 << 64) - 1: READ}),
    "autoclear-features": Field(32, "<Q", {1: READ, (1 << 64) - 1: READ}),
    "l1-offset": Field(
        40,
        "<Q",
        {
            0: "QEMU cannot open",
            1: "L1 table at 1 is not aligned",
            512: "L1 table at 512 is not aligned",
            L1 + 1: "is not aligned to a cluster",
            1 << 30: "L1 table is outside",
            1 << 62: "L1 table is outside",
            1 << 63: "L1 table is outside",
            (1 << 64) - CLUSTER: "L1 table is outside",
            (1 << 64) - 1: "is not aligned to a cluster",
        },
    ),
    "image-size": Field(
        48,
        "<Q",
        {
            0: "it is empty",
            1: "is invalid",
            513: "is invalid",
            512: "smaller than the template's",
            1 << 40: READ,
            1 << 46: "are too many to map",
            1 << 47: "is invalid",
            1 << 62: "is invalid",
            1 << 63: "is invalid",
            (1 << 64) - 512: "is invalid",
            (1 << 64) - 1: "is invalid",
        },
    ),
    "backing-offset": Field(56, "<I", {1: READ, 64: READ, MOST: READ}),
    "backing-size": Field(60, "<I", {1: READ, 1024: READ, MOST: READ}),
}


def l1(*values):
    """A change of the first entries of the L1 table."""
    return put(L1, f"<{len(values)}Q", *values)


def l2(index, *values):
    """A change of entries of the only L2 table."""

    def change(image):
        table = int.from_bytes(image[L1 : L1 + 8], "little")
        put(table + 8 * index, f"<{len(values)}Q", *values)(image)

    return change


def backing(name, *features):
    """A change that names a backing file, with the feature bit for it or without."""
    text = name.encode()
    return both(put(64, f"{len(text)}s", text), put(56, "<II", 64, len(text)), put(16, "<Q", sum(features)))


def shared(image):
    """One data cluster for two parts of the disk."""
    table = int.from_bytes(image[L1 : L1 + 8], "little")
    used = int.from_bytes(image[table + 16 * 8 : table + 17 * 8], "little")
    put(table + 17 * 8, "<Q", used)(image)


def kinds(outside: dict[str, str]) -> list[Kind]:
    """All kinds; ``outside``: names of other files, by what they are."""
    return [
        *of_fields(FIELDS),
        Kind("l1-empty", l1(0), READ),
        Kind("l1-on-the-header", both(put(40, "<Q", 0)), "QEMU cannot open"),
        Kind("l1-entry-misaligned", l1(L1 + 512), "QEMU cannot open"),
        Kind("l1-entry-1", l1(1), "QEMU cannot open"),
        Kind("l1-entry-on-the-l1-table", l1(L1), READ),
        Kind("l1-entry-past-the-end", l1(1 << 40), "QEMU cannot open"),
        Kind(
            "l1-entry-at-the-end",
            lambda image: l1(-(-len(image) // CLUSTER) * CLUSTER)(image),
            "QEMU cannot open",
        ),
        Kind("l1-entry-of-2^63", l1(1 << 63), "QEMU cannot open"),
        Kind("l1-entry-of-ones", l1((1 << 64) - 1), "QEMU cannot open"),
        Kind(
            "l1-at-the-end",
            lambda image: put(40, "<Q", -(-len(image) // CLUSTER) * CLUSTER)(image),
            "L1 table is outside",
        ),
        Kind(
            "l1-in-the-last-cluster",
            lambda image: put(40, "<Q", len(image) // CLUSTER * CLUSTER)(image),
            "L1 table is outside",
        ),
        Kind(
            "l2-table-twice",
            both(
                put(48, "<Q", 4 << 31),
                lambda image: l1(*[int.from_bytes(image[L1 : L1 + 8], "little")] * 2)(image),
            ),
            "used for several parts",
        ),
        Kind("l2-entry-misaligned", l2(16, CLUSTER * 9 + 512), "QEMU cannot open"),
        Kind("l2-entry-zero-cluster", l2(16, 1), READ),
        Kind("l2-entry-2", l2(16, 2), "QEMU cannot open"),
        Kind("l2-entry-on-the-l1-table", l2(16, L1), READ),
        Kind(
            "l2-entry-on-its-table",
            lambda image: l2(16, int.from_bytes(image[L1 : L1 + 8], "little"))(image),
            READ,
        ),
        Kind("l2-entry-past-the-end", l2(16, 1 << 40), "QEMU cannot open"),
        Kind(
            "l2-entry-at-the-end",
            lambda image: l2(16, -(-len(image) // CLUSTER) * CLUSTER)(image),
            "QEMU cannot open",
        ),
        Kind("l2-entry-of-2^63", l2(16, 1 << 63), "QEMU cannot open"),
        Kind("l2-entry-of-ones", l2(16, (1 << 64) - 1), "QEMU cannot open"),
        Kind("l2-two-on-one-cluster", shared, "used for several parts"),
        Kind(
            "l2-all-one-cluster",
            lambda image: l2(0, *[int.from_bytes(image[-CLUSTER:][:0] or b"\0") + CLUSTER * 9] * 64)(image),
            "used for several parts",
        ),
        Kind("l2-empty", l2(0, *[0] * 64), READ),
        Kind("l2-all-zero-clusters", l2(0, *[1] * 64), READ),
        *(Kind(name, backing(text, 1), of_backing(text)) for name, text in named("backing", outside)),
        *(
            Kind(f"raw-backing-{name}", backing(outside[name], 1, 4), of_backing(outside[name]))
            for name in ("passwd", "a-fifo", "nbd", "self")
        ),
        *(Kind(f"unused-backing-{name}", backing(outside[name]), READ) for name in ("passwd", "a-fifo")),
        Kind("backing-without-a-name", put(16, "<Q", 1), "backing file name is empty"),
        Kind("backing-name-over-the-end", both(backing("low", 1), put(56, "<I", CLUSTER - 2)), "not fit into"),
        Kind(
            "backing-name-of-1024-bytes",
            both(backing("low", 1), put(60, "<I", 1024)),
            "more than the limit of 1023",
        ),
        Kind("backing-name-of-null-bytes", both(put(56, "<II", 64, 8), put(16, "<Q", 1)), "name is empty"),
        *cuts(
            {
                0: "header is incomplete",
                3: "header is incomplete",
                16: "header is incomplete",
                63: "header is incomplete",
                64: "L1 table is outside",
                65: "L1 table is outside",
                4096: "L1 table is outside",
                65536: "L1 table is outside",
                65544: "L1 table is outside",
                327680: "QEMU cannot open",
                327688: "QEMU cannot open",
            }
        ),
        Kind("cut-in-the-last-cluster", cut(-1), "is truncated"),
        Kind("cut-by-a-sector", cut(-512), "is truncated"),
        Kind("grown-by-an-odd-byte", grow(1), READ),
        Kind("zeros", lambda image: put(0, f"{len(image)}s", b"")(image), "signature is missing"),
        Kind("ones", put(0, "64s", b"\xff" * 64), "signature is missing"),
        Kind("byte-order", put(4, ">III", CLUSTER, TABLE, 1), "is invalid"),
        Kind(
            "a-descriptor-at-the-start",
            put(0, "64s", b'# Disk DescriptorFile\nRW 1 FLAT "/etc/passwd" 0'),
            "signature is missing",
        ),
        Kind("a-vhd-at-the-end", put(-512, "8s", b"conectix"), READ),
        Kind("too-many-clusters", put(4, "<II36xQ", 4096, 16, 1 << 45), "is invalid"),
        Kind("bomb-of-an-empty-tebibyte", put(48, "<Q", 1 << 40), READ),
    ]
