"""Give ranges of a guest to the kernel, which compares them with the template's and shares equal blocks.

::

    ranges -> requests of at most 16 MiB, read ahead -> FIDEDUPERANGE -> shared
                                                            |
                                                            +-> if they differ: halved, down to 64 KiB -> differing

No call changes the content of a file, so a guest is whole at every moment.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from batchdiff.errors import GuestError
from batchdiff.frozen import frozen
from batchdiff.image.image import Image
from batchdiff.image.storage.shareable import ShareableRange
from batchdiff.linux.dedupe_range import AT_ONCE, dedupe, explain_refusal
from batchdiff.progress import ignore
from batchdiff.units import KIB, MIB, align_up

_READ_AHEAD = 32 * MIB
"""Bytes of each image to read ahead: without that, a run with a cold cache took 3 to 5 times as long."""

_ADVISED = MIB
"""Bytes per call of posix_fadvise: the kernel reads no more than fits into one disk request, often 1.25 MiB."""

_MOST_AHEAD = 512
"""The maximum number of requests to read ahead; only small requests reach it."""

_SMALLEST = 64 * KIB
"""A differing range of this size or less is not halved. On XFS and btrfs, the size is a number of whole blocks."""


@frozen
class Shared:
    """The bytes that were shared, and the ranges that differ."""

    shared: int
    differing: tuple[ShareableRange, ...]


def share_blocks(
    template: Image,
    guest: Image,
    ranges: Iterable[ShareableRange],
    *,
    check: Callable[[], None],
    advance: Callable[[int], None] = ignore,
) -> Shared:
    """Let a guest share the equal parts of these ranges with the template, durably.

    ``check`` is called before each FIDEDUPERANGE, and may raise an error to end the work. ``advance`` gets the
    number of further bytes that were shared or differ. After an error, blocks that are already shared stay shared.

    :raises GuestError: blocks cannot be shared or synced.
    :raises ImageError: the ranges cannot be determined.
    """
    sharing = _Sharing(template, guest, check, advance)
    try:
        for request in _read_ahead(template, guest, _requests(ranges)):
            sharing.share(request)
    finally:
        # Even after an error, the caller may record what was shared, so sync that first.
        sharing.sync()
    return Shared(sharing.shared, tuple(sharing.differing))


def _requests(ranges: Iterable[ShareableRange]) -> Iterator[ShareableRange]:
    for each in ranges:
        for at in range(0, each.length, AT_ONCE):
            yield _part(each, at, min(AT_ONCE, each.length - at))


def _part(request: ShareableRange, shift: int, length: int) -> ShareableRange:
    return ShareableRange(
        request.template_layer,
        request.template_offset + shift,
        request.guest_layer,
        request.guest_offset + shift,
        length,
    )


def _read_ahead(template: Image, guest: Image, requests: Iterator[ShareableRange]) -> Iterator[ShareableRange]:
    waiting, total = deque[ShareableRange](), 0
    for request in requests:
        for image, number, offset in (
            (template, request.template_layer, request.template_offset),
            (guest, request.guest_layer, request.guest_offset),
        ):
            end = offset + request.length
            for at in range(offset, end, _ADVISED):
                os.posix_fadvise(image.layers[number].fd, at, min(_ADVISED, end - at), os.POSIX_FADV_WILLNEED)
        waiting.append(request)
        total += request.length
        while total > _READ_AHEAD or len(waiting) > _MOST_AHEAD:
            total -= waiting[0].length
            yield waiting.popleft()
    yield from waiting


@dataclass(slots=True)
class _Sharing:
    template: Image
    guest: Image
    check: Callable[[], None]
    advance: Callable[[int], None]
    shared: int = 0
    differing: list[ShareableRange] = field(default_factory=list)
    _files: set[int] = field(default_factory=set)

    def share(self, request: ShareableRange) -> None:
        left = [request]
        while left:
            part = left.pop()
            self.check()
            done = self._call(part)
            if done:
                self.shared += done
                self.advance(done)
                if done < part.length:
                    left.append(_part(part, done, part.length - done))
            elif part.length <= _SMALLEST:
                self._add_differing(part)
                self.advance(part.length)
            else:
                half = align_up(part.length // 2, _SMALLEST)
                left += [_part(part, half, part.length - half), _part(part, 0, half)]

    def _call(self, part: ShareableRange) -> int:
        source, target = self.template.layers[part.template_layer], self.guest.layers[part.guest_layer]
        self._files.add(part.guest_layer)
        try:
            return dedupe(source.fd, part.template_offset, target.fd, part.guest_offset, part.length)
        except OSError as error:
            fault = explain_refusal(error, source.fd, target.path)
            what = f"cannot share blocks of {target.path} with {source.path}"
            raise GuestError(what, why=fault.why, remedy=fault.remedy) from error

    def _add_differing(self, part: ShareableRange) -> None:
        if self.differing:
            last = self.differing[-1]
            if _part(last, last.length, part.length) == part:
                self.differing[-1] = last._replace(length=last.length + part.length)
                return
        self.differing.append(part)

    def sync(self) -> None:
        for number in self._files:
            layer = self.guest.layers[number]
            try:
                os.fsync(layer.fd)
            except OSError as error:
                fault = explain_refusal(error, layer.fd, layer.path)
                raise GuestError(
                    f"cannot sync {layer.path} to disk", why=fault.why, remedy=fault.remedy
                ) from error
