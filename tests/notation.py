"""Images for tests, described as text, made by QEMU where they are qcow2, and read back by QEMU as the oracle.

::

    "64k:A 64k:- 4k:0 512:b"     size:what, one part after the other

    A-Z  data; every letter has its own bytes at every offset, the same ones in every image
    a-z  the same data as the capital's, but in compressed clusters (qcow2; parts must begin at a cluster)
    0    zeros that are written: allocated in a raw file, zero clusters in qcow2
    -    nothing written: a hole in a raw file, unallocated in qcow2, where a backing file shows through

So ``content("64k:A")`` is what an image must read as, and ``write_raw(path, "64k:A")`` makes the image. A size
is bytes, or carries k, M or G. Parts smaller than a (sub)cluster are fine: QEMU fills up the rest.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

_PART = re.compile(r"(\d+)([kMG]?):([A-Za-z0-])")
_SHIFTS = {"": 0, "k": 10, "M": 20, "G": 30}
_SECTOR = 512
_WORDS, _REPEATS = 16, 4
"""A sector of data is 16 random words, four times: compressible, yet never zero nor like its neighbour."""
_REMEMBERED = 2 << 20
"""Bytes of a part that are kept for the next one that is the same: many tests make the same small fleet."""


class Part(NamedTuple):
    """``size`` bytes from ``offset`` on; ``what`` is a letter, ``0`` or ``-``."""

    offset: int
    size: int
    what: str

    @property
    def is_data(self) -> bool:
        return self.what.isalpha()

    @property
    def content(self) -> bytes:
        return data(self.what, self.offset, self.size) if self.is_data else bytes(self.size)


def parse(text: str) -> list[Part]:
    """The parts of an image that a text describes."""
    parts, offset = [], 0
    for word in text.split():
        match = _PART.fullmatch(word)
        if match is None:
            raise ValueError(f"{word!r} is not SIZE:WHAT, such as 64k:A, 512:0 or 1M:-")
        number, suffix, what = match.groups()
        parts.append(Part(offset, int(number) << _SHIFTS[suffix], what))
        offset += parts[-1].size
    return parts


def size(text: str) -> int:
    """Bytes of the whole image."""
    return sum(part.size for part in parse(text))


def content(text: str, below: bytes = b"") -> bytes:
    """What the image reads as. Through ``-`` shows what is below it, and past that's end zeros."""
    whole = bytearray(below[: size(text)].ljust(size(text), b"\0"))
    for part in parse(text):
        if part.what != "-":
            whole[part.offset : part.offset + part.size] = part.content
    return bytes(whole)


def data(letter: str, offset: int, length: int) -> bytes:
    """The letter's bytes at an offset of an image."""
    return (_data if length <= _REMEMBERED else _data.__wrapped__)(letter, offset, length)


@functools.lru_cache(maxsize=64)
def _data(letter: str, offset: int, length: int) -> bytes:
    first, last = offset // _SECTOR, -(-(offset + length) // _SECTOR)
    numbers = np.arange(first * _WORDS, last * _WORDS, dtype=np.uint64)
    words = _mixed(numbers + np.uint64(ord(letter.upper()) << 48))
    sectors = np.tile(words.reshape(-1, 1, _WORDS), (1, _REPEATS, 1)).tobytes()
    return sectors[offset - first * _SECTOR :][:length]


def _mixed(numbers: np.ndarray) -> np.ndarray:
    # splitmix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
    mixed = numbers * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def write_raw(path: str | Path, text: str) -> Path:
    """Makes a raw image with real holes."""
    with Path(path).open("wb") as file:
        for part in parse(text):
            if part.what != "-":
                file.seek(part.offset)
                file.write(part.content)
        file.truncate(size(text))
    return Path(path)


def write_qcow2(
    path: str | Path,
    text: str,
    *,
    options: str = "",
    compressed: bool = False,
    backing: str | Path | None = None,
    backing_format: str | None = None,
) -> Path:
    """Makes a qcow2 image with QEMU.

    ``options`` is for ``qemu-img create -o``, such as ``"cluster_size=4k,extended_l2=on"``; ``compressed``
    makes capitals small letters; ``backing`` goes into the header as it is (a relative path is relative to
    the image), in ``backing_format`` (raw where nothing is said). Sizes are rounded up to 512 by QEMU.
    """
    arguments = ["-o", options] if options else []
    if backing is not None:
        arguments += ["-b", str(backing), "-F", backing_format or "raw"]
    run("qemu-img", "create", "-q", "-f", "qcow2", *arguments, str(path), str(size(text)))
    write_into(path, text, compressed=compressed)
    return Path(path)


def write_into(path: str | Path, text: str, *, compressed: bool = False) -> None:
    """Writes into a qcow2 image that is there already; ``-`` leaves what it has."""
    with tempfile.TemporaryDirectory() as folder:
        commands = []
        for number, part in enumerate(parse(text)):
            source = Path(folder) / str(number)
            if part.is_data:
                source.write_bytes(part.content)
                how = f"-c -s {source}" if compressed or part.what.islower() else f"-s {source}"
                commands.append(f"write {how} {part.offset} {part.size}")
            elif part.what == "0":
                commands.append(f"write -z {part.offset} {part.size}")
        qemu_io(path, *commands)


def qemu_io(path: str | Path, *commands: str, image_format: str = "qcow2") -> None:
    """Runs qemu-io commands such as ``"write -z 0 64k"`` or ``"discard 0 64k"`` on an image, in one process."""
    if not commands:
        return
    arguments = [argument for command in commands for argument in ("-c", command)]
    said = run("qemu-io", "-f", image_format, *arguments, str(path))
    # Its exit code is 0 for some failed commands; what they print is the only sign.
    if "failed" in said or said.count(" ops;") != len(commands):
        raise AssertionError(f"qemu-io {commands} on {path} said:\n{said}")


def qemu_content(path: str | Path, image_format: str) -> bytes:
    """What QEMU reads in an image (its whole chain)."""
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "copy")
        run("qemu-img", "convert", "-f", image_format, "-O", "raw", str(path), copy)
        return Path(copy).read_bytes()


def qemu_map(path: str | Path, image_format: str) -> list[dict[str, int]]:
    """What QEMU says where the bytes are: dicts with start, length, depth, zero, data and perhaps offset."""
    ranges: list[dict[str, int]] = json.loads(
        run("qemu-img", "map", "--output=json", "-f", image_format, str(path))
    )
    return ranges


def run(*argv: str) -> str:
    """The output of an external program that must succeed. A missing one is an error, never a skip."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    except FileNotFoundError as error:
        raise AssertionError(
            f"{argv[0]} is missing, and the tests need it. Debian and Ubuntu: apt install qemu-utils mount;"
            " Fedora: dnf install qemu-img util-linux"
        ) from error
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(argv)} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
