"""What follows a publication: the template is protected, the overlay recorded, and each note made once."""

from __future__ import annotations

import dataclasses
import errno
import os
import stat

import pytest
from stage import NAME, Stage, failed

from batchdiff.applying.journal.file import Journal
from batchdiff.applying.journal.records import Fate
from batchdiff.applying.results.outcome import Status
from batchdiff.applying.template import publication as publication_module
from batchdiff.applying.template import sidecar as sidecar_writing
from batchdiff.choices import Retire
from batchdiff.errors import PlanError
from batchdiff.plan import sidecar as sidecar_module
from batchdiff.plan.sidecar import read_sidecar


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch, names=("vm", "web"))


def writable(stage):
    return bool(stat.S_IMODE(stage.template.stat().st_mode) & 0o222)


@pytest.mark.parametrize("protect", [False, True])
def test_protection_is_as_planned(stage, protect):
    stage.plan = dataclasses.replace(stage.plan, protect_template=protect)
    stage.apply()
    assert writable(stage) is not protect
    assert set(read_sidecar(str(stage.sidecar)).overlays) == {str(stage.overlay("vm")), str(stage.overlay("web"))}


def test_a_template_that_cannot_be_protected_is_said_once(stage, monkeypatch):
    def fchmod(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", fchmod, raising=True)
    monkeypatch.setattr("batchdiff.applying.swap.apply_task.copy_metadata", lambda *_: [])
    outcomes = stage.apply()
    assert [each.exit_code for each in outcomes] == [0, 0]
    assert [each.remarks for each in outcomes] == [(), ()]
    (notice,) = stage.notices
    assert f"{stage.template} keeps its write permission" in notice


def test_a_journal_that_is_full_stops_no_other_guest(stage, monkeypatch):
    def record_protecting(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Journal, "record_protecting", record_protecting)
    outcomes = stage.apply()
    assert [each.exit_code for each in outcomes] == [0, 0]
    assert "may have kept its write permission: No space left on device" in stage.notices[0]
    assert writable(stage)


@pytest.mark.parametrize("planned", [False, True])
def test_the_digest_is_taken_once_if_the_plan_has_none(stage, monkeypatch, planned):
    taken = []

    def content_digest(_image, *, check):
        check()
        taken.append(1)
        return "taken"

    monkeypatch.setattr(publication_module, "content_digest", content_digest)
    if not planned:
        stage.plan = dataclasses.replace(stage.plan, template_digest="")
    stage.apply()
    assert taken == ([] if planned else [1])
    assert read_sidecar(str(stage.sidecar)).digest == (stage.plan.template_digest if planned else "taken")


def test_taking_the_digest_is_not_interrupted(stage, monkeypatch):
    """The overlay has its name: what belongs to that is done."""

    def content_digest(_image, *, check):
        stage.stop.ask()
        check()
        return "taken"

    monkeypatch.setattr(publication_module, "content_digest", content_digest)
    stage.plan = dataclasses.replace(stage.plan, template_digest="")
    stage.plan = dataclasses.replace(stage.plan, guests=stage.plan.guests[:1])
    stage.apply(Retire.KEEP)
    assert read_sidecar(str(stage.sidecar)).digest == "taken"


def test_overlays_of_another_content_are_found_before_one_is_written(stage):
    """As of an older plan whose template was overwritten, and planned again."""
    stage.apply(guests=("vm",))
    stage.template.chmod(0o644)
    with stage.template.open("r+b") as file:
        file.write(b"?")
    stage.plan = stage.planned("web")
    stage.steps.clear()
    outcomes = stage.apply(Retire.DELETE)
    assert "changed after overlays were created on it" in failed(outcomes)
    assert stage.steps == [("web", "checked")]
    assert not stage.overlay("web").exists()


def test_without_a_digest_they_are_found_before_the_original_goes(stage):
    """The plan of reflink copies: only the publication takes the digest."""
    stage.apply(guests=("vm",))
    stage.template.chmod(0o644)
    with stage.template.open("r+b") as file:
        file.write(b"?")
    stage.plan = dataclasses.replace(stage.planned("web"), template_digest="")
    assert "changed after overlays were created on it" in failed(stage.apply(Retire.DELETE))
    assert stage.original("web").exists()
    with pytest.raises(PlanError, match="changed after overlays"):
        stage.apply(Retire.DELETE)
    assert stage.original("web").exists()


def test_what_an_apply_that_died_has_not_recorded_is_made_up_for(stage):
    stage.apply(guests=("vm",))
    stage.sidecar.unlink()
    stage.template.chmod(0o644)
    stage.apply(guests=("vm",))
    known = read_sidecar(str(stage.sidecar))
    assert set(known.overlays) == {str(stage.overlay())}
    assert known.overlays[str(stage.overlay())].fingerprint == stage.state(NAME).overlay
    assert not writable(stage)


def test_an_overlay_that_is_gone_is_not_recorded_again(stage):
    stage.apply(guests=("vm",))
    stage.sidecar.unlink()
    stage.overlay().unlink()
    stage.apply(guests=("vm",))
    assert not stage.sidecar.exists()


def test_one_of_several_sidecars_is_damaged(stage, monkeypatch):
    """A block device as template has a sidecar in each folder of overlays."""

    def sidecar(_template, overlay):
        return f"{overlay}.sidecar"

    for module in (sidecar_module, sidecar_writing):
        monkeypatch.setattr(module, "sidecar_path", sidecar)
    stage.apply()
    (stage.folder / "vm.qcow2.sidecar").write_bytes(b"{")
    vm, web = stage.apply(Retire.QUARANTINE)
    assert (vm.status, vm.exit_code) == (Status.FAILED, PlanError.exit_code)
    assert "vm.qcow2.sidecar cannot be read" in vm.reason
    assert (web.status, web.original.fate) == (Status.RETIRED, Fate.QUARANTINED)
    assert stage.original("vm").exists()
