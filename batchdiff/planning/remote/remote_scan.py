"""The scan of ranges on other hosts.

::

    planner    RemoteScanJob: images as values, proofs, limits
                     |  pickled
    worker     objection()  enough descriptors? the same files? does it see shared blocks if the planner does?
               begin()      images opened here, by the same paths, with a rate limit of this worker's own
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from batchdiff.errors import BatchdiffError, ImageError
from batchdiff.files.descriptors import free_descriptors, raise_descriptor_limit
from batchdiff.frozen import frozen
from batchdiff.image.image import Image
from batchdiff.image.open import open_image
from batchdiff.image.storage.shared_blocks import has_shared_extents
from batchdiff.plan.plan import PlannedImage
from batchdiff.planning.remote.file_proof import FileProof, objection_to, proofs_of
from batchdiff.planning.scan.executor import RemoteExecutor
from batchdiff.planning.scan.reopening import on_any_device
from batchdiff.planning.scan.results import RangeResult
from batchdiff.planning.scan.scan_job import ScanJob
from batchdiff.throttle.options import ScanLimits
from batchdiff.throttle.throttle import throttle

_SPARE_FILES = 16


@frozen
class RemoteScanJob:
    """A scan on hosts that see the files of ``proofs``; a task is the number of a range.

    ``limits`` apply to each worker separately.
    """

    scan: ScanJob
    proofs: tuple[FileProof, ...]
    limits: ScanLimits

    def objection(self) -> str:
        """Return why this host cannot scan these images; empty if it can."""
        raise_descriptor_limit()
        needed, free = len(self.proofs) + _SPARE_FILES, free_descriptors()
        if free < needed:
            return f"it can open only {free} of the {needed} files that the scan needs (`ulimit -n`)"
        return objection_to(self.proofs) or self._hides_blocks()

    def _hides_blocks(self) -> str:
        """Return an objection if this host must see shared blocks but cannot; otherwise empty.

        Bytes in blocks known to be shared are not read but assumed to be data. A host that reads them may get
        other figures.
        """
        if not self.scan.sharing or None not in self.scan.shared:
            return ""
        try:
            with open_image(self.scan.template) as template:
                if has_shared_extents(template):
                    return ""
        except BatchdiffError as error:
            return error.reason
        return (
            "its mount does not show which blocks the images share (FIEMAP), but the planner's does, so the"
            " figures would differ. Plan on a host that mounts the storage as this worker does"
        )

    @contextmanager
    def begin(self, check: Callable[[], None] = lambda: None) -> Iterator[Callable[[int], RangeResult]]:
        """Open the images here, and yield the function that scans a range.

        :raises ImageError: the template cannot be opened.
        """
        with throttle(self.limits, check=check) as observer:
            here = replace(self.scan, files=on_any_device(self.scan.files), observer=observer)
            with here.begin() as scan:
                yield scan

    def describe(self, number: int) -> str:
        """Describe the scan of a range."""
        return self.scan.describe(number)


@frozen
class RemoteScans:
    """The scan of ranges by workers on other hosts."""

    executor: RemoteExecutor
    limits: ScanLimits

    def results(self, scan: ScanJob, template: Image, numbers: list[int]) -> Iterator[RangeResult]:
        """Yield the results of ranges in the order in which they are finished.

        A guest counts as unreadable only if it cannot be read here: a worker's host may have a fault of its own.

        :raises ImageError: the template cannot be read, or has changed.
        :raises WorkerError: the workers cannot finish the scan.
        """
        scan, proofs = _proven(scan, template)
        job = RemoteScanJob(replace(scan, observer=None), proofs, self.limits)
        with ExitStack() as opened:
            here: Callable[[int], RangeResult] | None = None
            unreadable = {number for number, guest in enumerate(scan.guests) if isinstance(guest, ImageError)}
            for result in self.executor(job, numbers):
                if result.failures.keys() <= unreadable:
                    yield result
                    continue
                here = here or opened.enter_context(scan.begin())
                again = here(result.number)
                unreadable |= again.failures.keys()
                yield again

    def close(self) -> None:
        """Close the connection to the workers."""
        self.executor.close()


def _proven(scan: ScanJob, template: Image) -> tuple[ScanJob, tuple[FileProof, ...]]:
    """Return the scan and its proofs; errors take the place of guests whose files have no proofs."""
    now = PlannedImage(template.source, template.virtual_size, template.fingerprints())
    records = [guest for guest in scan.guests if isinstance(guest, PlannedImage)]
    proofs, failures = proofs_of([now, *records], seed=int.from_bytes(os.urandom(8)))

    def proven(image: PlannedImage | ImageError) -> PlannedImage | ImageError:
        paths = () if isinstance(image, ImageError) else image.paths
        return next((failures[path] for path in paths if path in failures), image)

    if isinstance(error := proven(now), ImageError):
        raise error
    return replace(scan, guests=tuple(map(proven, scan.guests))), proofs
