"""Hostile encrypted images: LUKS, and qcow2 with a LUKS header in its clusters.

Sources: "LUKS On-Disk Format Specification", version 1.2.3; QEMU ``docs/interop/qcow2.txt``, "Full disk encryption
header pointer".
"""

from __future__ import annotations

import struct
from pathlib import Path

import encrypted
import notation
from kinds import READ, Field, Kind, both, cut, grow, named, of_backing, put
from qcow2_kinds import (
    BACKING_FORMAT,
    COPIED,
    DATA_FILE,
    ENCRYPTION,
    data,
    entry,
    in_l2,
    in_refcounts,
    l1,
    number_of,
)
from qcow2_kinds import end as end_of
from qcow2_kinds import table as l2_table

MOST, LONGEST = 0xFFFFFFFF, (1 << 64) - 1
LUKS, QCOW2 = "luks", "qcow2"
SECRET = "secret"
KEYS = {LUKS: [f"secret_file: {SECRET}"], QCOW2: ["format: qcow2", f"secret_file: {SECRET}"]}
"""Keys of the manifest for the guests of each base."""

ACTIVE, INACTIVE = 0x00AC71F3, 0x0000DEAD
SLOT, SLOT_BYTES, SLOTS = 208, 48, 8
MATERIAL = 504
"""Sectors between the key material of two slots; the first is at sector 8."""
NO_TEXT, NO_KEY, ON_ANOTHER, ON_DATA = (
    "is not text",
    "no key slot opens",
    "overlaps the header or another key slot",
    "overlaps the data",
)
ROUNDS, TRUNCATED, UNOPENED = "rounds of PBKDF2", "is truncated", "QEMU cannot open"


def beside(folder: Path) -> None:
    """Put the file with the secret beside the manifest."""
    encrypted.secret_file(folder / SECRET)


def sound_images(folder: Path, _format: str, _kinds: list[Kind], content: str) -> dict[str, bytes]:
    """The sound images to be changed, by their format."""
    raw, secret = notation.write_raw(folder / "content.raw", content), encrypted.secret_file(folder / SECRET)
    found = encrypted.convert(raw, folder / "sound.qcow2", QCOW2, secret).read_bytes()
    # QEMU needs seconds to create a header, so both images have the same.
    alone, start = folder / "sound.luks", luks_start(found)
    length = 512 * struct.unpack_from(">I", found, start + 104)[0]
    alone.write_bytes(found[start : start + length] + bytes(raw.stat().st_size))
    target = ["--target-image-opts", "-n", "-f", "raw", str(raw), encrypted.opened(alone, LUKS)]
    notation.run("qemu-img", "convert", "--object", f"secret,id=s,file={secret}", *target)
    return {LUKS: alone.read_bytes(), QCOW2: found}


def slot(number: int, at: int = 0) -> int:
    """The place of a key slot's state (0), rounds (4), salt (8), first sector (40) or stripes (44)."""
    return SLOT + number * SLOT_BYTES + at


HEADER = {
    "magic": Field(
        0,
        "6s",
        {
            b"": "magic number is missing",
            b"LUKS\xba\xbf": "magic number is missing",
            b"SKUL\xba\xbe": "magic number is missing",
            b"QFI\xfb": "magic number is missing",
            b"LUXUS!": "magic number is missing",
        },
    ),
    "version": Field(
        6,
        ">H",
        {0: "is unknown", 2: "reads version 1 only", 3: "is unknown", 256: "is unknown", 0xFFFF: "is unknown"},
    ),
    "cipher": Field(
        8,
        "32s",
        {
            b"": UNOPENED,
            b"nonsense": UNOPENED,
            b"AES": UNOPENED,
            b"/etc/passwd": UNOPENED,
            b"a" * 32: NO_TEXT,
            b"aes\x1b[2J": NO_TEXT,
            b"aes\n": NO_TEXT,
            b"\xff" * 32: NO_TEXT,
            b"aes\0rest": READ,
            b"serpent": NO_KEY,
        },
    ),
    "mode": Field(
        40,
        "32s",
        {
            b"": UNOPENED,
            b"xts": UNOPENED,
            b"nonsense-plain64": UNOPENED,
            b"xts-nonsense": UNOPENED,
            b"xts-plain64:sha256": READ,
            b"xts-essiv": UNOPENED,
            b"xts-essiv:nonsense": UNOPENED,
            b"xts-plain": READ,
            b"x" * 32: NO_TEXT,
            b"xts\x07": NO_TEXT,
        },
    ),
    "hash": Field(
        72, "32s", {b"": UNOPENED, b"nonsense": UNOPENED, b"sha1": NO_KEY, b"s" * 32: NO_TEXT, b"\xff": NO_TEXT}
    ),
    "payload": Field(
        104,
        ">I",
        {
            0: ON_DATA,
            1: ON_DATA,
            8: ON_DATA,
            4039: ON_DATA,
            1 << 20: TRUNCATED,
            1 << 31: TRUNCATED,
            MOST: TRUNCATED,
        },
    ),
    "key-bytes": Field(
        108,
        ">I",
        {
            0: "key of 0 bytes",
            1: UNOPENED,
            32: NO_KEY,
            63: UNOPENED,
            65: "key of 65 bytes",
            MOST: "key of 4294967295 bytes",
        },
    ),
    "digest": Field(112, "20s", {b"": NO_KEY, b"\xff" * 20: NO_KEY}),
    "salt": Field(132, "32s", {b"": NO_KEY}),
    "iterations": Field(164, ">I", {0: "0 rounds", 1: NO_KEY, 1 << 30: ROUNDS, MOST: ROUNDS}),
    "uuid": Field(168, "40s", {b"": READ, b"\xff" * 40: READ, b"\x1b[2J": READ, b"/etc/passwd": READ}),
    "first-slot": Field(
        slot(0),
        ">I",
        {
            0: "neither active nor inactive",
            1: "neither active nor inactive",
            INACTIVE: "no active key slot",
            MOST: "neither",
        },
    ),
    "first-slot-rounds": Field(slot(0, 4), ">I", {0: "0 rounds", 1: NO_KEY, 1 << 30: ROUNDS, MOST: ROUNDS}),
    "first-slot-salt": Field(slot(0, 8), "32s", {b"": NO_KEY}),
    "first-slot-place": Field(
        slot(0, 40),
        ">I",
        {
            0: ON_ANOTHER,
            1: ON_ANOTHER,
            7: ON_ANOTHER,
            9: ON_ANOTHER,
            512: ON_ANOTHER,
            1 << 20: ON_DATA,
            MOST: ON_DATA,
        },
    ),
    "first-slot-stripes": Field(
        slot(0, 44),
        ">I",
        {0: "has 0 instead of 4000 stripes", 3999: "has 3999 instead of 4000 stripes", MOST: "stripes"},
    ),
    "second-slot": Field(slot(1), ">I", {ACTIVE: "0 rounds", 0: "neither active nor inactive"}),
    "last-slot-place": Field(slot(7, 40), ">I", {8: ON_ANOTHER, 1 << 31: ON_DATA}),
    "last-slot-stripes": Field(slot(7, 44), ">I", {0: "has 0 instead of 4000 stripes", MOST: "stripes"}),
    "last-slot-rounds": Field(slot(7, 4), ">I", {MOST: READ}),
    "key-material": Field(4096, "512s", {b"": NO_KEY, b"\xff" * 512: NO_KEY}),
    "rest-of-the-header": Field(592, "512s", {b"\xff" * 512: READ, b"/etc/passwd": READ}),
}


def luks_start(image):
    """The offset of the LUKS header in a qcow2 image."""
    return struct.unpack_from(">Q", image, extension_at(image) + 8)[0]


def extension_at(image):
    """The offset of the header extension that names the LUKS header."""
    return image.index(struct.pack(">II", ENCRYPTION, 16), 104, 4096)


def named_header(start=None, length=None):
    """A change of the place of the LUKS header in its extension; callables are given the image."""

    def change(image):
        at = extension_at(image) + 8
        for number, value in enumerate((start, length)):
            if value is not None:
                put(at + 8 * number, ">Q", value(image) if callable(value) else value)(image)

    return change


def within(at, form, *values):
    """A change of the LUKS header in a qcow2 image."""
    return lambda image: put(luks_start(image) + at, form, *values)(image)


def renamed(image):
    """A change of the encryption extension to one of an unknown type."""
    put(extension_at(image), ">I", 0x12345678)(image)


def alone(length, claimed=None):
    """A change to an image with only an encryption extension, of that length."""

    def change(image):
        start = struct.unpack_from(">I", image, 100)[0]
        image[start:4096] = bytes(4096 - start)
        put(start, ">II", ENCRYPTION, length if claimed is None else claimed)(image)

    return change


def before_others(kind, payload):
    """A change that adds a header extension in front of the others."""

    def change(image):
        size = len(payload) + -len(payload) % 8
        start = struct.unpack_from(">I", image, 100)[0]
        image[start + 8 + size : 4096] = image[start : 4096 - 8 - size]
        put(start, f">II{size}s", kind, len(payload), payload)(image)

    return change


def backing(name):
    """A change that names a backing file, at the end of the header's cluster."""
    text = name.encode()
    return both(
        before_others(BACKING_FORMAT, b"raw"),
        lambda image: put(cluster(image) - 1024, f"{len(text)}s", text)(image),
        lambda image: put(8, ">QI", cluster(image) - 1024, len(text))(image),
    )


def cluster(image):
    return 1 << struct.unpack_from(">I", image, 20)[0]


PLACES = {
    "on-the-header": (named_header(0), "overlap"),
    "misaligned": (named_header(lambda image: luks_start(image) + 512), "not aligned"),
    "on-the-l1-table": (named_header(l1, 592), "overlap"),
    "on-the-refcount-table": (named_header(lambda image: struct.unpack_from(">Q", image, 48)[0]), "overlap"),
    "on-an-l2-table": (named_header(l2_table, 592), "magic number is missing"),
    "at-the-end": (named_header(end_of), "ends past the end of the file"),
    "far-away": (named_header(1 << 40), "ends past the end of the file"),
    "of-2^63": (named_header(1 << 63), "ends past the end of the file"),
    "at-the-last-cluster-of-all": (named_header(LONGEST - 65535), "ends past the end of the file"),
    "of-ones": (named_header(LONGEST, LONGEST), "not aligned"),
    "of-no-bytes": (named_header(length=0), "names no LUKS header"),
    "of-a-byte": (named_header(length=1), "it is truncated"),
    "of-591-bytes": (named_header(length=591), "its LUKS header is truncated"),
    "of-592-bytes": (named_header(length=592), "its LUKS header is truncated"),
    "of-4096-bytes": (named_header(length=4096), "its LUKS header is truncated"),
    "of-a-tebibyte": (named_header(length=1 << 40), "ends past the end of the file"),
    "of-2^63-bytes": (named_header(length=1 << 63), "ends past the end of the file"),
}
"""Places of the LUKS header in a qcow2 image."""

OTHERS = {
    "method-0": (put(32, ">I", 0), "is not encrypted with LUKS"),
    "method-1": (put(32, ">I", 1), "legacy encryption"),
    "method-3": (put(32, ">I", 3), "encryption method 3 is unknown"),
    "method-of-ones": (put(32, ">I", MOST), "encryption method 4294967295 is unknown"),
    "method-without-its-extension": (renamed, "names no LUKS header"),
    "extension-of-no-bytes": (alone(0), "encryption extension has 0 instead of 16 bytes"),
    "extension-of-8-bytes": (alone(8), "encryption extension has 8 instead of 16 bytes"),
    "extension-of-24-bytes": (alone(24), "encryption extension has 24 instead of 16 bytes"),
    "extension-of-ones": (alone(0, MOST), "does not fit into the header"),
    "extension-twice": (before_others(ENCRYPTION, struct.pack(">QQ", 1 << 40, 4096)), "more than one LUKS header"),
    "version-2": (put(4, ">I", 2), "names no LUKS header"),
    "data-file-too": (
        both(put(72, ">Q", 4), before_others(DATA_FILE, b"/etc/passwd")),
        "the two together are not supported",
    ),
    "luks-magic": (within(0, "6s", b""), "magic number is missing"),
    "luks-version-2": (within(6, ">H", 2), "reads version 1 only"),
    "luks-cipher": (within(8, "32s", b"nonsense"), UNOPENED),
    "luks-cipher-of-control-characters": (within(8, "32s", b"aes\x1b[2J"), NO_TEXT),
    "luks-payload-past-its-clusters": (within(104, ">I", 1 << 20), TRUNCATED),
    "luks-payload-on-a-slot": (within(104, ">I", 8), ON_DATA),
    "luks-key-bytes": (within(108, ">I", MOST), "key of 4294967295 bytes"),
    "luks-rounds": (within(164, ">I", MOST), ROUNDS),
    "luks-slot-rounds": (within(slot(0, 4), ">I", MOST), ROUNDS),
    "luks-slot-on-the-header": (within(slot(0, 40), ">I", 0), ON_ANOTHER),
    "luks-slot-on-another": (within(slot(0, 40), ">I", 8 + MATERIAL), ON_ANOTHER),
    "luks-slot-past-its-clusters": (within(slot(0, 40), ">I", 1 << 20), ON_DATA),
    "luks-no-slot": (within(slot(0), ">I", INACTIVE), "no active key slot"),
    "luks-digest": (within(112, "20s", b""), NO_KEY),
    "data-on-the-luks-header": (in_l2(0, lambda image: luks_start(image) | COPIED), "overlaps"),
    "data-twice": (in_l2(1, entry), "times, but its refcount"),
    "data-without-a-refcount": (in_refcounts(number_of(data), 0), "refcount is 0"),
    "luks-header-without-a-refcount": (in_refcounts(number_of(luks_start), 0), "refcount is 0"),
    "cut": (cut(-65536), TRUNCATED),
    "cut-in-the-luks-header": (lambda image: cut(luks_start(image) + 4096)(image), "is truncated"),
}
"""Other changes of a qcow2 image."""


def kinds(outside: dict[str, str]) -> list[Kind]:
    """All kinds; ``outside``: names of other files, by what they are."""
    return [
        *(
            Kind(
                f"{name}={value if isinstance(value, bytes) else hex(value)}"[:60],
                put(at, form, value),
                expected,
                LUKS,
            )
            for name, (at, form, values) in HEADER.items()
            for value, expected in values.items()
        ),
        Kind(
            "all-slots-with-many-rounds",
            both(*(put(slot(number), ">II", ACTIVE, 1 << 27) for number in range(SLOTS))),
            ROUNDS,
            LUKS,
        ),
        *(
            Kind(f"cut-to-{length}", cut(length), expected, LUKS)
            for length, expected in {
                0: "header is incomplete",
                6: "is incomplete",
                512: TRUNCATED,
                592: "is incomplete",
                1024: TRUNCATED,
                4096: TRUNCATED,
            }.items()
        ),
        Kind("cut-by-a-byte", cut(-1), "is incomplete", LUKS),
        Kind("cut-by-a-sector", cut(-512), READ, LUKS),
        Kind("cut-to-the-header", cut(4096 + SLOTS * MATERIAL * 512), "it is empty", LUKS),
        Kind("grown-by-a-byte", grow(1), "is incomplete", LUKS),
        Kind("grown-by-a-sector", grow(512), READ, LUKS),
        Kind("zeros", lambda image: put(0, f"{len(image)}s", b"")(image), "magic number is missing", LUKS),
        Kind("a-qcow2-inside", put(-4096, "4s", b"QFI\xfb"), READ, LUKS),
        *(Kind(f"qcow2-header-{name}", *row, QCOW2) for name, row in PLACES.items()),
        *(Kind(f"qcow2-{name}", *row, QCOW2) for name, row in OTHERS.items()),
        *(Kind(name, backing(to), of_backing(to), QCOW2) for name, to in named("qcow2-backing", outside)),
    ]
