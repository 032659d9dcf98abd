"""Images whose disk is mapped to offsets in files, mostly by QEMU.

::

    header, inspected -> `qemu-img map` -> runs of the disk, and their offsets in the files

Maps of regular files can be kept, up to a limit, until a file changes.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from batchdiff.errors import ImageError, InUseError, ProgramError
from batchdiff.files.fingerprint import Fingerprint
from batchdiff.foreign.header import Outline, ReadAt, require_stored
from batchdiff.foreign.vhdx import DiskMap
from batchdiff.image.files import ImageFile, ReadObserver
from batchdiff.image.layer import Backing, CompressedCluster, Losses, Segment, WithOthers
from batchdiff.image.raw import FlatExtent
from batchdiff.image_source import ImageSource
from batchdiff.linux.call_failures import AGAIN
from batchdiff.qcow2.entries import Origin
from batchdiff.qcow2.faults import FormatError
from batchdiff.qemu import qemu_img
from batchdiff.qemu.image_map import ImageMap, in_one_file, parsed_map
from batchdiff.units import MIB

_MOST_KEPT = 2_000_000
"""Runs, of 26 bytes each, in all kept maps together; a single map may have more."""

_MAP_OF_NOTHING, _BYTES_IN_MAP = 32 * MIB, 16
"""The bytes that QEMU may print for an image that takes nothing on disk, and the bytes on disk for which it may
print one more. A run of a real image takes 4 KiB or more on disk, and 100 to 150 bytes in the map."""

_MOST_LOOKED_AT = 1000
"""Runs to search for data; if none has any, the next run counts as data."""

_Key = tuple[str | int, ...]

_kept: dict[_Key, ImageMap] = {}
_lock_of_kept = threading.Lock()


class MappedLayer(WithOthers):
    """An image whose disk is mapped to offsets in its files.

    ``inspect`` checks the header before QEMU opens the image. ``own_map`` makes the map instead of QEMU, but QEMU
    must find the same disk size. ``extents``: in the order of the disk; none if the data is in the image's own
    file. They stay open if the layer cannot be created.
    """

    def __init__(
        self,
        source: ImageSource,
        observer: ReadObserver | None,
        inspect: Callable[[ReadAt, int], Outline],
        own_map: Callable[[ReadAt, int], DiskMap] | None = None,
        extents: Sequence[FlatExtent] = (),
    ) -> None:
        self.others = tuple(extent.file for extent in extents)
        self._source, self._own_map = replace(source, other_files=self.other_files), own_map
        self._file = ImageFile(source.path, observer)
        self._files = [extent.file.file for extent in extents] or [self._file]
        self._edges = np.cumsum([extent.length for extent in extents], dtype=np.int64)
        self.path = source.path
        self.fd = self._file.fd
        try:
            outline = inspect(self._file.read_at_most, self._file.size)
        except FormatError as error:
            self._file.close()
            raise self._refused(error) from error
        except BaseException:
            self._file.close()
            raise
        self._outline = outline
        self.backing = None if outline.backing is None else Backing(*outline.backing)

    def _refused(self, error: FormatError) -> ImageError:
        return ImageError(
            f"cannot use {self.path} as {self._source.format}", path=self.path, why=str(error), remedy=error.remedy
        )

    @cached_property
    def _map(self) -> ImageMap:
        now = [file.fingerprint() for file in self._all_files()]
        key: _Key = (self._source.format, *itertools.chain.from_iterable(map(_state, now)))
        is_lasting = all(each.vouches_for_content for each in now)
        found = _kept.get(key) if is_lasting else None
        if found is None:
            found = self._mapped_by_qemu(now)
            if is_lasting:
                _keep(key, found)
        return found

    def _all_files(self) -> list[ImageFile]:
        return list(dict.fromkeys((self._file, *self._files)))

    def _mapped_by_qemu(self, now: list[Fingerprint]) -> ImageMap:
        try:
            stored = sum(file.stored() for file in self._all_files())
            require_stored(self._outline, stored)
            own = None if self._own_map is None else self._mapped_here(self._own_map)
            text = qemu_img.file_map(self._source, most_output=_MAP_OF_NOTHING + stored // _BYTES_IN_MAP)
        except FormatError as error:
            raise self._refused(error) from error
        except (ProgramError, InUseError) as error:
            # An ImageError concerns this image alone: other images may not need qemu-img.
            raise ImageError(
                f"cannot read {self.path}", path=self.path, why=error.reason, remedy=error.remedy
            ) from error
        for file, before in zip(self._all_files(), now, strict=True):
            self._check_same_file(file.path, before)
        found = parsed_map(text, self.path, self._edges, is_located=own is None)
        if own is not None and own.size != found.size:
            problem = (
                f"QEMU reads a disk of {found.size} bytes from it, but its metadata gives a size of {own.size}"
            )
            raise self._refused(FormatError(problem))
        return own or found

    def _mapped_here(self, own_map: Callable[[ReadAt, int], DiskMap]) -> ImageMap:
        try:
            found = own_map(self._file.read_at_most, self._file.size)
            return ImageMap(*found, in_one_file(found.starts))
        except FormatError as error:
            raise self._refused(error) from error

    def _check_same_file(self, path: str, before: Fingerprint) -> None:
        # QEMU has opened the file by its name, which may belong to another file by now.
        by_name = ImageFile(path, None)
        try:
            changes = before.changes(by_name.fingerprint())
        finally:
            by_name.close()
        if changes:
            raise ImageError(
                f"{path} changed while it was being read",
                path=path,
                why=changes,
                remedy=f"Stop what is changing it, such as its VM, {AGAIN}",
            )

    @property
    def virtual_size(self) -> int:
        """See :class:`~batchdiff.image.layer.Layer`."""
        return self._map.size

    @property
    def losses(self) -> Losses:
        """No losses: accepted images have none."""
        return Losses()

    def read_tables(self) -> None:
        """Map the image, unless its map is kept."""
        _ = self._map

    def inspect(self, *, refcounts: bool = False) -> None:  # noqa: ARG002  # these formats have none
        """Refuse a map that reaches past the end of a file, or uses a byte of it twice."""
        _, starts, ends, offsets, numbers, _ = self._map
        for number, file in enumerate(self._files):
            chosen = numbers == number
            order = np.argsort(offsets[chosen])
            firsts, lasts = offsets[chosen][order], (offsets + ends - starts)[chosen][order]
            which = f"the file {file.path}" if self.others else "the file"
            if len(firsts) and int(lasts.max()) > file.size:
                problem = (
                    f"its data ends past the end of {which} ({file.size} bytes), which is truncated or damaged"
                )
                raise self._refused(FormatError(problem))
            # Without this check, a small file could fill a disk of any size.
            if (firsts[1:] < lasts[:-1]).any():
                raise self._refused(FormatError(f"one part of {which} is used for several parts of the disk"))

    def parts(self, start: int, end: int) -> list[Segment]:
        """See :class:`~batchdiff.image.layer.Layer`."""
        found = self._data_and_zeros(start, end)
        return found if self.backing is None else list(self._with_absent(found))

    def _with_absent(self, segments: list[Segment]) -> Iterator[Segment]:
        starts, ends = self._map.absent
        for segment in segments:
            at = segment.start
            if segment.origin is Origin.ZERO:
                first = int(np.searchsorted(ends, segment.start, side="right"))
                last = int(np.searchsorted(starts, segment.end, side="left"))
                for low, high in zip(starts[first:last].tolist(), ends[first:last].tolist(), strict=True):
                    begin, stop = max(low, segment.start), min(high, segment.end)
                    if at < begin:
                        yield segment._replace(start=at, end=begin)
                    yield Segment(begin, stop, Origin.ABSENT, 0, 0)
                    at = stop
            if at < segment.end:
                yield segment._replace(start=at)

    def _data_and_zeros(self, start: int, end: int) -> list[Segment]:
        _, starts, ends, offsets, numbers, _ = self._map
        first, last = np.searchsorted(ends, start, side="right"), np.searchsorted(starts, end, side="left")
        found = []
        at, base = start, 1 if self.others else 0
        rows = (each[first:last].tolist() for each in (starts, ends, offsets, numbers))
        for begin, stop, offset, number in zip(*rows, strict=True):
            shift = begin - offset
            for low, high in _stored(self._files[number], max(begin, start) - shift, min(stop, end) - shift):
                if low + shift > at:
                    found.append(Segment(at, low + shift, Origin.ZERO, 0, 0))
                at = high + shift
                found.append(Segment(low + shift, at, Origin.FILE, base + number, low))
        if at < end:
            found.append(Segment(at, end, Origin.ZERO, 0, 0))
        return found

    def next_data(self, start: int) -> int | None:
        """See :class:`~batchdiff.image.layer.Layer`."""
        _, starts, ends, offsets, numbers, _ = self._map
        index = int(np.searchsorted(ends, start, side="right"))
        for number in range(index, min(index + _MOST_LOOKED_AT, len(starts))):
            begin, stop, offset = int(starts[number]), int(ends[number]), int(offsets[number])
            at = max(begin, start)
            file = self._files[int(numbers[number])]
            for first, _ in _stored(file, offset + at - begin, offset + stop - begin):
                return begin + first - offset
        index += _MOST_LOOKED_AT
        return int(starts[index]) if index < len(starts) else None

    def read(self, segment: Segment, buffer: memoryview) -> None:
        """See :class:`~batchdiff.image.layer.Layer`."""
        self._file.fill(buffer, segment.address)

    def compressed_cluster(self, segment: Segment) -> CompressedCluster:
        """Raise ValueError: no segment is COMPRESSED."""
        raise ValueError(f"nothing is compressed in a mapped image: {segment}")

    def fingerprint(self) -> Fingerprint:
        """See :class:`~batchdiff.image.layer.Layer`."""
        return self._file.fingerprint()

    def close(self) -> None:
        """See :class:`~batchdiff.image.layer.Layer`."""
        for file in self._all_files():
            file.close()


def _state(now: Fingerprint) -> tuple[int, ...]:
    return now.device, now.inode, now.size, now.mtime_ns, now.ctime_ns


def _stored(file: ImageFile, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of a range that are not holes of the file: the map of a sparse file can include holes."""
    # A range that ends past the end of the file stays whole, so that reading it raises an error.
    if file.is_block_device or end > file.size:
        yield start, end
        return
    for first, hole in file.data_runs(start, end):
        yield first, min(hole, end)


def _keep(key: _Key, found: ImageMap) -> None:
    with _lock_of_kept:
        _kept[key] = found
        while len(_kept) > 1 and sum(len(each.starts) for each in _kept.values()) > _MOST_KEPT:
            del _kept[next(iter(_kept))]
