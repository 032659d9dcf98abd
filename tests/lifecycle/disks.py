"""What the files of a fleet are, and what a VM sees on them: by QEMU and by headers, without batchdiff's readers.

::

    vm.qcow2 -> snap's base -> ... -> template.img      chain(): by the names in the headers
    scan(folder)                                        every file: digest, kind, snapshots, bitmaps
    seen(path)                                          digest of what QEMU reads through the whole chain
"""

from __future__ import annotations

import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from xxhash import xxh3_128_digest

_MAGIC = b"QFI\xfb"
_BITMAPS = 0x23852875
"""The header extension that says that there are bitmaps (QEMU, docs/interop/qcow2.txt)."""

SECTOR = 512


class UnreadableError(Exception):
    """A chain is not whole, or QEMU cannot read it."""


@dataclass(frozen=True)
class File:
    """A file of a fleet. ``backing``: the absolute path in a qcow2 header; ``digest``: of its bytes."""

    digest: bytes
    kind: str
    backing: str | None = None
    snapshots: int = 0
    bitmaps: int = 0


def digest(content: bytes) -> bytes:
    """The digest of a disk's content; QEMU shows whole sectors."""
    return xxh3_128_digest(padded(content))


def padded(content: bytes) -> bytes:
    """Content up to a whole sector, as QEMU shows it."""
    return content + bytes(-len(content) % SECTOR)


def scan(folder: Path) -> dict[str, File]:
    """Every file below a folder, by its path."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            found[path] = _file(path)
    return found


def _file(path: str) -> File:
    if os.path.islink(path):
        return File(os.readlink(path).encode(), "link")
    content = Path(path).read_bytes()
    if content[:4] != _MAGIC:
        return File(xxh3_128_digest(content), "raw")
    return File(
        xxh3_128_digest(content),
        "qcow2",
        _backing(path),
        struct.unpack_from(">I", content, 60)[0],
        _bitmaps(content),
    )


def _bitmaps(content: bytes) -> int:
    version, at = struct.unpack_from(">I", content, 4)[0], 0
    if version >= 3:
        at = struct.unpack_from(">I", content, 100)[0]
    while at:
        kind, length = struct.unpack_from(">II", content, at)
        if kind == _BITMAPS:
            return int(struct.unpack_from(">I", content, at + 8)[0])
        at = 0 if kind == 0 else at + 8 + -(-length // 8) * 8
    return 0


def bitmaps_of(path: str) -> int:
    """How many bitmaps there are in a file."""
    return _file(path).bitmaps


def kind_of(path: str) -> str:
    """The format that a file has."""
    with open(path, "rb") as file:
        return "qcow2" if file.read(4) == _MAGIC else "raw"


def chain(path: str) -> list[str]:
    """The real paths of a file and of all that it rests on.

    :raises UnreadableError: one is not there.
    """
    found: list[str] = []
    at: str | None = path
    while at is not None:
        if not os.path.exists(at):
            raise UnreadableError(f"{at} is not there, which {found[-1] if found else 'a VM'} needs")
        found.append(os.path.realpath(at))
        at = _backing(found[-1])
    return found


def backing_name(path: str) -> str | None:
    """The name of the backing file as it stands in a file's header."""
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    if head[:4] != _MAGIC:
        return None
    offset, size = struct.unpack_from(">QI", head, 8)
    return head[offset : offset + size].decode() if offset else None


def _backing(path: str) -> str | None:
    """The absolute path that a header names."""
    name = backing_name(path)
    return None if name is None else os.path.join(os.path.dirname(path), name)


class Reader:
    """Reads disks by QEMU; a chain whose files all have the bytes that they had is not read again."""

    def __init__(self, scratch: Path) -> None:
        self._copy = scratch / "copy"
        self._known: dict[tuple[bytes, ...], bytes] = {}

    def seen(self, path: str) -> bytes:
        """The digest of what a VM with that disk sees.

        :raises UnreadableError: it sees nothing.
        """
        key = tuple(_file(each).digest for each in chain(path))
        if key not in self._known:
            self._known[key] = xxh3_128_digest(self.content(path))
        return self._known[key]

    def content(self, path: str) -> bytes:
        """What a VM with that disk sees.

        :raises UnreadableError: it sees nothing.
        """
        chain(path)
        done = subprocess.run(
            ["qemu-img", "convert", "-f", kind_of(path), "-O", "raw", path, str(self._copy)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode != 0:
            raise UnreadableError(done.stderr.strip())
        return padded(self._copy.read_bytes())

    def seen_or_none(self, path: str) -> bytes | None:
        """The same, and None if it sees nothing."""
        try:
            return self.seen(path) if os.path.exists(path) else None
        except UnreadableError:
            return None
