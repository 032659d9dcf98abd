"""The separate descriptor of a VMDK image: text that names the extents, the files with the disk's data.

::

    # Disk DescriptorFile
    createType="twoGbMaxExtentFlat"
    RW 4194304 FLAT "web01-f001.vmdk" 0        sectors, kind, file, first sector in the file

A descriptor is accepted only if it is unambiguous: QEMU uses the first occurrence of a word, skips lines that it
does not understand, and reads past the end of a line.

Source: QEMU ``block/vmdk.c`` (``vmdk_parse_extents``); VMware, "Virtual Disk Format 5.0".
"""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

from batchdiff.foreign.header import COPY, ReadAt
from batchdiff.foreign.vdi import DIFFERENCE, MERGE
from batchdiff.foreign.vmdk import MOST_SECTORS
from batchdiff.qcow2.faults import CONVERT_ELSEWHERE, FormatError, require
from batchdiff.units import KIB, SECTOR

TEXT_BEGINNING = b"# Disk DescriptorFile"
_MOST_TEXT = 64 * KIB
"""Enough bytes for about a thousand extents; QEMU reads up to a MiB."""

_LONGEST_NAME = 511

_EXTENT = re.compile(rb'RW[ \t]+(\d{1,15})[ \t]+([A-Z]+)[ \t]+"([^"]+)"(?:[ \t]+(\d{1,15}))?')
_ACCESS = re.compile(rb"(?i:rw|rdonly|noaccess)\b")
_CONTENT_IDS_WITHIN = 20 * SECTOR
_NUMBER_AFTER_ONE = re.compile(rb".\s*[-+]?[0-9A-Fa-f]", re.DOTALL)
"""After one byte (an equals sign in any sane descriptor): the beginning of a number for ``sscanf("%x")``."""
_SETTING = re.compile(rb'([A-Za-z][\w.-]*)[ \t]*=[ \t]*(?:"([^"]*)"|([^"]*))')
_CONTROL = re.compile(rb"[^\t\r\n -~\x80-\xff]|\r(?!\n)")
_NO_PARENT = b"ffffffff"
_MOST_DIGITS = len(_NO_PARENT)
"""QEMU writes a content ID without leading zeros."""


class ExtentKind(enum.Enum):
    """The way in which an extent stores its part of the disk."""

    FLAT = "as in a raw image"
    SPARSE = "in grains, with a header and tables of its own"


_TYPES = {
    "monolithicFlat": (ExtentKind.FLAT, "FLAT"),
    "twoGbMaxExtentFlat": (ExtentKind.FLAT, "FLAT"),
    "vmfs": (ExtentKind.FLAT, "VMFS"),
    "twoGbMaxExtentSparse": (ExtentKind.SPARSE, "SPARSE"),
}
"""By type: the kind of its extents, and the word for them in the descriptor."""

_READ_BY_QEMU = {"vmfsSparse", "seSparse"}
_ONE_EXTENT = {"monolithicFlat", "vmfs"}


class VmdkExtent(NamedTuple):
    """An extent: its file's name as written, its length, and its offset in that file, both in bytes."""

    name: str
    length: int
    offset: int


class Descriptor(NamedTuple):
    """The extents of an image, in the order of the disk."""

    kind: ExtentKind
    extents: tuple[VmdkExtent, ...]


def read_descriptor(read: ReadAt, file_size: int) -> Descriptor:
    """Read a descriptor that takes up a whole file.

    :raises FormatError: the descriptor cannot be used.
    """
    too_long = f"its descriptor of {file_size} bytes is too long (at most {_MOST_TEXT})"
    require(file_size <= _MOST_TEXT, too_long, remedy=COPY)
    text, _, rest = read(0, file_size).partition(b"\0")
    rest = rest.rstrip(b"\0")
    # If QEMU writes a content ID with fewer digits than before, the end of the old text stays behind the null byte
    # of the new one.
    is_left = len(rest) < _MOST_DIGITS and text.endswith(rest)
    require(is_left and not _CONTROL.search(text), "its descriptor contains control characters")
    lines = [line.strip(b" \t\r") for line in text.split(b"\n")]
    settings = _settings(lines)
    # QEMU looks for these words anywhere, even in the value of another setting.
    words = text.lower()
    require(b"parentfilenamehint" not in words, DIFFERENCE, remedy=MERGE)
    for word in (b"createtype", b"parentcid"):
        require(words.count(word) <= 1, f"its descriptor contains {word.decode()} more than once")
    require(settings.get(b"parentcid", _NO_PARENT).lower() == _NO_PARENT, DIFFERENCE, remedy=MERGE)
    require(
        b"createtype" in settings and b'createType="' in text,
        "its descriptor has no type where QEMU looks for it",
    )
    kind = settings[b"createtype"].decode("ascii", "backslashreplace")
    *others, last = _TYPES
    require(
        kind in _TYPES,
        f"its type {kind} is not supported in a separate descriptor ({', '.join(others)} and {last} are)",
        remedy=COPY if kind in _READ_BY_QEMU else "",
    )
    _require_content_ids(text)
    return _extents(lines, kind)


def _require_content_ids(descriptor: bytes) -> None:
    """Require the content IDs, which QEMU looks for in the first 20 sectors, even in comments.

    Source: QEMU ``block/vmdk.c`` (``vmdk_read_cid``).
    """
    head = descriptor[: _CONTENT_IDS_WITHIN - 1]
    for name in (b"CID", b"parentCID"):
        at = head.find(name)
        is_number = at >= 0 and _NUMBER_AFTER_ONE.match(head, at + len(name)) is not None
        require(
            is_number, f"its content ID {name.decode()} is missing, or is not a number, where QEMU looks for it"
        )


def _settings(lines: list[bytes]) -> dict[bytes, bytes]:
    """Return the settings by name in lower case."""
    found = {}
    for number, line in enumerate(lines, 1):
        if not line or line.startswith(b"#") or _ACCESS.match(line):
            continue
        setting = _SETTING.fullmatch(line)
        if setting is None:
            raise FormatError(f"line {number} of its descriptor is neither a setting nor an extent")
        name, quoted, plain = setting.groups()
        found[name.lower()] = plain if quoted is None else quoted
    return found


def _extents(lines: list[bytes], kind: str) -> Descriptor:
    stored, word = _TYPES[kind]
    found = []
    for number, line in enumerate(lines, 1):
        if not _ACCESS.match(line):
            continue
        # QEMU skips extents with another access mode or an unknown kind: its disk would be shorter than VMware's.
        extent = _EXTENT.fullmatch(line)
        if extent is None or extent[2] != word.encode():
            form = f'RW 8192 {word} "NAME"{" 0" if word == "FLAT" else ""}'
            problem = f"line {number} of its descriptor does not have the form `{form}`"
            raise FormatError(problem, remedy=CONVERT_ELSEWHERE)
        # QEMU reads past an empty line into the next one, and would count that line's extent twice.
        is_clear = number == 1 or lines[number - 2]
        empty = f"line {number - 1} of its descriptor is empty, and the next line is an extent"
        require(is_clear, empty, remedy="Remove the empty line, or restore the descriptor from a backup.")
        sectors, _, name, first = extent.groups()
        fault = "lacks an offset" if word == "FLAT" else "must not have an offset"
        is_complete = (first is not None) is (word == "FLAT")
        require(is_complete, f"the {word} extent on line {number} of its descriptor {fault}")
        require(len(name) <= _LONGEST_NAME, f"the name on line {number} of its descriptor is too long")
        require(int(sectors) > 0, f"the extent on line {number} of its descriptor has no sectors")
        text = name.decode("utf-8", "surrogateescape")
        found.append(VmdkExtent(text, int(sectors) * SECTOR, int(first or 0) * SECTOR))
    require(bool(found), "its descriptor names no extent")
    require(len(found) == 1 or kind not in _ONE_EXTENT, f"its type is {kind}, but it has {len(found)} extents")
    total = sum(each.length for each in found) // SECTOR
    require(total <= MOST_SECTORS, f"its size of {total} sectors exceeds 64 TiB")
    return Descriptor(stored, tuple(found))
