"""Chains with block devices: which names of a device count as one, and from where relative names count."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import notation
import pytest
from devices import attached
from oracle import assert_same, guest_bytes

from batchdiff.errors import ImageError
from batchdiff.image.open import open_image
from batchdiff.image_source import ImageFormat, ImageSource

LOW = "64k:A 64k:- 128k:B 64k:0 64k:C"


@pytest.fixture
def device(tmp_path):
    """A loop device, and its two names: a link, and a node of its own."""
    (tmp_path / "names").mkdir()
    with attached(notation.write_raw(tmp_path / "disk.img", LOW)) as path:
        (tmp_path / "names" / "link").symlink_to(path)
        os.mknod(tmp_path / "names" / "node", 0o60600, os.stat(path).st_rdev)
        yield path


@pytest.mark.parametrize("declared", ["link", "node"])
@pytest.mark.parametrize("named", ["names/link", "names/node", "names/../names/link"])
def test_a_backing_device_may_be_declared_by_another_of_its_names(tmp_path, device, named, declared):
    top = notation.write_qcow2(tmp_path / "top.qcow2", "64k:D 320k:-", backing=named)
    below = ImageSource(f"{tmp_path}/names/{declared}", ImageFormat.RAW)
    with open_image(ImageSource(str(top), ImageFormat.QCOW2, (below,))) as image:
        expected = notation.content("64k:D 320k:-", below=notation.content(LOW))
        assert_same(guest_bytes(image, 0, image.virtual_size), expected)
        assert_same(notation.qemu_content(top, "qcow2"), expected)


@pytest.mark.parametrize("declared", ["names/link", "hard-link.raw"])
def test_a_backing_file_must_be_declared_by_its_own_name(tmp_path, device, declared):
    """Of two hard links one can be replaced; and another device is another image."""
    low = notation.write_raw(tmp_path / "low.raw", LOW)
    os.link(low, tmp_path / "hard-link.raw")
    top = notation.write_qcow2(tmp_path / "top.qcow2", "384k:-", backing=low)
    below = ImageSource(f"{tmp_path}/{declared}", ImageFormat.RAW)
    with pytest.raises(ImageError, match="declare"):
        open_image(ImageSource(str(top), ImageFormat.QCOW2, (below,)))


def test_a_name_in_an_image_on_a_device_is_relative_to_the_name_of_the_device(tmp_path, device):
    """So it is for QEMU; oVirt keeps its chains of volumes in this way."""
    top = notation.write_qcow2(tmp_path / "names" / "top.img", "64k:D 320k:-", backing="link")
    with top.open("ab") as file:
        file.truncate(1 << 20)
    with attached(top) as above:
        (tmp_path / "names" / "top").symlink_to(above)
        path = ImageSource(f"{tmp_path}/names/top", ImageFormat.QCOW2)
        below = ImageSource(f"{tmp_path}/names/link", ImageFormat.RAW)
        with open_image(replace(path, backing=(below,))) as image:
            assert_same(guest_bytes(image, 0, image.virtual_size), notation.qemu_content(Path(path.path), "qcow2"))
