"""A lost journal: what of it the sidecar, the overlays' headers and the names in quarantine prove."""

from __future__ import annotations

import dataclasses
import json
import os

import notation
import pytest
from plans import untouched
from stage import ASIDE, DELETING, NAME, Stage, failed

from batchdiff.applying.guests.recovery import recover_states
from batchdiff.applying.guests.unrecorded import recover_unrecorded
from batchdiff.applying.journal.records import Fate, Goal, History, Step
from batchdiff.choices import Retire, Verdict
from batchdiff.plan.path_map import NOTHING_MOVED, Move, PathMap


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch)


def found(stage):
    return recover_states(stage.plan, History()).get(NAME)


def without_the_sidecar(stage):
    stage.sidecar.unlink()


def edit_sidecar(stage, **changes):
    """Changes what is recorded of the overlay."""
    document = json.loads(stage.sidecar.read_text())
    document["overlays"][str(stage.overlay())] |= changes
    stage.sidecar.write_text(json.dumps(document))


def test_nothing_was_done(stage):
    assert recover_states(stage.plan, History()) == {}


@pytest.mark.parametrize(
    ("retire", "step", "fate"),
    [
        (Retire.KEEP, Step.PUBLISHED, None),
        (Retire.QUARANTINE, Step.RETIRED, Fate.QUARANTINED),
        (Retire.DELETE, Step.RETIRED, Fate.GONE),
    ],
)
def test_what_apply_has_done(stage, retire, step, fate):
    """As the journal had it, but that nobody can tell a deleted original from one that somebody moved."""
    stage.apply(retire)
    known = stage.state()
    state = found(stage)
    assert (state.step, state.fate) == (step, fate)
    assert state.published
    assert state.goal is Goal.APPLY
    assert state.overlay == known.overlay
    assert state.aside == (str(stage.original(suffix=ASIDE)) if retire is Retire.QUARANTINE else None)
    assert (state.temporary, state.rebuilt, state.deleting) == (None, None, False)


def test_an_original_that_was_about_to_be_deleted(stage):
    stage.apply()
    stage.original().rename(stage.original(suffix=DELETING))
    state = found(stage)
    assert (state.step, state.moved, state.fate) == (Step.RETIRING, True, None)
    assert state.published


@pytest.mark.parametrize("suffix", [ASIDE, DELETING])
def test_the_name_of_a_proven_original_is_enough_without_the_sidecar(stage, suffix):
    stage.apply(Retire.QUARANTINE)
    stage.original(suffix=ASIDE).rename(stage.original(suffix=suffix))
    without_the_sidecar(stage)
    assert found(stage).published
    assert found(stage).overlay is None


def test_a_kept_original_alone_proves_nothing(stage):
    """Anybody may have made an overlay on the template beside it."""
    stage.apply()
    without_the_sidecar(stage)
    assert recover_states(stage.plan, History()) == {}


def test_another_file_in_quarantine_proves_nothing(stage):
    stage.apply(Retire.QUARANTINE)
    without_the_sidecar(stage)
    os.utime(stage.original(suffix=ASIDE), (1, 1))
    assert recover_states(stage.plan, History()) == {}


@pytest.mark.parametrize("changes", [{"plan": "sha256:other"}, {"guest": "other"}])
@pytest.mark.parametrize("retire", [Retire.KEEP, Retire.DELETE])
def test_an_overlay_of_another_plan(stage, changes, retire):
    stage.apply(retire)
    edit_sidecar(stage, **changes)
    assert recover_states(stage.plan, History()) == {}


DAMAGES = ("missing", "garbage", "flattened", "another template")


def damage(stage, what):
    """Leaves nothing at the overlay's path that rests on the template."""
    overlay = stage.overlay()
    match what:
        case "missing":
            overlay.unlink()
        case "garbage":
            overlay.write_bytes(b"garbage")
        case "flattened":
            notation.run("qemu-img", "rebase", "-f", "qcow2", "-b", "", str(overlay))
        case _:
            other = notation.write_raw(stage.folder / "template.other", "1M:A")
            arguments = ["-u", "-f", "qcow2", "-F", "raw", "-b", str(other), str(overlay)]
            notation.run("qemu-img", "rebase", *arguments)


@pytest.mark.parametrize(
    ("what", "retire"),
    [
        *((what, Retire.KEEP) for what in DAMAGES),
        *((what, Retire.DELETE) for what in DAMAGES if what != "missing"),
    ],
)
def test_what_does_not_rest_on_the_template_is_not_recovered(stage, what, retire):
    """Restore would delete it."""
    stage.apply(retire)
    damage(stage, what)
    assert recover_states(stage.plan, History()) == {}


def test_overlay_and_original_are_both_missing(stage):
    """The sidecar has a record of the overlay, so `status` must not suggest to write it."""
    stage.apply(Retire.DELETE)
    stage.overlay().unlink()
    (state,) = recover_states(stage.plan, History()).values()
    assert (state.step, state.fate, state.published) == (Step.RETIRED, Fate.GONE, True)
    assert recover_unrecorded(stage.plan, History(), NOTHING_MOVED).keys() == {
        guest.name for guest in stage.plan.to_convert
    }


@pytest.mark.parametrize("sidecar", [True, False])
@pytest.mark.parametrize("what", DAMAGES)
def test_a_proven_original_in_quarantine_is_enough_without_the_overlay(stage, what, sidecar):
    """It must not be forgotten: it may be all that is left."""
    stage.apply(Retire.QUARANTINE)
    damage(stage, what)
    if not sidecar:
        without_the_sidecar(stage)
    state = found(stage)
    assert (state.step, state.fate, state.published) == (Step.RETIRED, Fate.QUARANTINED, True)
    assert state.aside == str(stage.original(suffix=ASIDE))


def test_an_older_original_that_a_restore_left(stage):
    stage.apply(Retire.QUARANTINE)
    stage.use()
    stage.restore()
    known = stage.history.states[NAME]
    assert found(stage) == known
    assert (known.step, known.fate) == (Step.RESTORED, Fate.QUARANTINED)


@pytest.mark.parametrize("place", ["beside", "same"])
def test_an_original_is_no_older_one_while_its_overlay_is_recorded(tmp_path, monkeypatch, place):
    """Whatever has its name by now: `purge --used` would take that for the disk, and delete all that is left."""
    stage = Stage(tmp_path, monkeypatch, place=place)
    stage.apply(Retire.QUARANTINE)
    stage.overlay().unlink()
    stage.original().write_bytes(b"somebody's")
    assert (found(stage).step, found(stage).fate) == (Step.RETIRED, Fate.QUARANTINED)
    stage.journal_file.unlink()
    assert failed(stage.purge(used=True))
    assert stage.original(suffix=ASIDE).exists()


@pytest.mark.parametrize("proven", [True, False])
def test_two_files_that_could_be_the_disk(stage, proven):
    """As the journal had it, if the overlay is recorded; restore waits until a person has looked."""
    stage.apply(Retire.QUARANTINE)
    known = stage.state()
    stage.original().write_bytes(b"somebody's")
    if not proven:
        os.utime(stage.original(suffix=ASIDE), (1, 1))
    assert found(stage) == dataclasses.replace(known, moved=False)
    without_the_sidecar(stage)
    assert recover_states(stage.plan, History()) == {}


@pytest.mark.parametrize("proven", [True, False])
def test_two_files_and_no_overlay(stage, proven):
    """Which of the two is the disk nobody can tell: the original counts only if it is as it was planned."""
    stage.apply(Retire.QUARANTINE)
    stage.original().write_bytes(b"somebody's")
    stage.overlay().unlink()
    if not proven:
        os.utime(stage.original(suffix=ASIDE), (1, 1))
    assert (found(stage) is not None) is proven


def test_an_apply_that_failed_early_proves_nothing(stage):
    """The files of a converted guest may have been away, on a pool that was not mounted."""
    stage.apply(Retire.QUARANTINE)
    history = History()
    history.take_in({"time": "1", "guest": NAME, "step": "failed", "reason": "it is gone"})
    assert recover_states(stage.plan, history)[NAME].published


def test_a_failure_after_a_restore_changes_nothing(stage):
    stage.apply(Retire.QUARANTINE)
    history = stage.history
    history.take_in({"time": "2", "guest": NAME, "step": "restored", "goal": "restore"})
    history.take_in({"time": "3", "guest": NAME, "step": "failed", "reason": "it is in use"})
    assert recover_states(stage.plan, history) == {}


def test_guests_that_the_plan_does_not_convert(stage):
    stage.apply(Retire.QUARANTINE)
    guest = untouched(stage.guest(), Verdict.SKIP)
    assert recover_states(dataclasses.replace(stage.plan, guests=(guest,)), History()) == {}


def test_a_sidecar_that_an_older_batchdiff_has_written(stage):
    stage.apply()
    document = json.loads(stage.sidecar.read_text())
    document["format_version"] = "1.0"
    for key in ("plan_path", "original", "fingerprint"):
        del document["overlays"][str(stage.overlay())][key]
    stage.sidecar.write_text(json.dumps(document))
    assert found(stage).published
    assert found(stage).overlay is None


def test_a_pool_that_moved(stage):
    """The sidecar names the overlay where it was."""
    stage.apply()
    edit_sidecar(stage)
    document = json.loads(stage.sidecar.read_text())
    document["overlays"] = {"/old/vm.qcow2": document["overlays"][str(stage.overlay())]}
    stage.sidecar.write_text(json.dumps(document))
    assert recover_states(stage.plan, History()) == {}
    path_map = PathMap((Move("/old", str(stage.folder)),))
    assert recover_states(stage.plan, History(), path_map)[NAME].published


def test_the_verbs_go_on_from_there(stage):
    stage.apply(Retire.QUARANTINE)
    stage.use()
    stage.journal_file.unlink()
    (outcome,) = stage.restore()
    assert outcome.original.fate is Fate.REBUILT
    assert stage.images() == {stage.original().name, stage.original(suffix=ASIDE).name}
