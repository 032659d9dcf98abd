"""The second reading of guests whose diffs are reused, to find out which blocks they could share.

::

    progress   | scan of all other guests ......... | differing parts of the reused guests and the template |
"""

from __future__ import annotations

from dataclasses import dataclass, field

from batchdiff.planning.scan.refine import RefineJob
from batchdiff.planning.scan.results import Findings
from batchdiff.planning.scan.workers import run_tasks
from batchdiff.planning.scan_all import Progress


@dataclass(slots=True)
class RefinedGuests:
    """Guests whose diffs come from an older plan, and whose differences are read again in units of 4 KiB.

    ``progress`` is called with the bytes of the scan and of this second reading together.
    """

    job: RefineJob
    progress: Progress
    _size: int = field(init=False)
    _of_scan: int = 0

    def __post_init__(self) -> None:
        self._size = sum(self.job.bytes_of(*task) for task in self.job.tasks())

    def scanned(self, done: int, total: int) -> None:
        """Report the progress of the scan."""
        self._of_scan = total
        self.progress(done, total + self._size)

    def run(self, findings: Findings, *, jobs: int) -> None:
        """Read the differences again, and add them or the failures to the findings.

        :raises ImageError: the template cannot be opened.
        :raises WorkerError: a worker fails.
        """
        tasks = self.job.tasks()
        if not tasks:
            return
        done, total = self._of_scan, self._of_scan + self._size
        self.progress(done, total)
        for result in run_tasks(self.job, tasks, workers=min(jobs, len(tasks))):
            if result.failure is None:
                findings.differences.setdefault(result.name, {})[result.stretch] = result.units
            else:
                findings.failures[result.name] = result.failure
            done += self.job.bytes_of(result.name, result.stretch)
            self.progress(done, total)
