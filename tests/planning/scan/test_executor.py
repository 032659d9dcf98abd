"""A plan's jobs, tasks and results can go to processes that share nothing with the planner but the images."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from small_fleet import checksum, manifest

from batchdiff.plan.overlay_options import Compression
from batchdiff.planning import planner, scan_all
from batchdiff.planning.planner import make_plan

_WORKER = """
import pickle, sys
job, tasks = pickle.load(sys.stdin.buffer)
with job.begin() as do:
    pickle.dump([do(task) for task in tasks], sys.stdout.buffer)
"""


class Elsewhere:
    """An executor that starts a new Python for every job, and notes the jobs."""

    def __init__(self):
        self.jobs = []

    def __call__(self, job, tasks, **_settings):
        self.jobs.append(type(job).__name__)
        sent = pickle.dumps((job, list(tasks)))
        done = subprocess.run([sys.executable, "-c", _WORKER], input=sent, stdout=subprocess.PIPE, check=True)
        # The last task may be finished first.
        yield from reversed(pickle.loads(done.stdout))


@pytest.mark.parametrize("compression", [Compression.NONE, Compression.ZSTD])
def test_another_executor_makes_the_same_plan(folder, monkeypatch, compression):
    of = manifest(folder, compression=compression)
    expected = checksum(make_plan(of, jobs=2))
    elsewhere = Elsewhere()
    for module in (planner, scan_all):
        monkeypatch.setattr(module, "run_tasks", elsewhere)
    assert checksum(make_plan(of, jobs=1)) == expected
    assert {"ScanJob", "AssessmentJob"} <= set(elsewhere.jobs)
