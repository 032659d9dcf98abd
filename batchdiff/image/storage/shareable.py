"""The blocks of a guest's files that can be shared with the template's.

::

    guest bytes        0        64k       128k      192k      256k
    equal              |.........|.........|.........|.........|      known from a scan
    template           | FILE    | FILE    | compr.  | ZERO    |
    guest's own files  | FILE    | FILE    | FILE    | FILE    |
    on disk            | own     | shared* | own     | own     |      * with the template already
                       shareable            no plain bytes in the template

Only plain bytes can be shared: no compressed or encrypted ones, and no holes. The guest's backing files are left
out. A range begins and ends at block boundaries of the filesystem, or ends where both files end.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from batchdiff.frozen import frozen
from batchdiff.image.image import Image
from batchdiff.image.layer import Segment, select_ranges
from batchdiff.image.storage.shared_blocks import common_ranges, shared_extents
from batchdiff.linux.reflinks import why_not_shared
from batchdiff.qcow2.entries import Origin
from batchdiff.units import MIB, align_up

_LOOKED_UP = 64 * MIB
"""The guest's bytes in a stretch: at most 131,072 clusters of 512 bytes."""


class ShareableRange(NamedTuple):
    """``length`` equal bytes of two files. The layers are indexes into ``Image.layers``."""

    template_layer: int
    template_offset: int
    guest_layer: int
    guest_offset: int
    length: int


@frozen
class SharedStretch:
    """The equal bytes (``equal``: starts and ends) of one stretch of a guest, by whether they can be shared.

    ``ranges``: those that can still be shared. ``already``: how many are in the template's blocks already.
    ``unfit``: how many in the guest's own files cannot be shared, not counting zeros that have no blocks in one of
    the images.
    """

    equal: tuple[tuple[int, int], ...]
    ranges: tuple[ShareableRange, ...]
    already: int
    unfit: int


class _Piece(NamedTuple):
    """Equal, plain guest bytes. The addresses are those of ``start`` in each file."""

    start: int
    end: int
    template_layer: int
    template_address: int
    guest_layer: int
    guest_address: int


def shareable_ranges(template: Image, guest: Image, equal: Iterable[tuple[int, int]]) -> Iterator[ShareableRange]:
    """Yield the ranges of :func:`shareable_stretches`.

    :raises ImageError: a table or the filesystem cannot be read.
    """
    for stretch in shareable_stretches(template, guest, equal):
        yield from stretch.ranges


def shareable_stretches(
    template: Image, guest: Image, equal: Iterable[tuple[int, int]]
) -> Iterator[SharedStretch]:
    """Yield which equal bytes of a guest and its template can be shared.

    ``equal``: the starts and ends of these bytes, ascending and disjoint.

    :raises ImageError: a table or the filesystem cannot be read.
    """
    finder = _Finder(template, guest)
    for start, runs in _by_stretch(equal):
        yield finder.stretch(start, runs)


def _by_stretch(equal: Iterable[tuple[int, int]]) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    current, runs = 0, list[tuple[int, int]]()
    for first, last in equal:
        for edge in range(first - first % _LOOKED_UP, last, _LOOKED_UP):
            if runs and edge != current:
                yield current, runs
                runs = []
            current = edge
            runs.append((max(first, edge), min(last, edge + _LOOKED_UP)))
    if runs:
        yield current, runs


class _Finder:
    def __init__(self, template: Image, guest: Image) -> None:
        self._template, self._guest = template, guest
        own = {layer.fd for layer in guest.own_files}
        self._own = {number for number, layer in enumerate(guest.layers) if layer.fd in own}
        self._can_share = {
            (one, other): why_not_shared(template.layers[one].fd, guest.layers[other].fd) is None
            for one in range(len(template.layers))
            for other in self._own
        }
        # A filesystem shares nothing smaller than its blocks.
        self._blocks = {number: os.fstatvfs(guest.layers[number].fd).f_bsize for number in self._own}
        self._template_sizes = [os.fstat(layer.fd).st_size for layer in template.layers]
        self._guest_sizes = [os.fstat(layer.fd).st_size for layer in guest.layers]

    def stretch(self, start: int, runs: list[tuple[int, int]]) -> SharedStretch:
        end = runs[-1][1]
        ours = self._template.segments(start, end) if start < self._template.virtual_size else []
        theirs = self._guest.segments(start, end)
        pieces, unfit = list[_Piece](), 0
        for one, other in zip(select_ranges(ours, runs), select_ranges(theirs, runs), strict=True):
            for piece in _pairs(one, other):
                unfit += self._sort(piece, pieces)
        left = list(_without(pieces, self._common(pieces)))
        ranges = [found for piece in _joined(left) if (found := self._in_blocks(piece)) is not None]
        wanted = sum(piece.end - piece.start for piece in left)
        return SharedStretch(
            equal=tuple(runs),
            ranges=tuple(ranges),
            already=sum(piece.end - piece.start for piece in pieces) - wanted,
            unfit=unfit + wanted - sum(each.length for each in ranges),
        )

    def _sort(self, pair: tuple[Segment, Segment], pieces: list[_Piece]) -> int:
        """Add a pair to the pieces if it can share blocks; return the number of unfit bytes."""
        one, other = pair
        if other.layer not in self._own or Origin.ZERO in {one.origin, other.origin}:
            return 0
        plain = one.origin is other.origin is Origin.FILE
        if not plain or not self._can_share[one.layer, other.layer]:
            return other.end - other.start
        pieces.append(_Piece(other.start, other.end, one.layer, one.address, other.layer, other.address))
        return 0

    def _common(self, pieces: list[_Piece]) -> list[tuple[int, int]]:
        # Blocks that the filesystem has compressed count as well, because the bytes are known to be equal.
        ours = [Segment(p.start, p.end, Origin.FILE, p.template_layer, p.template_address) for p in pieces]
        found = shared_extents(self._template, ours, packed=True)
        if not found:
            return []
        theirs = [Segment(p.start, p.end, Origin.FILE, p.guest_layer, p.guest_address) for p in pieces]
        return common_ranges(found, shared_extents(self._guest, theirs, packed=True))

    def _in_blocks(self, piece: _Piece) -> ShareableRange | None:
        block = self._blocks[piece.guest_layer]
        one, other = piece.template_address, piece.guest_address
        first = align_up(other, block) - other
        if (one + first) % block:
            return None
        # An image's last sector reads as complete, even if the file ends within it.
        ours, theirs = self._template_sizes[piece.template_layer], self._guest_sizes[piece.guest_layer]
        length = min(piece.end - piece.start, ours - one, theirs - other)
        if not (one + length == ours and other + length == theirs):
            length -= (other + length) % block
        if length <= first:
            return None
        return ShareableRange(piece.template_layer, one + first, piece.guest_layer, other + first, length - first)


def _pairs(ours: list[Segment], theirs: list[Segment]) -> Iterator[tuple[Segment, Segment]]:
    first = second = 0
    while first < len(ours) and second < len(theirs):
        one, other = ours[first], theirs[second]
        start, end = max(one.start, other.start), min(one.end, other.end)
        if start < end:
            yield _part(one, start, end), _part(other, start, end)
        first += one.end <= other.end
        second += other.end <= one.end


def _part(segment: Segment, start: int, end: int) -> Segment:
    return segment._replace(start=start, end=end, address=segment.address + start - segment.start)


def _without(pieces: list[_Piece], shared: list[tuple[int, int]]) -> Iterator[_Piece]:
    at = 0
    for piece in pieces:
        begin = piece.start
        while at < len(shared) and shared[at][1] <= begin:
            at += 1
        number = at
        while number < len(shared) and shared[number][0] < piece.end:
            if begin < shared[number][0]:
                yield _cut(piece, begin, shared[number][0])
            begin = max(begin, shared[number][1])
            number += 1
        if begin < piece.end:
            yield _cut(piece, begin, piece.end)


def _cut(piece: _Piece, start: int, end: int) -> _Piece:
    if (start, end) == (piece.start, piece.end):
        return piece
    shift = start - piece.start
    return _Piece(
        start,
        end,
        piece.template_layer,
        piece.template_address + shift,
        piece.guest_layer,
        piece.guest_address + shift,
    )


def _joined(pieces: list[_Piece]) -> Iterator[_Piece]:
    """Yield pieces, joining those that are adjacent in the guest and in both files."""
    last: _Piece | None = None
    for piece in pieces:
        if last is not None and _cut(last, piece.start, piece.end) == piece and last.end == piece.start:
            last = last._replace(end=piece.end)
            continue
        if last is not None:
            yield last
        last = piece
    if last is not None:
        yield last
