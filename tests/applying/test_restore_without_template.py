"""Originals get their names back when the template is lost; the overlays stay, for it may come back."""

from __future__ import annotations

import os

import notation
import pytest
from crashes import crashing
from oracle import assert_same
from stage import ASIDE, DELETING, GUEST, OVERLAY_ASIDE, Stage, failed, status

from batchdiff.applying import restore_without_template
from batchdiff.applying.dry_run import dry_run_restore
from batchdiff.applying.guests.changed_images import changed_images
from batchdiff.applying.guests.guest_files import on_disk
from batchdiff.applying.guests.status import status_rows
from batchdiff.applying.journal.records import Fate, Step
from batchdiff.applying.results.outcome import Status
from batchdiff.applying.swap.guest_to_restore import RestoreOptions
from batchdiff.choices import Retire, VerifyMode
from batchdiff.errors import StopError
from batchdiff.plan.sidecar import read_sidecar


@pytest.fixture(params=["beside", "same"])
def stage(request, tmp_path, monkeypatch):
    """A guest in quarantine, used, whose template is lost."""
    stage = Stage(tmp_path, monkeypatch, place=request.param)
    stage.apply(Retire.QUARANTINE)
    stage.use()
    lose(stage)
    stage.steps.clear()
    return stage


def lose(stage):
    stage.template.rename(stage.folder / "template.elsewhere")


def in_place(stage):
    return stage.overlay() == stage.original()


def left(stage):
    """Where the overlay is in the end."""
    return stage.overlay(suffix=OVERLAY_ASIDE) if in_place(stage) else stage.overlay()


def assert_back(stage, overlay):
    assert_same(stage.original().read_bytes(), notation.content(GUEST))
    assert_same(left(stage).read_bytes(), overlay)
    assert stage.images() == {stage.original().name, left(stage).name}
    assert stage.history.states == {}
    assert read_sidecar(str(stage.sidecar)).overlays == {}
    assert not [notice for notice in changed_images(stage.plan, stage.history) if str(stage.original()) in notice]


def test_back_from_quarantine(stage):
    before = stage.overlay().read_bytes()
    (outcome,) = stage.restore(discard_changes=True)
    assert (outcome.status, outcome.original.fate) == (Status.RESTORED, Fate.BACK)
    (said,) = outcome.remarks
    assert (
        f"its overlay {left(stage)} was not deleted: restore deletes no overlay without the planned template"
        in said
    )
    assert f"remove it (`rm {left(stage)}`)" in said
    assert [step for _, step in stage.steps] == [Step.RESTORED]
    assert_back(stage, before)


def test_the_overlay_that_stays_is_needed_only_for_what_the_vm_wrote(stage):
    """Whoever meets it later learns the command that removes it, and that is enough to go on."""
    only = "it is needed only to recover what the VM wrote"
    stage.restore(discard_changes=True)
    (stage.folder / "template.elsewhere").rename(stage.template)
    remove = f"rm {left(stage)}"
    assert next_for(stage) == f"{remove}, or rename it: restore left it behind, and {only}"
    if not in_place(stage):
        reason = failed(stage.apply(guests=frozenset(stage.names)))
        assert f"a restore could not read this overlay and left it behind; {only}" in reason
        assert f"remove it (`{remove}`)" in reason
        assert next_for(stage).startswith(remove)
    left(stage).unlink()
    assert next_for(stage).startswith("nothing; to convert it again: apply --guest vm,")
    assert status(stage.apply(Retire.QUARANTINE, guests=frozenset(stage.names))) is Status.CONVERTED
    assert stage.history.left == {}


def test_an_overlay_that_may_be_all_that_is_left_is_not_to_be_removed(stage):
    stage.restore(discard_changes=True)
    (stage.folder / "template.elsewhere").rename(stage.template)
    stage.original().rename(stage.folder / "original.elsewhere")
    missing = f"{stage.original()} is missing; its overlay {left(stage)} is still there"
    assert next_for(stage) == f"bring back the image that restore gave the guest: {missing}"


def test_an_overlay_that_was_used_again_is_not_said_to_be_needed_by_nothing(stage):
    stage.restore(discard_changes=True)
    (stage.folder / "template.elsewhere").rename(stage.template)
    notation.qemu_io(left(stage), "write -P 3 512k 64k")
    assert next_for(stage).startswith("nothing; to convert it again: apply --guest vm,")
    if not in_place(stage):
        assert "Move it away" in failed(stage.apply(guests=frozenset(stage.names)))


def next_for(stage):
    (line,) = status_rows(stage.plan, stage.history, on_disk(stage.plan, stage.history))
    return line.next


def test_killed_after_each_change(tmp_path, monkeypatch):
    for place in ("beside", "same"):
        last, count = 0, None
        while count is None or last <= count:
            folder = tmp_path / f"{place}-{last}"
            folder.mkdir()
            stage = Stage(folder, monkeypatch, place=place)
            stage.apply(Retire.QUARANTINE)
            before = stage.overlay().read_bytes()
            lose(stage)
            if last:
                with crashing(folder, last):
                    stage.restore(discard_changes=True)
            with crashing(folder) as changes:
                outcomes = stage.restore(discard_changes=True)
            assert [each.exit_code for each in outcomes] in ([0], [])
            assert_back(stage, before)
            count = len(changes) if count is None else count
            last += 1
        assert count >= 5


def test_the_template_comes_back_after_a_kill(tmp_path, monkeypatch):
    """In any state that a kill leaves, the next restore finds both files and brings back what the VM sees."""
    for place in ("beside", "same"):
        for last in range(1, 8):
            folder = tmp_path / f"{place}-{last}"
            folder.mkdir()
            stage = Stage(folder, monkeypatch, place=place)
            stage.apply(Retire.QUARANTINE)
            lose(stage)
            with crashing(folder, last) as changes:
                stage.restore(discard_changes=True)
            ended = any(line == "unlink" for line in changes) or not stage.history.states
            (stage.folder / "template.elsewhere").rename(stage.template)
            outcomes = stage.restore()
            assert [each.exit_code for each in outcomes] == ([] if ended else [0]), (last, changes)
            assert_same(stage.original().read_bytes(), notation.content(GUEST))


def test_a_kept_original_has_its_name_already(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch)
    stage.apply()
    lose(stage)
    assert status(stage.restore(discard_changes=True)) is Status.RESTORED
    assert stage.images() == {stage.original().name, stage.overlay().name}
    assert stage.history.states == {}


def test_an_original_that_was_about_to_be_deleted(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch)
    stage.apply()
    stage.original().rename(stage.original(suffix=DELETING))
    before = stage.overlay().read_bytes()
    lose(stage)
    stage.restore(discard_changes=True)
    assert_back(stage, before)


def test_an_overlay_that_is_gone_as_well(stage):
    stage.overlay().unlink()
    (outcome,) = stage.restore(discard_changes=True)
    assert outcome.remarks == ()
    assert stage.images() == {stage.original().name}


def test_no_original(stage):
    """The others go on: each guest for itself."""
    stage.original(suffix=ASIDE).unlink()
    before = stage.images()
    assert "cannot go back to its original" in failed(stage.restore(discard_changes=True))
    assert stage.images() == before
    assert "cannot go back" in stage.history.failures["vm"]


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("kept", ["gone", "in quarantine"])
def test_a_guest_that_fails_has_the_same_original_with_and_without_its_template(tmp_path, monkeypatch, lost, kept):
    """Whether the original is named does not depend on how the guest fails, nor on whether this is a dry run."""
    stage = Stage(tmp_path, monkeypatch)
    stage.apply(Retire.QUARANTINE)
    if lost:
        lose(stage)
    if kept == "gone":
        stage.original(suffix=ASIDE).unlink()
    else:
        stage.overlay(suffix=OVERLAY_ASIDE).write_bytes(b"either could be the overlay")
    fate = Fate.GONE if kept == "gone" else Fate.QUARANTINED
    tried = list(dry_run_restore(stage.frozen(), RestoreOptions(discard_changes=True)))
    for outcomes in (tried, stage.restore(discard_changes=True)):
        assert [(each.status, each.original.fate) for each in outcomes] == [(Status.FAILED, fate)]


def test_originals_that_are_back_can_be_converted_again(stage):
    """batchdiff itself has changed their ctimes, by the renames."""
    stage.restore(discard_changes=True)
    (stage.folder / "template.elsewhere").rename(stage.template)
    left(stage).unlink()
    names = frozenset(stage.names)
    again = stage.apply(Retire.QUARANTINE, guests=names, verify=VerifyMode.NATIVE)
    assert status(again) is Status.CONVERTED


@pytest.mark.parametrize("which", ["original", "overlay"])
@pytest.mark.parametrize("obstacle", ["reader", "writer", "clone"])
def test_who_is_in_the_way(stage, which, obstacle):
    """Nothing is renamed under anybody's eyes, and no VM may run on an overlay that is given up.

    An overlay with a path of its own stays where it is, so whoever reads it or rests on it is not in the way.
    """
    path = stage.original(suffix=ASIDE) if which == "original" else stage.overlay()
    fd = None
    if obstacle == "clone":
        stage.linked_clone(path)
    else:
        fd = os.open(path, os.O_RDONLY if obstacle == "reader" else os.O_RDWR)
    before = stage.images()
    concerned = which == "original" or obstacle == "writer" or (in_place(stage) and obstacle == "clone")
    if concerned:
        assert failed(stage.restore(discard_changes=True))
        assert stage.images() == before
    else:
        assert status(stage.restore(discard_changes=True)) is Status.RESTORED
    if fd is not None:
        os.close(fd)


def test_what_has_the_name_already_stays(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch)
    stage.apply(Retire.QUARANTINE)
    lose(stage)
    stage.original().write_bytes(b"somebody's")
    assert failed(stage.restore(discard_changes=True))
    assert stage.original().read_bytes() == b"somebody's"


def test_one_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch, names=("vm", "web"))
    stage.apply(Retire.QUARANTINE)
    lose(stage)
    with stage.original("vm", ASIDE).open("rb"):
        outcomes = stage.restore(discard_changes=True)
    assert [each.status for each in outcomes] == [Status.FAILED, Status.RESTORED]
    assert set(stage.history.states) == {"vm"}


def test_an_error_of_the_disk(stage, monkeypatch):
    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(restore_without_template.retire, "move", broken)
    assert "Input/output error" in failed(stage.restore(discard_changes=True))


def test_stopped_between_two(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch, names=("vm", "web"))
    stage.apply(Retire.QUARANTINE)
    lose(stage)
    stage.on_step[Step.RESTORED] = stage.stop.ask
    with pytest.raises(StopError):
        stage.restore(discard_changes=True)
    assert set(stage.history.states) == {"web"}
    assert stage.original("web", ASIDE).exists()
