"""Hostile Parallels images. Source of the layout: QEMU ``docs/interop/parallels.txt``."""

from __future__ import annotations

from kinds import READ, Field, Kind, both, cut, cuts, grow, of_fields, put

MOST, BAT = 0xFFFFFFFF, 64
IN_USE = 0x746F6E59

FIELDS = {
    "magic": Field(
        0,
        "16s",
        {
            b"": "signature is missing",
            b"WithouFreSpacExx": "signature is missing",
            b"withoutfreespace": "signature is missing",
            b"WithoutFreeSpace": "used for several parts",
        },
    ),
    "version": Field(16, "<I", {0: "is unknown", 1: "is unknown", 3: "is unknown", MOST: "is unknown"}),
    "heads": Field(20, "<I", {0: READ, MOST: READ}),
    "cylinders": Field(24, "<I", {0: READ, MOST: READ}),
    "tracks": Field(
        28,
        "<I",
        {
            0: "is invalid",
            1: "too few entries",
            2047: "too few entries",
            4096: "is truncated",
            0x7FFFFFFF // 513: READ,
            0x7FFFFFFF // 513 + 1: "is invalid",
            0x7FFFFFFF: "is invalid",
            MOST: "is invalid",
        },
    ),
    "entries": Field(
        32,
        "<I",
        {
            0: "too few entries",
            1: "too few entries",
            3: "too few entries",
            5: READ,
            1 << 20: "cluster map ends past",
            0x1FFFFFFF: "cluster map ends past",
            1 << 30: "cluster map ends past",
            MOST: "cluster map ends past",
        },
    ),
    "sectors": Field(
        36,
        "<Q",
        {
            0: "it is empty",
            1: "smaller than the template's",
            8191: READ,
            8193: "too few entries",
            1 << 31: "too few entries",
            1 << 32: "too few entries",
            1 << 54: "too few entries",
            1 << 62: "too few entries",
            1 << 63: "too few entries",
            (1 << 64) - 1: "too few entries",
        },
    ),
    "in-use": Field(44, "<I", {IN_USE: "it is marked as in use", 0x312E3276: READ, 1: READ, MOST: READ}),
    "data-offset": Field(48, "<I", {0: READ, 1: READ, 2: READ, 2047: READ, 2049: READ, 1 << 30: READ, MOST: READ}),
    "flags": Field(52, "<I", {1: READ, 2: READ, MOST: READ}),
    "extension": Field(
        56,
        "<Q",
        {
            1: "format extension",
            2048: "format extension",
            1 << 62: "format extension",
            1 << 63: "format extension",
            (1 << 64) - 1: "format extension",
        },
    ),
}


def entries(*values):
    """A change of the first entries of the cluster map."""
    return put(BAT, f"<{len(values)}I", *values)


def kinds(outside: dict[str, str]) -> list[Kind]:
    """All kinds; ``outside``: names of other files, by what they are."""
    return [
        *of_fields(FIELDS),
        Kind("map-all-one-cluster", entries(1, 1, 1, 1), "used for several parts"),
        Kind("map-two-on-one-cluster", entries(0, 1, 1, 0), "used for several parts"),
        Kind("map-past-the-end", entries(0, 1, 2, 9), "is truncated"),
        Kind("map-at-the-end", entries(0, 1, 3, 0), "is truncated"),
        Kind("map-far-past-the-end", entries(0, 1, 2, 1 << 30), "is truncated"),
        Kind("map-negative", entries(0, 1, 2, 1 << 31), "is truncated"),
        Kind("map-of-ones", entries(*[MOST] * 4), "is truncated"),
        Kind("map-empty", entries(0, 0, 0, 0), READ),
        Kind("map-swapped", entries(0, 2, 1, 0), READ),
        Kind("map-only-the-last", entries(0, 0, 0, 1), READ),
        *(
            Kind(f"old-{name}", both(put(0, "16s", b"WithoutFreeSpace"), change), expected)
            for name, (change, expected) in {
                "misaligned": (entries(0, 2048, 4097, 0), "is truncated"),
                "on-the-header": (entries(0, 1, 0, 0), READ),
                "in-the-map": (both(put(48, "<I", 0), entries(0, 1, 0, 0)), READ),
                "two-that-overlap": (entries(0, 2048, 2049, 0), "used for several parts"),
                "two-on-one": (entries(0, 2048, 2048, 0), "used for several parts"),
                "past-the-end": (entries(0, 2048, 1 << 30, 0), "is truncated"),
                "high-size": (put(40, "<I", MOST), "used for several parts"),
                "size-of-2-TiB": (put(36, "<Q", MOST), "too few entries"),
                "sound": (entries(0, 2048, 4096, 0), READ),
            }.items()
        ),
        *cuts(
            {
                0: "header is incomplete",
                1: "header is incomplete",
                15: "header is incomplete",
                16: "header is incomplete",
                44: "header is incomplete",
                63: "header is incomplete",
                64: "cluster map ends past",
                79: "cluster map ends past",
                80: "is truncated",
            }
        ),
        Kind("cut-in-the-first-cluster", cut((1 << 20) + 512), "is truncated"),
        Kind("cut-before-the-last-cluster", cut(2 << 20), "is truncated"),
        Kind("cut-by-a-byte", cut(-1), "is truncated"),
        Kind("cut-by-a-sector", cut(-512), "is truncated"),
        Kind("grown", grow(512), READ),
        Kind("grown-by-an-odd-byte", grow(1), READ),
        Kind("zeros", put(0, "4096s", b""), "signature is missing"),
        Kind("ones", put(0, "128s", b"\xff" * 128), "signature is missing"),
        Kind("byte-order", put(16, ">I", 2), "is unknown"),
        Kind("a-qcow2-at-the-start", put(0, "4s", b"QFI\xfb"), "signature is missing"),
        Kind("a-vmdk-at-the-start", put(0, "4s", b"KDMV"), "signature is missing"),
        Kind(
            "a-descriptor-at-the-start",
            put(0, "64s", b'# Disk DescriptorFile\nRW 1 FLAT "/etc/passwd" 0'),
            "signature is missing",
        ),
        Kind("a-name-in-the-padding", put(BAT + 16, "64s", b"/etc/passwd"), READ),
        Kind("a-vhd-at-the-end", put(-512, "8s", b"conectix"), READ),
        Kind("bomb-of-a-tebibyte", both(put(32, "<IQ", 1 << 20, 1 << 31), grow(4 << 20)), "QEMU crashes"),
        Kind(
            "bomb-of-small-clusters", both(put(28, "<IIQ", 1, 1 << 19, 1 << 19), put(48, "<I", 2)), "is truncated"
        ),
        Kind(
            "bomb-of-one-cluster",
            both(put(32, "<IQ", 4096, 4096 * 2048), put(BAT, "<4096I", *[1] * 4096)),
            "used for several parts",
        ),
        Kind("bomb-of-a-wide-cluster", both(put(28, "<IIQ", 0x7FFFFFFF // 513, 4, 8192)), READ),
        Kind("too-many-clusters", put(28, "<IIQ", 1, 1 << 28, 1 << 28), "are too many to map"),
        Kind("data-before-the-map", put(48, "<I", 1), READ),
        Kind("extension-in-the-file", put(56, "<Q", 4096), "format extension"),
        Kind(
            "extension-with-a-mark",
            both(put(56, "<Q", 4096), put(4096 * 512, "<Q", 0xAB234CEF23DCEA87)),
            "format extension",
        ),
        Kind("in-use-and-extension", both(put(44, "<I", IN_USE), put(56, "<Q", 4096)), "it is marked as in use"),
        Kind("size-and-map-of-nothing", put(32, "<IQ", 0, 0), "it is empty"),
        Kind("map-ends-with-the-file", lambda image: put(32, "<I", (len(image) - 64) // 4)(image), READ),
        Kind(
            "map-ends-past-the-file",
            lambda image: put(32, "<I", (len(image) - 64) // 4 + 1)(image),
            "cluster map ends past",
        ),
    ]
