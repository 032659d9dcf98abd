"""What became of converted guests, from the journal and the files: the facts of `show` after an apply."""

import errno

import pytest
from stage import ASIDE, NAME, Stage

from batchdiff.applying.guests import conversions as conversions_module
from batchdiff.applying.guests.conversions import conversions
from batchdiff.applying.journal.records import Fate
from batchdiff.choices import Retire
from batchdiff.errors import ImageError
from batchdiff.image.storage import allocation


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch)


def conversion(stage):
    return conversions(stage.plan, stage.history).get(NAME)


def test_before_an_apply_there_is_nothing(stage):
    assert conversions(stage.plan, stage.history) == {}


@pytest.mark.parametrize(
    ("retire", "fate"),
    [(Retire.KEEP, Fate.KEPT), (Retire.QUARANTINE, Fate.QUARANTINED), (Retire.DELETE, Fate.DELETED)],
)
def test_what_apply_has_done(stage, retire, fate):
    stage.apply(retire)
    found, overlay = conversion(stage), stage.overlay().stat()
    assert (found.fate, found.used) == (fate, False)
    assert (found.overlay_bytes, found.overlay_disk_bytes) == (overlay.st_size, overlay.st_blocks * 512)
    assert found.aside == (str(stage.original(suffix=ASIDE)) if fate is Fate.QUARANTINED else None)


def test_the_space_comes_back_with_the_original(stage):
    savings = stage.guest().diff.savings
    stage.apply(Retire.QUARANTINE)
    assert conversion(stage).came_back_bytes == 0
    (purged,) = stage.purge()
    found = conversion(stage)
    assert found.fate is Fate.DELETED
    more = found.overlay_disk_bytes - savings.overlay_disk_bytes
    assert found.came_back_bytes == savings.saved_bytes - more
    assert purged.gained_bytes == savings.reclaimable_bytes


def test_an_apply_gains_what_the_original_took_but_the_overlay(stage):
    size = stage.original().stat().st_blocks * 512
    (deleted,) = stage.apply(Retire.DELETE)
    assert deleted.gained_bytes == size - stage.overlay().stat().st_blocks * 512


def test_an_apply_that_keeps_the_original_takes_space(stage):
    (kept,) = stage.apply(Retire.KEEP)
    assert kept.gained_bytes == -stage.overlay().stat().st_blocks * 512
    (unchanged,) = stage.apply(Retire.KEEP)
    assert unchanged.gained_bytes is None


def test_a_restore_gains_what_the_overlay_took(stage):
    stage.apply(Retire.QUARANTINE)
    size = stage.overlay().stat().st_blocks * 512
    (restored,) = stage.restore()
    assert restored.gained_bytes == size
    assert conversion(stage) is None


def test_writes_of_the_vm_are_no_part_of_the_conversion(stage):
    savings = stage.guest().diff.savings
    stage.apply(Retire.DELETE)
    length = stage.overlay().stat().st_size
    stage.use()
    found = conversion(stage)
    assert (found.used, found.overlay_bytes) == (True, length)
    assert found.came_back_bytes == savings.saved_bytes


def test_files_that_are_gone(stage):
    stage.apply(Retire.KEEP)
    stage.original().unlink()
    assert conversion(stage).fate is Fate.GONE
    stage.overlay().unlink()
    assert conversion(stage).overlay_disk_bytes is None


@pytest.mark.parametrize("error", [OSError(errno.EIO, "bad disk"), ImageError("its extents cannot be read")])
def test_a_disk_that_does_not_report_what_an_overlay_takes(stage, monkeypatch, error):
    def fails(fd, path):
        raise error

    stage.apply(Retire.KEEP)
    monkeypatch.setattr(conversions_module, "filesystem_of", lambda fd: "btrfs")
    monkeypatch.setattr(allocation, "allocated_bytes", fails)
    assert (conversion(stage).fate, conversion(stage).overlay_disk_bytes) == (Fate.KEPT, None)


def test_either_of_two_files_could_be_the_original(stage):
    stage.apply(Retire.QUARANTINE)
    stage.write_guest(NAME)
    assert conversion(stage).fate is Fate.UNKNOWN
