"""Guards applying/workload.py: the progress of each verb is foreseen, only grows, and is all done at its end."""

import os

import pytest
from stage import ASIDE, DELETING, NAME, Stage, failed

from batchdiff.applying.dry_run import dry_run_purge, dry_run_restore
from batchdiff.applying.health_check import check_health
from batchdiff.applying.results.outcome import Status
from batchdiff.applying.session.stop import Stop
from batchdiff.applying.swap.guest_to_restore import RestoreOptions
from batchdiff.applying.swap.purge_task import PurgeOptions
from batchdiff.choices import Retire, VerifyMode
from batchdiff.errors import StopError
from batchdiff.progress import Meter, Phase
from batchdiff.units import KIB, MIB

SIZE, DATA = MIB, 64 * KIB
"""Of the disk of each guest of a stage, and of what differs in it."""


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch, names=(NAME, "web"))


def settled(stage, outcomes):
    """Takes the outcomes as the command line does, and checks the readings meanwhile; the total, and its parts."""
    meter = None
    readings = stage.readings
    for outcome in outcomes:
        meter = meter or readings
        assert outcome.status is not Status.FAILED, outcome.reason
    done = [each.run.done for each in readings]
    assert done == sorted(done)
    assert readings[0].is_edge
    return readings[0].run.total, readings


def phases(readings):
    """The work that each guest was at, without repetitions."""
    seen = dict.fromkeys((each.guest, each.phase) for each in readings if each.phase is not None)
    return sorted(seen, key=str)


@pytest.mark.parametrize(
    ("mode", "verified"), [(VerifyMode.FULL, SIZE), (VerifyMode.NATIVE, SIZE), (VerifyMode.CHANGED, DATA)]
)
def test_apply_writes_the_data_and_verifies(stage, mode, verified):
    total, readings = settled(stage, stage.apply(verify=mode))
    assert total == 2 * (DATA + verified)
    assert {each.run.total for each in readings} == {total}
    assert phases(readings) == [(name, phase) for name in (NAME, "web") for phase in (Phase.VERIFY, Phase.WRITE)]
    by_guest = {each.guest: each.of_guest for each in readings if each.guest}
    assert {each.total for each in by_guest.values()} == {DATA + verified}
    if mode is not VerifyMode.FULL:  # our own reader leaves nothing out, holes included
        assert readings[-1].run.done == total


def test_guests_that_are_done_count_as_far_as_something_is_left_to_do(stage):
    stage.apply()
    assert settled(stage, stage.apply())[0] == 0
    assert settled(stage, stage.apply(Retire.QUARANTINE))[0] == 2 * SIZE
    assert settled(stage, stage.apply(Retire.QUARANTINE))[0] == 0
    assert settled(stage, stage.apply(Retire.DELETE))[0] == 2 * SIZE


def test_an_interrupted_apply_counts_only_what_is_left(stage):
    def stop():
        if stage.judge.comparisons == 2:
            stage.stop.ask()

    stage.jobs = 1
    stage.judge.asked = stop
    with pytest.raises(StopError):
        stage.apply()
    stage.stop = Stop()
    assert settled(stage, stage.apply())[0] == DATA + SIZE


@pytest.mark.parametrize(
    ("place", "retire", "compared"),
    [
        ("beside", Retire.DELETE, 1),
        ("beside", Retire.QUARANTINE, 1),
        ("beside", Retire.KEEP, 0),
        ("same", Retire.DELETE, 1),
        ("same", Retire.QUARANTINE, 0),
    ],
)
def test_an_original_that_was_about_to_be_deleted_is_put_back_and_compared(
    tmp_path, monkeypatch, place, retire, compared
):
    """An apply died between two steps."""
    stage = Stage(tmp_path, monkeypatch, place=place)
    stage.apply(Retire.QUARANTINE)
    stage.original(suffix=ASIDE).rename(stage.original(suffix=DELETING))
    assert settled(stage, stage.apply(retire))[0] == compared * SIZE


def test_purge_compares(stage):
    stage.apply(Retire.QUARANTINE)
    with stage.session():
        dry = list(dry_run_purge(stage.frozen(), PurgeOptions()))
    assert settled(stage, dry)[0] == 2 * SIZE
    total, readings = settled(stage, stage.purge())
    assert total == 2 * SIZE
    assert {each.phase for each in readings} == {None, Phase.VERIFY}


def test_restore_compares_and_what_it_must_rebuild_is_added(stage):
    stage.apply(Retire.QUARANTINE)
    stage.use()
    with stage.session():
        dry = list(dry_run_restore(stage.frozen(), RestoreOptions()))
    assert settled(stage, dry)[0] == 2 * SIZE
    total, readings = settled(stage, stage.restore())
    assert total == 2 * SIZE
    # The first guest differs, which could not be foreseen: its image is written and compared, too.
    assert readings[-1].run.total == 4 * SIZE
    assert (NAME, Phase.REBUILD) in phases(readings)
    assert ("web", Phase.REBUILD) not in phases(readings)


def test_a_rebuild_is_foreseen_if_there_is_no_original(stage):
    stage.apply(Retire.DELETE)
    total, readings = settled(stage, stage.restore())
    assert total == readings[-1].run.total == 4 * SIZE
    rebuilt = [each.of_guest.done for each in readings if each.phase is Phase.REBUILD]
    assert max(rebuilt) >= SIZE  # all of its disk, holes included


def test_discarding_compares_nothing(stage):
    stage.apply(Retire.QUARANTINE)
    assert settled(stage, stage.restore(discard_changes=True))[0] == 0


def test_a_template_that_was_touched_is_read_first(stage):
    stage.apply(Retire.QUARANTINE)
    os.utime(stage.template)
    total, readings = settled(stage, stage.purge())
    assert total == SIZE + 2 * SIZE
    assert readings[1].phase is Phase.TEMPLATE
    assert readings[1].guest is None


def test_restore_reads_a_touched_template_twice(stage):
    """Before it decides anything, and again once it is held against writers."""
    stage.apply(Retire.QUARANTINE)
    os.utime(stage.template)
    total, readings = settled(stage, stage.restore())
    assert total == readings[-1].run.total == 2 * SIZE + 2 * SIZE


def test_verify_reads_a_touched_template(stage):
    stage.apply(Retire.KEEP)
    os.utime(stage.template)
    readings = []
    meter = Meter(readings.append, every=0)
    list(check_health(stage.plan, stage.history, None, Stop(), meter=meter))
    meter.end()
    assert {each.run.total for each in readings} == {SIZE + 2 * SIZE}
    assert readings[0].run.done == 0


def test_verify_compares_with_the_originals_that_there_are(stage):
    stage.apply(Retire.QUARANTINE)
    os.unlink(stage.original("web", ".batchdiff-original"))
    readings = []
    meter = Meter(readings.append, every=0)
    found = list(check_health(stage.plan, stage.history, None, Stop(), meter=meter))
    meter.end()
    assert len(found) == 3
    assert {each.run.total for each in readings} == {SIZE}
    assert readings[-1].run.percent == 100
    assert ("web", Phase.VERIFY) in phases(readings)  # its own check, which reads no data


def test_a_guest_that_fails(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch)
    stage.write_guest("web")
    os.utime(stage.original())
    assert "its modification time changed" in failed(stage.apply())
    assert stage.readings[-1].run.done == 0
