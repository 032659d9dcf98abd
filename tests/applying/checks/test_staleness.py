"""Whether a guest still is what was planned when apply opens it."""

from __future__ import annotations

import dataclasses
import os
from contextlib import closing

import notation
import pytest
from oracle import source
from stage import Stage, failed, status

from batchdiff.applying.checks.staleness import changes_since_planned, check_unchanged
from batchdiff.applying.journal.records import History
from batchdiff.applying.results.outcome import Status
from batchdiff.choices import Retire, VerifyMode
from batchdiff.errors import PlanError
from batchdiff.image.open import open_image
from batchdiff.plan.plan import PlannedImage
from batchdiff.plan.runs import NO_RUNS


@pytest.fixture
def guest(tmp_path):
    """A guest on a backing file of its own, as it was planned."""
    base = notation.write_raw(tmp_path / "base.img", "64k:A")
    top = notation.write_qcow2(tmp_path / "vm.qcow2", "64k:-", backing=base)
    with closing(open_image(source(top, base))) as image:
        yield image, PlannedImage(image.source, image.virtual_size, image.fingerprints())


@pytest.mark.parametrize("mode", VerifyMode)
def test_nothing_changed(guest, mode):
    check_unchanged(*guest, History(), mode)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("mode", VerifyMode)
@pytest.mark.parametrize("noted", [False, True])
def test_only_the_ctime(guest, number, mode, noted):
    """QEMU will compare every byte; batchdiff's own reader must not be the only judge of what may have changed."""
    image, record = guest
    os.chmod(image.layers[number].path, 0o600)
    history = History()
    if noted:
        history.changed.add(image.layers[number].fingerprint())
    if noted or mode is VerifyMode.FULL:
        check_unchanged(image, record, history, mode)
        assert (changes_since_planned(image, record, history) == "") is noted
        return
    with pytest.raises(PlanError, match="the plan is stale") as caught:
        check_unchanged(image, record, history, mode)
    assert f"{image.layers[number].path}: it changed, perhaps only in its mode or name" in caught.value.why


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("mode", VerifyMode)
@pytest.mark.parametrize("noted", [False, True])
def test_written_to(guest, number, mode, noted):
    image, record = guest
    os.utime(image.layers[number].path, (1, 1))
    history = History()
    if noted:
        history.changed.add(image.layers[number].fingerprint())
    with pytest.raises(PlanError, match="the plan is stale"):
        check_unchanged(image, record, history, mode)


@pytest.mark.parametrize("mode", VerifyMode)
def test_another_virtual_size(guest, mode):
    image, record = guest
    with pytest.raises(PlanError, match=r"the virtual size of .* bytes, not "):
        check_unchanged(
            image, dataclasses.replace(record, virtual_size=record.virtual_size + 512), History(), mode
        )


# In apply.


@pytest.mark.parametrize("content", ["same", "other"])
def test_a_guest_whose_time_was_set_back(tmp_path, monkeypatch, content):
    """Its ctime alone says that something was done; QEMU says what."""
    stage = Stage(tmp_path, monkeypatch)
    times = stage.original().stat()
    if content == "other":
        with stage.original().open("r+b") as file:
            file.write(b"?")
    os.utime(stage.original(), ns=(times.st_atime_ns, times.st_mtime_ns))
    outcomes = stage.apply(Retire.DELETE)
    if content == "same":
        assert status(outcomes) is Status.CONVERTED
        return
    assert "(ctime)" in failed(outcomes)
    assert outcomes[0].exit_code == 5
    assert stage.images() == {stage.original().name}


def test_a_difference_without_any_change_is_no_staleness(tmp_path, monkeypatch):
    """Then it is ours: the overlay is wrong."""
    stage = Stage(tmp_path, monkeypatch)
    guest = stage.guest()
    guest = dataclasses.replace(guest, diff=dataclasses.replace(guest.diff, data=NO_RUNS))
    stage.plan = dataclasses.replace(stage.plan, guests=(guest,))
    outcomes = stage.apply(Retire.DELETE)
    assert "differ" in failed(outcomes)
    assert outcomes[0].exit_code == 6


def test_a_used_overlay_is_reported_as_used(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch)
    stage.apply()
    stage.use()
    os.chmod(stage.original(), 0o600)
    outcomes = stage.apply(Retire.DELETE)
    assert (
        f"its VM has run on the overlay since the conversion ({stage.original()} and {stage.overlay()} differ"
        in failed(outcomes)
    )
    assert outcomes[0].exit_code == 1
    assert stage.original().exists()


@pytest.mark.parametrize("retire", [Retire.KEEP, Retire.QUARANTINE])
@pytest.mark.parametrize("place", ["beside", "same"])
def test_an_original_that_is_back_under_its_name_is_as_planned(tmp_path, monkeypatch, retire, place):
    """Its ctime is another one by our own renames, which the journal knows: no judge has to find that out."""
    if place == "same":
        retire = Retire.QUARANTINE
    stage = Stage(tmp_path, monkeypatch, place=place)
    stage.apply(retire)
    stage.restore()
    outcomes = stage.apply(Retire.QUARANTINE, verify=VerifyMode.NATIVE, guests=frozenset(stage.names))
    assert status(outcomes) is Status.CONVERTED, outcomes
