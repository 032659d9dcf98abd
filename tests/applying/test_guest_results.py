"""From the end of a swap to a line in the report."""

from __future__ import annotations

import dataclasses
import os
import types
from unittest.mock import Mock

import notation
import plans
import pytest
from stage import ASIDE, Stage

from batchdiff.applying.dry_run import dry_run_purge
from batchdiff.applying.guest_results import (
    apply_outcome,
    failure_outcome,
    kept_outcome,
    skipped_outcome,
    undo_outcome,
)
from batchdiff.applying.guests.conversions import conversions
from batchdiff.applying.guests.guest_files import on_disk
from batchdiff.applying.guests.next_action import Action
from batchdiff.applying.guests.status import status_rows
from batchdiff.applying.journal.records import Fate, Goal, GuestState, History, Step
from batchdiff.applying.pipeline import SwapResult
from batchdiff.applying.results.outcome import Original, Status
from batchdiff.applying.swap.purge_task import PurgeOptions
from batchdiff.applying.swap.restore_task import RestoreTask
from batchdiff.choices import Retire, Verdict
from batchdiff.errors import DifferenceError, GuestError, ImageError, IncomparableError, VerificationError
from batchdiff.report.fates import original_words

KEPT = Original(Fate.KEPT)


def result(*done, original=KEPT, error=None, changes=(), task=None):
    swap = types.SimpleNamespace(
        done=frozenset(done), original=original, remarks=["a note"], changes=list(changes), task=task
    )
    return SwapResult("web01", swap, error)


@pytest.mark.parametrize(
    ("verdict", "status", "code"), [(Verdict.SKIP, "skipped", 0), (Verdict.REFUSE, "refused", 1)]
)
def test_guests_that_are_not_converted(verdict, status, code):
    outcome = skipped_outcome(plans.guest_plan(verdict=verdict, reason="so"))
    assert (outcome.status, outcome.reason, outcome.exit_code) == (status, "so", code)


@pytest.mark.parametrize("error", [GuestError("no"), VerificationError("no")])
def test_failures(error, tmp_path):
    guest = plans.guest_plan(path=str(tmp_path / "vm.img"))
    for outcome in (
        failure_outcome(result(error=error)),
        apply_outcome(guest, result(error=error), History()),
        undo_outcome(guest, result(error=error), Status.PURGED, History()),
        apply_outcome(guest, SwapResult("web01", None, error), History()),
    ):
        assert (outcome.status, outcome.reason, outcome.exit_code) == (Status.FAILED, "no", error.exit_code)
        assert (outcome.original, outcome.actual_overlay_bytes) == (Original(Fate.UNTOUCHED), None)
    with pytest.raises(AssertionError):
        failure_outcome(result())


@pytest.mark.parametrize(
    ("done", "status"),
    [
        ([], Status.UNCHANGED),
        ([Action.VERIFY], Status.UNCHANGED),
        ([Action.WRITE, Action.PUBLISH], Status.CONVERTED),
        ([Action.PUBLISH, Action.SET_ASIDE, Action.UNLINK], Status.CONVERTED),
        ([Action.QUARANTINE], Status.RETIRED),
        ([Action.SET_ASIDE, Action.UNLINK], Status.RETIRED),
        ([Action.PUT_BACK], Status.UNCHANGED),
    ],
)
def test_converted(tmp_path, done, status):
    guest = plans.guest_plan(path=str(tmp_path / "vm.img"))
    (tmp_path / "vm.qcow2").write_bytes(b"x" * 5000)
    outcome = apply_outcome(guest, result(*done), History())
    assert outcome.status is status
    assert (outcome.actual_overlay_bytes, outcome.actual_overlay_disk_bytes) == (5000, 8192)
    assert outcome.predicted_overlay_bytes == guest.diff.savings.overlay_bytes
    assert outcome.predicted_overlay_disk_bytes == guest.diff.savings.overlay_disk_bytes
    assert outcome.remarks == ("a note",)


@pytest.mark.parametrize("freed", [0, 4096, None])
def test_deleting_the_rest_of_an_original_is_a_change(tmp_path, freed):
    """An earlier run had deleted only its own file."""
    (tmp_path / "vm.qcow2").touch()
    outcome = apply_outcome(plans.guest_plan(path=str(tmp_path / "vm.img")), result(changes=[freed]), History())
    assert (outcome.status, outcome.gained_bytes) == (Status.RETIRED, freed)


def test_an_overlay_whose_path_was_taken_since(tmp_path):
    """Only this guest has failed: the outcomes of the others are still to come."""
    (tmp_path / "vm.qcow2").mkdir()
    outcome = apply_outcome(plans.guest_plan(path=str(tmp_path / "vm.img")), result(), History())
    assert (outcome.status, outcome.exit_code, outcome.original) == (Status.FAILED, ImageError.exit_code, KEPT)
    assert f"cannot use {tmp_path}/vm.qcow2: it is neither a regular file" in outcome.reason


@pytest.mark.parametrize(
    ("fate", "said"),
    [
        (Fate.KEPT, "kept"),
        (Fate.DELETED, "deleted"),
        (Fate.QUARANTINED, "quarantined as /aside"),
        (Fate.GONE, "gone: an earlier run or another program deleted or moved it"),
    ],
)
def test_originals(tmp_path, fate, said):
    guest = plans.guest_plan(path=str(tmp_path / "vm.img"))
    (tmp_path / "vm.qcow2").touch()
    ended = result(original=Original(fate, "/aside"))
    for outcome in (
        apply_outcome(guest, ended, History()),
        undo_outcome(guest, ended, Status.PURGED, History()),
    ):
        assert outcome.original == Original(fate, "/aside")
        assert original_words(outcome) == said


@pytest.mark.parametrize(
    ("done", "before", "said"),
    [
        ([], False, "back under its name"),
        ([Action.WRITE], False, "rebuilt from its overlay"),
        ([], True, "rebuilt from its overlay"),
    ],
)
def test_restored(done, before, said):
    """``before``: an earlier run had already rebuilt the image."""
    task = Mock(RestoreTask, is_rebuilt=before)
    ended = result(*done, original=Original(Fate.QUARANTINED, "/aside"), task=task)
    outcome = undo_outcome(plans.guest_plan(), ended, Status.RESTORED, History())
    assert original_words(outcome) == said
    assert (outcome.status, outcome.remarks, outcome.exit_code) == (Status.RESTORED, ("a note",), 0)


def test_kept_in_quarantine():
    state, web01 = GuestState(Step.RETIRED, published=True), plans.guest_plan()
    outcome = kept_outcome(web01, DifferenceError("they differ"), state)
    assert (outcome.status, outcome.exit_code, original_words(outcome)) == (Status.KEPT, 0, "kept in quarantine")
    assert "its VM has probably run on the overlay since the conversion (they differ)" in outcome.reason
    rebuilt = kept_outcome(web01, DifferenceError("they differ"), GuestState(Step.RESTORED))
    assert rebuilt.reason.startswith("restore rebuilt its image, including what its VM had written (they differ)")
    assert "`batchdiff purge PLAN --guest web01 --used`." in outcome.reason


@pytest.mark.parametrize("state", [GuestState(Step.RETIRED, published=True), GuestState(Step.RESTORED)])
def test_a_disk_in_use_does_not_show_that_its_vm_has_run(state):
    """Any program may have it open; what it contains is not known."""
    error = IncomparableError("a is in use, so it cannot be compared", why="cp has it open")
    outcome = kept_outcome(plans.guest_plan(), error, state)
    assert outcome.reason == (
        "a is in use, so it cannot be compared: cp has it open."
        " To delete the original anyway: `batchdiff purge PLAN --guest web01 --used`."
    )


def test_two_images_that_differ_although_neither_was_written_to(tmp_path, monkeypatch):
    """One of them may be damaged, so nothing recommends to delete the other."""
    stage = Stage(tmp_path, monkeypatch)
    stage.apply(Retire.QUARANTINE)
    times = stage.overlay().stat()
    notation.qemu_io(stage.overlay(), "write -P 7 256k 64k")  # where it has a cluster of its own already
    os.utime(stage.overlay(), ns=(times.st_atime_ns, times.st_mtime_ns))
    (outcome,) = stage.purge()
    assert outcome.status is Status.KEPT
    assert outcome.reason.startswith("original and overlay differ, though neither has been written to since")
    assert outcome.reason.endswith("which of the two to keep, run `batchdiff verify PLAN --guest vm`.")


@pytest.mark.parametrize("used", [False, True])
def test_an_original_that_was_written_to_in_quarantine(tmp_path, monkeypatch, used):
    """Each verb names the true cause, and none recommends a command that would be refused."""
    stage = Stage(tmp_path, monkeypatch)
    stage.apply(Retire.QUARANTINE)
    aside = stage.original(suffix=ASIDE)
    with aside.open("r+b") as file:
        file.write(b"?")
    if used:
        stage.use()
    known = "its modification time changed (mtime)"
    changed = f"the original in quarantine, {aside}, has changed since it was planned: {known}"
    for outcome in (stage.purge()[0], *dry_run_purge(stage.frozen(), PurgeOptions())):
        assert outcome.status is Status.KEPT
        assert outcome.reason.startswith(
            f"{changed}{', and its overlay has changed since the conversion' if used else ''} ("
        )
        assert "not even `purge --used`: find out what it contains" in outcome.reason
    (refused,) = stage.purge(used=True)
    assert refused.status is Status.FAILED

    (restored,) = stage.restore()
    assert restored.remarks[0].startswith(f"rebuilt from the overlay, because {changed}.")
    assert not any("what its VM wrote" in each or "to delete it" in each for each in restored.remarks)
    (row,) = status_rows(stage.plan, stage.history, on_disk(stage.plan, stage.history))
    assert row.next.startswith(f"find out what is in the older original {aside}")
    (kept,) = stage.purge()
    assert kept.reason.startswith(changed)


@pytest.mark.parametrize("retire", Retire)
@pytest.mark.parametrize("verb", ["apply", "purge"])
def test_one_that_comes_no_further_is_where_an_earlier_run_has_left_it(tmp_path, monkeypatch, retire, verb):
    """In quarantine for one, and its overlay is there."""
    stage = Stage(tmp_path, monkeypatch)
    stage.apply(retire)
    error = SwapResult("vm", None, GuestError("no"))
    if verb == "apply":
        outcome = apply_outcome(stage.guest(), error, stage.history)
        assert outcome.actual_overlay_bytes == stage.overlay().stat().st_size
        assert outcome.predicted_overlay_bytes is not None
    else:
        outcome = undo_outcome(stage.guest(), error, Status.PURGED, stage.history)
    quarantined = f"quarantined as {stage.original(suffix=ASIDE)}"
    where = {Retire.KEEP: "kept", Retire.QUARANTINE: quarantined, Retire.DELETE: "deleted"}
    assert (outcome.status, original_words(outcome)) == (Status.FAILED, where[retire])


@pytest.mark.parametrize(
    ("change", "fate"),
    [
        ({}, Fate.GONE),
        ({"deleting": True}, Fate.DELETED),
        ({"deleting": True, "goal": Goal.RESTORE}, Fate.GONE),  # it is the overlay that was about to be deleted
        ({"step": Step.PURGED}, Fate.DELETED),
    ],
)
def test_a_missing_original_was_deleted_if_the_journal_says_so(tmp_path, monkeypatch, change, fate):
    stage = Stage(tmp_path, monkeypatch)
    stage.apply(Retire.KEEP)
    stage.original().unlink()
    state = dataclasses.replace(stage.history.states["vm"], **change)
    outcome = apply_outcome(stage.guest(), SwapResult("vm", None, GuestError("no")), History(states={"vm": state}))
    assert original_words(outcome) == fate.value
    history = dataclasses.replace(stage.history, states={"vm": state})
    assert conversions(stage.plan, history)["vm"].fate is fate


def test_one_whose_overlay_is_missing_and_whose_original_is_in_doubt(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch)
    stage.apply(Retire.QUARANTINE)
    stage.overlay().unlink()
    stage.original().write_bytes(b"somebody's")
    outcome = apply_outcome(stage.guest(), SwapResult("vm", None, GuestError("no")), stage.history)
    assert original_words(outcome).startswith("unknown: both ")
    assert outcome.actual_overlay_bytes is None


@pytest.mark.parametrize(
    ("changes", "gained"), [([], None), ([-3, 10], 7), ([-3], -3), ([0], 0), ([-3, None], None)]
)
def test_the_space_that_came_back(changes, gained):
    outcome = undo_outcome(plans.guest_plan(), result(changes=changes), Status.PURGED, History())
    assert outcome.gained_bytes == gained
