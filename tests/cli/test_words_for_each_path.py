"""Messages whose words depend on the path that leads to them.

Guards cli/definition_changes.py, cli/verbs/apply.py, cli/verbs/definitions.py, cli/verbs/restore.py.
"""

from __future__ import annotations

import types

import pytest
from plans import guest_plan, small_plan

from batchdiff.applying.guests.status import OnDisk
from batchdiff.applying.journal.records import Fate
from batchdiff.applying.results.outcome import GuestOutcome, Original, Status
from batchdiff.cli.console import Console
from batchdiff.cli.verbs import apply, definitions, restore
from batchdiff.errors import UsageError


def kept(name: str, status: Status) -> GuestOutcome:
    return GuestOutcome(name, status, original=Original(Fate.KEPT))


def test_the_original_of_a_guest_that_failed_is_not_to_be_deleted(capsys):
    outcomes = [kept("web01", Status.CONVERTED), kept("web02", Status.FAILED)]
    apply._print_next_steps(Console(), "fleet.plan.json", small_plan(), outcomes)
    assert capsys.readouterr().err.startswith("The space is freed once the original is deleted. Before its VM")


def test_the_other_originals_are_named_after_those_that_must_stay(capsys, monkeypatch):
    guests = [guest_plan("web01"), guest_plan("web02")]
    monkeypatch.setattr(apply, "dependents_of_kept", lambda *_: {"web01": ("/a/clone.qcow2",)})
    outcomes = [kept(guest.name, Status.CONVERTED) for guest in guests]
    apply._print_next_steps(Console(), "fleet.plan.json", small_plan(*guests), outcomes)
    first, second = capsys.readouterr().err.splitlines()
    assert (
        first == f"batchdiff: Do not delete {guests[0].source.path} while any image depends on it: /a/clone.qcow2."
    )
    assert second.startswith("The space is freed once the other original is deleted.")


@pytest.mark.parametrize(
    ("asked", "remedy"),
    [
        ({}, "libvirt-clients), or give the definitions with --xml FILE or --proxmox FOLDER."),
        ({"define": True}, "libvirt-clients)."),
        ({"undo": True}, "libvirt-clients)."),
    ],
)
def test_files_are_no_way_to_define_a_domain(monkeypatch, asked, remedy):
    monkeypatch.setattr(definitions, "virsh_is_installed", lambda: False)
    options = dict.fromkeys(("xml", "connect", "define", "undo", "proxmox", "storage_cfg")) | asked
    with pytest.raises(UsageError) as caught:
        definitions._check(types.SimpleNamespace(**options))
    assert caught.value.remedy.endswith(remedy)


def test_a_file_is_in_the_place_of_the_folder_for_copies(tmp_path):
    (tmp_path / "out").write_bytes(b"")
    change = types.SimpleNamespace(is_right=False, waiting=[], file_name="web.xml", changed=b"<domain/>")
    with pytest.raises(UsageError) as caught:
        definitions._write(Console(), f"{tmp_path}/out", [change])
    assert caught.value.why == f"{tmp_path}/out is not a folder"


def test_the_paths_before_and_after_a_restore():
    assert restore._way_back("/a/web.qcow2", "/a/web.img") == "/a/web.qcow2 -> /a/web.img"
    assert restore._way_back("/a/web.qcow2", "/a/web.qcow2") == "/a/web.qcow2"


@pytest.mark.parametrize(
    ("names", "what"), [(["a"], "a full image from the overlay"), (["a", "b"], "full images from the overlays")]
)
def test_how_to_restore_without_an_original(names, what):
    found = [(guest_plan(name), None) for name in names]
    there = dict.fromkeys(names, OnDisk("/a.qcow2", None))
    with pytest.raises(UsageError) as caught:
        restore._ask_to_discard(Console(), found, there, yes=False)
    assert caught.value.remedy == f"Run the same command without `--discard-changes` to rebuild {what}."
