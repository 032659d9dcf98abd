"""The options of ``plan`` for a scan on several hosts, and the command with workers of a real scheduler.

Guards cli/options/scheduler_options.py, cli/new_plan/scheduler.py, planning/remote/connection.py.
"""

import json
import logging
import signal
import socket
import subprocess
import sys

import pytest
from access import as_user
from commands import COMMAND, Fleet, batchdiff, events, run_here
from dask_hosts import scheduler, worker

from batchdiff.errors import UsageError
from batchdiff.planning.remote import connection


@pytest.fixture
def fleet(tmp_path):
    (tmp_path / "images").mkdir()
    return Fleet(tmp_path / "images")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tls-key", "a.key"], "cannot use --tls-key without --scheduler"),
        (["--trust-network"], "cannot use --trust-network without --scheduler"),
        (["--scheduler", "planner"], '"planner" is not the address of a scheduler'),
        (["--scheduler", "tcp://127.0.0.1:0"], '"tcp://127.0.0.1:0" is not the address of a scheduler'),
        (["--scheduler", "tcp://10.0.0.1"], "anyone on the network could run programs as you"),
        (["--scheduler", "tcp://localhost:1", "--idle"], "nice -n 19 ionice -c 3 dask worker"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, said):
    """They are refused before the manifest is read, which does not exist."""
    assert said in run_here("plan", tmp_path / "none.yaml", *options, expect=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "tls:// needs certificates"),
        (["--tls-ca-file", "a.pem"], "tls:// needs certificates"),
        (["--tls-ca-file", "{0}/a.pem", "--tls-cert", "{0}/b.pem"], "a.pem cannot be used: there is no such file"),
        (["--tls-ca-file", "{0}/fleet.yaml", "--tls-cert", "{0}/fleet.yaml"], "the certificates cannot be used: "),
    ],
)
def test_certificates_that_cannot_be_used(fleet, options, said):
    words = [option.format(fleet.folder) for option in options]
    found = run_here("plan", fleet.folder / "fleet.yaml", "--scheduler", "tls://127.0.0.1:1", *words, expect=2)
    assert said in found


def test_a_certificate_that_may_not_be_read(tmp_path):
    """It is not said to be missing, and the remedy is about permissions."""
    tmp_path.chmod(0o755)
    (tmp_path / "closed").mkdir(mode=0o700)
    for name in ("closed/a.pem", "b.pem"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o600)
    for path, why in (("/closed/a.pem", "may not enter the folder /closed,"), ("/b.pem", "may not read /b.pem,")):
        files = connection.Certificates(path, path)
        with pytest.raises(UsageError, match=f"{path} cannot be used: .*{why}") as caught:
            as_user(3001, tmp_path, lambda files=files: connection._security(files) and None)
        assert caught.value.remedy.startswith("Run the same command as a user with that permission")


def test_a_peer_that_never_answers(fleet, monkeypatch):
    """It accepts connections, as a scheduler that hangs does."""
    monkeypatch.setattr(connection, "_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as peer:
        address = f"tcp://127.0.0.1:{peer.getsockname()[1]}"
        found = run_here("plan", fleet.folder / "fleet.yaml", "--scheduler", address, expect=4)
    assert f"cannot connect to the scheduler at {address}" in found


def test_nobody_listens(fleet, monkeypatch):
    monkeypatch.setattr(connection, "_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as peer:
        address = f"tcp://127.0.0.1:{peer.getsockname()[1]}"
    found = run_here("plan", fleet.folder / "fleet.yaml", "--scheduler", address, expect=4)
    assert f"cannot connect to the scheduler at {address}: Connection refused. Check" in found


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(113, "No route to host"), "No route to host"),
        (OSError("in <TCP: x>: OSError: [Errno 113] No route to host"), "No route to host"),
        (OSError("in <TCP: x>: the peer has hung up"), "the peer has hung up"),
        (OSError(), "it did not answer within 10 s"),
    ],
)
def test_why_dask_cannot_connect(fleet, monkeypatch, error, why):
    def greet(*_):
        raise error

    monkeypatch.setattr(connection, "_greet", greet)
    with socket.create_server(("127.0.0.1", 0)) as peer:
        address = f"tcp://127.0.0.1:{peer.getsockname()[1]}"
        found = run_here("plan", fleet.folder / "fleet.yaml", "--scheduler", address, expect=4)
    assert f"cannot connect to the scheduler at {address}: {why}. Check" in found


def test_what_dask_logs_is_not_printed():
    """As when Ctrl-C comes while the planner waits for the scheduler: Dask logs a traceback of its own.

    Its configuration gives tornado.application a level of its own.
    """
    connection._be_quiet()
    names = ("distributed", "distributed.client", "distributed.gc", "tornado", "tornado.application", "asyncio")
    assert [name for name in names if logging.getLogger(name).isEnabledFor(logging.CRITICAL)] == []


def test_without_dask(fleet, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("batchdiff.planning.remote.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "distributed", None)
    found = run_here("plan", fleet.folder / "fleet.yaml", "--scheduler", "tcp://localhost:1", expect=2)
    assert "pip install 'distributed>=2024.1'" in found


def test_a_plan_by_workers_interrupted_and_made(fleet, tmp_path):
    """Ctrl-C ends it at once; the same command then makes the plan that this host alone would make."""
    fleet.plan("-o", "here.json", "-q")
    with scheduler(tmp_path) as found, worker(found, tmp_path / "w"):
        argv = ["plan", "fleet.yaml", "--scheduler", found.address]
        slow = [*COMMAND, *argv, "--limit-rate", "1MiB"]
        with subprocess.Popen(slow, cwd=fleet.folder, stderr=subprocess.PIPE, text=True) as planner:
            first = planner.stderr.readline()
            planner.send_signal(signal.SIGINT)
            rest = planner.stderr.read()
        assert first.endswith(" sees the same files, and takes part.\n")
        assert rest == "batchdiff: interrupted; run the same command again\n"
        assert planner.returncode == 130
        done = batchdiff(*argv, "--json", cwd=fleet.folder)
    assert [event["event"] for event in events(done)] == ["plan"]
    here = json.loads((fleet.folder / "here.json").read_text())
    assert fleet.document["checksum"] == here["checksum"]
