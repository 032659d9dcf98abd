"""What apply, restore and purge print if messages and results go to one terminal: each thing once.

Guards cli/run_session.py, cli/definition_changes.py, cli/confirm.py.
"""

import argparse
import types
from dataclasses import replace

import pytest
from plans import guest_plan, shared_guest, small_plan

from batchdiff.applying.journal.records import Fate
from batchdiff.applying.results.outcome import GuestOutcome, Original, Status
from batchdiff.cli import definition_changes, run_session
from batchdiff.cli.confirm import confirm, deletion
from batchdiff.cli.console import Console
from batchdiff.errors import UsageError
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.report.results_text import results_text

GUESTS = [guest_plan(f"web{number}") for number in range(6)]
PLAN = small_plan(*GUESTS)
OUTCOMES = [GuestOutcome(guest.name, Status.CONVERTED, original=Original(Fate.KEPT)) for guest in GUESTS]
SKIPPED = GuestOutcome("web0", Status.SKIPPED, "it would save nothing", remarks=("a remark",))
FAILED = GuestOutcome("web0", Status.FAILED, "No space left on device")
ARGUMENTS = argparse.Namespace(plan="my fleet.json", connect=None)
SHARED = shared_guest("db01")
PROXMOX = "/var/lib/vz/images/103/vm-103-disk-0.qcow2"


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(Console, "is_one_terminal", True)


def report(outcome):
    run_session.Announcer(Console(), PLAN.template.source, "my fleet.json").report_guest(GUESTS[0], outcome)


def changes(console=None):
    definition_changes.report_changes(console or Console(), "my fleet.json", PLAN, OUTCOMES)


@pytest.mark.parametrize("outcome", [OUTCOMES[0], SKIPPED])
def test_what_the_table_has_is_not_printed_before_it(terminal, capsys, outcome):
    report(outcome)
    assert capsys.readouterr().err == ""


def test_a_failure_does_not_wait_for_the_table(terminal, capsys):
    report(FAILED)
    assert capsys.readouterr().err == "batchdiff: web0: failed\n"


def test_elsewhere_each_guest_is_reported_as_it_comes(capsys):
    for outcome in (OUTCOMES[0], SKIPPED, FAILED):
        report(outcome)
    changes()
    assert capsys.readouterr().err == (
        "web0: converted\n"
        "  change the VM's definition: /srv/clones/web0.img (raw) -> /srv/clones/web0.qcow2 (qcow2)\n"
        "web0: skipped: it would save nothing\n"
        "batchdiff: web0: a remark\n"
        "batchdiff: web0: failed: No space left on device\n"
    )


def test_definitions_to_change_come_after_the_table(terminal, capsys):
    changes()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == (
        "web0: change the VM's definition: /srv/clones/web0.img (raw) -> /srv/clones/web0.qcow2 (qcow2)"
    )
    assert lines[3:] == ["3 more definitions must change; -v lists all."]
    changes(Console(verbosity=1))
    assert len(capsys.readouterr().err.splitlines()) == 6


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (Status.SHARED, "it now shares 3 MiB more with the template"),
        (Status.UNCHANGED, "its blocks were shared by an earlier apply"),
    ],
)
def test_the_result_alone_has_what_a_guest_shares(capsys, status, reason):
    done = GuestOutcome("db01", status, reason, gained_bytes=3 << 20)
    announcer = run_session.Announcer(Console(), PLAN.template.source, "my fleet.json")
    announcer.report_guest(SHARED, done)
    assert capsys.readouterr().err == f"db01: {status}\n"
    assert results_text([done]).count(reason) == 1


def step(*outcomes, guests=(*GUESTS, SHARED), **options):
    arguments = argparse.Namespace(**vars(ARGUMENTS) | options)
    definition_changes.print_step_to_overlays(Console(), arguments, small_plan(*guests), list(outcomes))


@pytest.mark.parametrize("on_terminal", [False, True])
def test_the_command_for_definitions_is_printed_once_for_all(monkeypatch, capsys, on_terminal):
    monkeypatch.setattr(Console, "is_one_terminal", on_terminal)
    step(*OUTCOMES[1:3], FAILED)
    assert capsys.readouterr().err == (
        "The VMs' definitions must match the overlays: `batchdiff definitions 'my fleet.json'` shows what must"
        " change; add --define to make the changes.\n"
    )


def test_the_command_for_definitions_asks_the_same_libvirt(capsys):
    step(OUTCOMES[0], connect="qemu:///system")
    assert "`batchdiff definitions 'my fleet.json' --connect qemu:///system` shows" in capsys.readouterr().err


def test_guests_of_proxmox_and_of_libvirt_have_a_command_each(capsys):
    guests = [replace(GUESTS[0], overlay_path=PROXMOX), *GUESTS[1:3]]
    arguments = argparse.Namespace(**vars(ARGUMENTS) | {"connect": "qemu:///system"})
    definition_changes.print_definitions_step(Console(), arguments, guests, "restored image", PLAN.template.source)
    assert capsys.readouterr().err.splitlines() == [
        "In Proxmox VE, the VM's definition must match the restored image: `batchdiff definitions 'my fleet.json'"
        " --proxmox /etc/pve/qemu-server` shows what must change.",
        "In libvirt, the VMs' definitions must match the restored images: `batchdiff definitions 'my fleet.json'"
        " --connect qemu:///system` shows what must change; add --define to make the changes.",
    ]


@pytest.mark.parametrize(
    ("secrets", "end"),
    [
        (0, "shows what must change; add --define to make the changes."),
        (1, "shows what must change; add --define to make the changes that need no secret."),
        (2, "shows what must change."),
    ],
)
def test_define_is_offered_only_for_changes_without_a_secret(capsys, secrets, end):
    path = "/srv/secret"
    secret = [
        replace(guest, source=replace(guest.source, format=ImageFormat.LUKS, secret_file=path))
        for guest in GUESTS[:secrets]
    ]
    step(*OUTCOMES[:2], guests=(*secret, *GUESTS[secrets:]))
    assert capsys.readouterr().err.rstrip().endswith(end)


@pytest.mark.parametrize(
    ("own", "below", "said"),
    [
        (True, False, "the template is encrypted: give the VM its secret (QEMU"),
        (False, True, "the backing file /b.qcow2 is encrypted: give the VM its secret (QEMU"),
        (True, True, "the template and the backing file /b.qcow2 are encrypted: give the VM their secrets (QEMU"),
    ],
)
def test_only_the_images_that_are_encrypted_are_named(own, below, said):
    secret = {True: "/k", False: None}
    base = ImageSource("/b.qcow2", ImageFormat.QCOW2, secret_file=secret[below])
    template = ImageSource("/t.qcow2", ImageFormat.QCOW2, (base,), secret[own])
    *_, line = definition_changes.changes_in_definition(GUESTS[0], OUTCOMES[0], template, "plan")
    assert line.startswith(said)


def test_without_an_overlay_no_definition_must_change(capsys):
    step(FAILED, GuestOutcome("db01", Status.SHARED), GuestOutcome("web1", Status.SKIPPED, "it is small"))
    step(OUTCOMES[0], guests=[replace(GUESTS[0], overlay_path=PROXMOX)])
    assert capsys.readouterr().err == ""


def in_place(guest):
    """An overlay that has taken the place of its guest, an overlay before."""
    source = replace(guest.source, path=guest.overlay_path, format=ImageFormat.QCOW2)
    return replace(guest, source=source)


def test_a_definition_that_stays_the_same_need_not_change(terminal, capsys):
    rethinned = [in_place(guest) for guest in GUESTS]
    step(*OUTCOMES[:2], guests=rethinned)
    assert capsys.readouterr().err == ""
    step(*OUTCOMES[:2], guests=[rethinned[0], *GUESTS[1:]])
    assert capsys.readouterr().err.startswith("The VM's definition must match the overlay: ")
    plan = small_plan(*rethinned)
    definition_changes.report_changes(Console(), "my fleet.json", plan, OUTCOMES)
    assert "more definitions" not in capsys.readouterr().err
    with_data_file = replace(rethinned[0], options=replace(rethinned[0].options, data_file="/srv/web0.data"))
    step(OUTCOMES[0], guests=[with_data_file])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("below", "own", "former"),
    [
        (["/b"], "/k", "secrets of the original and the backing file /b"),
        ([], "/k", "secret of the original"),
        (["/b"], None, "secret of the backing file /b"),
        (["/srv/template.img"], None, ""),
    ],
)
def test_secrets_that_the_overlay_does_not_need_are_removed(below, own, former):
    """The image below a guest that is made thinner may be the template, which is needed as before."""
    backing = tuple(ImageSource(path, ImageFormat.QCOW2, secret_file="/k") for path in below)
    guest = in_place(GUESTS[0])
    guest = replace(guest, source=replace(guest.source, backing=backing, secret_file=own))
    template = ImageSource("/srv/template.img", ImageFormat.RAW)
    said = [*definition_changes.changes_in_definition(guest, OUTCOMES[0], template, "plan")][1:]
    assert said == [
        f"the overlay is not encrypted: remove the {text} from the VM's definition" for text in [former] if text
    ]
    assert definition_changes.must_change(guest, template) is bool(former)


def test_definitions_that_must_change_are_listed_before_those_that_stay_the_same(terminal, capsys):
    plan = small_plan(*map(in_place, GUESTS[:3]), *GUESTS[3:])
    definition_changes.report_changes(Console(), "my fleet.json", plan, OUTCOMES)
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(": change the")[0] for line in said] == ["web3", "web4", "web5"]
    plan = small_plan(*map(in_place, GUESTS[:2]), *GUESTS[2:])
    definition_changes.report_changes(Console(), "my fleet.json", plan, OUTCOMES)
    said = capsys.readouterr().err.splitlines()
    assert said[3:] == ["1 more definition must change; -v lists all."]
    assert said[0].startswith("web2: change the")


def test_proxmox_has_a_configuration_that_only_its_own_command_shows(capsys):
    """The overlay takes the guest's path, and the VM must still name the base."""
    source = replace(GUESTS[0].source, path=PROXMOX, format=ImageFormat.QCOW2)
    guest = replace(GUESTS[0], source=source, overlay_path=PROXMOX)
    run_session.Announcer(Console(), PLAN.template.source, "my fleet.json").report_guest(guest, OUTCOMES[0])
    assert capsys.readouterr().err.splitlines()[1:] == [
        "  change the VM's configuration: `batchdiff definitions 'my fleet.json' --proxmox /etc/pve/qemu-server`"
        " prints the command to run"
    ]


def test_a_question_has_count_and_bytes_first_and_what_remains_last(monkeypatch, capsys):
    monkeypatch.setattr(Console, "can_ask", True)
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(readline=lambda: "no\n"))
    question = deletion(
        [("/a.img", 3 << 30), ("/b.img", 512 << 20)], condition=" if", remains="overlays.", otherwise="Or not."
    )
    with pytest.raises(UsageError, match=r"nothing was done\. Or not\."):
        confirm(Console(), "purge", question)
    assert capsys.readouterr().err == (
        "batchdiff: 2 originals, 3.5 GiB on disk, will be deleted if:\n"
        "batchdiff:     3 GiB  /a.img\n"
        "batchdiff:   512 MiB  /b.img\n"
        "batchdiff: What remains: overlays.\n"
        "Type yes to delete 2 originals (3.5 GiB): "
    )
