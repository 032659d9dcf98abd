"""Hostile qcow2 images with an external data file: what its name leads to, and what that file is.

Source: QEMU ``docs/interop/qcow2.txt``, "External data file name string" and bit 2 of the incompatible features.
"""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import notation
from kinds import READ, Change, Kind, both, grow, of_data, put
from qcow2_kinds import COMPRESSED, COPIED, DATA_FILE, in_l1, in_l2, l1

LONGEST = (1 << 64) - 1
OWN, WIDE = "own", "wide"
"""Bases: images that may have files in the folder DATA besides their own, and in the whole fleet's folder."""
DATA = "data files"
KEYS = {OWN: [f"allow_folders: ['../{DATA}']"], WIDE: ["allow_folders: [.]"]}

PLAIN, BESIDE, REGULAR, MISSING = "not a plain path", "beside the image", "is not a regular file", "is missing"
RELATIVE, SHORT = "is relative to the folder", "data file"

REGULARS = (
    "sound",
    "with a space",
    "umläut",
    "deep",
    "null-byte",
    "long",
    "raw",
    "holes",
    "read-only",
    "grown",
    "shared",
    "linked",
)
"""Data files of the size that they must have."""


def sound_images(folder: Path, _format: str, _kinds: list[Kind], content: str) -> dict[str, bytes]:
    """The sound image to be changed, and the folder with the files that others name."""
    place, raw = folder / DATA, notation.write_raw(folder / "content.raw", content)
    place.mkdir()
    image = folder / "sound.qcow2"
    options = f"data_file={place / 'sound'},cluster_size=4096"
    notation.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", options, str(raw), str(image))
    for name in REGULARS[1:]:
        notation.run("cp", "--sparse=always", str(place / "sound"), str(place / name))
    os.link(place / "linked", place / "second-name")
    with open(place / "long", "ab") as file:
        file.write(b"x" * 5000)
    os.truncate(place / "holes", 0)
    os.truncate(place / "holes", 8 << 20)
    os.truncate(shutil.copy(place / "sound", place / "short"), 1 << 20)
    (place / "empty").touch()
    os.mkfifo(place / "fifo")
    (place / "folder").mkdir()
    (place / "loop").symlink_to("loop")
    (place / "dangling").symlink_to("nothing")
    (place / "device-link").symlink_to("/dev/zero")
    (place / "link-outside").symlink_to("../outside/data")
    (place / "link-inside").symlink_to("raw")
    data = image.read_bytes()
    return {OWN: data, WIDE: data}


def may_open(folder: Path) -> set[str]:
    """The paths of the data files that may be opened."""
    return {str(path) for path in (folder / DATA).iterdir() if path.is_file() and not path.is_symlink()}


def name(path: bytes, *, length: int | None = None) -> Change:
    """A change of the name of the data file; the extensions after it go."""

    def change(image: bytearray) -> None:
        start = struct.unpack_from(">I", image, 100)[0]
        image[start:4096] = bytes(4096 - start)
        put(start, f">II{len(path)}s", DATA_FILE, len(path) if length is None else length, path)(image)

    return change


def two_names(first: bytes, second: bytes) -> Change:
    """A change to an image with two extensions for the data file."""

    def change(image: bytearray) -> None:
        name(first)(image)
        at = struct.unpack_from(">I", image, 100)[0] + 8 + -(-len(first) // 8) * 8
        put(at, f">II{len(second)}s", DATA_FILE, len(second), second)(image)

    return change


def names(outside: dict[str, str], place: str) -> list[Kind]:
    """Kinds of which only the name of the data file is hostile."""
    image = os.path.dirname(os.path.dirname(outside["a-file"])) + "/fleet/images"
    plain = {
        "protocol-file": (f"file:{place}/sound", PLAIN),
        "protocol-file-url": (f"file://{place}/sound", PLAIN),
        "protocol-host-device": ("host_device:/dev/sda", PLAIN),
        "protocol-raw": (f"raw:{place}/sound", PLAIN),
        "protocol-blkdebug": (f"blkdebug::{place}/sound", PLAIN),
        "protocol-blkverify": (f"blkverify:{place}/sound:{place}/raw", PLAIN),
        "protocol-ssh": ("ssh://127.0.0.1/etc/passwd", PLAIN),
        "protocol-ftp": ("ftp://127.0.0.1/x", PLAIN),
        "protocol-rbd": ("rbd:pool/image", PLAIN),
        "protocol-nfs": ("nfs://127.0.0.1/x", PLAIN),
        "protocol-null": ("null-co://", PLAIN),
        "protocol-vvfat": (f"fat:rw:{place}", PLAIN),
        "protocol-unknown": ("a:b", PLAIN),
        "json-file": (f'json:{{"driver":"file","filename":"{place}/sound"}}', PLAIN),
        "json-broken": ("json:{", PLAIN),
        "nothing": (f"{place}/nothing", MISSING),
        "fifo": (f"{place}/fifo", REGULAR),
        "folder": (f"{place}/folder", REGULAR),
        "the-folder-itself": (f"{place}/", "neither beside the image"),
        "slash": ("/", BESIDE),
        "dot": (".", BESIDE),
        "dots": ("..", BESIDE),
        "loop": (f"{place}/loop", REGULAR),
        "dangling": (f"{place}/dangling", MISSING),
        "device": ("/dev/zero", BESIDE),
        "device-link": (f"{place}/device-link", BESIDE),
        "link-outside": (f"{place}/link-outside", BESIDE),
        "out-of-the-folder": (f"{place}/../outside/data", BESIDE),
        "below-a-file": (f"{place}/sound/x", "cannot be opened: Not a directory"),
        "out-of-a-file": (f"{place}/sound/../../outside/data", BESIDE),
        "of-the-process": ("/proc/self/fd/3", BESIDE),
        "itself": (f"{image}/itself", "as a part of itself"),
        "itself-by-dots": (f"{image}/../images/itself-by-dots", "as a part of itself"),
        "itself-relative": ("itself-relative", RELATIVE),
        "a-small-guest": (f"{image}/no-name", "data file is truncated"),
        "another-guest": (f"{image}/grown", "is also the guest grown"),
        "relative-beside": ("another", RELATIVE),
        "relative-outside": (f"../../{DATA}/raw", RELATIVE),
        "of-two-guests": (f"{place}/shared", "is also a part of the guest"),
        "of-two-guests-again": (f"{place}/./shared", "is also a part of the guest"),
        "short": (f"{place}/short", SHORT),
        "empty": (f"{place}/empty", SHORT),
        "second-name": (f"{place}/second-name", READ),
        "control-characters": (f"{place}/\x1b]0;sound", PLAIN),
        "line-break": (f"{place}/raw\n", PLAIN),
        "del": (f"{place}/\x7f", PLAIN),
        "very-long": ("/" + "x" * 3000, BESIDE),
        "very-deep": (place + "/." * 1500 + "/deep", READ),
        "long-component": (f"{place}/" + "x" * 256, "cannot be opened: File name too long"),
        "without-permission": ("/proc/1/mem", BESIDE),
        "with-a-space": (f"{place}/with a space", READ),
        "not-ascii": (f"{place}/umläut", READ),
        "long": (f"{place}/long", READ),
        "holes": (f"{place}/holes", READ),
        "read-only": (f"{place}/read-only", READ),
    }
    return [Kind(what, name(text.encode()), expected, OWN) for what, (text, expected) in plain.items()]


def kinds(outside: dict[str, str]) -> list[Kind]:
    """All kinds; ``outside``: names of other files, by what they are."""
    folder = os.path.dirname(os.path.dirname(outside["a-file"]))
    place, fleet = f"{folder}/{DATA}", f"{folder}/fleet"
    raw = f"{place}/raw".encode()
    return [
        Kind(
            "grown", both(name(f"{place}/grown".encode()), grow(8 << 20)), "a part of the guest another-guest", OWN
        ),
        *names(of_data(outside), place),
        Kind("no-name", name(b""), "but does not name that file", OWN),
        Kind("name-of-null-bytes", name(bytes(16)), "but does not name that file", OWN),
        Kind("null-byte-in-the-name", name(f"{place}/null-byte\0/etc/passwd".encode()), READ, OWN),
        Kind("null-byte-and-a-path-outside", name(b"/etc/passwd\0" + raw), BESIDE, OWN),
        Kind("not-utf-8", name(f"{place}/\xff".encode("latin-1")), MISSING, OWN),
        Kind("name-over-the-end", name(raw, length=0xFFFFFFFF), "does not fit into the header", OWN),
        Kind("name-fills-the-header", name(b"/x" * 1988), BESIDE, OWN),
        Kind("two-names", two_names(raw, b"/etc/passwd"), "more than one external data file", OWN),
        Kind("the-template", name(f"{fleet}/template.img".encode()), "as one of its files", WIDE),
        Kind("the-manifest", name(f"{fleet}/fleet.yaml".encode()), SHORT, WIDE),
        Kind("not-in-the-wide-folder", name(raw), BESIDE, WIDE),
        Kind("without-its-bit", put(72, ">Q", 0), "keeps its data in its own file", OWN),
        Kind("also-corrupt", put(72, ">Q", 6), "marked corrupt", OWN),
        Kind("also-dirty", put(72, ">Q", 5), "was not closed cleanly", OWN),
        Kind("in-version-2", put(4, ">I", 2), "past the end of the file", OWN),
        Kind(
            "with-a-backing-file",
            both(put(2048, "11s", b"/etc/passwd"), put(8, ">QI", 2048, 11)),
            "the manifest does not declare",
            OWN,
        ),
        Kind("encrypted-too", put(32, ">I", 2), "names no LUKS header", OWN),
        Kind("compressed-cluster", in_l2(0, COMPRESSED | 512), "compressed", OWN),
        Kind("entry-elsewhere", in_l2(0, COPIED | 4096), "offset", OWN),
        Kind("entry-of-0", in_l2(0, COPIED), "offset", OWN),
        Kind("entry-past-its-end", in_l2(0, COPIED | 1 << 40), "offset", OWN),
        Kind("entry-misaligned", in_l2(0, COPIED | (1 << 20) + 512), "different offsets", OWN),
        Kind("entry-reserved-bits", in_l2(0, COPIED | 1 << 56 | 1 << 20), "reserved bits", OWN),
        Kind("entry-of-ones", in_l2(0, LONGEST), "compressed", OWN),
        Kind("l1-entry-past-the-end", in_l1(0, 1 << 40), "is truncated", OWN),
        Kind("l1-on-itself", in_l1(0, l1), "overlaps", OWN),
    ]
