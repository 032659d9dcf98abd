"""What is said to whom, and what happens to those who cannot be told."""

import contextlib
import datetime as dt
import io
import json
import os
import sys
import types

import plans
import pytest

from batchdiff.applying.results.outcome import GuestOutcome, Status
from batchdiff.cli import run_session
from batchdiff.cli.console import Console, ProgressMode
from batchdiff.errors import BatchdiffError, UsageError

SAID = {"say": "a message", "detail": "a detail", "warn": "batchdiff: a warning"}


@pytest.mark.parametrize(
    ("verbosity", "kinds"), [(-1, ["warn"]), (0, ["say", "warn"]), (1, ["say", "detail", "warn"])]
)
def test_how_much_is_said(capsys, verbosity, kinds):
    console = Console(verbosity)
    console.say("a message")
    console.detail("a detail")
    console.warn("a warning")
    console.result("a result")
    console.event("nobody asked for it")
    said = capsys.readouterr()
    assert said.err.splitlines() == [SAID[kind] for kind in kinds]
    assert said.out == "a result\n"


def test_a_name_in_an_error_cannot_forge_a_line(capsys):
    Console(0).error(BatchdiffError("cannot open /srv/x\nbatchdiff: all is well\x1b[2J"))
    assert capsys.readouterr().err == "batchdiff: cannot open /srv/x\\nbatchdiff: all is well\\x1b[2J\n"


def test_a_program_gets_events_instead_of_results(capsys):
    console = Console(json=True)
    console.result("a result")
    console.event("valid", guests=["web01"])
    console.error(BatchdiffError("what went wrong", why="the cause", remedy="What to do."))
    said = capsys.readouterr()
    found = [json.loads(line) for line in said.out.splitlines()]
    assert found[0] == {"event": "valid", "time": found[0]["time"], "guests": ["web01"]}
    assert abs(dt.datetime.fromisoformat(found[0]["time"]) - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=5)
    assert (found[1]["event"], found[1]["remedy"], found[1]["exit_code"]) == ("error", "What to do.", 1)
    assert said.err == "batchdiff: what went wrong: the cause. What to do.\n"


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("verbosity", [-1, 0, 1])
@pytest.mark.parametrize("progress", ProgressMode)
@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_when_progress_is_shown(monkeypatch, is_terminal, verbosity, progress, term):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    monkeypatch.setenv("TERM", term)
    expected = {
        ProgressMode.ALWAYS: True,
        ProgressMode.NEVER: False,
        ProgressMode.AUTO: is_terminal and verbosity >= 0 and term != "dumb",
    }
    assert Console(verbosity, progress=progress).shows_progress is expected[progress]


@pytest.mark.parametrize("stdin", [True, False])
@pytest.mark.parametrize("stderr", [True, False])
def test_a_question_must_be_seen_and_answered(monkeypatch, stdin, stderr):
    """With `2>FILE`, the command would wait for the answer to a question that nobody can see."""
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: stdin))
    monkeypatch.setattr(sys, "stderr", types.SimpleNamespace(isatty=lambda: stderr))
    assert Console().can_ask is (stdin and stderr)


def interrupted():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("readline", "end"),
    [(lambda: "no\n", ""), (lambda: "", "\n"), (lambda: "no", "\n"), (interrupted, "\n")],
    ids=["Enter", "Ctrl-D", "Ctrl-D twice", "Ctrl-C"],
)
def test_what_follows_a_question_is_on_its_own_line(monkeypatch, capsys, readline, end):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(readline=readline))
    with contextlib.suppress(KeyboardInterrupt):
        Console().ask("Type yes: ")
    assert capsys.readouterr().err == f"Type yes: {end}"


@pytest.fixture
def stdout_is(monkeypatch):
    """Puts a descriptor in the place of stdout, as a shell's redirection does."""
    opened = []

    def use(fd):
        stream = os.fdopen(fd, "w")
        opened.append(stream)
        monkeypatch.setattr(sys, "stdout", stream)

    yield use
    for stream in opened:
        stream.close()


def test_a_reader_that_went_away_gets_no_piece_of_it_when_it_comes_back(tmp_path, stdout_is):
    """A named pipe outlives its reader: the next one must not find the end of a line that the first began."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    stdout_is(os.open(fifo, os.O_WRONLY))
    console = Console()
    console.result("read")
    assert os.read(reader, 100) == b"read\n"
    os.close(reader)
    console.result("nobody reads this")
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    console.result("nor this")
    assert os.read(reader, 100) == b""
    os.close(reader)


def test_a_disk_that_is_full_is_said_once(stdout_is):
    """Then the work goes on, and what follows goes nowhere."""
    stdout_is(os.open("/dev/full", os.O_WRONLY))
    console = Console()
    with pytest.raises(UsageError, match="cannot write the output: No space left on device"):
        console.result("x" * 10)
    console.result("y" * 10)
    assert os.readlink(f"/proc/self/fd/{sys.stdout.fileno()}") == os.devnull


@pytest.mark.parametrize("one_terminal", [True, False])
def test_on_one_terminal_a_reason_is_printed_once(monkeypatch, capsys, one_terminal):
    """There the result follows, which has it; elsewhere the two are read by different people or programs."""
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: one_terminal)
    announcer = run_session.Announcer(Console(), plans.guest_plan().source, "fleet.plan.json")
    announcer.report_guest(
        plans.guest_plan(), GuestOutcome("web01", Status.FAILED, "the disk is full", exit_code=1)
    )
    announcer.report_guest(plans.guest_plan(), GuestOutcome("web02", Status.RESTORED, remarks=("lost its flags",)))
    said = capsys.readouterr().err
    assert "web01: failed" in said
    assert ("web02: restored" in said) == (not one_terminal)
    assert ("the disk is full" in said, "lost its flags" in said) == (not one_terminal, not one_terminal)
