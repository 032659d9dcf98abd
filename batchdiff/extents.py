"""Run-length extents over units of an image, and their algebra.

A diff gives every unit two bits, so that folding is a plain OR::

    bit 0  DIFFERS   guest and template differ here
    bit 1  NONZERO   the guest does not read as zeros here

    SAME_ZERO = 0   SAME = 2   ZERO = 1   DATA = 3

    units of 4 KiB     | 0 0 1 0 | 2 2 1 0 | 2 2 2 2 | 2 3 2 0 |
    folded to 16 KiB   |  ZERO   |  DATA   |  SAME   |  DATA   |

A cluster that differs only where the guest has zeros can be a zero cluster if all of it reads as zeros. Otherwise,
its bytes that equal the template's must be written, too: it is DATA.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from batchdiff.frozen import frozen


class Kind(enum.IntEnum):
    """The kind of a guest's unit, compared with the template."""

    SAME_ZERO = 0
    ZERO = 1
    SAME = 2
    DATA = 3


@frozen(eq=False)
class Extents:
    """Runs of units: sorted, disjoint, merged. ``kind``: values of :class:`Kind`.

    A unit outside all runs is ``SAME_ZERO``, was not scanned, or is of a kind that was left out.
    """

    first: npt.NDArray[np.int64]
    count: npt.NDArray[np.int64]
    kind: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.first)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Extents) and self.runs() == other.runs()

    __hash__ = None  # type: ignore[assignment]  # arrays can't be hashed

    def runs(self) -> list[tuple[int, int, int]]:
        """Return the runs as ``(first, count, kind)``."""
        return list(zip(self.first.tolist(), self.count.tolist(), self.kind.tolist(), strict=True))

    @property
    def end(self) -> npt.NDArray[np.int64]:
        """The unit after each run."""
        return self.first + self.count

    def units(self, kind: Kind) -> int:
        """Count the units of one kind."""
        return int(self.count[self.kind == kind].sum())

    def pairs(self, kind: Kind) -> npt.NDArray[np.int64]:
        """Return the runs of one kind, of shape (runs, 2): first unit, number of units."""
        chosen = self.kind == kind
        return np.stack([self.first[chosen], self.count[chosen]], axis=1)


def empty() -> Extents:
    """Return extents without any runs."""
    return from_runs([])


def from_runs(runs: Iterable[tuple[int, int, int]]) -> Extents:
    """Return the extents of sorted, disjoint runs ``(first, count, kind)``; merge adjacent ones of one kind."""
    table = np.array(list(runs), dtype=np.int64).reshape(-1, 3)
    return _merged(table[:, 0], table[:, 0] + table[:, 1], table[:, 2].astype(np.uint8))


def from_pairs(data: npt.NDArray[np.int64], zero: npt.NDArray[np.int64]) -> Extents:
    """Return the extents of a plan's lists, of shape (runs, 2)."""
    first = np.concatenate([data[:, 0], zero[:, 0]])
    count = np.concatenate([data[:, 1], zero[:, 1]])
    kind = np.repeat(np.array([Kind.DATA, Kind.ZERO], dtype=np.uint8), [len(data), len(zero)])
    order = np.argsort(first, kind="stable")
    return _merged(first[order], (first + count)[order], kind[order])


def from_kinds(kinds: npt.NDArray[np.uint8], first: int = 0) -> Extents:
    """Return the extents of consecutive units, from unit ``first``."""
    if len(kinds) == 0:
        return empty()
    starts = np.flatnonzero(np.concatenate([[True], kinds[1:] != kinds[:-1]]))
    ends = np.append(starts[1:], len(kinds))
    kept = kinds[starts] != Kind.SAME_ZERO
    starts, ends = starts[kept], ends[kept]
    return Extents(starts + first, ends - starts, kinds[starts])


def concatenate(parts: list[Extents]) -> Extents:
    """Join and merge extents that follow one another."""
    if not parts:
        return empty()
    first = np.concatenate([part.first for part in parts])
    count = np.concatenate([part.count for part in parts])
    return _merged(first, first + count, np.concatenate([part.kind for part in parts]))


def fold(extents: Extents, factor: int) -> Extents:
    """Return these extents in units ``factor`` (a power of two) times larger, each with its parts' kinds ORed."""
    if factor == 1 or len(extents) == 0:
        return extents
    first, end, kind = extents.first, extents.end, extents.kind
    bits = _bits(factor)
    # Units that one run covers completely: from inner_first up to, but not including, inner_end.
    inner_first, inner_end = -(-first >> bits), end >> bits
    # Partly covered units, at either end of a run: several runs can share one.
    head, tail = first >> bits, (end - 1) >> bits
    head_cut, tail_cut = head < inner_first, tail >= inner_end
    edge_unit = np.concatenate([head[head_cut], tail[tail_cut]])
    edge_kind = np.concatenate([kind[head_cut], kind[tail_cut]])
    edge_first, edge_kind = _ored(edge_unit, edge_kind)
    whole = inner_end > inner_first
    all_first = np.concatenate([inner_first[whole], edge_first])
    all_end = np.concatenate([inner_end[whole], edge_first + 1])
    all_kind = np.concatenate([kind[whole], edge_kind])
    order = np.argsort(all_first, kind="stable")
    return _merged(all_first[order], all_end[order], all_kind[order])


def _bits(factor: int) -> int:
    """Return the number of bits to shift by: a shift is faster than a division."""
    return factor.bit_length() - 1


def count_touched(extents: Extents, factor: int) -> int:
    """Count the units ``factor`` (a power of two) times larger that the runs touch."""
    bits = _bits(factor)
    first, last = extents.first >> bits, (extents.end - 1) >> bits
    # Runs are sorted and disjoint, so a run shares at most its first large unit with the run before it.
    return int((last - first).sum()) + len(first) - int(np.count_nonzero(first[1:] == last[:-1]))


def split(extents: Extents, factor: int, limit: int) -> Extents:
    """Return these extents in units ``factor`` times smaller, before small unit ``limit``."""
    first, end = extents.first * factor, np.minimum(extents.end * factor, limit)
    kept = first < end
    return Extents(first[kept], (end - first)[kept], extents.kind[kept])


def only(extents: Extents, *kinds: Kind) -> Extents:
    """Return the runs of these kinds."""
    wanted = np.zeros(len(Kind), dtype=np.bool_)
    wanted[list(kinds)] = True
    kept = wanted[extents.kind]
    return _merged(extents.first[kept], extents.end[kept], extents.kind[kept])


def of_one_kind(extents: Extents, kind: Kind) -> Extents:
    """Give every run this kind, and merge adjacent runs."""
    return _merged(extents.first, extents.end, np.full_like(extents.kind, kind))


def numbers(extents: Extents, factor: int = 1) -> npt.NDArray[np.int64]:
    """Return the units ``factor`` times larger that the runs touch, sorted and distinct."""
    first, last = extents.first // factor, (extents.end - 1) // factor
    count = last - first + 1
    begin = np.repeat(first - np.concatenate([[0], np.cumsum(count)[:-1]]), count)
    return distinct(begin + np.arange(int(count.sum()), dtype=np.int64))


def distinct(ascending: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the values of a sorted array, each once."""
    # Not numpy.unique: its imports take longer to load than a small plan takes to make.
    return ascending[np.concatenate([[True], ascending[1:] != ascending[:-1]])] if len(ascending) else ascending


def _ored(
    unit: npt.NDArray[np.int64], kind: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    if len(unit) == 0:
        return unit, kind
    order = np.argsort(unit, kind="stable")
    unit, kind = unit[order], kind[order]
    starts = np.flatnonzero(np.concatenate([[True], unit[1:] != unit[:-1]]))
    return unit[starts], np.bitwise_or.reduceat(kind, starts)


def _merged(first: npt.NDArray[np.int64], end: npt.NDArray[np.int64], kind: npt.NDArray[np.uint8]) -> Extents:
    if len(first) == 0:
        return Extents(first, end, kind)
    joins = (first[1:] == end[:-1]) & (kind[1:] == kind[:-1])
    starts = np.concatenate([[True], ~joins])
    ends = np.concatenate([~joins, [True]])
    return Extents(first[starts], end[ends] - first[starts], kind[starts])


def extents_between(extents: Extents, first: int, end: int) -> Extents:
    """Return the parts of the runs from unit ``first`` up to, but not including, ``end``."""
    begin, stop = np.maximum(extents.first, first), np.minimum(extents.end, end)
    kept = begin < stop
    return Extents(begin[kept], (stop - begin)[kept], extents.kind[kept])
