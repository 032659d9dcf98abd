"""Which originals purge deletes, and which ones it keeps."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import notation
import pytest
import real_holders
from oracle import assert_same
from patching import Patched
from stage import ASIDE, DELETING, GUEST, NAME, Stage, failed, status

from batchdiff.applying.guests.guest_files import on_disk
from batchdiff.applying.guests.status import status_rows
from batchdiff.applying.journal.records import Fate, Goal, GuestState, Step
from batchdiff.applying.results.outcome import Status
from batchdiff.applying.swap.incoming import IncomingFile
from batchdiff.choices import Retire
from batchdiff.errors import InUseError, VerificationError

IN_USE = InUseError("an image is in use by a VM", why="Failed to get shared lock")


@pytest.fixture(params=["beside", "same"])
def stage(request, tmp_path, monkeypatch):
    """A guest whose original is in quarantine."""
    stage = Stage(tmp_path, monkeypatch, place=request.param)
    stage.apply(Retire.QUARANTINE)
    stage.steps.clear()
    stage.judge.checked.clear()
    return stage


def aside(stage):
    return stage.original(suffix=ASIDE)


def assert_kept(stage):
    assert_same(aside(stage).read_bytes(), notation.content(GUEST))
    assert stage.images() == {stage.overlay().name, aside(stage).name}


def assert_deleted(stage):
    assert stage.images() == {stage.overlay().name}
    assert stage.state().step is Step.PURGED
    assert stage.state().fate is Fate.DELETED
    assert stage.purge() == []


@pytest.mark.parametrize("used", [False, True])
def test_identical(stage, used):
    assert status(stage.purge(used=used)) is Status.PURGED
    # Its VM may have been killed, which leaves leaked clusters.
    assert stage.judge.checked == [(stage.overlay().name, True)]
    assert_deleted(stage)


def test_used(stage):
    stage.use()
    (outcome,) = stage.purge()
    assert (outcome.status, outcome.exit_code) == (Status.KEPT, 0)
    assert "its VM has run on the overlay since" in outcome.reason
    assert stage.steps == []
    assert stage.history.failures == {}
    (line,) = status_rows(stage.plan, stage.history, on_disk(stage.plan, stage.history))
    assert line.next.startswith("purge --used: delete the original")
    assert_kept(stage)


def test_afterwards_the_disk_is_not_held(stage, monkeypatch):
    """A VM that starts must not find its locks, or wait for its lease."""
    disks = []
    hold = IncomingFile.hold
    monkeypatch.setattr(IncomingFile, "hold", lambda disk: (disks.append(disk), hold(disk)))
    stage.use()
    stage.purge()
    assert [disk.source.path for disk in disks] == [str(stage.overlay())]
    with real_holders.writer(stage.overlay()):
        pass
    assert "wrote" in notation.run("qemu-io", "-f", "qcow2", "-c", "write 0 64k", str(stage.overlay()))


def test_used_and_given_up(stage):
    stage.use()
    assert status(stage.purge(used=True)) is Status.PURGED
    assert_deleted(stage)


def test_its_vm_is_running(stage):
    stage.judge.refuses[stage.overlay().name] = IN_USE
    del stage.judge.checked[:]
    (outcome,) = stage.purge()
    assert (outcome.status, outcome.exit_code) == (Status.KEPT, 0)
    assert_kept(stage)
    assert status(stage.purge(used=True)) is Status.PURGED
    assert_deleted(stage)


def test_the_original_is_in_use(stage, monkeypatch):
    """QEMU says the same of either file: as long as it cannot compare, the two count as different."""
    monkeypatch.setattr("batchdiff.qemu.qemu_img.compare", raising(IN_USE))
    assert status(stage.purge()) is Status.KEPT
    assert_kept(stage)


@pytest.mark.parametrize("holding", [real_holders.writer, real_holders.loop_device, real_holders.vm_without_locks])
def test_a_writer_without_locks(stage, holding):
    """QEMU would find the two identical, and a moment later they may differ."""
    with holding(stage.overlay()) as name:
        (outcome,) = stage.purge()
        assert (outcome.status, outcome.exit_code) == (Status.KEPT, 0)
        assert stage.history.failures == {}
        assert_kept(stage)
        if holding is real_holders.vm_without_locks:
            assert status(stage.purge(used=True)) is Status.PURGED
        else:
            reason = failed(stage.purge(used=True))
            assert name in reason
            assert "for writing" in reason
            assert_kept(stage)


def test_a_lock_of_another_program(stage):
    """It keeps QEMU from checking the disk: that QEMU cannot open it proves nothing then."""
    stage.use()
    stage.judge.refuses[stage.overlay().name] = IN_USE
    with real_holders.shared_locker(stage.overlay()) as name:
        reason = failed(stage.purge(used=True))
    assert f"another program is using {stage.overlay()}: it is locked, and " in reason
    assert f"{name} has it open. End that program" in reason
    assert_kept(stage)


def wants_to_write(path):
    """Another program opens a file for writing, and does not wait until it may."""
    program = f"import os; os.open({str(path)!r}, os.O_WRONLY | os.O_NONBLOCK)"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert "BlockingIOError" in done.stderr


def test_a_writer_that_comes_while_they_are_compared(stage):
    stage.judge.asked = lambda: wants_to_write(stage.overlay())
    assert status(stage.purge()) is Status.KEPT
    assert_kept(stage)


def test_a_writer_that_comes_just_before_the_deletion(stage):
    """It is let in: the original gets its name back."""
    stage.after_move(DELETING, lambda: wants_to_write(stage.overlay()))
    assert status(stage.purge()) is Status.KEPT
    assert_kept(stage)
    with real_holders.writer(stage.overlay()):  # it is not held any longer
        pass


def raising(error):
    def call(*_, **__):
        raise error

    return call


def test_a_header_that_is_garbage_is_no_overlay_that_runs(stage):
    """Nobody runs on that, whoever has it open: then the original may be all that is left."""
    stage.use()
    stage.judge.refuses[stage.overlay().name] = IN_USE
    stage.judge.asked = lambda: pytest.fail("in use")
    image = Patched(stage.overlay())
    image["version"] = 9
    image.save(stage.overlay())
    assert failed(stage.purge(used=True))
    assert aside(stage).exists()


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("damage", ["missing", "cut off", "an error that QEMU finds"])
def test_an_overlay_that_is_damaged(stage, used, damage):
    if used:
        stage.use()
    match damage:
        case "missing":
            stage.overlay().unlink()
        case "cut off":
            os.truncate(stage.overlay(), 3 << 16)
        case _:
            stage.judge.refuses[stage.overlay().name] = VerificationError("qemu-img check found errors")
    reason = failed(stage.purge(used=used))
    if damage == "missing":
        assert f"{stage.overlay()} is missing, so the original may be all that is left of {NAME}" in reason
        assert f"batchdiff restore PLAN --guest {NAME} --discard-changes" in reason
    assert_same(aside(stage).read_bytes(), notation.content(GUEST))
    assert not stage.original(suffix=DELETING).exists()


def test_an_overlay_and_an_original_that_are_missing(stage):
    """Nothing is left to go back to."""
    stage.overlay().unlink()
    aside(stage).unlink()
    reason = failed(stage.purge())
    assert f"both its original {aside(stage)} and {stage.overlay()} are gone" in reason
    assert "restore" not in reason


@pytest.mark.parametrize("other", ["another size", "another time"])
def test_another_file_in_quarantine(stage, other):
    """A person has put it there: --used gives up the planned original, not that."""
    content = b"x" * ((1 << 20) + (512 if other == "another size" else 0))
    times = aside(stage).stat()
    aside(stage).unlink()
    aside(stage).write_bytes(content)
    if other == "another size":
        os.utime(aside(stage), ns=(times.st_atime_ns, times.st_mtime_ns))
    assert status(stage.purge()) is Status.KEPT
    assert "it has changed since it was planned" in failed(stage.purge(used=True))
    assert aside(stage).read_bytes() == content


def test_a_copy_of_the_pool(stage):
    """Another inode with the same time: content decides, and --used knows it by size and time."""
    times, content = aside(stage).stat(), aside(stage).read_bytes()
    aside(stage).unlink()
    aside(stage).write_bytes(content)
    os.utime(aside(stage), ns=(times.st_atime_ns, times.st_mtime_ns))
    stage.use()
    assert status(stage.purge()) is Status.KEPT
    assert status(stage.purge(used=True)) is Status.PURGED
    assert_deleted(stage)


def test_hard_links(stage):
    """Deleting one name would free nothing, and somebody may have made the other as a backup."""
    os.link(aside(stage), stage.folder / "template.backup")
    assert "2 hard links" in failed(stage.purge())
    assert stage.steps == []
    assert_kept(stage)


@pytest.mark.parametrize("goal", [Goal.APPLY, Goal.RESTORE])
def test_a_file_under_the_name_of_what_is_about_to_be_deleted(stage, goal):
    """Only a purge that has died has left it there; anything else is left alone."""
    stage.original(suffix=DELETING).write_bytes(b"somebody's")
    if goal is Goal.APPLY:
        assert f"another file already has the name {stage.original(suffix=DELETING)}" in failed(stage.purge())
    assert stage.original(suffix=DELETING).read_bytes() == b"somebody's"
    assert_same(aside(stage).read_bytes(), notation.content(GUEST))


def test_a_purge_that_died_is_carried_on(stage):
    aside(stage).rename(stage.original(suffix=DELETING))
    stage.note(GuestState(Step.RETIRING, Goal.PURGE, overlay=stage.state().overlay, published=True, moved=True))
    assert status(stage.purge()) is Status.PURGED
    assert_deleted(stage)


def test_a_purge_that_died_before_its_last_note(stage):
    aside(stage).unlink()
    state = GuestState(Step.RETIRING, Goal.PURGE, published=True, moved=True, deleting=True)
    stage.note(state)
    assert status(stage.purge()) is Status.PURGED
    assert stage.state().fate is Fate.DELETED


def test_an_original_that_was_removed(stage):
    """It is gone, which was not our doing; neither verb has anything left to do."""
    aside(stage).unlink()
    (outcome,) = stage.apply(Retire.QUARANTINE)
    assert (outcome.status, outcome.original.fate) == (Status.UNCHANGED, Fate.GONE)
    (outcome,) = stage.purge()
    assert (outcome.status, outcome.original.fate) == (Status.PURGED, Fate.GONE)
    assert (stage.state().fate, stage.state().aside) == (Fate.GONE, None)
    assert stage.images() == {stage.overlay().name}
    assert stage.purge() == []


# After a restore that has rebuilt an image there is no overlay any longer.


@pytest.fixture(params=["raw", "qcow2"])
def older(request, tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch, form=request.param)
    stage.apply(Retire.QUARANTINE)
    stage.use()
    stage.restore()
    stage.judge.checked.clear()
    assert stage.images() == {stage.original().name, aside(stage).name}
    return stage


def test_an_older_original_differs(older):
    assert status(older.purge()) is Status.KEPT
    assert older.judge.checked == []  # the image is not ours any longer
    assert status(older.purge(used=True)) is Status.PURGED
    assert older.images() == {older.original().name}
    assert older.history.states == {}
    assert older.purge() == []


def test_an_older_original_whose_image_is_gone(older):
    older.original().unlink()
    reason = failed(older.purge(used=True))
    assert re.search(f"{older.original()} is missing, so the original may be all that is left", reason)
    go_back_as_advised(older, reason)


def test_an_older_original_whose_image_goes_while_they_are_compared(older):
    older.original().write_bytes(aside(older).read_bytes())
    older.judge.asked = older.original().unlink
    reason = failed(older.purge())
    assert f"{older.original()} is gone, and with it what its VM wrote" in reason
    go_back_as_advised(older, reason)


def go_back_as_advised(stage, reason):
    """Restore has ended already, so it has nothing to go back to: the advice is a rename."""
    assert "batchdiff restore" not in reason
    advised = re.search("To go back to .*: `(mv -n .*)`", reason)[1]
    older = aside(stage).read_bytes()
    subprocess.run(shlex.split(advised), check=True)
    assert_same(stage.original().read_bytes(), older)
    assert stage.images() == {stage.original().name}
    stage.judge.asked = lambda: None
    assert status(stage.purge()) is Status.PURGED
    assert stage.purge() == []


def test_an_older_original_that_is_identical_by_now(older):
    """Somebody has copied it back."""
    older.original().write_bytes(aside(older).read_bytes())
    assert status(older.purge()) is Status.PURGED
    assert older.images() == {older.original().name}
