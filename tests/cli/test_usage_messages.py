"""The exact text of refusals of a command line, before anything is done (cli/)."""

from __future__ import annotations

import errno
import io
import signal
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import notation
import pytest
from plans import guest_plan, planned_image, refused_guest, small_plan

from batchdiff.applying.guests.converted_elsewhere import require_done_here
from batchdiff.applying.journal.records import History
from batchdiff.applying.results.finding import Finding, Health
from batchdiff.applying.results.outcome import GuestOutcome, Status
from batchdiff.applying.session import plan_journal
from batchdiff.choices import Verdict
from batchdiff.cli import main, run_session
from batchdiff.cli.confirm import Question, confirm
from batchdiff.cli.console import Console
from batchdiff.cli.verbs import verify
from batchdiff.errors import BatchdiffError, GuestError, PlanError, StopError, UsageError
from batchdiff.files import descriptors
from batchdiff.plan.file import read_plan, write_plan

MANIFEST = """\
version: 1
template: {path: t.img, format: raw}
guests: [{path: b.img, format: raw}, {path: a.img, format: raw}]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Iterator[Path]:
    """Work in a folder with a manifest, its images, and a plan of other images that are not there."""
    for name in ("t", "a", "b"):
        notation.write_raw(tmp_path / f"{name}.img", "64k:A")
    (tmp_path / "fleet.yaml").write_text(MANIFEST)
    write_plan(small_plan(guest_plan("web01"), guest_plan("db01")), str(tmp_path / "old.json"))
    (tmp_path / "other.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    handler = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, handler)


COMMANDS = {
    "plan fleet.yaml --guest nope": ("the manifest has no guest called 'nope'. Its guests are: a, b."),
    "plan -": (
        "the plan has no default name: the manifest comes from stdin or a pipe. Add `-o PLAN`, such as `-o"
        " fleet.plan.json`."
    ),
    "plan fleet.yaml -o other.json": ("other.json exists and is not a plan. Choose another place with `-o`."),
    "plan fleet.yaml -o x/p.json": (
        "cannot write the plan to {folder}/x: there is no such folder. Choose another place with `-o`."
    ),
    "plan fleet.yaml -o t.img/p.json": (
        "cannot write the plan to {folder}/t.img: it is not a folder. Choose another place with `-o`."
    ),
    "discover . -o x/m.yaml": ("cannot write to x/m.yaml: there is no folder {folder}/x. Create it first."),
    "discover . -o t.img/m.yaml": (
        "cannot write to t.img/m.yaml: {folder}/t.img is not a folder. Name a file in another folder."
    ),
    "plan fleet.yaml -o .": ". is not a regular file. Choose another place with `-o`.",
    "show old.json -o fleet.yaml": (
        "cannot write the report to fleet.yaml: it already exists, and files are never replaced. Name another"
        " file."
    ),
    "apply old.json --guest nope": ("the plan has no guest called 'nope'. Its guests are: db01, web01."),
    "apply old.json --guest= --guest nope": (
        "the plan has no guest called '' or 'nope'. Its guests are: db01, web01."
    ),
    "apply old.json --retire delete --verify native": (
        "originals are deleted only after full verification. Leave `--verify` out, or use `--retire keep` or"
        " `--retire quarantine`."
    ),
    "purge old.json --map images": (
        "cannot use `--map` with the plan old.json: 'images' does not have the form OLD=NEW, as in"
        " /images=/fast/images. `batchdiff show old.json --format json` prints the plan's paths."
    ),
}


@pytest.mark.parametrize(("command", "message"), COMMANDS.items(), ids=COMMANDS)
def test_a_command_that_is_refused(folder, capsys, command, message):
    assert main.run(command.split()) == 2
    assert capsys.readouterr().err == f"batchdiff: {message.format(folder=folder)}\n"


def message(caught: pytest.ExceptionInfo[BatchdiffError]) -> str:
    return str(caught.value)


def test_a_question_without_a_terminal():
    with pytest.raises(UsageError) as caught:
        confirm(Console(), "purge", Question("a", ["b"], "The originals stay in quarantine."))
    assert message(caught) == (
        "`batchdiff purge` asks for confirmation, but there is no terminal to ask on. Add `--yes` to continue"
        " without being asked. The originals stay in quarantine."
    )


def test_guests_that_another_plan_converted():
    plan = small_plan(refused_guest("web01", "done by /srv/old.json", verdict=Verdict.SKIP))
    with pytest.raises(UsageError) as caught:
        require_done_here(plan, ["web01"], "restore")
    assert message(caught) == (
        "this plan did not convert web01: web01 was converted by /srv/old.json. Run `batchdiff restore"
        " /srv/old.json --guest web01`."
    )


def test_a_plan_that_was_replaced_meanwhile():
    with pytest.raises(PlanError) as caught:
        plan_journal._require_still_there("old.json", small_plan(guest_plan("c", image=planned_image("/c"))))
    assert message(caught) == (
        "old.json has been replaced by another plan. Review it with `batchdiff show old.json`, then run the same"
        " command again."
    )


ARGUMENTS = types.SimpleNamespace(plan="old.json", jobs=1, unseen=False, connect=None)


def ending_with(error: Exception, *outcomes: GuestOutcome) -> run_session.Work:
    """The work of a command that ends with an error after some guests."""

    def work(_session: object) -> Iterator[GuestOutcome]:
        yield from outcomes
        raise error

    return work


@pytest.mark.parametrize(
    ("statuses", "names"),
    [
        ((), "none"),
        ((Status.FAILED, Status.REFUSED, Status.SKIPPED, Status.KEPT), "none"),
        ((Status.CONVERTED, Status.FAILED, Status.UNCHANGED), "g0, g2"),
    ],
)
def test_a_command_that_was_interrupted(statuses, names):
    write_plan(small_plan(*(guest_plan(f"g{at}") for at in range(4))), "old.json")
    work = ending_with(
        StopError("interrupted"), *(GuestOutcome(f"g{at}", status) for at, status in enumerate(statuses))
    )
    with pytest.raises(StopError) as caught:
        run_session.carry_out(Console(), ARGUMENTS, read_plan("old.json"), work)
    assert message(caught) == (
        f"interrupted; completed guests: {names}. No disk was left incomplete. Run the same command again to"
        " continue."
    )


def test_a_command_that_only_reads_and_was_interrupted(monkeypatch, capsys):
    """What it has found so far is told, because no result will follow."""
    plan, found = read_plan("old.json"), []
    with pytest.raises(StopError) as caught:
        run_session.dry_run(Console(), ARGUMENTS, plan, ending_with(StopError("interrupted")), History())
    found.append(message(caught))

    def check_health(*_args: object, **_options: object) -> Iterator[Finding]:
        yield Finding("template", "/t.img", Health.SOUND, "as planned")
        yield Finding("web01", "/a.qcow2", Health.DAMAGED, "it is missing")
        raise StopError("interrupted")

    monkeypatch.setattr(verify, "check_health", check_health)
    arguments = types.SimpleNamespace(**vars(ARGUMENTS), textfile=None, guests=None, moves=[])
    with pytest.raises(StopError) as caught:
        verify.run(Console(), arguments)
    found.append(message(caught))
    assert found == 2 * ["interrupted; nothing was changed. Run the same command again to start over."]
    assert capsys.readouterr().err.endswith("moving.md\nbatchdiff: web01: damaged: it is missing\n")


@pytest.mark.parametrize("on_terminal", [False, True])
@pytest.mark.parametrize("error", [StopError("interrupted"), OSError(errno.EIO, "Input/output error")])
def test_why_guests_failed_before_a_command_ended(monkeypatch, capsys, on_terminal, error):
    """On one terminal, the reasons would have come with the result."""
    monkeypatch.setattr(Console, "is_one_terminal", on_terminal)
    write_plan(small_plan(guest_plan("a"), guest_plan("b")), "old.json")
    outcomes = [
        GuestOutcome("a", Status.FAILED, "No space left on device"),
        GuestOutcome("b", Status.CONVERTED, remarks=("could not keep its ACL",)),
    ]
    with pytest.raises(BatchdiffError):
        run_session.carry_out(Console(), ARGUMENTS, read_plan("old.json"), ending_with(error, *outcomes))
    said = capsys.readouterr().err
    assert said.count("batchdiff: a: failed: No space left on device\n") == 1
    assert said.count("batchdiff: b: could not keep its ACL\n") == 1


def test_a_system_error_that_ends_a_command(monkeypatch):
    error, plan = OSError(errno.EIO, "Input/output error", "/a.img"), read_plan("old.json")
    found = []
    with pytest.raises(GuestError) as caught:
        run_session.carry_out(Console(), ARGUMENTS, plan, ending_with(error))
    found.append(message(caught))
    with pytest.raises(GuestError) as caught:
        run_session.dry_run(Console(), ARGUMENTS, plan, ending_with(error), History())
    found.append(message(caught))

    def check_health(*_args: object, **_options: object) -> Iterator[Finding]:
        yield Finding("template", "/t.img", Health.SOUND, "as planned")
        raise error

    monkeypatch.setattr(verify, "check_health", check_health)
    arguments = types.SimpleNamespace(**vars(ARGUMENTS), textfile=None, guests=None, moves=[])
    with pytest.raises(GuestError) as caught:
        verify.run(Console(), arguments)
    found.append(message(caught))
    assert found == 3 * [
        "cannot continue: Input/output error (/a.img). The disk or its connection has a fault (see the kernel log,"
        " `dmesg`): fix it, then run the same command again."
    ]


def test_what_a_machine_must_have(monkeypatch):
    monkeypatch.setattr(descriptors, "free_descriptors", lambda: 31)
    with pytest.raises(BatchdiffError) as caught:
        descriptors.require_descriptors()
    assert message(caught) == (
        "the limit on open files is too low: 31 more can be opened, but batchdiff needs 32. Raise the limit"
        " (`ulimit -n`, `LimitNOFILE=` of a service), and run the same command again."
    )
    monkeypatch.setattr(descriptors, "_FILES", "/nowhere")
    with pytest.raises(BatchdiffError) as caught:
        descriptors.require_descriptors()
    assert message(caught) == (
        "/proc is not mounted: without it, batchdiff cannot see which processes have an image open. Mount it"
        " (`mount -t proc proc /proc`), and run the same command again."
    )
