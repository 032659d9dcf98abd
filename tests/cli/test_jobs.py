"""How many guests the verbs that work on a plan have under way at once."""

import subprocess

import notation
from commands import COMMAND, batchdiff

CODE = """\
import os, runpy, sys
from batchdiff.applying import health_check as examination
from batchdiff.applying import apply as executor
from batchdiff.applying import pipeline
from batchdiff.applying import undo as undoing
os.sched_setaffinity(0, eval(sys.argv.pop(1)))
def run_swaps(guests, task_of, run, *, at_once):
    os.write(2, b"at once: %d\\n" % at_once)
    return pipeline.run_swaps(guests, task_of, run, at_once=at_once)
executor.run_swaps = undoing.run_swaps = run_swaps
real = examination.ThreadPoolExecutor
examination.ThreadPoolExecutor = lambda number: (os.write(2, b"at once: %d\\n" % number), real(number))[1]
runpy.run_module("batchdiff", run_name="__main__")
"""


CASES = (
    ({0}, ["apply"], 1),
    ({0, 1}, ["apply", "--retire", "quarantine"], 2),
    ({0}, ["verify", "-j", "3"], 3),
    ({0, 1}, ["verify"], 2),
    ({0}, ["restore", "--jobs", "4"], 4),
    ({0}, ["apply", "-j", "5", "--retire", "quarantine", "--guest", "vm"], 5),
    ({0, 1}, ["purge", "-y"], 2),
)
"""CPUs, a command, and how many guests it has in progress at once. Each finds what the one before it left."""


def test_one_for_each_cpu_or_as_asked_for(tmp_path):
    notation.write_raw(tmp_path / "template.img", "256k:A 768k:B")
    notation.write_raw(tmp_path / "vm.img", "256k:A 64k:X 704k:B")
    (tmp_path / "fleet.yaml").write_text(
        "version: 1\ntemplate: {path: template.img, format: raw}\nguests: [{path: vm.img, format: raw}]\n"
    )
    batchdiff("plan", "fleet.yaml", "-q", cwd=tmp_path)
    for cpus, (verb, *rest), at_once in CASES:
        argv = [COMMAND[0], "-c", CODE, repr(cpus), verb, "fleet.plan.json", *rest]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, f"at once: {at_once}\n" in done.stderr) == (0, True), (verb, rest, done.stderr)
