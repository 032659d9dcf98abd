"""Images whose data only QEMU can read: QEMU exports the disk, and batchdiff reads the export.

Lists of runs are kept, up to a limit, after their exports have ended, and used again for regular files that have
not changed.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
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
"""The maximum number of runs (16 bytes each) in one list, and in all kept lists together. After that many runs in
one list, holes count as data."""

_Offsets = npt.NDArray[np.int64]


class _DiskRuns(NamedTuple):
    """The size of a disk, and the starts and ends of its runs of data, ascending. All else reads as zeros."""

    size: int
    starts: _Offsets
    ends: _Offsets


_Key = tuple[BlockDevice, int, int, int, int, int]

_kept: dict[_Key, _DiskRuns] = {}


_shared: dict[_Key, SharedExport] = {}
_lock = threading.Lock()


def end_exports(fd: int) -> None:
    """End this process's exports of the file open as ``fd``; the next read starts a new one."""
    with _lock:
        found = [each for each in _shared.values() if each.is_of(fd)]
    for each in found:
        each.end()


def plain_device(source: ImageSource) -> BlockDevice:
    """Return everything that QEMU needs to open an image in a format without options."""
    return BlockDevice(source.format.value)


class ExportedLayer:
    """An image that QEMU exports; ``inspect`` checks its header before QEMU sees the file.

    ``device`` returns everything that QEMU needs to open the image. ``file``: the image's file, if it is open
    already; it is closed with this layer, or if an error is raised.
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
        """Return the export of the file, started or not; until :meth:`close` this layer is one of its users."""
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
        """List the runs of data now, unless their list is kept."""
        _ = self._disk

    def start(self) -> None:
        """Start the export now, so that workers forked later share it."""
        with self._shared_export().connection():
            pass

    @cached_property
    def _disk(self) -> _DiskRuns:
        """The size of the disk and its runs of data, as kept for this state of the file, or listed now."""
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
        """Bytes of the disk, as QEMU reports them."""
        return self._disk.size

    @property
    def backing(self) -> None:
        """No backing file: an export shows only the image's own data."""
        return None

    @property
    def other_files(self) -> tuple[str, ...]:
        """No other files: the image is a single file."""
        return ()

    @property
    def losses(self) -> Losses:
        """Encryption, if any: these formats have no snapshots and no bitmaps that QEMU knows of."""
        return Losses(encryption=self._source.secret_file is not None)

    def inspect(self, *, refcounts: bool = False) -> None:
        """Do nothing: the header has been inspected, and only QEMU interprets the rest."""

    def parts(self, start: int, end: int) -> list[Segment]:
        """Return segments as :class:`~batchdiff.image.layer.Layer` describes them; none is ever ABSENT."""
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
        """Return the first offset, ``start`` or later, in a run of data; None if there is none."""
        _, starts, ends = self._disk
        index = int(np.searchsorted(ends, start, side="right"))
        return max(int(starts[index]), start) if index < len(starts) else None

    def read(self, segment: Segment, buffer: memoryview) -> None:
        """Read an EXPORTED segment.

        :raises ImageError: QEMU cannot be started, cannot read the segment, has ended, or does not answer in time.
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
        """Return the file's current fingerprint."""
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
    """Collect runs of data, and join adjacent ones; the last of ``_MOST_LISTED`` runs may include holes."""
    table = array("q")
    for start, end in runs:
        if table and (table[-1] == start or len(table) >= 2 * _MOST_LISTED):
            table[-1] = end
        else:
            table.extend((start, end))
    starts, ends = np.frombuffer(table, dtype=np.int64).reshape(-1, 2).T.copy()
    return _DiskRuns(size, starts, ends)


def _keep(key: _Key, found: _DiskRuns) -> None:
    _kept[key] = found
    while len(_kept) > 1 and sum(len(each.starts) for each in _kept.values()) > _MOST_LISTED:
        with suppress(KeyError, StopIteration):
            del _kept[next(iter(_kept))]
