"""What reading a plan of many runs takes: counted, not timed."""

import os
import tracemalloc

from plans import large_plan

from batchdiff.plan import runs as plan_runs
from batchdiff.plan.file import read_for_report, write_plan
from batchdiff.plan.runs import match


class Counting:
    """A pattern that counts how often it is asked for."""

    def __init__(self, pattern):
        self.pattern, self.count = pattern, 0

    def match(self, text, at):
        self.count += 1
        return self.pattern.match(text, at)


def listed(runs, comma=","):
    return f"[{comma.join(f'[{10 * number}{comma}1]' for number in range(runs))}]"


def test_runs_as_batchdiff_writes_them_are_not_searched_for_white_space(monkeypatch):
    with_space = Counting(plan_runs._SOME)
    monkeypatch.setattr(plan_runs, "_SOME", with_space)
    text = listed(20_000)
    found, end = match(text, 0)
    assert (found.text, end) == (text, len(text))
    assert with_space.count == 1  # at the last run, which no comma follows


def test_runs_with_white_space_here_and_there_are_read_too():
    text = f"{listed(1500)[:-1]}, {listed(1500, ' , ')[1:-1]},{listed(1500)[1:]}"
    found, end = match(text, 0)
    assert (found.text, end) == (text.replace(" ", ""), len(text))


def test_the_bytes_of_a_plan_are_not_kept_beside_its_text(tmp_path):
    path = tmp_path / "fleet.plan.json"
    write_plan(large_plan(tmp_path, guests=20, runs=5000), str(path))
    read_for_report(str(path))
    tracemalloc.start()
    try:
        read_for_report(str(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * os.path.getsize(path)  # the text and the runs; with the bytes it was 3.3 times
