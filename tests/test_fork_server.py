"""A command that the fork server starts does what one in a new interpreter does."""

import os
import subprocess

import notation
import pytest
from commands import COMMAND, batchdiff, without_qemu
from fork_server import fork_server

MANIFEST = "version: 1\ntemplate: {path: t.img, format: raw}\nguests: [{path: g.img, format: raw}]\n"


@pytest.fixture
def folder(tmp_path):
    for name in ("t.img", "g.img"):
        notation.write_raw(tmp_path / name, "64k:A 64k:-")
    (tmp_path / "m.yaml").write_text(MANIFEST)
    return tmp_path


@pytest.fixture
def no_new_interpreter(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_arguments, **_options: pytest.fail("it starts a new one"))


@pytest.mark.parametrize(
    "arguments", [("--version",), ("validate", "m.yaml"), ("nonsense",), ("show", "none"), ("validate", "t.img")]
)
def test_what_is_printed_and_returned(folder, arguments):
    anew = subprocess.run(
        [*COMMAND, *arguments], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    done = batchdiff(*arguments, cwd=folder, expect=None)
    assert (done.returncode, done.stdout, done.stderr) == (anew.returncode, anew.stdout, anew.stderr)
    assert done.args != anew.args  # the server ran it


def test_the_umask_and_the_environment_are_those_of_the_test(folder, no_new_interpreter):
    before = os.umask(0o027)
    try:
        batchdiff("plan", "m.yaml", cwd=folder)
    finally:
        os.umask(before)
    assert (folder / "m.plan.json").stat().st_mode & 0o777 == 0o640
    done = batchdiff("apply", "m.plan.json", cwd=folder, path=without_qemu(folder), expect=None)
    assert done.returncode != 0
    assert "qemu-img" in done.stderr


def test_a_command_that_takes_too_long_is_killed_and_the_next_one_runs(folder, no_new_interpreter):
    with pytest.raises(subprocess.TimeoutExpired):
        batchdiff("plan", "m.yaml", cwd=folder, timeout=0)
    assert not (folder / "m.plan.json").exists()
    assert batchdiff("validate", "m.yaml", cwd=folder).returncode == 0


def test_what_needs_a_new_interpreter_gets_one():
    server, environment = fork_server(), dict(os.environ)
    with server.reserved(environment) as is_ours:
        assert is_ours
        with server.reserved(environment) as is_ours_too:
            assert not is_ours_too  # it runs one command at a time
    with server.reserved(environment | {"LC_ALL": "C"}) as is_ours:
        assert not is_ours  # Python would read it when it starts


def test_a_fork_of_the_test_leaves_the_server_alone(monkeypatch):
    server = fork_server()
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as the fork would find it
    with server.reserved(dict(os.environ)) as is_ours:
        assert not is_ours
