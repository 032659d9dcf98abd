"""The names that the completion of a shell asks for come from a plan alone, quickly, and one on each line.

Guards cli/verbs/guest_names.py, plan/head.py.
"""

import json
import os
import subprocess
import sys

import pytest
from commands import batchdiff
from plans import guest_plan, refused_guest, small_plan

from batchdiff.cli.main import GUEST_NAMES
from batchdiff.plan import head
from batchdiff.plan.file import write_plan

NAMES = ["web01", 'q"q', "back\\slash", "ü 1", "$(touch x)", "-n", "x" * 3000]


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "my plan.json"
    write_plan(small_plan(*(guest_plan(name) for name in NAMES), refused_guest("no", "why")), str(path))
    return path


def names(folder, *words) -> list[str]:
    done = batchdiff(GUEST_NAMES, *words, cwd=folder)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "words",
    [
        ["batchdiff", "verify", "my plan.json", "--guest", ""],
        ["batchdiff verify my\\ plan.json --guest w"],
        ["batchdiff verify 'my plan.json' --guest 'w"],
        ['batchdiff verify "my plan.json" --guest "w'],
        ["batchdiff", "--guest", "w", "~/my plan.json"],
    ],
)
def test_the_plan_is_found_in_the_words(plan, words):
    done = batchdiff(GUEST_NAMES, *words, cwd=plan.parent, env={"HOME": str(plan.parent)})
    assert done.stdout.splitlines() == [*NAMES, "no"]


def test_nothing_else_is_read(plan):
    os.mkfifo(plan.parent / "fifo")
    (plan.parent / "other.json").write_text('{"guests": [\n  {"name": "x"}]}')
    (plan.parent / "sub").mkdir()
    assert names(plan.parent, "batchdiff show fifo other.json sub none $(touch x) `touch x` /dev/zero '") == []
    assert not (plan.parent / "x").exists()


def test_names_that_do_not_fit_on_a_line_are_left_out(plan):
    text = (
        plan.read_text()
        .replace('"web01"', json.dumps("a\nb"), 1)
        .replace('"q\\"q"', json.dumps("a\x1b]0;b\x07"), 1)
    )
    plan.write_text(text)
    assert names(plan.parent, str(plan))[:1] == ["back\\slash"]


def test_only_the_beginning_of_a_line_counts(plan):
    assert head.guests_named_in(str(plan)) == [*NAMES, "no"]
    assert head.guests_named_in(str(plan.parent)) == []
    plan.write_bytes(plan.read_bytes() + b'  {"name": "\\ud8"}\n')
    assert head.guests_named_in(str(plan)) == []


def test_little_is_loaded(plan):
    code = (
        f"import sys; from batchdiff.cli.main import run; run(['{GUEST_NAMES}', sys.argv[1]]);"
        " print([name for name in ('numpy', 'yaml', 'jsonschema', 'tqdm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, plan], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_help_does_not_have_it():
    assert GUEST_NAMES not in batchdiff("-h", cwd=os.getcwd()).stdout
