"""Which guests restore and purge take on, and what they need before they begin."""

from __future__ import annotations

import dataclasses
import os

import notation
import pytest
from oracle import assert_same
from plans import shared_guest, small_plan, untouched
from stage import ASIDE, GUEST, NAME, Stage, status

from batchdiff.applying.dry_run import dry_run_purge, dry_run_restore
from batchdiff.applying.guests.conversions import conversions
from batchdiff.applying.guests.guest_files import on_disk
from batchdiff.applying.guests.status import status_rows
from batchdiff.applying.health_check import check_health
from batchdiff.applying.journal.records import Fate, Goal, GuestState, Step
from batchdiff.applying.results.outcome import Status
from batchdiff.applying.session.stop import Stop
from batchdiff.applying.swap.guest_to_restore import RestoreOptions
from batchdiff.applying.swap.purge_task import PurgeOptions
from batchdiff.applying.template import check as template_module
from batchdiff.applying.undo import nothing_to_do, purgeable, restorable
from batchdiff.choices import Retire, Verdict
from batchdiff.errors import ImageError, PlanError, ProgramError, StopError, UsageError
from batchdiff.files.fingerprint import NO_FILE
from batchdiff.qemu import qemu_img

PUBLISHED = GuestState(Step.PUBLISHED, published=True)
RETIRED = GuestState(Step.RETIRED, published=True, fate=Fate.QUARANTINED, aside="/x")


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch)


STANDINGS = {
    "nothing was begun": (None, ""),
    "only looked at": (GuestState(Step.CHECKED), ""),
    "an overlay was begun, and nothing is left": (GuestState(Step.CHECKED, temporary="/x"), ""),
    "an overlay was begun, and is left": (GuestState(Step.CHECKED, temporary="/dev/null"), "restore"),
    "an overlay was verified": (GuestState(Step.VERIFIED, temporary="/x", overlay=NO_FILE), "restore"),
    "published": (PUBLISHED, "restore"),
    "its name has begun to change": (GuestState(Step.RETIRING, moved=True), "restore"),
    "kept": (dataclasses.replace(RETIRED, fate=Fate.KEPT, aside=None), "restore"),
    "quarantined": (RETIRED, "restore purge"),
    "deleted": (dataclasses.replace(RETIRED, fate=Fate.DELETED), "restore"),
    "gone": (dataclasses.replace(RETIRED, fate=Fate.GONE), "restore"),
    "quarantine is not done": (dataclasses.replace(RETIRED, step=Step.RETIRING), "restore"),
    "purge was begun": (dataclasses.replace(RETIRED, step=Step.RETIRING, goal=Goal.PURGE), "restore purge"),
    "purge has verified": (dataclasses.replace(RETIRED, step=Step.VERIFIED, goal=Goal.PURGE), "restore purge"),
    "purged": (dataclasses.replace(RETIRED, step=Step.PURGED, goal=Goal.PURGE), "restore"),
    "restore was begun": (dataclasses.replace(RETIRED, step=Step.RETIRING, goal=Goal.RESTORE), "restore"),
    "restored, an older original": (GuestState(Step.RESTORED, Goal.RESTORE, fate=Fate.QUARANTINED), "purge"),
    "restored": (GuestState(Step.RESTORED, Goal.RESTORE, fate=Fate.KEPT), ""),
    "purge of an older original": (GuestState(Step.RETIRING, Goal.PURGE, moved=True), "purge"),
    "purge of an older one is over": (GuestState(Step.RESTORED, Goal.PURGE, fate=Fate.DELETED), ""),
}


@pytest.mark.parametrize(("state", "verbs"), STANDINGS.values(), ids=STANDINGS)
def test_what_can_be_done_for_a_guest(stage, state, verbs):
    states = {} if state is None else {NAME: state}
    if state == RETIRED:
        stage.original().rename(stage.original(suffix=ASIDE))
    for verb, guests in (("restore", restorable), ("purge", purgeable)):
        expected = [(stage.guest(), state)] if verb in verbs.split() else []
        assert guests(stage.plan, states, None) == expected
        assert guests(stage.plan, states, (NAME,)) == expected
        left = [each.name for each in nothing_to_do(stage.plan, expected, (NAME,), verb)]
        assert left == ([] if expected else [NAME])


def test_an_original_that_the_operator_renamed_back_is_not_in_quarantine(stage):
    """It counts as kept for every verb, until an apply retires it again."""
    stage.apply(Retire.QUARANTINE)
    stage.original(suffix=ASIDE).rename(stage.original())
    kept = "apply --retire quarantine: verify again and retire the original; or restore"
    assert next_for(stage) == kept
    before = stage.journal_file.read_bytes()
    assert (stage.purge(), rehearse_purge(stage)) == ([], [])
    assert status(stage.purge(guests=(NAME,))) is Status.SKIPPED
    assert stage.journal_file.read_bytes() == before
    assert next_for(stage) == kept
    assert conversions(stage.plan, stage.history)[NAME].fate is Fate.KEPT
    assert status(stage.apply(Retire.QUARANTINE)) is Status.RETIRED
    assert status(stage.purge()) is Status.PURGED


def test_an_older_original_that_was_removed(stage):
    """Nothing recommends that it be deleted; purge only has to record that."""
    stage.apply(Retire.QUARANTINE)
    stage.use()
    stage.restore()
    aside = stage.original(suffix=ASIDE)
    assert next_for(stage) == f"purge --used: delete the older original {aside}"
    aside.unlink()
    assert next_for(stage) == f"nothing: the older original {aside} was removed, and purge would only record that"
    assert status(stage.purge()) is Status.PURGED
    assert next_for(stage).startswith("nothing; to convert it again: ")


@pytest.mark.parametrize("used", [False, True])
def test_an_image_that_restore_gave_back_and_that_is_missing(stage, used):
    stage.apply(Retire.QUARANTINE)
    if used:
        stage.use()
    stage.restore()
    stage.original().unlink()
    left = f"; its older original {stage.original(suffix=ASIDE)} is left" if used else ""
    missing = f"{stage.original()} is missing{left}"
    assert next_for(stage) == f"bring back the image that restore gave the guest: {missing}"


def next_for(stage):
    (row,) = status_rows(stage.plan, stage.history, on_disk(stage.plan, stage.history))
    return row.next


@pytest.mark.parametrize("guests", [restorable, purgeable])
def test_chosen_guests(tmp_path, monkeypatch, guests):
    stage = Stage(tmp_path, monkeypatch, names=("vm", "web"))
    states = dict.fromkeys(("vm", "web"), RETIRED)
    for name in states:
        stage.original(name).rename(stage.original(name, ASIDE))
    assert [guest.name for guest, _ in guests(stage.plan, states, ("web",))] == ["web"]
    assert [guest.name for guest, _ in guests(stage.plan, states, ("web", "web"))] == ["web"]
    with pytest.raises(UsageError, match="called 'db'"):
        guests(stage.plan, states, ("web", "db"))
    found = guests(stage.plan, {"web": RETIRED}, ("web", "vm"))
    (left,) = nothing_to_do(stage.plan, found, ("web", "vm"), "restore")
    assert (left.name, left.status, left.exit_code) == ("vm", Status.SKIPPED, 0)
    assert list(nothing_to_do(stage.plan, found, None, "restore")) == []


def rehearse_restore(stage):
    return list(dry_run_restore(stage.frozen(), RestoreOptions()))


def rehearse_purge(stage):
    return list(dry_run_purge(stage.frozen(), PurgeOptions()))


def verify(stage):
    return list(check_health(stage.plan, stage.history, None, Stop()))


VERBS = {
    "restore": Stage.restore,
    "purge": Stage.purge,
    "restore --dry-run": rehearse_restore,
    "purge --dry-run": rehearse_purge,
    "verify": verify,
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_without_qemu(stage, monkeypatch, verb):
    """Said at once, for all guests together, and not by each comparison that fails."""
    stage.apply(Retire.QUARANTINE)
    before = stage.journal_file.read_bytes(), stage.images()
    monkeypatch.setattr(qemu_img, "is_installed", lambda: False)
    with pytest.raises(ProgramError, match="qemu-img is not installed"):
        verb(stage)
    assert (stage.journal_file.read_bytes(), stage.images()) == before


@pytest.mark.parametrize("verb", [each for name, each in VERBS.items() if name != "verify"])
def test_nothing_to_do_needs_nothing(stage, monkeypatch, verb):
    """No template, no qemu-img: there is nothing that either would be needed for."""
    monkeypatch.setattr(qemu_img, "is_installed", lambda: False)
    stage.template.unlink()
    assert verb(stage) == []


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_a_request_to_stop(stage, verb, monkeypatch):
    stage.apply(Retire.QUARANTINE)
    stage.stop.ask()
    monkeypatch.setattr("test_applying_undo.Stop", lambda: stage.stop)
    before = stage.images()
    with pytest.raises(StopError):
        verb(stage)
    assert stage.images() == before


@pytest.mark.parametrize("verb", ["restore", "purge"])
def test_what_a_dying_apply_has_left_of_the_sidecar(stage, verb):
    left = stage.sidecar.with_name(f".{stage.sidecar.name}.0123abcd.batchdiff-tmp")
    left.write_text("half a sidecar")
    assert getattr(stage, verb)() == []
    assert not left.exists()


@pytest.mark.parametrize("verb", ["restore", "purge"])
@pytest.mark.parametrize("change", ["content", "touched"])
def test_a_template_that_changed(stage, verb, change):
    stage.apply(Retire.QUARANTINE)
    stage.template.chmod(0o644)
    if change == "content":
        with stage.template.open("r+b") as file:
            file.write(b"?")
        with pytest.raises(PlanError, match=r"content of the template .* changed after overlays"):
            getattr(stage, verb)()
        assert_same(stage.original(suffix=ASIDE).read_bytes(), notation.content(GUEST))
        return
    os.utime(stage.template)
    assert status(getattr(stage, verb)()) in {Status.RESTORED, Status.PURGED}


@pytest.mark.parametrize("loss", ["missing", "content"])
def test_restore_names_the_whole_originals_if_the_template_is_lost(tmp_path, monkeypatch, loss):
    stage = Stage(tmp_path, monkeypatch, names=("vm", "web"))
    stage.apply(Retire.QUARANTINE)
    if loss == "missing":
        stage.template.unlink()
    else:
        stage.template.chmod(0o644)
        with stage.template.open("r+b") as file:
            file.write(b"?")
    with pytest.raises(ImageError if loss == "missing" else PlanError) as caught:
        stage.restore(guests=("vm",))
    assert str(stage.original(suffix=ASIDE)) in caught.value.remedy
    assert str(stage.original("web", ASIDE)) not in caught.value.remedy
    assert "batchdiff restore PLAN --guest vm --discard-changes" in caught.value.remedy
    assert ".." not in caught.value.remedy


def test_the_digest_of_a_lost_template_can_be_interrupted(stage, monkeypatch):
    stage.apply(Retire.QUARANTINE)
    stage.template.chmod(0o644)
    os.utime(stage.template)

    def digest(_image, *, check, report):
        stage.stop.ask()
        check()

    monkeypatch.setattr(template_module, "content_digest", digest)
    with pytest.raises(StopError):
        stage.restore()


@pytest.mark.parametrize("form", ["qcow2", "vpc"])
def test_a_rebuilt_raw_disk_that_looks_like_another_format(tmp_path, monkeypatch, form):
    """A VM without a format in its definition would take it for one. A fixed-size VHD has only a footer."""
    stage = Stage(tmp_path, monkeypatch)
    stage.apply(Retire.DELETE)
    notation.qemu_io(stage.overlay(), "write -P 0 0 512")
    inner = notation.write_qcow2(tmp_path / "inner.qcow2", "64k:-").read_bytes()[:512]
    (tmp_path / "mark").write_bytes(inner if form == "qcow2" else b"conectix".ljust(512, b"\1"))
    at = 0 if form == "qcow2" else stage.plan.guests[0].image.virtual_size - 512
    notation.qemu_io(stage.overlay(), f"write -s {tmp_path}/mark {at} 512")
    (outcome,) = stage.restore()
    assert any(
        f"is raw, but looks like a {form} image: " in note and "must declare it as raw" in note
        for note in outcome.remarks
    )


def test_guests_that_the_plan_does_not_convert_are_left_out(stage):
    guest = untouched(stage.guest(), Verdict.SKIP)
    stage.plan = dataclasses.replace(stage.plan, guests=(guest,))
    assert stage.restore() == []
    assert stage.purge() == []


@pytest.mark.parametrize(
    ("verb", "why"), [("restore", "there is nothing to undo"), ("purge", "there is no original to delete")]
)
def test_why_guests_that_share_blocks_are_left_alone(verb, why):
    (found,) = nothing_to_do(small_plan(shared_guest()), [], None, verb)
    assert found.status is Status.SKIPPED
    assert found.reason.startswith(why)
