"""Arithmetic on sizes, and the text of sizes and of lists of names."""

from __future__ import annotations

import re
from collections.abc import Collection

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

SECTOR = 512
"""QEMU rounds the size of a raw image up to a multiple of this (BDRV_SECTOR_SIZE)."""

SUFFIXES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_SIZE = re.compile(r"(\d+)\s*(?:([kmgtpe])(?:i?b)?|b)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``"64KiB"``, ``"64k"`` or ``"512"``; units are powers of 1024.

    :raises ValueError: the text is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size; write, for example, 64KiB, 2MiB or 512")
    number, letter = match.groups()
    return int(number) << (10 * (" kmgtpe".index(letter.lower()) if letter else 0))


def format_size(count: int) -> str:
    """Return bytes as text for people, such as ``"0 B"`` or ``"2.3 GiB"``; units are powers of 1024."""
    if count < 0:
        return f"-{format_size(-count)}"
    value, suffix = float(count), 0
    while value >= 1023.95 and suffix < len(SUFFIXES) - 1:
        value /= 1024
        suffix += 1
    if suffix == 0 or value == int(value):
        return f"{int(value)} {SUFFIXES[suffix]}"
    return f"{value:.1f} {SUFFIXES[suffix]}"


def ceil_div(count: int, divisor: int) -> int:
    """Return ``count / divisor``, rounded up."""
    return -(-count // divisor)


def align_up(offset: int, granule: int) -> int:
    """Return the smallest multiple of ``granule`` that is not below ``offset``."""
    return -(-offset // granule) * granule


_MOST_NAMED = 3


def few(names: Collection[str]) -> str:
    """Return all names if there are at most three; otherwise the first two, and the number of the others."""
    listed = list(names)
    if len(listed) > _MOST_NAMED:
        return f"{', '.join(listed[: _MOST_NAMED - 1])} and {len(listed) - _MOST_NAMED + 1} more"
    return " and ".join(filter(None, (", ".join(listed[:-1]), *listed[-1:])))
