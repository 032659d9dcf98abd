"""What has been published is moved away, or its VM starts: only what was compared may take another file's place.

Guards applying/swap/observe.py, applying/swap/swap.py.
"""

from __future__ import annotations

import itertools
import os
import shutil

import notation
import pytest
from crashes import crashing
from oracle import assert_same
from stage import ASIDE, DELETING, GUEST, OVERLAY_ASIDE, Stage, failed, status

from batchdiff.applying.journal.records import Step
from batchdiff.applying.results.outcome import Status
from batchdiff.choices import Retire


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch)


def moments(stage):
    """Ways to let something happen: during a comparison, once a file has its name, before one is unlinked."""
    return {
        "compared": lambda act: setattr(stage.judge, "asked", act),
        "published": lambda act: stage.on_step.update({Step.PUBLISHED: act}),
        "deleting": lambda act: stage.after_move(DELETING, act),
    }


def replaced(path):
    """By a copy, which has another inode."""
    copy = path.with_name("copy")
    shutil.copy2(path, copy)
    copy.rename(path)


def written_to(path):
    with path.open("r+b") as file:
        file.write(file.read(1))


def used(path):
    notation.qemu_io(path, "write -P 9 512k 64k", image_format="qcow2" if path.suffix == ".qcow2" else "raw")


def once(act):
    """It happens the first time only."""
    left = [act]
    return lambda: left.pop()() if left else None


@pytest.mark.parametrize("moment", ["published", "deleting"])
@pytest.mark.parametrize("change", [os.unlink, used, replaced])
def test_an_overlay_that_changes_before_the_original_goes(stage, moment, change):
    """It is not written a second time: nothing would compare that one with the original."""
    moments(stage)[moment](once(lambda: change(stage.overlay())))
    reason = failed(stage.apply(Retire.DELETE))
    assert_same(stage.original().read_bytes(), notation.content(GUEST))
    assert stage.judge.comparisons == 1
    if change is os.unlink:
        assert reason.startswith(f"the image published as {stage.overlay()} is gone, and with it what its VM")
        assert f"Its original, as it was before the conversion, is {stage.original()}. " in reason
        assert stage.images() == {stage.original().name}
        assert status(stage.restore(discard_changes=True)) is Status.RESTORED
        return
    assert reason == (
        f"{stage.overlay()} has changed: it was written to or replaced while this command ran."
        " Run the same command again."
    )
    assert stage.images() == {stage.original().name, stage.overlay().name}
    again = stage.apply(Retire.DELETE)
    if change is used:
        assert "its VM has run on the overlay since the conversion" in failed(again)
    else:
        assert status(again) is Status.RETIRED
    assert stage.judge.comparisons == 2


@pytest.mark.parametrize("change", [os.unlink, used])
def test_an_overlay_that_changes_although_the_original_stays(stage, change):
    stage.on_step[Step.PUBLISHED] = once(lambda: change(stage.overlay()))
    assert str(stage.overlay()) in failed(stage.apply(Retire.KEEP))
    assert_same(stage.original().read_bytes(), notation.content(GUEST))
    if change is os.unlink:
        assert "is gone" in failed(stage.apply(Retire.KEEP))
        assert stage.images() == {stage.original().name}
    else:
        assert status(stage.apply(Retire.KEEP)) is Status.UNCHANGED


def test_an_overlay_that_vanishes_from_the_place_of_its_original(tmp_path, monkeypatch):
    """The original stays in quarantine, so the overlay can be brought back."""
    stage = Stage(tmp_path, monkeypatch, place="same")
    moved = tmp_path / "fleet.moved"
    stage.on_step[Step.PUBLISHED] = once(lambda: stage.overlay().rename(moved))
    reason = failed(stage.apply(Retire.QUARANTINE))
    aside = stage.original(suffix=ASIDE)
    assert f"Bring it back. Its original, as it was before the conversion, is {aside}. " in reason
    assert stage.images() == {aside.name}
    moved.rename(stage.overlay())
    assert status(stage.apply(Retire.QUARANTINE)) is Status.UNCHANGED
    assert_same(aside.read_bytes(), notation.content(GUEST))


def test_an_overlay_in_the_place_of_its_original_that_is_used_at_once(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch, place="same")
    stage.on_step[Step.PUBLISHED] = once(stage.use)
    assert "has changed" in failed(stage.apply(Retire.QUARANTINE))
    before = stage.overlay().read_bytes()
    assert status(stage.apply(Retire.QUARANTINE)) is Status.UNCHANGED
    assert_same(stage.overlay().read_bytes(), before)
    assert_same(stage.original(suffix=ASIDE).read_bytes(), notation.content(GUEST))


@pytest.mark.parametrize("moment", ["published", "deleting"])
@pytest.mark.parametrize("change", [os.unlink, replaced, written_to])
def test_a_data_file_that_changes_before_the_original_goes(tmp_path, monkeypatch, moment, change):
    stage = Stage(tmp_path, monkeypatch, place="data")
    moments(stage)[moment](once(lambda: change(stage.data_file())))
    reason = failed(stage.apply(Retire.DELETE))
    what = "is gone" if change is os.unlink else "has changed"
    assert reason.startswith(f"{stage.data_file()} {what}: it was ")
    assert_same(stage.original().read_bytes(), notation.content(GUEST))


@pytest.mark.parametrize("verb", ["apply", "purge"])
def test_a_data_file_that_vanishes_before_a_later_command_deletes_the_original(tmp_path, monkeypatch, verb):
    stage = Stage(tmp_path, monkeypatch, place="data")
    stage.apply(Retire.KEEP if verb == "apply" else Retire.QUARANTINE)
    stage.after_move(DELETING, lambda: stage.data_file().unlink())
    reason = failed(stage.apply(Retire.DELETE) if verb == "apply" else stage.purge())
    assert reason.startswith(f"{stage.data_file()} is gone: it was removed or moved while this command ran.")
    (original,) = (path for path in stage.folder.glob("vm.img*"))
    assert original == stage.original(suffix="" if verb == "apply" else ASIDE)
    assert_same(original.read_bytes(), notation.content(GUEST))


@pytest.mark.parametrize("verb", ["apply", "purge"])
def test_an_overlay_that_vanishes_before_a_later_command_deletes_the_original(stage, verb):
    """The path in the message is the one that the original has afterwards."""
    stage.apply(Retire.KEEP if verb == "apply" else Retire.QUARANTINE)
    stage.after_move(DELETING, lambda: stage.overlay().unlink())
    reason = failed(stage.apply(Retire.DELETE) if verb == "apply" else stage.purge())
    original = stage.original(suffix="" if verb == "apply" else ASIDE)
    assert f"Its original, as it was before the conversion, is {original}. " in reason
    assert stage.images() == {original.name}


@pytest.mark.parametrize("change", [os.unlink, used])
@pytest.mark.parametrize(
    ("retire", "moment"), [(Retire.KEEP, "compared"), *((retire, "deleting") for retire in Retire)]
)
def test_what_restore_brings_back_changes_before_the_overlay_goes(stage, retire, change, moment):
    """If it was rebuilt, it is not rebuilt a second time."""
    stage.apply(retire)
    before = stage.overlay().read_bytes()
    moments(stage)[moment](once(lambda: change(stage.original())))
    reason = failed(stage.restore())
    assert_same(stage.overlay().read_bytes(), before)
    if change is os.unlink:
        assert reason == (
            f"{stage.original()} is gone: it was removed or moved while this command ran."
            " Bring it back, then run the same command again."
        )
        assert stage.images() == {stage.overlay().name}
    else:
        assert reason == (
            f"{stage.original()} has changed: it was written to or replaced while this command ran."
            " Stop whatever is using it, then run the same command again."
        )
        assert stage.images() == {stage.overlay().name, stage.original().name}


def test_an_original_vanishes_that_has_taken_the_name_of_its_overlay(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch, place="same")
    stage.apply(Retire.QUARANTINE)
    expected = notation.content(GUEST)
    stage.on_step[Step.PUBLISHED] = once(lambda: stage.original().unlink())
    assert f"{stage.original()} is gone" in failed(stage.restore())
    assert stage.images() == {stage.overlay(suffix=OVERLAY_ASIDE).name}
    assert status(stage.restore()) is Status.RESTORED
    assert_same(stage.original().read_bytes(), expected)


# An apply died after the overlay got its name, before it recorded that. Then its VM has started.


@pytest.fixture
def unrecorded(tmp_path, monkeypatch):
    for last in itertools.count(1):
        folder = tmp_path / str(last)
        folder.mkdir()
        stage = Stage(folder, monkeypatch)
        with crashing(stage.folder, last):
            stage.apply(Retire.DELETE)
        if stage.overlay().exists():
            break
    assert not stage.state().published
    return stage


def test_an_overlay_that_was_used_before_its_publication_was_recorded(unrecorded):
    unrecorded.use()
    before = unrecorded.overlay().read_bytes()
    assert "though there is no sign of a write to the overlay" in failed(unrecorded.apply(Retire.DELETE))
    assert status(unrecorded.apply(Retire.KEEP)) is Status.UNCHANGED
    assert_same(unrecorded.overlay().read_bytes(), before)
    assert_same(unrecorded.original().read_bytes(), notation.content(GUEST))


def test_an_overlay_whose_publication_was_not_recorded_vanishes_once_it_was_compared(unrecorded):
    unrecorded.judge.asked = once(lambda: unrecorded.overlay().unlink())
    assert f"the image published as {unrecorded.overlay()} is gone" in failed(unrecorded.apply(Retire.DELETE))
    assert unrecorded.images() == {unrecorded.original().name}


def test_an_overlay_that_differs_although_nothing_wrote_to_it(tmp_path, monkeypatch):
    """Perhaps its disk has a fault, so the original is not offered for removal."""
    stage = Stage(tmp_path, monkeypatch)
    stage.apply(Retire.KEEP)
    times, stored = stage.overlay().stat(), stage.overlay().read_bytes()
    seen = notation.content(GUEST)
    blocks = {seen[at : at + 4096] for at in range(0, len(seen), 4096)} - {bytes(4096)}
    with stage.overlay().open("r+b") as file:
        file.seek(next(at for at in range(0, len(stored), 4096) if stored[at : at + 4096] in blocks))
        file.write(b"?")
    os.utime(stage.overlay(), ns=(times.st_atime_ns, times.st_mtime_ns))
    reason = failed(stage.apply(Retire.DELETE))
    assert "original and overlay differ, though there is no sign of a write to the overlay" in reason
    assert reason.endswith("Before you decide which of the two to keep, run `batchdiff verify PLAN --guest vm`.")
    assert stage.original().exists()
