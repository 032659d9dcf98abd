"""The cost of a plan with very many extents: to make it, with and without the scan, to show it, to load it."""

from __future__ import annotations

import sys

from bench.contestants import JOBS, PLAN, batchdiff, plan_path, restored
from bench.examinations import SHOW
from bench.fleets import Fleet
from bench.limit import read_limit
from bench.report import Race, Series
from bench.running import Run, timed

BUT_THE_SCAN = "plan, all but the scan"
LOAD = "load the plan"

_LOAD = "import sys; from batchdiff.plan.file import read_plan; read_plan(sys.argv[1])"
"""Apply does this before anything else."""


def large_plan(fleet: Fleet, rounds: int) -> Race:
    """Time a plan with and without its scan, showing it, and loading it, in rounds, each with a new plan.

    Both times of planning come from the same run.
    """
    read_limit(fleet.images, JOBS)
    runs = [_round(fleet) for _ in range(rounds)]
    series = tuple(
        Series(name, tuple(round(run[name].seconds, 4) for run in runs), max(run[name].resident for run in runs))
        for name in (PLAN, BUT_THE_SCAN, SHOW, LOAD)
    )
    return Race("extents", fleet.what, "warm", series)


def _round(fleet: Fleet) -> dict[str, Run]:
    path = plan_path(fleet)
    seconds = f"{path}.seconds"
    with restored(fleet):
        argv = [sys.executable, "-m", "bench.scan_time", seconds]
        plan = timed([*argv, "plan", "-q", "-j", str(JOBS), "-o", path, fleet.manifest])
        with open(seconds, encoding="ascii") as file:
            without = Run(plan.seconds - float(file.read()), plan.resident)
        show, load = map(timed, (batchdiff("show", path), [sys.executable, "-c", _LOAD, path]))
    return {PLAN: plan, BUT_THE_SCAN: without, SHOW: show, LOAD: load}
