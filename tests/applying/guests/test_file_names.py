"""The names of a guest's files, and which file stands where."""

import os
import shlex

import pytest

from batchdiff.applying.guests.file_names import discard, original_names, overlay_names, require_lasting, where_is
from batchdiff.applying.guests.next_action import OutgoingAt
from batchdiff.errors import GuestError
from batchdiff.files.fingerprint import NO_FILE, fingerprint_at

NAMES = original_names("/vm.img")


def test_names():
    assert (NAMES.own, NAMES.quarantine, NAMES.deleting) == (
        "/vm.img",
        "/vm.img.batchdiff-original",
        "/vm.img.batchdiff-deleting",
    )
    assert overlay_names("/vm.qcow2").quarantine == "/vm.qcow2.batchdiff-overlay"
    assert overlay_names("/vm.qcow2").deleting == "/vm.qcow2.batchdiff-deleting"
    assert NAMES.at(OutgoingAt.ASIDE) == NAMES.quarantine
    with pytest.raises(KeyError):
        NAMES.at(OutgoingAt.GONE)


@pytest.mark.parametrize("where", list(OutgoingAt))
def test_where_a_file_stands(tmp_path, where):
    """Told by its identity, whatever it holds and whatever else is there."""
    names = original_names(str(tmp_path / "vm.img"))
    (tmp_path / "made").touch()
    known = fingerprint_at(str(tmp_path / "made"))
    for other in (OutgoingAt.NAMED, OutgoingAt.ASIDE, OutgoingAt.DELETING):
        if other is not where:
            (tmp_path / os.path.basename(names.at(other))).write_bytes(b"another")
    if where is not OutgoingAt.GONE:
        (tmp_path / "made").rename(names.at(where))
        with open(names.at(where), "ab") as file:
            file.write(b"more")
    assert where_is(names, known) is where
    assert where_is(names, NO_FILE) is OutgoingAt.GONE


@pytest.mark.parametrize("name", [".vm.qcow2.0123abcd.batchdiff-tmp", "vm.img", "vm.img.batchdiff-deleting"])
@pytest.mark.parametrize("kind", ["file", "link", "missing"])
def test_only_temporary_files_of_ours_are_discarded(tmp_path, name, kind):
    """A journal is input like any other."""
    path = tmp_path / name
    (tmp_path / "target").write_bytes(b"an image")
    match kind:
        case "file":
            path.write_bytes(b"content")
        case "link":
            path.symlink_to(tmp_path / "target")
    discard(str(path))
    assert os.path.lexists(path) is (kind != "missing" and not (kind == "file" and name.endswith("-tmp")))
    assert (tmp_path / "target").exists()


@pytest.mark.parametrize("path", ["/dev/vg/lv", "/dev/mapper/l v"])
def test_no_image_is_written_into_dev(path):
    with pytest.raises(GuestError) as caught:
        require_lasting(path)
    assert str(caught.value) == (
        f"{path} was not written: no block device has that name now, and a file in /dev would be gone after a"
        " reboot. Bring the device back; or create a block device with that name, and copy the disk to it with"
        f" `qemu-img convert -n -O FORMAT OVERLAY {shlex.quote(path)}`."
    )


def test_elsewhere_it_is(tmp_path):
    require_lasting(str(tmp_path / "vm.qcow2"))
