"""Plans of large fleets are written, shown and loaded within seconds, in little memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchdiff.units import GIB, KIB

TESTS = Path(__file__).parents[1]
WRITE = """
import sys, time
from batchdiff.plan.file import write_plan
from plans import large_plan
plan = large_plan(sys.argv[1], guests=int(sys.argv[2]), runs=int(sys.argv[3]))
start = time.process_time()
write_plan(plan, sys.argv[1] + "/fleet.plan.json")
print(time.process_time() - start)
"""


def measured(folder, *argv, expect=0):
    """What a Python program says, its seconds, and its largest resident memory in bytes.

    The seconds are the processor's: what else runs on the machine says nothing of the plan.
    """
    with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:
        child = subprocess.Popen(
            [sys.executable, *argv], stdout=out, stderr=err, env=os.environ | {"PYTHONPATH": str(TESTS)}
        )
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    errors = (folder / "err").read_text()
    assert child.returncode == expect, errors
    seconds = usage.ru_utime + usage.ru_stime
    return (folder / "out").read_text() + errors, seconds, usage.ru_maxrss * KIB


@pytest.mark.parametrize(("guests", "runs"), [(20, 500), pytest.param(1000, 10_000, marks=pytest.mark.long)])
def test_a_large_plan_is_written_shown_and_loaded_in_time(tmp_path, guests, runs):
    (tmp_path / "here").mkdir()
    plan = str(tmp_path / "here" / "fleet.plan.json")
    text, _, memory = measured(tmp_path, "-c", WRITE, str(tmp_path / "here"), str(guests), str(runs))
    steps = {"write": (float(text), memory)}
    for form in ("text", "json"):
        text, *steps[form] = measured(tmp_path, "-m", "batchdiff", "show", plan, "--format", form)
        assert f"guest-{guests - 1:04}" in text
    # The template is not there, which apply finds once it has the whole plan.
    text, *steps["apply"] = measured(tmp_path, "-m", "batchdiff", "apply", plan, expect=4)
    assert "template.qcow2" in text
    for step, (seconds, memory) in steps.items():
        print(f"{step}: {seconds:.1f} s, {memory / 2**20:.0f} MiB")
        assert seconds < 10, step
        assert memory < GIB, step
