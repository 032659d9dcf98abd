"""Where the two files of a task are: whatever an earlier process has left, and what became of the original."""

from __future__ import annotations

import types

import pytest

from batchdiff.applying.guests.file_names import original_names
from batchdiff.applying.guests.next_action import IncomingAt, OutgoingAt, Scene
from batchdiff.applying.journal.records import Fate
from batchdiff.applying.results.outcome import Original
from batchdiff.applying.swap.incoming import IncomingFile
from batchdiff.applying.swap.observe import can_be_opened, fate_of_original, observe
from batchdiff.applying.swap.task import Outgoing
from batchdiff.choices import Retire
from batchdiff.files.fingerprint import NO_FILE, fingerprint_at
from batchdiff.image_source import ImageFormat, ImageSource

NAMES = original_names("/vm.img")


class Files:
    """An original, an overlay and a temporary file, of which a test makes what it needs."""

    def __init__(self, folder):
        self.folder = folder
        self.original = self.made("vm.img")
        self.temporary = str(folder / ".vm.qcow2.x.batchdiff-tmp")

    def made(self, name):
        (self.folder / name).write_bytes(name.encode())
        return str(self.folder / name)

    def known(self, name):
        return fingerprint_at(str(self.folder / name))

    def scene(self, overlay="vm.qcow2", **incoming):
        path, quarantined = str(self.folder / overlay), incoming.pop("quarantined", None)
        known, was_published = incoming.pop("known", None), incoming.pop("was_published", False)
        file = IncomingFile(ImageSource(path, ImageFormat.QCOW2), known, quarantined, was_published=was_published)
        file.compared = incoming.pop("compared", None)
        outgoing = Outgoing(
            ImageSource(self.original, ImageFormat.RAW),
            original_names(self.original),
            fingerprint_at(self.original) or NO_FILE,
        )
        task = types.SimpleNamespace(outgoing=outgoing, incoming=file, retire=Retire.DELETE)
        return observe(task, self.temporary, verified=False)


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def test_at_the_beginning(files):
    assert files.scene() == Scene(OutgoingAt.NAMED, IncomingAt.NONE, False, Retire.DELETE, False)


def test_a_temporary_file_that_a_process_has_left(files):
    files.made(".vm.qcow2.x.batchdiff-tmp")
    assert files.scene().incoming is IncomingAt.UNFINISHED


def test_complete_under_another_name(files):
    aside = files.made("vm.img.batchdiff-original")
    assert (
        files.scene(quarantined=aside, known=files.known("vm.img.batchdiff-original")).incoming is IncomingAt.READY
    )


def test_published_by_this_command(files):
    """Then only the very file counts: another one was compared with nothing."""
    files.made("vm.qcow2")
    files.made(".vm.qcow2.x.batchdiff-tmp")
    known = files.known("vm.qcow2")
    assert files.scene(known=known).incoming is IncomingAt.PUBLISHED
    assert files.scene(known=files.known("vm.img")).incoming is IncomingAt.LOST, "it is another file"
    (files.folder / "vm.qcow2").write_bytes(b"other content")
    assert files.scene(known=known).incoming is IncomingAt.LOST
    (files.folder / "vm.qcow2").unlink()
    assert files.scene(known=known).incoming is IncomingAt.LOST


@pytest.mark.parametrize("there", [False, True])
def test_published_before(files, there):
    """Then any file counts, for that is what the VM sees; but none may take the place of what was compared."""
    if there:
        files.made("vm.qcow2")
    now = files.known("vm.qcow2")
    expected = IncomingAt.PUBLISHED if there else IncomingAt.LOST
    assert files.scene(was_published=True).incoming is expected
    assert files.scene(was_published=True, compared=now).incoming is expected
    assert files.scene(was_published=True, compared=files.known("vm.img")).incoming is IncomingAt.LOST


def test_the_original_has_its_name_again_which_its_overlay_had(files):
    scene = files.scene("vm.img", was_published=True)
    assert (scene.incoming, scene.one_name) == (IncomingAt.LOST, True)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (OutgoingAt.NAMED, Fate.KEPT),
        (OutgoingAt.ASIDE, Fate.QUARANTINED),
        (OutgoingAt.DELETING, Fate.QUARANTINED),
        (OutgoingAt.GONE, Fate.GONE),
    ],
)
def test_fates(where, expected):
    aside = NAMES.at(where) if expected is Fate.QUARANTINED else None
    assert fate_of_original(NAMES, where) == Original(expected, aside)


def test_what_stands_in_the_place_of_an_original_must_open(tmp_path):
    path = tmp_path / "vm.img"
    source = ImageSource(str(path), ImageFormat.QCOW2)
    assert not can_be_opened(source)
    path.write_bytes(b"garbage")
    assert not can_be_opened(source)
    assert can_be_opened(ImageSource(str(path), ImageFormat.RAW))
