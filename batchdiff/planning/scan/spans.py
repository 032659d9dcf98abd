"""The bytes of each window that must be read; pure.

::

    pieces that may hold data        |#######|    |###########|
    settled (shared with template)      |##########|
    left                             |###|         |##########|
    windows                      |           |           |           |
    span of each                     |###|         |#####|####|             first to last byte left, in whole units
"""

from __future__ import annotations

from collections.abc import Iterable

from batchdiff.planning.scan.compare import UNIT

Span = tuple[int, int]
"""First byte and exclusive end in a window: multiples of the unit."""

Spans = dict[int, Span]
"""Spans by window number."""


def spans_by_window(pieces: Iterable[tuple[int, int]], begin: int, window: int, unit: int) -> Spans:
    """Return the spans of pieces (start, end); windows are counted from offset ``begin``."""
    found: Spans = {}
    for start, end in pieces:
        first, last = (start - begin) // window, (end - 1 - begin) // window
        for number in range(first, last + 1):
            edge = begin + number * window
            low = max(start - edge, 0) // unit * unit
            high = min(-(-(end - edge) // unit) * unit, window)
            known = found.get(number)
            found[number] = (low, high) if known is None else (min(known[0], low), max(known[1], high))
    return found


def merge_spans(each: Iterable[Spans]) -> Spans:
    """Return for each window one span that contains all its spans."""
    found: Spans = {}
    for one in each:
        for number, (low, high) in one.items():
            known = found.get(number)
            found[number] = (low, high) if known is None else (min(known[0], low), max(known[1], high))
    return found


def subtract(pieces: list[tuple[int, int]], settled: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return pieces without the parts in ``settled``; both lists are sorted and disjoint."""
    if not settled:
        return pieces
    left = []
    others = iter(settled)
    other = next(others, None)
    for piece in pieces:
        start, end = piece
        while other is not None and other[1] <= start:
            other = next(others, None)
        while other is not None and other[0] < end:
            if start < other[0]:
                left.append((start, other[0]))
            start = max(start, other[1])
            if other[1] > end:
                break
            other = next(others, None)
        if start < end:
            left.append((start, end))
    return left


def span_units(span: Span) -> slice:
    """Return the units of a span."""
    return slice(span[0] // UNIT, span[1] // UNIT)
