"""applying/writer/standalone.py: where QEMU writes an image that batchdiff has it rebuild."""

from __future__ import annotations

import os
from contextlib import closing

import notation
import pytest
from filesystems import mounted
from oracle import assert_same, source

from batchdiff.applying.writer.standalone import write_standalone
from batchdiff.foreign.vmdk import with_extent_name
from batchdiff.image.open import inspect, open_image
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.qemu import programs
from batchdiff.units import MIB

VICTIM = b"somebody else's disk" * 3000
TEXT = "1M:A 64k:X 1984k:-"


@pytest.fixture
def overlay(tmp_path):
    below = notation.write_raw(tmp_path / "template.img", "2M:A 1M:-")
    path = notation.write_qcow2(tmp_path / "vm.qcow2", "1M:- 64k:X 1984k:0", backing=below)
    with closing(open_image(source(path, below))) as image:
        yield image


def write(path, image, form):
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write_standalone(fd, image, ImageSource("/images/vm.disk", form), image.virtual_size, check=lambda: None)
    finally:
        os.close(fd)


@pytest.mark.parametrize("form", [ImageFormat.VDI, ImageFormat.VMDK])
def test_another_file_in_the_place_of_the_new_one_is_not_written_to(tmp_path, overlay, monkeypatch, form):
    """A process that may write to the folder puts a link there just before QEMU opens the file."""
    path, victim, aside = tmp_path / "new", tmp_path / "victim.img", tmp_path / "new.aside"
    victim.write_bytes(VICTIM)
    run = programs.run

    def swapped(argv, **options):
        if argv[1] == "convert":
            path.rename(aside)
            path.symlink_to(victim)
        return run(argv, **options)

    monkeypatch.setattr(programs, "run", swapped)
    write(path, overlay, form)
    assert victim.read_bytes() == VICTIM
    assert_same(notation.qemu_content(aside, form.value), notation.content(TEXT))


def test_a_vmdk_file_names_itself_by_its_future_name(tmp_path, overlay):
    write(tmp_path / "temporary", overlay, ImageFormat.VMDK)
    head = (tmp_path / "temporary").read_bytes()[: 64 << 10]
    assert b'\nRW 6144 SPARSE "vm.disk"\n' in head
    assert b"temporary" not in head
    with closing(open_image(ImageSource(str(tmp_path / "temporary"), ImageFormat.VMDK))) as image:
        inspect(image)
    assert_same(notation.qemu_content(tmp_path / "temporary", "vmdk"), notation.content(TEXT))


def test_a_name_that_is_too_long_for_the_descriptor():
    descriptor = b'RW 8 SPARSE "3"\n'.ljust(32, b"\0")
    assert with_extent_name(descriptor, "vm.vmdk") == b'RW 8 SPARSE "vm.vmdk"\n'.ljust(32, b"\0")
    assert with_extent_name(descriptor, "x" * 18) == descriptor


def test_a_full_disk_is_the_error_of_any_other_write(tmp_path, overlay):
    """Then the guests in progress may give space back, and this one is tried again."""
    with mounted(tmp_path, "ext4", 8 << 20) as point:
        with (point / "filler").open("wb") as file:
            status = os.statvfs(point)
            os.posix_fallocate(file.fileno(), 0, status.f_bfree * status.f_frsize - MIB)
        with pytest.raises(OSError, match="No space left on device"):
            write(point / "new", overlay, ImageFormat.VDI)
