"""Open planned images again only while they are needed, because the number of open files is limited.

::

    a limit of 256     | ours | workers' pipes | template |  files of the guests of one batch  |

Each batch reads the template again. An image can be changed or replaced while it is closed, so its fingerprints
are compared each time it is reopened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from batchdiff.errors import ImageError
from batchdiff.files.descriptors import free_descriptors
from batchdiff.files.fingerprint import NO_FILE, fingerprint_at
from batchdiff.image.files import ReadObserver
from batchdiff.image.image import Image
from batchdiff.image.open import open_image
from batchdiff.image_source import ImageSource
from batchdiff.plan.plan import PlannedImage

_OURS = 12
"""Descriptors for files other than images: /proc, folders, the checkpoint."""

_OF_A_WORKER = 3
"""The planner's descriptors for a worker: its pipe, and two that multiprocessing keeps."""


class Budget(NamedTuple):
    """The maximum numbers of processes, and of guests' files that each has open."""

    jobs: int
    files: int


def budget(jobs: int, template_files: int) -> Budget:
    """Divide the free descriptors; allow at least one job and one file."""
    free = free_descriptors() - _OURS - template_files
    jobs = max(min(jobs, free // (2 * _OF_A_WORKER)), 1)
    return Budget(jobs, max(free - (jobs * _OF_A_WORKER if jobs > 1 else 0), 1))


def batches(guests: Sequence[str], files: Mapping[str, int], most: int) -> Iterator[tuple[str, ...]]:
    """Divide guests into batches of at most ``most`` files.

    A guest with more is a batch of its own. If there are no guests, there is one empty batch.
    """
    batch: list[str] = []
    used = 0
    for guest in guests:
        if batch and used + files[guest] > most:
            yield tuple(batch)
            batch, used = [], 0
        batch.append(guest)
        used += files[guest]
    yield tuple(batch)


def reopen(record: PlannedImage, observer: ReadObserver | None = None) -> Image:
    """Open a planned image again.

    :raises ImageError: it has changed since it was first opened, or cannot be opened.
    """
    try:
        image = open_image(record.source, observer=observer)
    except ImageError as error:
        # A change is the likely cause of the error, so report the change.
        now = tuple(fingerprint_at(path) or NO_FILE for path in record.paths)
        if NO_FILE not in now and (changes := record.changes(now)):
            raise changed_meanwhile(changes) from error
        raise
    changes = record.changes(image.fingerprints())
    if changes:
        image.close()
        raise changed_meanwhile(changes)
    return image


Files = tuple[tuple[int, int], ...]
"""Device (-1: any) and inode of each file of a chain: while a file is open, no other file has the same pair."""


def files_of(image: Image) -> Files:
    """Return the files of an image's chain."""
    return tuple((each.device, each.inode) for each in image.fingerprints())


_ANY_DEVICE = -1


def on_any_device(files: Files) -> Files:
    """Return the files without their devices, whose numbers may differ between hosts."""
    return tuple((_ANY_DEVICE, inode) for _, inode in files)


def open_same_files(source: ImageSource, files: Files, observer: ReadObserver | None = None) -> Image:
    """Open an image, and check that its chain consists of the given files.

    :raises ImageError: it consists of different files, or cannot be opened.
    """
    image = open_image(source, observer=observer)
    found = files_of(image)
    if files not in {found, on_any_device(found)}:
        image.close()
        each = zip(image.source.files, found, files, strict=False)
        moved = (path for path, now, then in each if then not in {now, (_ANY_DEVICE, now[1])})
        path = next(moved, source.path)
        raise ImageError(
            f"another file took the place of {path} while this command was running",
            path=path,
            remedy="Find out what moved the file or mounted something over it, and run the same command again.",
        )
    return image


def changed_meanwhile(changes: str) -> ImageError:
    """Return the error for an image that has changed since it was first opened."""
    why = f"it changed while this command was running ({changes})"
    return ImageError(f"{why}. Shut down any VM that uses it, and run the same command again")
