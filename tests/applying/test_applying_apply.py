"""What apply makes sure of before the first guest."""

from __future__ import annotations

import dataclasses
import os

import notation
import plans
import pytest
from plans import untouched
from stage import ASIDE, DELETING, NAME, Stage, failed, status

from batchdiff.applying import apply as executor
from batchdiff.applying.apply import check_options, choose_guests, originals_to_delete
from batchdiff.applying.checks.space import Room
from batchdiff.applying.journal.records import Goal, GuestState, History, Step
from batchdiff.applying.results.outcome import Status
from batchdiff.applying.swap.apply_task import ApplyOptions
from batchdiff.choices import Retire, Verdict, VerifyMode
from batchdiff.errors import GuestError, PlanError, ProgramError, StopError, UsageError
from batchdiff.files.fingerprint import fingerprint_at
from batchdiff.linux.block_stack import Underlying
from batchdiff.qemu import qemu_img

PLAN = plans.small_plan(*[plans.guest_plan(name) for name in ("web01", "web02", "web03")])


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch)


def test_chosen_guests():
    assert [guest.name for guest in choose_guests(PLAN, None)] == ["web01", "web02", "web03"]
    assert [guest.name for guest in choose_guests(PLAN, ("web03", "web01"))] == ["web01", "web03"]
    assert choose_guests(PLAN, ()) == []
    with pytest.raises(UsageError, match="called 'db' or 'mail'") as caught:
        choose_guests(PLAN, ("db", "web01", "mail"))
    assert "web01, web02, web03" in caught.value.remedy


@pytest.mark.parametrize("suffix", [ASIDE, DELETING])
def test_an_overlay_in_its_originals_place_is_not_what_apply_would_delete(tmp_path, monkeypatch, suffix):
    stage = Stage(tmp_path, monkeypatch, place="same")
    stage.apply(Retire.QUARANTINE)
    stage.original(suffix=ASIDE).rename(stage.original(suffix=suffix))
    found = originals_to_delete(stage.plan, ApplyOptions(Retire.DELETE), stage.history)
    assert [path for path, _ in found] == [str(stage.original(suffix=suffix))]
    stage.original(suffix=suffix).unlink()  # by somebody else
    assert originals_to_delete(stage.plan, ApplyOptions(Retire.DELETE), stage.history) == []


@pytest.mark.parametrize("retire", Retire)
def test_originals_that_an_apply_would_delete(stage, retire):
    """Wherever they are: under their own names, in quarantine, or set aside by an apply that died."""
    options = ApplyOptions(Retire.DELETE)
    stage.apply(retire)
    kept = stage.original() if retire is Retire.KEEP else stage.original(suffix=ASIDE)
    expected = [] if retire is Retire.DELETE else [str(kept)]
    assert [path for path, _ in originals_to_delete(stage.plan, options, stage.history)] == expected
    assert originals_to_delete(stage.plan, ApplyOptions(Retire.DELETE, guests=()), stage.history) == []
    if expected:
        kept.rename(stage.original(suffix=DELETING))
        size = stage.plan.to_convert[0].diff.savings.allocated_bytes
        there = [(str(stage.original(suffix=DELETING)), size)]
        assert originals_to_delete(stage.plan, options, stage.history) == there


def test_no_original_is_deleted_that_purge_has_deleted_or_a_plan_refuses(stage):
    stage.apply(Retire.QUARANTINE)
    stage.purge()
    stage.original().write_bytes(b"another file")
    assert originals_to_delete(stage.plan, ApplyOptions(Retire.DELETE), stage.history) == []
    purged = History({NAME: GuestState(Step.PURGED, Goal.PURGE, published=True)})  # by an older batchdiff
    assert originals_to_delete(stage.plan, ApplyOptions(Retire.DELETE), purged) == []
    refused = plans.small_plan(plans.refused_guest(path=str(stage.original())))
    assert originals_to_delete(refused, ApplyOptions(Retire.DELETE), History()) == []


@pytest.mark.parametrize("retire", Retire)
@pytest.mark.parametrize("verify", VerifyMode)
def test_only_qemu_lets_originals_be_deleted(monkeypatch, retire, verify):
    monkeypatch.setattr(qemu_img, "is_installed", lambda: True)
    options = ApplyOptions(retire, verify)
    if retire is Retire.DELETE and verify is not VerifyMode.FULL:
        with pytest.raises(UsageError, match="deleted only after full verification"):
            check_options(PLAN, options)
    else:
        assert check_options(PLAN, options) == list(PLAN.guests)


@pytest.mark.parametrize("verify", VerifyMode)
def test_qemu_is_needed_for_full_verification_only(monkeypatch, verify):
    monkeypatch.setattr(qemu_img, "is_installed", lambda: False)
    if verify is VerifyMode.FULL:
        with pytest.raises(ProgramError):
            check_options(PLAN, ApplyOptions(Retire.KEEP, verify))
    else:
        check_options(PLAN, ApplyOptions(Retire.KEEP, verify))


def test_space_is_asked_for_what_is_still_to_be_written(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch, names=("vm", "web"))
    asked = []

    def check_space(guests, retire, protected, *, jobs, unfinished):
        assert not unfinished  # no apply was interrupted
        asked.append(([guest.name for guest in guests], retire))
        assert (protected is not None) is stage.plan.protect_template
        return Room(jobs)

    monkeypatch.setattr(executor, "check_space", check_space)
    stage.apply(guests=("vm",))
    skipped = untouched(stage.guest("web"), Verdict.SKIP)
    stage.apply(Retire.QUARANTINE)
    stage.plan = dataclasses.replace(stage.plan, guests=(stage.plan.guests[0], skipped))
    stage.apply(Retire.DELETE)
    assert asked == [(["vm"], Retire.KEEP), (["web"], Retire.QUARANTINE), ([], Retire.DELETE)]


def test_without_space_nothing_is_begun(stage, monkeypatch):
    def check_space(*_, **__):
        raise GuestError("there is not enough space")

    monkeypatch.setattr(executor, "check_space", check_space)
    with pytest.raises(GuestError):
        stage.apply()
    assert stage.steps == []
    assert stage.images() == {stage.original().name}


def test_fewer_at_once_than_asked_for_are_announced(tmp_path, monkeypatch):
    """And no more are under way than there was space for."""
    stage = Stage(tmp_path, monkeypatch, names=("vm", "web"))
    room = Room(1, "/images")
    monkeypatch.setattr(executor, "check_space", lambda *_, **__: room)
    stage.jobs = 4
    stage.apply()
    assert stage.notices == [
        "guests in progress at the same time: 1 instead of 4, because the filesystem of /images has no space for"
        " more overlays beside their originals"
    ]
    assert [guest for guest, _ in stage.steps] == ["vm"] * 4 + ["web"] * 4


def test_the_template_is_never_a_guest(stage):
    """Whatever the plan says: by another name, too."""
    os.link(stage.template, stage.folder / "other.img")
    forged = dataclasses.replace(stage.guest().source, path=str(stage.folder / "other.img"))
    image = dataclasses.replace(stage.guest().image, source=forged, fingerprints=(fingerprint_at(forged.path),))
    guest = dataclasses.replace(stage.guest(), source=forged, image=image)
    template = dataclasses.replace(stage.plan.template, fingerprints=(fingerprint_at(str(stage.template)),))
    stage.plan = dataclasses.replace(stage.plan, guests=(guest,), template=template)
    for retire in Retire:
        outcomes = stage.apply(retire)
        assert f"guest {NAME} is the template, or stores it" in failed(outcomes)
        assert outcomes[0].exit_code == PlanError("").exit_code
    assert stage.template.exists()


def test_the_template_is_traced_once_for_all_guests(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch, names=("vm", "web"))
    traced, real = [], executor.all_underlying
    monkeypatch.setattr(executor, "all_underlying", lambda paths: traced.append(paths) or real(paths))
    assert [outcome.status for outcome in stage.apply()] == [Status.CONVERTED] * 2
    assert traced == [(str(stage.template),)]


@pytest.mark.parametrize("retire", Retire)
def test_a_template_that_cannot_be_traced(stage, monkeypatch, retire):
    """It may lie in the guest by way of any other driver; what is not deleted is not lost."""
    monkeypatch.setattr(executor, "all_underlying", lambda _: Underlying(frozenset(), traced=False))
    outcomes = stage.apply(retire)
    if retire is Retire.DELETE:
        assert "is stored on a block device whose own storage cannot be traced" in failed(outcomes)
        assert stage.images() == {stage.original().name}
    else:
        assert status(outcomes) is Status.CONVERTED


def test_verdicts(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch, names=("vm", "web"))
    refused = untouched(stage.guest("vm"), Verdict.REFUSE, "it is in use")
    stage.plan = dataclasses.replace(stage.plan, guests=(refused, stage.guest("web")))
    outcomes = stage.apply()
    assert [(each.name, each.status) for each in outcomes] == [("vm", Status.REFUSED), ("web", Status.CONVERTED)]
    assert not stage.overlay("vm").exists()


def test_a_stop_before_the_digest_is_taken(stage):
    notation.write_raw(stage.folder / "unrelated", "4k:A")
    os.utime(stage.template)
    stage.stop.ask()
    with pytest.raises(StopError):
        stage.apply()
    assert stage.images() == {stage.original().name, "unrelated"}
