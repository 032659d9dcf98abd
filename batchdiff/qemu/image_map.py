"""The output of `qemu-img map`, as arrays of runs."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchdiff.errors import ImageError
from batchdiff.foreign.header import COPY

_DECODER = json.JSONDecoder()
_GAP = re.compile(r"\s*[\[,]\s*(?=\{)")

_Offsets = npt.NDArray[np.int64]

_NOWHERE = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)


class ImageMap(NamedTuple):
    """Runs of data on the disk, ascending: start, end, offset in the file, and number of the VMDK extent.

    ``files``: zeros if the image is one file. ``absent``: the starts and the ends of the runs in which a backing
    file, if any, shows through. All other bytes are zeros, unless :func:`parsed_map` did not locate data.
    """

    size: int
    starts: _Offsets
    ends: _Offsets
    offsets: _Offsets
    files: npt.NDArray[np.uint16]
    absent: tuple[_Offsets, _Offsets] = _NOWHERE


def parsed_map(text: str, path: str, edges: _Offsets, *, is_located: bool) -> ImageMap:
    """Parse the output of `qemu-img map`, and join adjacent runs.

    ``edges``: where each VMDK extent ends on the disk; empty if the image is one file. ``is_located``: whether
    data must have offsets in the file; if not, the result has no runs of data.

    :raises ImageError: the output cannot be used.
    """
    try:
        size, table, gaps = 0, array("q"), array("q")
        for entry in _entries(text):
            start, length = entry["start"], entry["length"]
            if is_located and entry["data"] and not entry["zero"]:
                table.extend((start, start + length, entry["offset"]))
            elif not entry.get("present", True):
                gaps.extend((start, start + length))
            size = start + length
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ImageError(
            f"cannot use {path}",
            path=path,
            why=f"QEMU does not map its data to offsets in the file ({_fault(error)})",
            remedy=COPY,
        ) from error
    starts, ends, offsets = np.frombuffer(table, dtype=np.int64).reshape(-1, 3).T
    files = np.searchsorted(edges, starts, side="right").astype(np.uint16) if len(edges) else in_one_file(starts)
    if len(edges) and ((edges[-1] != size) | (np.searchsorted(edges, ends, side="left") != files).any()):
        raise ImageError(
            f"cannot use {path}",
            path=path,
            why="QEMU does not map its data to the extents that the image names",
            remedy=COPY,
        )
    joins = (starts[1:] == ends[:-1]) & (offsets[1:] - offsets[:-1] == starts[1:] - starts[:-1])
    joins &= files[1:] == files[:-1]
    first, last = np.concatenate([[True], ~joins])[: len(starts)], np.concatenate([~joins, [True]])[: len(ends)]
    begins, stops = np.frombuffer(gaps, dtype=np.int64).reshape(-1, 2).T
    absent = (begins.copy(), stops.copy())
    return ImageMap(
        size, starts[first].copy(), ends[last].copy(), offsets[first].copy(), files[first].copy(), absent
    )


def _fault(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"its map has a range without {error.args[0]!r}"
    return (
        str(error)
        if isinstance(error, ValueError)
        else "its map has a value that is too large or not a whole number"
    )


def in_one_file(starts: _Offsets) -> npt.NDArray[np.uint16]:
    """Return the value of :attr:`ImageMap.files` for an image that is one file."""
    return np.zeros(len(starts), dtype=np.uint16)


def _entries(text: str) -> Iterator[dict[str, int]]:
    """Yield ranges one at a time: a list of two million would take a gigabyte."""
    at = end = 0
    while (gap := _GAP.match(text, at)) is not None:
        entry, at = _DECODER.raw_decode(text, gap.end())
        if entry["depth"] or entry["start"] != end:
            raise ValueError(f"it has a backing file, or its map has a gap at byte {end}")
        end += entry["length"]
        yield entry
    if not text[at:].strip():
        raise ValueError("the map ends too early")
    if "".join(text[at:].split()) not in {"]", "[]"}:
        raise ValueError(f"the map continues with {text[at : at + 100]!r}")
