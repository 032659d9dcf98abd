import json
import os
import re
import subprocess
import sys

import pytest
from commands import COMMAND, batchdiff, events

from batchdiff import __version__
from batchdiff.cli import main
from batchdiff.cli.logs import crash_report
from batchdiff.errors import BatchdiffError

VERBS = ["plan", "show", "apply", "validate"]


def test_version(tmp_path):
    assert batchdiff("--version", cwd=tmp_path).stdout == f"batchdiff {__version__}\n"


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], *([verb, "-h"] for verb in VERBS)])
def test_help(tmp_path, arguments):
    done = batchdiff(*arguments, cwd=tmp_path)
    assert "usage: batchdiff" in done.stdout
    assert "exit codes" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["unheard-of"],
        ["--json"],
        *([verb] for verb in VERBS),
        *([verb, "x", "y"] for verb in VERBS),
        *([verb, "x", "--unheard-of"] for verb in VERBS),
        ["apply", "x", "--retire", "burn"],
        ["apply", "x", "--verify", "never"],
        ["apply", "x", "--ret", "keep"],
        ["show", "x", "--format", "pdf"],
        ["plan", "x", "--progress", "maybe"],
        ["plan", "x", "--guest"],
    ],
)
def test_a_wrong_command_line(tmp_path, arguments):
    done = batchdiff(*arguments, cwd=tmp_path, expect=2)
    assert done.stdout == ""
    assert "usage: batchdiff" in done.stderr


@pytest.mark.parametrize(("verb", "code"), [("plan", 3), ("validate", 3), ("show", 5), ("apply", 5)])
def test_a_file_that_is_missing(tmp_path, verb, code):
    done = batchdiff(verb, "none", "--json", cwd=tmp_path, expect=code)
    (event,) = events(done)
    assert (event["event"], event["exit_code"]) == ("error", code)
    assert "none" in done.stderr
    assert list(tmp_path.iterdir()) == []


def subclasses(kind):
    return [kind, *(found for each in kind.__subclasses__() for found in subclasses(each))]


@pytest.mark.parametrize("kind", subclasses(BatchdiffError))
def test_every_error_has_its_exit_code(monkeypatch, capsys, kind):
    def fail(*_):
        raise kind("what went wrong", why="the cause", remedy="What to do.")

    monkeypatch.setattr(main, "_verb", fail)
    assert main.run(["validate", "x"]) == kind.exit_code
    said = capsys.readouterr()
    assert "what went wrong: the cause. What to do." in said.err
    assert said.out == ""


def test_exit_codes_are_those_of_the_help(tmp_path):
    text = batchdiff("-h", cwd=tmp_path).stdout
    known = {kind.exit_code for kind in subclasses(BatchdiffError)} | {0, 10, 70, 130}
    assert known == {int(code) for code in re.findall(r"(?<!\S)(\d+) +[a-z]", text.partition("exit codes:")[2])}


def test_nothing_heavy_is_loaded_for_help():
    code = "import sys; import batchdiff.cli.main, batchdiff.cli.arguments; print('numpy.linalg' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True
    )
    assert "jsonschema" not in done.stderr


@pytest.mark.parametrize("options", [["-q"], ["-v"], ["-q", "-v"], ["--progress", "never"]])
def test_errors_are_said_however_quiet(tmp_path, options):
    done = batchdiff("show", "none", *options, cwd=tmp_path, expect=5)
    assert "none" in done.stderr


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["plan", "--help"]])
@pytest.mark.parametrize("buffering", ["", "1"])
def test_help_that_cannot_be_written(tmp_path, arguments, buffering):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONUNBUFFERED": buffering},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "batchdiff: cannot write the output: No space left on device\n"


def test_errors_that_cannot_be_written(tmp_path):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*COMMAND, "show", "none"], cwd=tmp_path, stderr=full, check=False)
    assert done.returncode == 5


@pytest.mark.parametrize(("cause", "code"), [(KeyboardInterrupt(), 130), (RuntimeError("a bug"), 70)], ids=repr)
@pytest.mark.parametrize("is_reported", [True, False])
def test_an_end_whose_message_cannot_be_written(tmp_path, monkeypatch, capsys, cause, code, is_reported):
    """Its exit code and the last event are as usual; is_reported: whether a crash report can be written."""

    def fail(*_):
        raise cause

    monkeypatch.setattr(main, "_verb", fail)
    monkeypatch.setattr(crash_report, "folders_for", lambda _: [str(tmp_path)] if is_reported else [])
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert main.run(["schema", "plan", "--json"]) == code
        monkeypatch.undo()
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["event"], summary["exit_code"]) == ("summary", code)


def test_memory_that_is_short(monkeypatch, capsys):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(main, "_verb", fail)
    assert main.run(["validate", "x"]) == 1
    assert "out of memory. Free some" in capsys.readouterr().err
