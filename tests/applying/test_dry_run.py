"""Dry runs: they say what would be done, and change nothing, not even the journal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from stage import ASIDE, NAME, Stage, failed, status

from batchdiff.applying import dry_run
from batchdiff.applying.dry_run import dry_run_purge, dry_run_restore
from batchdiff.applying.journal.records import Step
from batchdiff.applying.results.outcome import Status
from batchdiff.applying.swap import new_files
from batchdiff.applying.swap.guest_to_restore import RestoreOptions
from batchdiff.applying.swap.purge_task import PurgeOptions
from batchdiff.choices import Retire
from batchdiff.errors import GuestError, ImageError, VerificationError
from batchdiff.linux.call_failures import Fault


class Rehearsal:
    """Carries out dry runs, after each of which all must be as before."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def restore(self, **options):
        return self._run(dry_run_restore, RestoreOptions(**options))

    def purge(self, **options):
        return self._run(dry_run_purge, PurgeOptions(**options))

    def _run(self, verb, options):
        before = self.state()
        self.stage.steps.clear()
        try:
            return list(verb(self.stage.frozen(), options))
        finally:
            assert self.state() == before
            assert self.leased() == []
            assert self.stage.steps == []

    def leased(self):
        """The files of the folder that this process still holds."""
        inodes = {str(path.stat().st_ino): path.name for path in self.stage.folder.iterdir()}
        held = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "LEASE" in line]
        ours = [words[5].split(":")[-1] for words in held if words[4] == str(os.getpid())]
        return [inodes[inode] for inode in ours if inode in inodes]

    def state(self):
        """All files of the folder, to the last attribute that a command could change."""
        found = {}
        for path in sorted(self.stage.folder.iterdir()):
            info = path.lstat()
            found[path.name] = (path.read_bytes(), info.st_ino, info.st_mtime_ns, info.st_ctime_ns)
        return found


@pytest.fixture(params=["beside", "same"])
def stage(request, tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch, place=request.param)


@pytest.mark.parametrize(
    ("used", "discard", "said"),
    [
        (False, False, "it would go back to its original, and the overlay would be deleted"),
        (True, True, "what the VM wrote to the overlay would be discarded"),
        (
            True,
            False,
            "would be rebuilt from the overlay, and the overlay would be deleted; the older original would stay",
        ),
    ],
)
def test_restore_of_a_quarantined_guest(stage, used, discard, said):
    stage.apply(Retire.QUARANTINE)
    if used:
        stage.use()
    (outcome,) = Rehearsal(stage).restore(discard_changes=discard)
    assert outcome.status is Status.WOULD_RESTORE
    assert said in outcome.reason
    assert (str(stage.original(suffix=ASIDE)) in outcome.reason) is (used and not discard)


def test_restore_of_a_deleted_guest(stage):
    stage.apply(Retire.DELETE)
    (outcome,) = Rehearsal(stage).restore()
    assert outcome.status is Status.WOULD_RESTORE
    rebuilt = f"{stage.original()} would be rebuilt from the overlay"
    assert outcome.reason == f"{rebuilt}, and the overlay would be deleted"


def test_restore_of_a_kept_guest_that_was_used(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch)
    stage.apply()
    stage.use()
    assert "only you know which of the two to keep" in failed(Rehearsal(stage).restore())
    assert status(Rehearsal(stage).restore(discard_changes=True)) is Status.WOULD_RESTORE


@pytest.mark.parametrize(("used", "option"), [(False, False), (False, True), (True, False), (True, True)])
def test_purge(stage, used, option):
    stage.apply(Retire.QUARANTINE)
    if used:
        stage.use()
    (outcome,) = Rehearsal(stage).purge(used=option)
    expected = Status.KEPT if used and not option else Status.WOULD_PURGE
    assert outcome.status is expected
    if expected is Status.WOULD_PURGE:
        assert outcome.reason == f"{stage.original(suffix=ASIDE)} would be deleted"


@pytest.mark.parametrize("verb", ["restore", "purge"])
@pytest.mark.parametrize("obstacle", ["a reader", "a clone", "a hard link", "a writer"])
def test_what_would_be_refused(stage, verb, obstacle):
    """Every guard of the real verb is asked."""
    stage.apply(Retire.QUARANTINE)
    goes = stage.overlay() if verb == "restore" else stage.original(suffix=ASIDE)
    fd = None
    match obstacle:
        case "a reader" | "a writer":
            fd = os.open(goes, os.O_RDONLY if obstacle == "a reader" else os.O_RDWR)
        case "a clone":
            stage.linked_clone(goes)
        case "a hard link":
            os.link(goes, stage.folder / "template.link")
    rehearsal_ = Rehearsal(stage)
    reason = failed(rehearsal_.restore() if verb == "restore" else rehearsal_.purge())
    words = {"a reader": "has it open", "a writer": "open", "a clone": "clone.qcow2", "a hard link": "hard links"}
    assert words[obstacle] in reason
    if fd is not None:
        os.close(fd)


def test_a_clone_on_the_original_that_would_get_its_name_back(stage):
    stage.apply(Retire.QUARANTINE)
    clone = stage.linked_clone(stage.original(suffix=ASIDE))
    assert str(clone) in failed(Rehearsal(stage).restore())
    assert str(clone) in failed(Rehearsal(stage).restore(discard_changes=True))


def test_an_image_that_would_not_fit(stage, monkeypatch):
    stage.apply(Retire.DELETE)
    asked = []

    def full(image, folder, guest, _form):
        asked.append((image.path, folder, guest))
        raise GuestError("there is not enough space")

    monkeypatch.setattr(dry_run, "check_space_for_image", full)
    assert "not enough space" in failed(Rehearsal(stage).restore())
    assert asked == [(str(stage.overlay()), str(stage.folder), NAME)]


def test_an_overlay_in_which_qemu_finds_an_error(stage):
    stage.apply(Retire.QUARANTINE)
    stage.use()
    stage.judge.refuses[stage.overlay().name] = VerificationError("qemu-img check found errors")
    outcomes = Rehearsal(stage).purge(used=True)
    assert "found errors" in failed(outcomes)
    assert outcomes[0].exit_code == 6


def test_an_error_in_the_overlay_that_an_image_would_be_rebuilt_from(stage):
    """As in a real run, which finds it before it writes anything."""
    stage.apply(Retire.DELETE)
    stage.judge.refuses[stage.overlay().name] = VerificationError("qemu-img check found errors")
    tried, real = Rehearsal(stage).restore(), stage.restore()
    assert "found errors" in failed(tried)
    assert tried == real


@pytest.mark.parametrize("retire", [Retire.QUARANTINE, Retire.DELETE])
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("discard", [False, True])
def test_a_name_that_is_taken(tmp_path, monkeypatch, retire, used, discard):
    """By a link, as to the overlay; a real run refuses that before it compares or writes anything."""
    stage = Stage(tmp_path, monkeypatch)
    stage.apply(retire)
    if used:
        stage.use()
    stage.original().symlink_to(stage.overlay())
    stage.judge.comparisons = 0
    tried, real = Rehearsal(stage).restore(discard_changes=discard), stage.restore(discard_changes=discard)
    assert tried == real
    taken = f"{stage.original()} already exists. Find out what it is and move it away"
    gone = "vm cannot go back to its original"
    assert failed(tried).startswith(gone if discard and retire is Retire.DELETE else taken)
    assert stage.judge.comparisons == 0


def test_a_folder_in_which_no_image_can_get_its_name(tmp_path, monkeypatch):
    """So an image would be written in vain, and an original cannot be renamed."""
    why = Fault("it is immutable", "Change that.")
    monkeypatch.setattr(new_files, "obstacle", lambda *_: why)
    for retire, words in (
        (Retire.QUARANTINE, "vm.img.batchdiff-original cannot be given its final name"),
        (Retire.DELETE, "vm.img was not written"),
    ):
        folder = tmp_path / retire
        folder.mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(new_files, "obstacle", lambda *_: None)
            stage = Stage(folder, monkeypatch)
            stage.apply(retire)
        assert failed(Rehearsal(stage).restore()) == f"{folder}/{words}: it is immutable. Change that."
        assert failed(stage.restore()) == f"{folder}/{words}: it is immutable. Change that."


def test_one_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch, names=("vm", "web"))
    stage.apply(Retire.QUARANTINE)
    stage.overlay("vm").unlink()
    for outcomes in (Rehearsal(stage).restore(), Rehearsal(stage).purge()):
        assert [each.status is Status.FAILED for each in outcomes] == [True, False]


def test_a_lost_template(stage):
    stage.apply(Retire.QUARANTINE)
    stage.template.rename(stage.folder / "template.elsewhere")
    rehearsal_ = Rehearsal(stage)
    with pytest.raises(ImageError, match="--discard-changes"):
        rehearsal_.restore()
    (outcome,) = rehearsal_.restore(discard_changes=True)
    assert outcome.status is Status.WOULD_RESTORE
    why = "restore deletes no overlay without the planned template"
    fate = f"its overlay {stage.overlay()} would not be deleted"
    if stage.overlay() == stage.original():  # the original gets that name
        fate = f"its overlay would be kept as {stage.overlay()}.batchdiff-overlay"
    assert outcome.reason == f"it would go back to its original; {fate}: {why}"
    stage.overlay().rename(stage.folder / "overlay.elsewhere")
    (outcome,) = rehearsal_.restore(discard_changes=True)
    assert outcome.reason == "it would go back to its original"
    stage.original(suffix=ASIDE).unlink()
    assert "both its original" in failed(rehearsal_.restore(discard_changes=True))


def test_a_lost_template_and_a_lost_original(stage):
    stage.apply(Retire.DELETE)
    stage.template.rename(stage.folder / "template.elsewhere")
    assert "the original was deleted or moved" in failed(Rehearsal(stage).restore(discard_changes=True))


def test_an_image_that_an_interrupted_restore_has_rebuilt(tmp_path, monkeypatch):
    def end():
        raise KeyboardInterrupt

    stage = Stage(tmp_path, monkeypatch)
    stage.apply(Retire.DELETE)
    stage.on_step[Step.RETIRING] = end
    with pytest.raises(KeyboardInterrupt):
        stage.restore()
    stage.on_step.clear()
    kept = f"it would keep {stage.original()}, which an interrupted restore has rebuilt"
    (outcome,) = Rehearsal(stage).restore()
    assert outcome.reason == f"{kept}, and the overlay would be deleted"
    stage.overlay().unlink()
    (outcome,) = Rehearsal(stage).restore(discard_changes=True)
    assert outcome.reason == kept


def test_an_original_that_is_gone_already(stage):
    stage.apply(Retire.QUARANTINE)
    stage.original(suffix=ASIDE).unlink()
    (outcome,) = Rehearsal(stage).purge()
    gone = f"{stage.original(suffix=ASIDE)} is gone already, so the purge would only finish the rest of its work"
    assert (outcome.status, outcome.reason) == (Status.WOULD_PURGE, gone)


def test_an_overlay_that_cannot_be_read(stage):
    """As in a real run, the error names the original, and does not advise to leave the overlay out."""
    stage.apply(Retire.QUARANTINE)
    stage.overlay().write_bytes(b"QFI\xfb" + bytes(508))
    reason = failed(Rehearsal(stage).restore())
    assert "manifest" not in reason
    assert reason == failed(stage.restore())


def test_after_a_restore_that_died(tmp_path, monkeypatch):
    """What has begun is taken into account, and still nothing is noted."""
    stage = Stage(tmp_path, monkeypatch)
    stage.apply(Retire.QUARANTINE)
    stage.overlay().rename(stage.overlay(suffix=".batchdiff-deleting"))
    assert status(Rehearsal(stage).restore()) is Status.WOULD_RESTORE
