"""Run the jobs that find frames and read probes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from batchdiff.errors import ImageError
from batchdiff.estimation.frame import Frame
from batchdiff.estimation.guest_sample import GuestSample, bytes_to_read
from batchdiff.estimation.jobs import Fleet, FrameJob, ProbeJob, ProbeTask
from batchdiff.image.image import Image
from batchdiff.planning.scan.executor import Job, Result, Task
from batchdiff.planning.scan.exports import exports
from batchdiff.planning.scan.workers import run_tasks

NO_ESTIMATE = "No estimate was made."
"""The outcome of a command whose worker fails."""

_PROBES_OF_A_TASK = 64
_EXPORTS = 32
"""The maximum number of guests exported at the same time."""


class Sampler:
    """The sampler of a fleet.

    ``progress`` is called with ``done``, and with the value that ``done`` will have when no probe is pending.
    """

    def __init__(
        self,
        template: Image,
        fleet: Fleet,
        exported: Sequence[str],
        *,
        jobs: int,
        progress: Callable[[int, int], None],
    ) -> None:
        """``exported``: the guests that QEMU must export. ``jobs``: the maximum number of workers."""
        self._template, self._fleet, self._jobs, self._progress = template, fleet, jobs, progress
        self._exported = exported
        self.done = 0
        """Bytes, as :func:`bytes_to_read` counts them."""

    def frames(self) -> dict[str, Frame | ImageError]:
        """Return the frame of each guest, or the error that prevented it.

        :raises ImageError: the template cannot be used.
        :raises WorkerError: a worker failed.
        """
        tasks = {name: [name] for name in self._fleet.guests}
        return dict(self._results(FrameJob(self._fleet), tasks))

    def read(self, samples: Mapping[str, GuestSample]) -> dict[str, ImageError]:
        """Read the pending probes; return an error for each guest that cannot be read.

        :raises ImageError: the template cannot be used.
        :raises WorkerError: a worker failed.
        """
        tasks = {name: list(_tasks(name, sample)) for name, sample in samples.items()}
        total = self.done + self.wanted(samples)
        failures: dict[str, ImageError] = {}
        self._progress(self.done, total)
        for task, contents in self._results(ProbeJob(self._fleet), tasks):
            if isinstance(contents, ImageError):
                failures[task.name] = contents
            else:
                samples[task.name].classes[task.kind].add(task.indices, contents)
            self.done += self._bytes_of(task, samples)
            self._progress(self.done, total)
        return failures

    @staticmethod
    def wanted(samples: Mapping[str, GuestSample]) -> int:
        """Return the maximum number of bytes to read for the pending probes."""
        return sum(
            bytes_to_read(kind, len(indices), sample.frame)
            for sample in samples.values()
            for kind, indices in sample.pending()
        )

    @staticmethod
    def _bytes_of(task: ProbeTask, samples: Mapping[str, GuestSample]) -> int:
        return bytes_to_read(task.kind, len(task.indices), samples[task.name].frame)

    def _results(self, job: Job[Task, Result], tasks: Mapping[str, Sequence[Task]]) -> Iterator[Result]:
        """Run all tasks; guests that need an export come last, in batches."""
        exported = [name for name in tasks if name in self._exported]
        plain = [name for name in tasks if name not in self._exported]
        batches = [plain, *(exported[at : at + _EXPORTS] for at in range(0, len(exported), _EXPORTS))]
        for names in batches:
            wanted = [task for name in names for task in tasks[name]]
            if wanted:
                records = [self._fleet.guests[name].record for name in names if name in self._exported]
                with exports(self._template, records, self._fleet.observer):
                    yield from run_tasks(job, wanted, workers=min(self._jobs, len(wanted)), outcome=NO_ESTIMATE)


def _tasks(name: str, sample: GuestSample) -> Iterator[ProbeTask]:
    for kind, indices in sample.pending():
        numbers = sample.frame.numbers(kind)
        for at in range(0, len(indices), _PROBES_OF_A_TASK):
            some = indices[at : at + _PROBES_OF_A_TASK]
            yield ProbeTask(name, sample.pricing, kind, some, numbers[some])
