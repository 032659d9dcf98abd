"""The file that takes the other's place: its present path, and its publication."""

from __future__ import annotations

import dataclasses
import errno
import os

import notation
import pytest
from oracle import assert_same
from stage import ASIDE, GUEST, Stage, failed, status

from batchdiff.applying.results.outcome import Status
from batchdiff.applying.swap.incoming import IncomingFile
from batchdiff.choices import Retire
from batchdiff.errors import GuestError
from batchdiff.files.fingerprint import fingerprint_at
from batchdiff.image_source import ImageFormat, ImageSource


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "vm.qcow2")


def image(path):
    return ImageSource(path, ImageFormat.QCOW2)


def made(path, content=b"an overlay"):
    with open(path, "wb") as file:
        file.write(content)
    return fingerprint_at(path)


def test_one_that_is_still_to_be_written(path):
    incoming = IncomingFile(image(path))
    assert incoming.present is None
    incoming.ready = f"{path}.batchdiff-tmp"
    incoming.known = made(incoming.ready)
    assert incoming.present == image(f"{path}.batchdiff-tmp")
    assert not incoming.is_quarantined
    incoming.discarded()
    assert incoming.present is incoming.known is None


def test_an_original_in_quarantine_stays_there_whatever_is_discarded(path):
    aside = f"{path}.batchdiff-original"
    incoming = IncomingFile(image(path), made(aside), aside)
    incoming.discarded()
    assert incoming.is_quarantined
    assert incoming.known == fingerprint_at(aside)
    assert incoming.present == incoming.to_compare() == image(aside)
    assert incoming.compared is None
    incoming.publish()
    assert not incoming.is_quarantined


def test_one_that_was_published_is_remembered_as_it_is_compared(path):
    now = made(path)
    incoming = IncomingFile(image(path), was_published=True)
    assert incoming.present == incoming.to_compare() == image(path)
    assert incoming.compared == now


def test_an_original_under_its_own_name_stays_whatever_is_discarded(path):
    incoming = IncomingFile(image(path), made(path))
    incoming.discarded()
    assert incoming.present == image(path)
    assert incoming.known == fingerprint_at(path)


@pytest.mark.parametrize("was_published", [False, True])
@pytest.mark.parametrize("how", ["gone", "another file", "written to"])
def test_its_other_files_must_be_those_that_were_compared(path, how, was_published):
    data = f"{path}.data"
    made(data)
    incoming = IncomingFile(
        dataclasses.replace(image(path), other_files=(data,)), made(path), was_published=was_published
    )
    assert incoming.changed_part() is None
    incoming.to_compare()
    assert incoming.changed_part() is None
    if how != "written to":
        os.rename(data, f"{path}.elsewhere")
    if how != "gone":
        made(data, b"other content")
    assert incoming.changed_part() == (None if was_published and how == "written to" else data)


def test_it_gets_its_own_name_and_its_identity_afterwards_is_known(path):
    temporary = f"{path}.batchdiff-tmp"
    incoming = IncomingFile(image(path), made(temporary))
    incoming.ready = temporary
    published = incoming.publish()
    assert published == incoming.known == fingerprint_at(path)
    assert incoming.ready is None
    assert not os.path.lexists(temporary)


@pytest.mark.parametrize("how", ["gone", "written to"])
def test_its_data_file_must_be_as_it_was_verified(path, how):
    temporary, data = f"{path}.batchdiff-tmp", f"{path}.data"
    incoming = IncomingFile(dataclasses.replace(image(path), other_files=(data,)), made(temporary))
    incoming.ready, incoming.data_file = temporary, made(data)
    os.unlink(data) if how == "gone" else made(data, b"other content")
    with pytest.raises(GuestError, match="it is not the file that was verified"):
        incoming.publish()
    assert os.path.lexists(temporary)


@pytest.mark.parametrize("how", ["another file", "written to", "never verified"])
def test_only_the_file_that_was_verified_gets_the_name(path, how):
    temporary = f"{path}.batchdiff-tmp"
    incoming = IncomingFile(image(path), None if how == "never verified" else made(temporary))
    incoming.ready = temporary
    if how == "another file":
        os.rename(temporary, f"{path}.elsewhere")
    if how != "written to":
        made(temporary)
    else:
        made(temporary, b"other content")
    with pytest.raises(GuestError, match="it is not the file that was verified") as caught:
        incoming.publish()
    assert caught.value.what == f"{temporary} was not given its final name"
    assert os.path.lexists(temporary)
    assert not os.path.lexists(path)


def test_no_file_is_replaced(path):
    temporary = f"{path}.batchdiff-tmp"
    incoming = IncomingFile(image(path), made(temporary))
    incoming.ready = temporary
    made(path, b"somebody's")
    with pytest.raises(FileExistsError):
        incoming.publish()
    with open(path, "rb") as file:
        assert file.read() == b"somebody's"
    assert incoming.ready == temporary


def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("retire", Retire)
def test_an_overlay_whose_new_name_could_not_be_made_durable(tmp_path, monkeypatch, retire):
    """The rename succeeds, and the fsync of the folder fails: the next run makes up for that, and goes on."""
    stage = Stage(tmp_path, monkeypatch)
    stage.after_move("vm.qcow2", full)
    assert "No space left" in failed(stage.apply(retire))
    assert stage.original().exists()
    assert stage.overlay().exists()
    assert status(stage.apply(retire)) in {Status.CONVERTED, Status.RETIRED, Status.UNCHANGED}
    assert stage.state().published
    assert stage.original().exists() is (retire is Retire.KEEP)
    assert_same(stage.content(stage.overlay(), "qcow2"), notation.content(GUEST))


@pytest.mark.parametrize("retire", [Retire.QUARANTINE, Retire.DELETE], ids=["given back", "rebuilt"])
def test_a_restored_image_whose_name_could_not_be_made_durable(tmp_path, monkeypatch, retire):
    stage = Stage(tmp_path, monkeypatch)
    stage.apply(retire)
    stage.after_move("vm.img", full)
    assert "No space left" in failed(stage.restore())
    assert status(stage.restore()) is Status.RESTORED
    assert_same(stage.content(stage.original(), "raw"), notation.content(GUEST))


@pytest.mark.parametrize("retire", [Retire.QUARANTINE, Retire.DELETE])
def test_an_overlay_in_its_guests_place_whose_name_could_not_be_made_durable(tmp_path, monkeypatch, retire):
    stage = Stage(tmp_path, monkeypatch, place="same")
    stage.after_move(str(stage.overlay()), full)
    assert "No space left" in failed(stage.apply(retire))
    assert status(stage.apply(retire)) in {Status.RETIRED, Status.UNCHANGED}
    assert_same(stage.content(stage.overlay(), "qcow2"), notation.content(GUEST))
    assert stage.original(suffix=ASIDE).exists() is (retire is Retire.QUARANTINE)
