"""A bug leaves its traceback in a new file that can be sent to strangers, and the message names it.

Guards cli/logs/crash_report.py.
"""

import argparse
import json
import os
import re
import signal
import stat

import pytest
from plans import guest_plan, small_plan

from batchdiff.cli import main
from batchdiff.cli.logs import crash_report
from batchdiff.plan.file import write_plan

NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}\.batchdiff-crash")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with a plan; every verb has a bug."""
    home = tmp_path / "plans"
    home.mkdir()
    (tmp_path / "temporary").mkdir()
    write_plan(small_plan(guest_plan("web01")), str(home / "fleet.plan.json"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(main, "_verb", bug)
    handler = signal.getsignal(signal.SIGTERM)
    yield home
    signal.signal(signal.SIGTERM, handler)


def bug(*_):
    try:
        int(b"secret\x00bytes" * 9)
    except ValueError as error:
        raise KeyError("x") from error


def reports(folder):
    return [path for path in folder.iterdir() if path.name.endswith(".batchdiff-crash")]


def test_the_traceback_is_beside_the_plan(folder, capsys):
    assert main.run(["status", "plans/fleet.plan.json"]) == 70
    (report,) = reports(folder)
    assert NAME.fullmatch(report.name)
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    assert capsys.readouterr().err == (
        "batchdiff: this is a bug in batchdiff (KeyError: 'x'); no original was deleted without a verified"
        f" overlay. Traceback: {report}. Please report the bug and attach that file, which contains your command"
        " and the code that failed, but no image data and no secrets.\n"
    )
    text = report.read_text()
    assert "command: batchdiff status plans/fleet.plan.json\n" in text
    assert re.search(r"^batchdiff \S+, Python 3\.\d+\.\d+, Linux ", text, re.MULTILINE)
    assert re.search(r"^libraries: .*numpy \d+\.", text, re.MULTILINE)
    assert text.index("ValueError: invalid literal for int() with base 10: (data left out)") < text.index(
        "KeyError: 'x'"
    )
    assert text.count("Traceback (most recent call last):") == 2
    assert 'raise KeyError("x")' in text
    assert "secret" not in text.replace('int(b"secret', "")


def test_each_has_a_name_of_its_own(folder):
    for _ in range(3):
        main.run(["status", "plans/fleet.plan.json"])
    assert len(reports(folder)) == 3


def test_an_event_is_printed_too(capsys):
    assert main.run(["status", "plans/fleet.plan.json", "--json"]) == 70
    lines = map(json.loads, capsys.readouterr().out.splitlines())
    (event,) = [line for line in lines if line["event"] == "error"]
    assert event["exit_code"] == 70
    assert "KeyError: 'x'" in event["message"]


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["plan", "plans/m.yaml"], "plans"),
        (["plan", "-", "-o", "plans/p.json"], "plans"),
        (["plan", "plans/m.yaml", "-o", "temporary/p.json"], "temporary"),
        (["plan", "/dev/fd/0", "-o", "/dev/stdout"], "temporary"),
        (["status", "none/p.json"], "temporary"),
        (["doctor"], "temporary"),
    ],
)
def test_the_folder_of_other_verbs(tmp_path, arguments, where):
    assert main.run(arguments) == 70
    other = {"plans": "temporary", "temporary": "plans"}[where]
    assert len(reports(tmp_path / where)) == 1
    assert reports(tmp_path / other) == []


@pytest.mark.parametrize(
    ("path", "folders"),
    [("/dev/shm/p.json", []), ("/proc/p.json", []), ("/dev/p.json", []), ("/developer/p.json", ["/developer"])],
)
def test_a_folder_is_not_judged_by_the_beginning_of_its_name(tmp_path, path, folders):
    arguments = argparse.Namespace(plan=path)
    assert crash_report.folders_for(arguments) == [*folders, str(tmp_path / "temporary")]


def test_a_deleted_working_folder_does_not_hide_the_bug(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert crash_report.folders_for(argparse.Namespace(plan="p.json")) == [str(tmp_path / "temporary")]


def test_without_any_folder_it_is_printed(folder, capsys, monkeypatch):
    monkeypatch.setattr(crash_report, "write_crash_report", lambda *_: None)
    assert main.run(["status", "plans/fleet.plan.json"]) == 70
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert "Please report the bug and include the lines above" in said
    assert "secret" not in said.replace('int(b"secret', "").replace("no secrets", "")


def test_nothing_is_replaced_and_no_link_followed(folder, monkeypatch):
    monkeypatch.setattr(os, "urandom", bytes)
    monkeypatch.setattr(crash_report, "time_now", lambda: "2026-01-01T00:00:00Z")
    first = crash_report.write_crash_report("a", [str(folder)])
    assert crash_report.write_crash_report("b", [str(folder)]) is None
    os.unlink(first)
    os.symlink(folder / "fleet.plan.json", first)
    assert crash_report.write_crash_report("b", [str(folder)]) is None
    assert (folder / "fleet.plan.json").read_text().startswith('{"format_version"')


def test_a_full_disk_leaves_no_part_of_it(folder, tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("builtins.open", full)
    assert crash_report.write_crash_report("a", [str(folder)]) is None
    monkeypatch.undo()
    assert reports(folder) == []


class MuteError(Exception):
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError(f"invalid literal: {b'data'!r} and {bytearray(b'it is')!r}"), "(data left out)"),
        (ValueError(f"{b'a' + bytes([39]) + b'secret'!r}!"), "(data left out)!"),
        (ValueError("array([1, 2, (3)], dtype=uint8) x"), "(data left out) x"),
        (ValueError(str(list(range(100)))), "ValueError: (data left out)"),
        (ValueError("bad qemu+tcp://user:secret@host/system"), "bad qemu+tcp://user:***@host/system"),
        (MuteError(), "MuteError: (it has no message)"),
        (ValueError("x" * 100_000), "x"),
    ],
)
def test_no_data_is_in_a_message(error, line):
    text = crash_report.exception_line(error)
    assert line in text
    assert "secret" not in text
    assert len(text) < 21_000


def test_a_circle_of_causes_ends():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert crash_report.crash_text(first, "x").count("Traceback") == 2
