"""Images whose data only QEMU can read: QEMU exports their disks.

Lists of runs are kept, up to a limit, and used again for regular files that have not changed.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchdiff.errors import ImageError
from batchdiff.files.fingerprint import Fingerprint
from batchdiff.foreign.header import ReadAt
from batchdiff.image.files import READ_FOR_US, ImageFile, ReadObserver
from batchdiff.image.layer import CompressedCluster, Losses, Segment
from batchdiff.image_source import ImageSource
from batchdiff.qcow2.entries import Origin
from batchdiff.qcow2.faults import FormatError
from batchdiff.qemu.export import BlockDevice
from batchdiff.qemu.shared_export import SharedExport

_MOST_LISTED = 2_000_000
"""The maximum number of runs (16 bytes each) in one list, past which holes count as data; also the maximum in
all kept lists together."""

_Offsets = npt.NDArray[np.int64]


class _DiskRuns(NamedTuple):
    """The size of a disk, and its runs of data, ascending. All else reads as zeros."""

    size: int
    starts: _Offsets
    ends: _Offsets


_Key = tuple[BlockDevice, int, int, int, int, int]

_kept: dict[_Key, _DiskRuns] = {}
_lock_of_kept = threading.Lock()


_shared: dict[_Key, SharedExport] = {}
_lock = threading.Lock()


def end_exports(fd: int) -> None:
    """End this process's exports of the file open as ``fd``; the next read starts a new one."""
    with _lock:
        found = [each for each in _shared.values() if each.is_of(fd)]
    for each in found:
        each.end()


def plain_device(source: ImageSource) -> BlockDevice:
    """Return the device of an image in a format without options."""
    return BlockDevice(source.format.value)


class ExportedLayer:
    """An image that QEMU exports; ``inspect`` checks its header before QEMU sees the file.

    ``file``: the image's file, if it is open already; it is closed with this layer, or if an error is raised.
    """

    def __init__(
        self,
        source: ImageSource,
        observer: ReadObserver | None,
        inspect: Callable[[ReadAt, int], None],
        device: Callable[[ImageSource], BlockDevice] = plain_device,
        file: ImageFile | None = None,
    ) -> None:
        self._source, self._observer = source, observer
        self._file = file or ImageFile(source.path, observer)
        self.path, self.fd = source.path, self._file.fd
        self._export: SharedExport | None = None
        try:
            inspect(self._read_at, self._file.size)
            self._device = device(source)
        except FormatError as error:
            self.close()
            why = f"cannot use {self.path} as {source.format}"
            raise ImageError(why, path=self.path, why=str(error), remedy=error.remedy) from error
        except BaseException:
            self.close()
            raise

    def _read_at(self, offset: int, length: int) -> bytes:
        return self._file.read_exactly(min(length, max(self._file.size - offset, 0)), offset)

    def _key(self) -> _Key:
        now = self.fingerprint()
        return (self._device, now.device, now.inode, now.size, now.mtime_ns, now.ctime_ns)

    def _shared_export(self) -> SharedExport:
        if self._export is None:
            with _lock:
                key = self._key()
                found = _shared.get(key)
                if found is None:
                    found = _shared[key] = SharedExport(self.path, self.fd, self._device)
                found.users += 1
                self._export = found
        return self._export

    def read_tables(self) -> None:
        """See :class:`~batchdiff.image.layer.Layer`."""
        _ = self._disk

    def start(self) -> None:
        """See :class:`~batchdiff.image.layer.ExportedImage`."""
        with self._shared_export().connection():
            pass

    @cached_property
    def _disk(self) -> _DiskRuns:
        key = self._key()
        is_lasting = self.fingerprint().vouches_for_content
        found = _kept.get(key) if is_lasting else None
        if found is None:
            with self._shared_export().connection() as connection:
                found = _joined(connection.size, connection.data_runs())
            if is_lasting:
                _keep(key, found)
        return found

    @property
    def virtual_size(self) -> int:
        """See :class:`~batchdiff.image.layer.Layer`."""
        return self._disk.size

    @property
    def backing(self) -> None:
        """None: an export shows only the image's own data."""
        return None

    @property
    def other_files(self) -> tuple[str, ...]:
        """No other files."""
        return ()

    @property
    def losses(self) -> Losses:
        """Encryption, if there is any."""
        return Losses(encryption=self._source.secret_file is not None)

    def inspect(self, *, refcounts: bool = False) -> None:
        """Do nothing: the constructor has called ``inspect``."""

    def parts(self, start: int, end: int) -> list[Segment]:
        """See :class:`~batchdiff.image.layer.Layer`; none is ABSENT."""
        _, starts, ends = self._disk
        first, last = np.searchsorted(ends, start, side="right"), np.searchsorted(starts, end, side="left")
        found, at = [], start
        for begin, stop in zip(starts[first:last].tolist(), ends[first:last].tolist(), strict=True):
            low, high = max(begin, start), min(stop, end)
            if low > at:
                found.append(Segment(at, low, Origin.ZERO, 0, 0))
            found.append(Segment(low, high, Origin.EXPORTED, 0, 0))
            at = high
        if at < end:
            found.append(Segment(at, end, Origin.ZERO, 0, 0))
        return found

    def next_data(self, start: int) -> int | None:
        """See :class:`~batchdiff.image.layer.Layer`."""
        _, starts, ends = self._disk
        index = int(np.searchsorted(ends, start, side="right"))
        return max(int(starts[index]), start) if index < len(starts) else None

    def read(self, segment: Segment, buffer: memoryview) -> None:
        """Read an EXPORTED segment.

        :raises ImageError: it cannot be read.
        """
        if self._observer is not None:
            self._observer.before(READ_FOR_US, segment.start, len(buffer))
        try:
            with self._shared_export().connection() as connection:
                connection.read(segment.start, buffer)
        finally:
            if self._observer is not None:
                self._observer.after(READ_FOR_US, segment.start, len(buffer))

    def compressed_cluster(self, segment: Segment) -> CompressedCluster:
        """Raise a ValueError: QEMU exports decompressed data."""
        raise ValueError(f"nothing is compressed in an export: {segment}")

    def fingerprint(self) -> Fingerprint:
        """See :class:`~batchdiff.image.layer.Layer`."""
        return self._file.fingerprint()

    def close(self) -> None:
        """Close the file, and end the export if this process started it and no other layer uses it."""
        export, self._export = self._export, None
        if export is not None:
            with _lock:
                export.users -= 1
                is_last = not export.users
                if is_last:
                    for key in [key for key, each in _shared.items() if each is export]:
                        del _shared[key]
            if is_last:
                export.close()
        self._file.close()


def _joined(size: int, runs: Iterator[tuple[int, int]]) -> _DiskRuns:
    table = array("q")
    for start, end in runs:
        if table and (table[-1] == start or len(table) >= 2 * _MOST_LISTED):
            table[-1] = end
        else:
            table.extend((start, end))
    starts, ends = np.frombuffer(table, dtype=np.int64).reshape(-1, 2).T.copy()
    return _DiskRuns(size, starts, ends)


def _keep(key: _Key, found: _DiskRuns) -> None:
    with _lock_of_kept:
        _kept[key] = found
        while len(_kept) > 1 and sum(len(each.starts) for each in _kept.values()) > _MOST_LISTED:
            del _kept[next(iter(_kept))]
