"""Image files as descriptors: opened without surprises, read in full, identified."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from batchdiff.errors import ImageError
from batchdiff.files.filenames import check_usable
from batchdiff.files.fingerprint import Fingerprint, fingerprint_of
from batchdiff.files.memory import scratch
from batchdiff.linux.call_failures import explained
from batchdiff.linux.permissions import Deed

_MISSING = {errno.ENOENT, errno.ENOTDIR}

# O_NONBLOCK: opening a FIFO must not wait for its other end.
_READ_ONLY = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


class ReadObserver(Protocol):
    """Told of every read of an image in this process."""

    def before(self, fd: int, offset: int, length: int) -> None:
        """Bytes ``offset`` to ``offset + length`` of a file will be read; may wait."""

    def after(self, fd: int, offset: int, length: int) -> None:
        """They were read, or could not be."""

    def settle(self) -> None:
        """A piece of work is done: nothing more will be read that belongs to it."""


_observers: list[ReadObserver] = []
"""Of this process and those that it forks; read-only outside of observed_reads."""


@contextmanager
def observed_reads(observer: ReadObserver) -> Iterator[None]:
    """Inside, an observer is told of every read: one place knows them all, tables and packed clusters too."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.pop()


def settle_reads() -> None:
    """Tells the observers that a piece of work is done."""
    for observer in _observers:
        observer.settle()


def read_sequentially(fd: int) -> None:
    """Tells the kernel to read further ahead.

    Measured with a cold cache: four images of 1 GiB on a disk of 250 MB/s were scanned in 0.82 and 0.79 of the
    time, of 256 MiB on one of 1 GB/s in the same.
    """
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)


def open_image_file(path: str) -> int:
    """Return a read-only descriptor of a regular file or block device.

    A symbolic link is followed only to a block device: /dev/vg/lv lasts, the /dev/dm-3 behind it does not.

    :raises ImageError: it is missing, something else, or may not be read.
    """
    try:
        check_usable(path)
        fd = _opened(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise ImageError(f"cannot open {path!r}", why=str(error), remedy="Correct the path.") from error
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        os.close(fd)
        raise ImageError(
            f"cannot use {path}",
            why="it is neither a regular file nor a block device",
            remedy="Put the image itself there, or give the path of the image.",
        )
    return fd


def _opened(path: str) -> int:
    try:
        return os.open(path, _READ_ONLY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP and (device := _device_behind(path)) is not None:
            return device
        raise


def _device_behind(link: str) -> int | None:
    """Return a descriptor of the block device that a symbolic link leads to; None if it leads to something else.

    :raises OSError: there is nothing, or it may not be read.
    """
    # O_PATH opens nothing yet: opening some devices has effects. What is looked at is also what is opened then,
    # whatever becomes of the link meanwhile.
    found = os.open(link, os.O_PATH | os.O_CLOEXEC)
    try:
        return os.open(f"/proc/self/fd/{found}", _READ_ONLY) if is_block_device(found) else None
    finally:
        os.close(found)


def _unreadable(path: str, error: OSError) -> ImageError:
    if error.errno in _MISSING and os.path.islink(path):
        return ImageError(
            f"cannot open {path}",
            why="it is a symbolic link that leads nowhere",
            remedy="If it names a volume, activate that; else correct the path.",
        )
    if error.errno in _MISSING:
        remedy = "Bring it back. If it was moved, docs/moving.md says how to go on."
        return ImageError(f"cannot open {path}", why=error.strerror or str(error), remedy=remedy)
    if error.errno == errno.ELOOP:
        return ImageError(
            f"cannot open {path}",
            why="it is a symbolic link, which is followed only if it leads to a block device",
            remedy="Put the file itself there, or name it by its own path.",
        )
    fault = explained(error, Deed.READ, path)
    return ImageError(f"cannot open {path}", why=fault.why, remedy=fault.remedy)


def content_size(fd: int) -> int:
    """Bytes of a file or block device."""
    info = os.fstat(fd)
    return os.lseek(fd, 0, os.SEEK_END) if stat.S_ISBLK(info.st_mode) else info.st_size


def is_block_device(fd: int) -> bool:
    """Whether a descriptor is of a block device."""
    return stat.S_ISBLK(os.fstat(fd).st_mode)


def identify(fd: int) -> Fingerprint:
    """The fingerprint of an open file."""
    return fingerprint_of(fd, content_size(fd))


def failed_read(path: str, offset: int, error: OSError) -> ImageError:
    """What to raise where the disk below an open image fails."""
    return ImageError(
        f"cannot read {path} at byte {offset}",
        why=error.strerror or str(error),
        remedy="The disk or the filesystem below it has a fault: see the kernel log (`dmesg`).",
    )


def read_into(fd: int, buffer: memoryview, offset: int, path: str) -> int:
    """Bytes read into ``buffer`` from ``offset`` on: all of them, or fewer at the end of the file.

    :raises ImageError: the disk cannot give them.
    """
    done = 0
    for observer in _observers:
        observer.before(fd, offset, len(buffer))
    try:
        while done < len(buffer):
            got = os.preadv(fd, [buffer[done:] if done else buffer], offset + done)
            if got == 0:
                break
            done += got
    except OSError as error:
        raise failed_read(path, offset + done, error) from error
    finally:
        for observer in _observers:
            observer.after(fd, offset, len(buffer))
    return done


def read_exactly(fd: int, length: int, offset: int, path: str) -> bytes:
    """``length`` bytes from ``offset`` on.

    :raises ImageError: the file ends before, or the disk cannot give them.
    """
    buffer = scratch(length)
    fill_from(fd, buffer, offset, path)
    return bytes(buffer)


def fill_from(fd: int, buffer: memoryview, offset: int, path: str) -> None:
    """Fills ``buffer`` with the bytes from ``offset`` on.

    :raises ImageError: the file ends before, or the disk cannot give them.
    """
    if read_into(fd, buffer, offset, path) != len(buffer):
        raise ImageError(
            f"cannot read {path} at byte {offset}",
            why=f"it ends before byte {offset + len(buffer)}: it is truncated, or changed while it was read",
            remedy="If nothing is writing to it, bring it back from a backup.",
        )


def data_runs(fd: int, start: int, end: int, path: str) -> Iterator[tuple[int, int]]:
    """Where data begins and ends, for all of it that begins at ``start`` or later and before ``end``.

    :raises ImageError: the filesystem cannot tell.
    """
    at = start
    try:
        while at < end and (first := os.lseek(fd, at, os.SEEK_DATA)) < end:
            at = os.lseek(fd, first, os.SEEK_HOLE)
            yield first, at
    except OSError as error:
        if error.errno != errno.ENXIO:  # there is no more data
            raise failed_read(path, at, error) from error


def seek(fd: int, start: int, whence: int, path: str) -> int | None:
    """Where the next data or hole is; None past the end of the file, or of its last data.

    :raises ImageError: the filesystem cannot tell.
    """
    try:
        return os.lseek(fd, start, whence)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise failed_read(path, start, error) from error
