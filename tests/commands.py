"""Runs batchdiff as its users do, in a process of its own (see ``fork_server``), on small fleets."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import notation
import pytest
from _pytest.mark import ParameterSet
from event_checks import COMMON, check_events
from fork_server import fork_server
from oracle import assert_same

from batchdiff.cli import main

COMMAND = (sys.executable, "-m", "batchdiff")
TEMPLATE = "2M:A 1M:- 2M:B 1M:0 2M:C"
GUESTS = {
    "raw.img": "2M:A 512k:- 512k:X 2M:B 1M:0 1M:C 64k:0 960k:C",
    "thick.qcow2": "2M:A 1M:- 100k:Y 1948k:B 1M:0 2M:C",
    "large.img": f"{TEMPLATE} 1M:- 100k:Z",
    "same.img": TEMPLATE,
}
MANIFEST = """\
version: 1
template: {path: template.img, format: raw}
defaults: {format: raw}
guests:
  - path: raw.img
  - {path: thick.qcow2, format: qcow2}
  - {path: large.img, overlay: {cluster_size: auto}}
  - path: same.img
"""
OVERLAYS = {
    "raw.img": "raw.qcow2",
    "thick.qcow2": "thick.overlay.qcow2",
    "large.img": "large.qcow2",
    "same.img": "same.qcow2",
}


def batchdiff(*arguments: object, cwd: Path, expect: int | None = 0, path: str | None = None, **options) -> Done:
    """Runs a command that must end with that exit code, and without any traceback."""
    environment = os.environ | {"PATH": path or os.environ["PATH"]} | options.pop("env", {})
    done = _run(list(map(str, arguments)), cwd, environment, {"timeout": 120} | options)
    assert_no_traceback(done.stderr + done.stdout)
    said = f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert expect is None or done.returncode == expect, said
    if "--json" in arguments:
        check_events(done.stdout, done.returncode)
    return done


def _run(arguments: list[str], folder: Path, environment: dict[str, str], options: dict) -> Done:
    with fork_server().reserved(environment) as is_ours:
        if is_ours and options.keys() == {"timeout"}:
            return fork_server().run(arguments, folder, environment, options["timeout"])
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        **({"stdin": subprocess.DEVNULL} | options),
    )


def on_terminal(*arguments: str, cwd: Path, typed: bytes = b"", at: bytes = b"") -> tuple[int, str]:
    """Runs a command whose stdin and stderr are a terminal; returns its exit code and what the terminal shows.

    ``typed``: at once, or once the terminal shows ``at``.
    """
    ours, theirs = os.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", *COMMAND, *arguments],  # its own terminal, so that Ctrl-C there is a signal to it
        cwd=cwd,
        env=os.environ | {"TERM": "dumb"},  # without a bar
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the end is an error (EIO)
            while True:
                if typed and at in shown:
                    os.write(ours, typed)
                    typed = b""
                assert select.select([ours], [], [], 60)[0], shown
                shown += os.read(ours, 65536)
    os.close(ours)
    text = shown.decode(errors="replace").replace("\r\n", "\n")
    assert_no_traceback(text)
    return process.returncode, text


def run_here(verb: str, document: Path, *arguments: object, expect: int | None = 0) -> str:
    """Runs a command without a process of its own, in a third of the time; returns its output, in one line."""
    handler, said = signal.getsignal(signal.SIGTERM), io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main.run([verb, str(document), *map(str, arguments)])
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert expect is None or code == expect, said.getvalue()
    return " ".join(said.getvalue().split())


Done = subprocess.CompletedProcess[str]


def assert_no_traceback(text: str) -> None:
    """What a user, a disk or an image causes is told in words."""
    assert "Traceback" not in text, text
    assert "Exception ignored" not in text, text


def events(done: Done) -> list[dict]:
    """The objects that a command with ``--json`` printed, but not those that all commands print, nor times."""
    found = [event for event in check_events(done.stdout) if event["event"] not in COMMON]
    return [{name: value for name, value in event.items() if name != "time"} for event in found]


class Fleet:
    """A folder with a template, four guests and their manifest."""

    def __init__(self, folder: Path, manifest: str = MANIFEST) -> None:
        self.folder = folder
        notation.write_raw(folder / "template.img", TEMPLATE)
        for name, text in GUESTS.items():
            (notation.write_qcow2 if name.endswith("qcow2") else notation.write_raw)(folder / name, text)
        self.write_manifest(manifest)

    def write_manifest(self, text: str) -> None:
        (self.folder / "fleet.yaml").write_text(text)

    def plan(self, *arguments: object, expect: int | None = 0, **options) -> Done:
        return batchdiff("plan", "fleet.yaml", *arguments, cwd=self.folder, expect=expect, **options)

    def show(self, *arguments: object, expect: int | None = 0, **options) -> Done:
        return batchdiff("show", "fleet.plan.json", *arguments, cwd=self.folder, expect=expect, **options)

    def plan_here(self, expect: int = 0) -> None:
        """Plans without a process of its own, in a tenth of the time: for tests of what comes after the plan."""
        handler, said = signal.getsignal(signal.SIGTERM), io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                code = main.run(["plan", str(self.folder / "fleet.yaml"), "-q", "-j", "1"])
        finally:
            signal.signal(signal.SIGTERM, handler)
        assert code == expect, said.getvalue()

    def apply(self, *arguments: object, expect: int | None = 0, **options) -> Done:
        return batchdiff("apply", "fleet.plan.json", *arguments, cwd=self.folder, expect=expect, **options)

    @property
    def document(self) -> dict:
        """The plan as it stands in its file."""
        return json.loads((self.folder / "fleet.plan.json").read_text())

    def names(self) -> set[str]:
        """The files of the folder."""
        return {path.name for path in self.folder.iterdir()}

    def state(self) -> dict[str, tuple[str, int, int]]:
        """Hash, mode and time of change of every file."""
        return {
            path.name: (
                hashlib.sha256(path.read_bytes()).hexdigest(),
                path.stat().st_mode,
                path.stat().st_mtime_ns,
            )
            for path in self.folder.iterdir()
        }

    def assert_converted(self, *guests: str) -> None:
        """QEMU finds no error in the overlays, and in each the content that its guest had."""
        for name in guests or GUESTS:
            overlay = self.folder / OVERLAYS[name]
            assert "No errors were found" in notation.run("qemu-img", "check", str(overlay))
            assert_same(notation.qemu_content(overlay, "qcow2"), notation.content(GUESTS[name]))

    def assert_not_converted(self, *guests: str) -> None:
        """The guests are whole, and nothing is where their overlays would be."""
        for name in guests:
            assert not (self.folder / OVERLAYS[name]).exists()
            form = "qcow2" if name.endswith("qcow2") else "raw"
            assert_same(notation.qemu_content(self.folder / name, form), notation.content(GUESTS[name]))


def rarely(*cases: object) -> list[ParameterSet]:
    """Cases of a parametrized test that run with the slow tests only."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.long) for case in cases
    ]


def without_qemu(folder: Path) -> str:
    """A PATH on which there is no qemu-img."""
    empty = folder / "no programs here"
    empty.mkdir(exist_ok=True)
    return str(empty)
