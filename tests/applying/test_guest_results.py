"""From where a guest has arrived to its line in the report."""

from __future__ import annotations

import types

import plans
import pytest
from stage import ASIDE, Stage

from batchdiff.applying.guest_results import converted, failed, kept_for, not_converted, undone
from batchdiff.applying.guests.next_action import Action
from batchdiff.applying.journal.records import Fate, Notes
from batchdiff.applying.pipeline import Arrival
from batchdiff.applying.results.outcome import Original, Status
from batchdiff.choices import Retire
from batchdiff.errors import DifferenceError, GuestError, VerificationError
from batchdiff.plan.plan import Verdict
from batchdiff.report.fates import original_words

KEPT = Original(Fate.KEPT)


def arrival(*done, original=KEPT, error=None):
    conversion = types.SimpleNamespace(done=frozenset(done), original=original, notes=["a note"])
    return Arrival("web01", conversion, error)


@pytest.mark.parametrize(
    ("verdict", "status", "code"), [(Verdict.SKIP, "skipped", 0), (Verdict.REFUSE, "refused", 1)]
)
def test_guests_that_are_not_converted(verdict, status, code):
    outcome = not_converted(plans.guest_plan(verdict=verdict, reason="so"))
    assert (outcome.status, outcome.reason, outcome.exit_code) == (status, "so", code)


@pytest.mark.parametrize("error", [GuestError("no"), VerificationError("no")])
def test_failures(error, tmp_path):
    guest = plans.guest_plan(path=str(tmp_path / "vm.img"))
    for outcome in (
        failed(arrival(error=error)),
        converted(guest, arrival(error=error), Notes()),
        undone(guest, arrival(error=error), Status.PURGED, Notes()),
        converted(guest, Arrival("web01", None, error), Notes()),
    ):
        assert (outcome.status, outcome.reason, outcome.exit_code) == (Status.FAILED, "no", error.exit_code)
        assert (outcome.original, outcome.actual_overlay_bytes) == (Original(Fate.UNTOUCHED), None)
    with pytest.raises(AssertionError):
        failed(arrival())


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
    outcome = converted(guest, arrival(*done), Notes())
    assert outcome.status is status
    assert (outcome.actual_overlay_bytes, outcome.actual_overlay_disk_bytes) == (5000, 8192)
    assert outcome.predicted_overlay_bytes == guest.diff.savings.overlay_bytes
    assert outcome.predicted_overlay_disk_bytes == guest.diff.savings.overlay_disk_bytes
    assert outcome.remarks == ("a note",)


@pytest.mark.parametrize(
    ("fate", "said"),
    [
        (Fate.KEPT, "kept"),
        (Fate.DELETED, "deleted"),
        (Fate.QUARANTINED, "quarantined as /aside"),
        (Fate.GONE, "gone: an earlier run deleted it, or it was moved"),
    ],
)
def test_originals(tmp_path, fate, said):
    guest = plans.guest_plan(path=str(tmp_path / "vm.img"))
    (tmp_path / "vm.qcow2").touch()
    arrived = arrival(original=Original(fate, "/aside"))
    for outcome in (
        converted(guest, arrived, Notes()),
        undone(guest, arrived, Status.PURGED, Notes()),
    ):
        assert outcome.original == Original(fate, "/aside")
        assert original_words(outcome) == said


@pytest.mark.parametrize("rebuilt", [False, True])
def test_restored(rebuilt):
    arrived = arrival(*([Action.WRITE] if rebuilt else []), original=Original(Fate.QUARANTINED, "/aside"))
    outcome = undone(plans.guest_plan(), arrived, Status.RESTORED, Notes())
    assert original_words(outcome) == ("rebuilt from its overlay" if rebuilt else "back under its name")
    assert (outcome.status, outcome.remarks, outcome.exit_code) == (Status.RESTORED, ("a note",), 0)


def test_kept_in_quarantine():
    outcome = kept_for("web01", DifferenceError("they differ"))
    assert (outcome.status, outcome.exit_code, original_words(outcome)) == (Status.KEPT, 0, "kept in quarantine")
    assert "(they differ)" in outcome.reason
    assert "`batchdiff purge PLAN --guest web01 --used`" in outcome.reason


@pytest.mark.parametrize("retire", Retire)
@pytest.mark.parametrize("verb", ["apply", "purge"])
def test_one_that_comes_no_further_is_where_an_earlier_run_has_left_it(tmp_path, monkeypatch, retire, verb):
    """In quarantine for one, and its overlay is there."""
    stage = Stage(tmp_path, monkeypatch)
    stage.apply(retire)
    error = Arrival("vm", None, GuestError("no"))
    if verb == "apply":
        outcome = converted(stage.guest(), error, stage.notes)
        assert outcome.actual_overlay_bytes == stage.overlay().stat().st_size
        assert outcome.predicted_overlay_bytes is not None
    else:
        outcome = undone(stage.guest(), error, Status.PURGED, stage.notes)
    quarantined = f"quarantined as {stage.original(suffix=ASIDE)}"
    where = {Retire.KEEP: "kept", Retire.QUARANTINE: quarantined, Retire.DELETE: "gone"}
    assert (outcome.status, original_words(outcome)) == (Status.FAILED, where[retire])


def test_one_whose_overlay_is_missing_and_whose_original_is_in_doubt(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch)
    stage.apply(Retire.QUARANTINE)
    stage.overlay().unlink()
    stage.original().write_bytes(b"somebody's")
    outcome = converted(stage.guest(), Arrival("vm", None, GuestError("no")), stage.notes)
    assert original_words(outcome).startswith("unknown: both ")
    assert outcome.actual_overlay_bytes is None
