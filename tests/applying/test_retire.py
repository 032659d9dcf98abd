import os
import shutil

import pytest
from notation import run

from batchdiff.applying import retire
from batchdiff.applying.retire import objection, retire_original
from batchdiff.errors import GuestError
from batchdiff.image import files
from batchdiff.model.manifest import Retire

REMOVING = [Retire.QUARANTINE, Retire.DELETE]


@pytest.fixture
def original(tmp_path):
    path = tmp_path / "guest.img"
    path.write_text("the original")
    return path


@pytest.fixture
def held(original):
    fd = files.open_image_file(str(original))
    yield fd, str(original), files.identify(fd)
    os.close(fd)


def names(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir())


def test_keep(held, original):
    assert retire_original(*held, Retire.KEEP) == "kept"
    assert original.read_text() == "the original"


def test_quarantine(held, tmp_path):
    said = retire_original(*held, Retire.QUARANTINE)
    assert said == f"quarantined as {tmp_path}/guest.img.batchdiff-original"
    assert names(tmp_path) == ["guest.img.batchdiff-original"]
    assert (tmp_path / "guest.img.batchdiff-original").read_text() == "the original"


def test_delete(held, tmp_path):
    assert retire_original(*held, Retire.DELETE) == "deleted"
    assert names(tmp_path) == []


@pytest.mark.parametrize("how", REMOVING)
def test_another_file_in_its_place(held, original, tmp_path, how):
    original.rename(tmp_path / "moved")
    original.write_text("the original")
    with pytest.raises(GuestError, match="was not retired"):
        retire_original(*held, how)
    assert names(tmp_path) == ["guest.img", "moved"]


@pytest.mark.parametrize("how", REMOVING)
def test_a_link_in_its_place(held, original, tmp_path, how):
    original.rename(tmp_path / "moved")
    original.symlink_to("moved")
    with pytest.raises(GuestError):
        retire_original(*held, how)
    assert names(tmp_path) == ["guest.img", "moved"]
    assert (tmp_path / "guest.img").is_symlink()


@pytest.mark.parametrize("how", REMOVING)
@pytest.mark.parametrize("change", ["written", "grown", "mtime set back", "attributes", "gone"])
def test_a_changed_original(held, original, tmp_path, how, change):
    times = original.stat()
    match change:
        case "written" | "mtime set back":
            original.write_text("THE ORIGINAL")
            if change == "mtime set back":
                os.utime(original, ns=(times.st_atime_ns, times.st_mtime_ns))
        case "grown":
            os.truncate(original, 100)
        case "attributes":
            original.chmod(0o600)
        case "gone":
            original.rename(tmp_path / "elsewhere")
    before = names(tmp_path)
    with pytest.raises(GuestError, match="was not retired"):
        retire_original(*held, how)
    assert names(tmp_path) == before


@pytest.mark.parametrize("how", REMOVING)
@pytest.mark.parametrize("suffix", [".batchdiff-original", ".batchdiff-deleting"])
def test_what_has_the_name_already_stays(held, original, tmp_path, how, suffix):
    other = tmp_path / f"guest.img{suffix}"
    other.write_text("theirs")
    if (how is Retire.QUARANTINE) == (suffix == ".batchdiff-original"):
        with pytest.raises(FileExistsError):
            retire_original(*held, how)
        assert original.read_text() == "the original"
    else:
        retire_original(*held, how)
    assert other.read_text() == "theirs"


def test_swapped_at_the_last_moment(held, original, tmp_path, monkeypatch):
    """Between the last look and the rename another file takes the name: it must survive."""
    real = retire.rename_without_replacing

    def swap_first(source, target):
        if target.endswith("-deleting"):
            os.rename(source, tmp_path / "moved")
            shutil.copy(tmp_path / "moved", source)
        real(source, target)

    monkeypatch.setattr(retire, "rename_without_replacing", swap_first)
    with pytest.raises(GuestError, match="last moment"):
        retire_original(*held, Retire.DELETE)
    assert names(tmp_path) == ["guest.img", "moved"]


def test_hard_links_are_not_deleted(held, original, tmp_path):
    os.link(original, tmp_path / "second")
    fd, path, _ = held
    assert "2 hard links" in objection(fd, path, Retire.DELETE)
    assert objection(fd, path, Retire.QUARANTINE) == ""
    assert objection(fd, path, Retire.KEEP) == ""


@pytest.mark.parametrize("what", ["file", "dangling link"])
def test_a_quarantine_that_exists(held, original, tmp_path, what):
    aside = tmp_path / "guest.img.batchdiff-original"
    aside.symlink_to("nowhere") if what == "dangling link" else aside.touch()
    fd, path, _ = held
    assert "exists already" in objection(fd, path, Retire.QUARANTINE)
    assert objection(fd, path, Retire.DELETE) == ""


def test_block_devices_stay(loop_device):
    fd = os.open(loop_device, os.O_RDONLY)
    try:
        assert objection(fd, loop_device, Retire.KEEP) == ""
        for how in REMOVING:
            assert "block device" in objection(fd, loop_device, how)
    finally:
        os.close(fd)


@pytest.fixture
def loop_device(original):
    os.truncate(original, 1 << 20)
    device = run("losetup", "--find", "--show", str(original)).strip()
    yield device
    run("losetup", "--detach", device)
