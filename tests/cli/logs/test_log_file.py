"""The log has everything that a command did, in a form that can be recognized, and never ends up in another file.

Guards cli/logs/log_file.py, cli/logs/session_log.py, cli/console.py.
"""

import io
import os
import re
import stat

import pytest
from access import as_user
from commands import Fleet, run_here
from filesystems import tmpfs
from plans import guest_plan, small_plan

from batchdiff.cli.console import Console
from batchdiff.cli.logs import session_log
from batchdiff.cli.logs.log_file import LogFile, open_log
from batchdiff.errors import UsageError
from batchdiff.plan.file import write_plan

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \d+ (.*)")


def logged(path) -> list[str]:
    """The lines of a log, without their beginnings; every line must have one."""
    found = [LINE.fullmatch(line) for line in path.read_text().splitlines()]
    assert all(found)
    return [line[1] for line in found]


@pytest.fixture
def plan(tmp_path, monkeypatch):
    write_plan(small_plan(guest_plan("web01")), str(tmp_path / "fleet.plan.json"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "fleet.plan.json"


def test_everything_that_apply_did_is_logged_although_it_is_quiet(tmp_path, monkeypatch):
    folder = tmp_path / "fleet"
    folder.mkdir()
    fleet = Fleet(folder)
    fleet.plan_here()
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "a b.log"
    log.write_text("2026-01-01T00:00:00Z 1 an earlier line\n")
    printed = run_here("apply", folder / "fleet.plan.json", "-q", "--json", "--log-file", "a b.log", "-j", 1)
    assert '"event"' in printed
    lines = logged(log)
    assert lines[:2] == [
        "an earlier line",
        f"command: batchdiff apply {folder}/fleet.plan.json -q --json --log-file 'a b.log' -j 1",
    ]
    assert re.fullmatch(
        rf"in {tmp_path}, by user \d+; batchdiff \S+, Python \S+, Linux \S+, qemu-img \d\S+", lines[2]
    )
    steps = ["checked", "written", "verified", "published", "converted"]
    assert [line for line in lines if line.startswith("raw: ")] == [f"raw: {step}" for step in steps]
    assert any(line.startswith("4 guests: 4 converted.") for line in lines)
    assert re.fullmatch(r"exit code 0 after \d+\.\d s", lines[-1])


def test_an_error_and_its_exit_code_are_logged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no such file" in run_here("show", tmp_path / "none", "--log-file", "x.log", expect=5).lower()
    lines = logged(tmp_path / "x.log")
    assert lines[2].startswith("cannot read the plan")
    assert lines[-1].startswith("exit code 5 after ")


def test_its_mode_is_that_of_a_plan(tmp_path):
    before = os.umask(0o027)
    try:
        open_log(str(tmp_path / "x.log"), [])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.log").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("fleet.plan.json", "the command uses that name"),
        ("fleet.plan.json.journal", "the command uses that name"),
        ("./fleet.plan.json.partial", "the command uses that name"),
        ("new.qcow2", "the name new.qcow2 has the suffix of an image"),
        ("vm.img.batchdiff-original", "the name vm.img.batchdiff-original has the suffix of an image"),
        ("image", "does not start like a log"),
        ("link", "it is a symbolic link"),
        ("fifo", "it is not a regular file"),
        (".", "it is not a regular file"),
        ("/dev/null", "it is not a regular file"),
    ],
)
def test_another_file_is_refused_and_unchanged(plan, capsys, name, why):
    (plan.parent / "image").write_bytes(b"QFI\xfb" + bytes(512))
    (plan.parent / "other").write_text("2026-01-01T00:00:00Z 1 a log behind a link\n")
    (plan.parent / "link").symlink_to("other")
    os.mkfifo(plan.parent / "fifo")
    before = {path: path.read_bytes() for path in plan.parent.iterdir() if path.is_file()}
    text = run_here("status", plan, "--log-file", name, expect=2)
    assert f"cannot use {name} as the log: " in text
    assert why in text
    assert {path: path.read_bytes() for path in plan.parent.iterdir() if path.is_file()} == before


def test_a_file_that_may_be_written_but_not_read_is_refused(tmp_path):
    """It could be any file."""
    tmp_path.chmod(0o777)
    other, new = tmp_path / "other", tmp_path / "new.log"
    other.write_text("another file")
    new.write_text("")
    for path in (other, new):
        path.chmod(0o202)
    why = "may not read /other, which belongs to .* and has mode 202, so batchdiff cannot recognise it as a log"
    with pytest.raises(UsageError, match=why):
        as_user(3001, tmp_path, lambda: open_log("/other", []).append("x"))
    assert other.read_text() == "another file"
    assert as_user(3001, tmp_path, lambda: open_log("/new.log", []).append("x")) == ""


def test_a_plan_that_will_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fleet.yaml").write_text("version: 1\n")
    for name in ("fleet.plan.json", "fleet.plan.json.journal"):
        assert "uses that name" in run_here("plan", "fleet.yaml", "--log-file", name, expect=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fleet.yaml"]


def test_an_unwritable_log_is_a_warning(plan):
    text = run_here("status", plan, "--log-file", "no/such/folder.log")
    assert "warning: cannot write the log no/such/folder.log: " in text
    assert "web01 planned" in text
    assert text.count("warning: cannot write the log") == 1


def test_a_full_disk_ends_the_log_and_not_the_command(plan, tmp_path):
    with tmpfs(tmp_path, "size=64k") as disk:
        log = disk / "x.log"
        log.write_text("2026-01-01T00:00:00Z 1 an earlier line\n")
        free = os.statvfs(disk)
        with open(disk / "filler", "wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, free.f_bavail * free.f_frsize)
        log.write_text("2026-01-01T00:00:00Z 1 an earlier line" + " " * 4000 + "\n")
        text = run_here("status", plan, "--log-file", log)
    assert f"warning: cannot write the log {log}: " in text
    assert text.count("warning: cannot write") == 1
    assert "web01 planned" in text


def test_a_file_that_replaces_the_log_is_not_written_to(tmp_path, monkeypatch):
    log = tmp_path / "x.log"
    log.write_text("")
    before = os.lstat(log)
    (tmp_path / "other").write_text("another file")
    (tmp_path / "other").rename(log)
    monkeypatch.setattr(os, "lstat", lambda _: before)
    with pytest.raises(UsageError, match="replaced it"):
        open_log(str(log), [])
    assert log.read_text() == "another file"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("qemu+ssh://root:hunter2@host/system", "qemu+ssh://root:***@host/system"),
        ("<graphics type='vnc' passwd='hunter2'/>", "<graphics type='vnc' passwd=***/>"),
        ('passwd="hunter2" x', "passwd=*** x"),
        ("https://host/a:b", "https://host/a:b"),
        ("a\x1b[31m red\u202e", r"a\x1b[31m red\u202e"),
        ("\udcff", r"\udcff"),
        ("x" * ((1 << 20) + 1), "(a text of 1048577 characters is left out)"),
    ],
)
def test_nothing_secret_or_misleading_is_logged(tmp_path, text, line):
    log = open_log(str(tmp_path / "x.log"), [])
    log.append(text)
    assert logged(tmp_path / "x.log") == [line]


def test_a_message_of_several_lines_has_a_time_on_each(tmp_path):
    log = open_log(str(tmp_path / "x.log"), [])
    log.append("a\n\nb\n2026-01-01T00:00:00Z 1 forged")
    assert logged(tmp_path / "x.log") == ["a", "", "b", "2026-01-01T00:00:00Z 1 forged"]


def test_an_answer_is_logged(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    Console(log_file=open_log(str(tmp_path / "x.log"), [])).ask("Type yes to continue: ")
    assert logged(tmp_path / "x.log") == ["Type yes to continue: yes"]


@pytest.mark.parametrize("verb", ["schema", "show", "status", "validate"])
def test_a_verb_that_needs_no_qemu_does_not_ask_for_its_version(tmp_path, monkeypatch, verb):
    monkeypatch.setattr(session_log, "installed_version", lambda: pytest.fail("it was asked"))
    assert "qemu-img" not in session_log.first_lines(verb, [verb])


def test_a_command_in_a_deleted_folder(tmp_path, monkeypatch):
    """If all its paths are absolute, it works there, and so does its log."""
    deleted = tmp_path / "deleted"
    deleted.mkdir()
    monkeypatch.chdir(deleted)
    deleted.rmdir()
    run_here("schema", "plan", "--log-file", tmp_path / "x.log")
    assert logged(tmp_path / "x.log")[1].startswith("in a deleted folder, by user ")


def test_why_it_ends_is_reported_once(tmp_path):
    log = LogFile("x.log", os.open(tmp_path, os.O_RDONLY))
    assert [bool(log.append("a")), bool(log.append("b"))] == [True, False]
