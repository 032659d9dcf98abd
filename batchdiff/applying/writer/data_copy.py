"""Copy a guest's data to a new image; share blocks with the guest if the filesystem can."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import field

from batchdiff.files.read_write import write_all
from batchdiff.frozen import frozen
from batchdiff.image.image import Image
from batchdiff.image.layer import Segment
from batchdiff.image.read_buffer import ReadBuffer
from batchdiff.image.storage.shared_blocks import shared_extents
from batchdiff.image.storage.to_write import ToWrite, WriteRule
from batchdiff.linux.btrfs import is_btrfs
from batchdiff.progress import ignore
from batchdiff.qcow2.entries import Origin
from batchdiff.units import KIB, MIB

_NO_COPY = {errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EBADF, errno.EIO}
"""The errors after which data is copied through memory, such as those of a copy from another filesystem.

EIO does not show which of the two files is faulty; separate reads and writes do.
"""

_AT_ONCE = 64 * MIB
"""The maximum number of bytes for one call: stops are noticed only between calls."""

_BLOCK = 4 * KIB
"""The unit in which zeros are left out: the usual block of a filesystem."""


@frozen
class Copier:
    """A copier from an image to the open file ``fd``. ``advance`` gets the number of further bytes done."""

    fd: int
    guest: Image
    check: Callable[[], None]
    may_share: bool = True
    advance: Callable[[int], None] = ignore
    rule: WriteRule = field(init=False)
    buffer: ReadBuffer = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", WriteRule(self.guest))
        object.__setattr__(self, "buffer", ReadBuffer(MIB))

    def copy(self, start: int, end: int, target: int) -> None:
        """Copy bytes ``start`` to ``end`` (exclusive) of the guest to the file offset ``target``.

        Parts that :mod:`batchdiff.image.storage.to_write` leaves out stay as they are in the target.
        """
        holes = end - start
        for segment in self.guest.segments(start, end):
            for part, to_write in self.rule.parts(segment):
                holes -= part.end - part.start
                if to_write is ToWrite.ALL:
                    self._copy_all(part, target + part.start - start)
                else:
                    self._copy_nonzero(part, target + part.start - start)
        self.advance(holes)

    def _copy_nonzero(self, segment: Segment, target: int) -> None:
        for at in range(segment.start, segment.end, MIB):
            self.check()
            data = self.buffer.load(self.guest, at, min(MIB, segment.end - at))
            offset, first = target + at - segment.start, 0
            while first < len(data):
                last = min(first + _BLOCK - (offset + first) % _BLOCK, len(data))
                block = data[first:last]
                if block != bytes(len(block)):  # for zeros, any() takes a hundred times as long
                    write_all(self.fd, block, offset + first)
                first = last
            self.advance(len(data))

    def _copy_all(self, segment: Segment, target: int) -> None:
        for part, may_share in self._split_by_sharing(segment):
            rest, offset = part, target + part.start - segment.start
            if may_share:
                fd = self.guest.layers[part.layer].fd
                done = self._copy_in_kernel(fd, part.address, offset, part.end - part.start)
                rest, offset = _after(part, done), offset + done
            self._copy_through_memory(rest, offset)

    def _split_by_sharing(self, segment: Segment) -> Iterator[tuple[Segment, bool]]:
        """Yield parts, some perhaps empty, and for each whether its blocks may be shared.

        btrfs keeps an extent whole while any block of it is used: sharing a block of an unshared extent would keep
        all of it after the guest is deleted.
        """
        if not self.may_share or segment.origin is not Origin.FILE:
            yield segment, False
            return
        if not is_btrfs(self.guest.layers[segment.layer].fd):
            yield segment, True
            return
        rest = segment
        for extent in shared_extents(self.guest, [segment]):
            own, rest = _split(rest, extent.start)
            shared, rest = _split(rest, extent.end)
            yield own, False
            yield shared, True
        yield rest, False

    def _copy_through_memory(self, segment: Segment, target: int) -> None:
        for at in range(segment.start, segment.end, MIB):
            self.check()
            data = self.buffer.load(self.guest, at, min(MIB, segment.end - at))
            write_all(self.fd, data, target + at - segment.start)
            self.advance(len(data))

    def _copy_in_kernel(self, source: int, source_offset: int, target_offset: int, length: int) -> int:
        """Copy bytes, and return how many: fewer than ``length`` at the end of the file or after a refusal."""
        done = 0
        while done < length:
            self.check()
            try:
                copied = os.copy_file_range(
                    source, self.fd, min(length - done, _AT_ONCE), source_offset + done, target_offset + done
                )
            except OSError as error:
                if error.errno in _NO_COPY:
                    return done
                raise
            if copied == 0:
                return done
            done += copied
            self.advance(copied)
        return done


def _after(segment: Segment, done: int) -> Segment:
    return segment._replace(start=segment.start + done, address=segment.address + done)


def _split(segment: Segment, offset: int) -> tuple[Segment, Segment]:
    return segment._replace(end=offset), _after(segment, offset - segment.start)
