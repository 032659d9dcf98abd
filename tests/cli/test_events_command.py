"""Events as a program reads them: while a command runs, from every verb, and however badly it reads them.

Guards cli/console.py.
"""

import datetime as dt
import json
import os
import re
import signal
import subprocess

import fake_judge
import pytest
from commands import COMMAND, GUESTS, batchdiff
from event_checks import check_events
from real_holders import wait_for

SLOW = 'for part in 0 2 4 6 8 9; do printf "    (%s0.00/100%%)\\r" $part; sleep 0.5; done'
"""A judge that takes three seconds to compare, and prints percentages as qemu-img does."""


def test_every_verb_from_the_first_event_to_the_last(planned):
    """The function that runs them checks all that they print against the schema, here as in all tests."""
    folder = planned.folder
    plan, both = "fleet.plan.json", ("--guest", "raw", "--guest", "large")
    runs = [
        ("plan", "fleet.yaml", "-o", "other.json"),
        ("show", plan),
        ("status", plan),
        ("apply", plan, "--retire", "quarantine"),
        ("verify", plan),
        ("purge", plan, "--dry-run", *both),
        ("restore", plan, "--guest", "raw"),
        ("purge", plan, "--yes", "--guest", "large"),
    ]
    measured = {"plan", "apply", "verify", "purge", "restore"}
    for verb, *arguments in runs:
        found = check_events(batchdiff(verb, *arguments, "--json", cwd=folder).stdout, 0)
        assert found[0]["verb"] == verb
        progress = [event for event in found if event["event"] == "progress"]
        assert bool(progress) == (verb in measured)
        if progress:
            assert progress[0]["bytes_done"] == 0
            assert (progress[0]["step"] == "open") == (verb == "plan")
            assert found.index(progress[0]) <= 2
            counted = [event["bytes_total"] for event in progress if event["step"] != "open"]
            assert len(set(counted)) == 1
        times = [dt.datetime.fromisoformat(event["time"]) for event in found]
        assert times == sorted(times)
        assert all(re.fullmatch(r".+T.+\.\d{6}Z", event["time"]) for event in found)


def running(folder, *arguments, path=None, **options):
    return subprocess.Popen(
        [*COMMAND, *arguments, "--json"],
        cwd=folder,
        env=os.environ | ({"PATH": path} if path else {}),
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options),
    )


def test_qemus_percentages_while_it_compares(planned):
    path = fake_judge.install(planned.folder, f"[ $1 = compare ] || exit 0\n{SLOW}\nexit 0")
    with running(planned.folder, "apply", "fleet.plan.json", "--guest", "raw", path=path) as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    found = [event for event in check_events(out, 0) if event["event"] == "progress"]
    range_progress = [event for event in found if event["step"] == "verify" and event["guest"] == "raw"]
    assert 2 <= len(range_progress) <= found[-1]["seconds_elapsed"] + 2  # at most one a second
    done = [event["guest_bytes_done"] for event in range_progress]
    assert done == sorted(done)
    assert len(set(done)) > 1
    assert any(event["seconds_remaining"] for event in range_progress)


def _all(fd, process):
    os.set_blocking(fd, True)
    found = b""
    while piece := os.read(fd, 4096):
        found += piece
    assert process.wait(60) is not None
    return found.decode()


def test_a_reader_that_does_not_read_stops_no_apply(planned):
    """Every guest is converted while not even the first event fits into the pipe; then all of them are read."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    filled = 0
    while True:
        try:
            filled += os.write(writer, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(writer, True)
    try:
        with running(planned.folder, "apply", "fleet.plan.json", stdout=writer, stderr=writer) as process:
            os.close(writer)
            wait_for(lambda: "fleet.plan.json.journal" in planned.names() and _published(planned) == len(GUESTS))
            assert process.poll() is None  # it waits, but only at its very end
            text = _all(reader, process)[filled:]
            assert process.returncode == 0
    finally:
        os.close(reader)
    lines = [line for line in text.splitlines() if line.startswith('{"event"')]
    assert [json.loads(line)["event"] for line in lines][-1] == "summary"
    planned.assert_converted()


def _published(fleet):
    return (fleet.folder / "fleet.plan.json.journal").read_text().count('"published"')


def test_a_reader_that_goes_away_stops_no_apply(planned):
    with running(planned.folder, "apply", "fleet.plan.json") as process:
        process.stdout.readline()
        process.stdout.close()
        process.stderr.read()
        assert process.wait(60) == 0
    planned.assert_converted()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_a_summary(planned, number):
    path = fake_judge.install(planned.folder, fake_judge.COMPARES)
    with fake_judge.applying(planned.folder, path, "--json") as (process, _):
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    found = check_events(out, 130)
    assert [event["event"] for event in found[-3:]] == ["progress", "error", "summary"]
    assert found[-3]["percent_done"] < 100


def test_a_plan_that_is_interrupted_ends_with_a_summary(fleet):
    """Even if a signal arrives where Python turns it into an exception."""
    os.mkfifo(fleet.folder / "manifest")
    with running(fleet.folder, "plan", "manifest", "-o", "x.json") as process:
        process.stdout.readline()  # the first event
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    (last,) = [json.loads(line) for line in out.splitlines()]
    assert (last["event"], last["exit_code"]) == ("summary", 130)


def test_guests_that_fail_are_in_the_summary(planned):
    (planned.folder / "raw.img").write_bytes(b"")
    (planned.folder / "large.img").unlink()
    done = batchdiff("apply", "fleet.plan.json", "--json", cwd=planned.folder, expect=None)
    found = check_events(done.stdout, done.returncode)
    assert found[-1]["guests"] == {"failed": 2, "converted": 2}
    progress = [event for event in found if event["event"] == "progress"]
    assert progress[-1]["percent_done"] == 100


def test_a_full_disk_behind_stderr(planned):
    """The error precedes the summary, which has the exit code."""
    options = ("fleet.yaml", "-o", "new.json", "--progress", "always")
    with open("/dev/full", "w") as full, running(planned.folder, "plan", *options, stderr=full) as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    found = check_events(out, 2)
    assert [event["event"] for event in found[-2:]] == ["error", "summary"]


@pytest.mark.parametrize("verb", ["plan", "apply"])
def test_a_full_disk_behind_stdout(planned, verb):
    """The work is done, and the exit code does not claim that all was reported."""
    name = "fleet.yaml" if verb == "plan" else "fleet.plan.json"
    options = ("-o", "new.json") if verb == "plan" else ()
    with open("/dev/full", "w") as full, running(planned.folder, verb, name, *options, stdout=full) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "cannot write the output: No space left on device" in err
    if verb == "plan":
        assert "new.json" in planned.names()
    else:
        planned.assert_converted()
