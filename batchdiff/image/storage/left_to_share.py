"""The bytes that a guest can still share with its template."""

from __future__ import annotations

from collections.abc import Iterator

from batchdiff.image.image import Image
from batchdiff.image.storage.raw_shareable import RawShareable, TemplateBlocks, raw_shareable
from batchdiff.image.storage.shareable import ShareableRange, shareable_ranges
from batchdiff.image.storage.shared_blocks import BlockRuns
from batchdiff.image.storage.sharing_gain import SharingGain, raw_sharing_gain, sharing_gain


def shareable_left(template: Image, guest: Image, equal: BlockRuns) -> Iterator[ShareableRange]:
    """Yield the ranges that a guest could share with the template, but does not share yet.

    ``equal``: the bytes that equal the template's; all offsets except perhaps the last end are multiples of 4 KiB.

    :raises ImageError: a table or the filesystem cannot be read.
    """
    raw = raw_shareable(TemplateBlocks(template), guest, equal)
    yield from shareable_ranges(template, guest, _pairs(equal)) if raw is None else _ranges(raw)


def gain_left(template: Image, guest: Image, equal: BlockRuns) -> SharingGain:
    """Return the space that is freed once the ranges of :func:`shareable_left` are shared.

    :raises ImageError, OSError: a table or the filesystem cannot be read.
    """
    raw = raw_shareable(TemplateBlocks(template), guest, equal)
    if raw is None:
        return sharing_gain(guest, shareable_ranges(template, guest, _pairs(equal)))
    return raw_sharing_gain(guest, *raw)


def _pairs(runs: BlockRuns) -> Iterator[tuple[int, int]]:
    return zip(runs[0].tolist(), runs[1].tolist(), strict=True)


def _ranges(raw: RawShareable) -> Iterator[ShareableRange]:
    for start, end in _pairs((raw.starts, raw.ends)):
        yield ShareableRange(0, start, 0, start, end - start)
