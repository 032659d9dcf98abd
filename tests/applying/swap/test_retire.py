import os
import re
import shutil

import pytest
from notation import run, write_raw
from oracle import source

from batchdiff.applying.guests.file_names import original_names
from batchdiff.applying.swap import retire
from batchdiff.applying.swap.retire import delete, move, objection
from batchdiff.choices import Retire
from batchdiff.errors import GuestError
from batchdiff.image import files
from batchdiff.image.open import open_image

REMOVING = [Retire.QUARANTINE, Retire.DELETE]


@pytest.fixture
def original(tmp_path):
    path = tmp_path / "guest.img"
    path.write_text("the original")
    return path


@pytest.fixture
def held(original):
    fd = files.open_image_file(str(original))
    yield fd
    os.close(fd)


@pytest.fixture
def template(tmp_path):
    (tmp_path / "templates").mkdir()
    with open_image(source(write_raw(tmp_path / "templates" / "t.img", "64k:A"))) as image:
        yield image


def names(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir() if path.is_file() or path.is_symlink())


def test_move(held, original, tmp_path):
    move(held, str(original), f"{original}.aside")
    assert names(tmp_path) == ["guest.img.aside"]
    assert (tmp_path / "guest.img.aside").read_text() == "the original"


def test_delete(held, original, template, tmp_path):
    delete(held, str(original), template)
    assert names(tmp_path) == []


@pytest.mark.parametrize("what", ["copy", "link", "nothing"])
def test_another_file_in_its_place(held, original, template, tmp_path, what):
    original.rename(tmp_path / "moved")
    if what == "copy":
        original.write_text("the original")
    elif what == "link":
        original.symlink_to("moved")
    before = names(tmp_path)
    with pytest.raises(GuestError, match="was not touched"):
        move(held, str(original), f"{original}.aside")
    with pytest.raises(GuestError, match="was not touched"):
        delete(held, str(original), template)
    assert names(tmp_path) == before


def test_what_has_the_name_already_stays(held, original, tmp_path):
    other = tmp_path / "guest.img.aside"
    other.write_text("theirs")
    with pytest.raises(FileExistsError):
        move(held, str(original), str(other))
    assert other.read_text() == "theirs"
    assert original.read_text() == "the original"


def test_swapped_at_the_last_moment(held, original, tmp_path, monkeypatch):
    """Between the last look and the rename another file takes the name: it gets it back."""
    real = retire.rename_without_replacing

    def swap_first(from_path, to_path):
        if to_path.endswith("aside"):
            os.rename(from_path, tmp_path / "moved")
            shutil.copy(tmp_path / "moved", from_path)
        real(from_path, to_path)

    monkeypatch.setattr(retire, "rename_without_replacing", swap_first)
    with pytest.raises(GuestError, match=re.escape(f"{original} was not touched")):
        move(held, str(original), f"{original}.aside")
    assert names(tmp_path) == ["guest.img", "moved"]


def test_a_file_of_the_template_is_never_deleted(template):
    """Whatever led here: the last look before the unlink is at the template itself."""
    fd = files.open_image_file(template.path)
    with pytest.raises(GuestError, match="on which all overlays depend"):
        delete(fd, template.path, template)
    os.close(fd)
    assert os.path.exists(template.path)


def test_hard_links_are_not_deleted(held, original, tmp_path):
    os.link(original, tmp_path / "second")
    fault = objection(held, original_names(str(original)), Retire.DELETE)
    assert "2 hard links" in fault.why
    assert "where FOLDER is the mount point of the filesystem. Remove all of them except" in fault.remedy
    assert objection(held, original_names(str(original)), Retire.QUARANTINE) is None
    assert objection(held, original_names(str(original)), Retire.KEEP) is None


@pytest.mark.parametrize("what", ["file", "dangling link"])
def test_a_quarantine_that_exists(held, original, tmp_path, what):
    aside = tmp_path / "guest.img.batchdiff-original"
    aside.symlink_to("nowhere") if what == "dangling link" else aside.touch()
    assert "already exists" in objection(held, original_names(str(original)), Retire.QUARANTINE).why
    assert objection(held, original_names(str(original)), Retire.DELETE) is None


def test_a_name_that_is_too_long(tmp_path):
    """Said before anything is written, not when the overlay is there."""
    path = tmp_path / ("x" * 240)
    path.touch()
    fd = os.open(path, os.O_RDONLY)
    try:
        for how in REMOVING:
            assert "too long" in objection(fd, original_names(str(path)), how).why
        assert objection(fd, original_names(str(path)), Retire.KEEP) is None
    finally:
        os.close(fd)


def test_block_devices_stay(loop_device):
    fd = os.open(loop_device, os.O_RDONLY)
    try:
        assert objection(fd, original_names(loop_device), Retire.KEEP) is None
        for how in REMOVING:
            assert "block device" in objection(fd, original_names(loop_device), how).why
    finally:
        os.close(fd)


@pytest.fixture
def loop_device(original):
    os.truncate(original, 1 << 20)
    device = run("losetup", "--find", "--show", str(original)).strip()
    yield device
    run("losetup", "--detach", device)
