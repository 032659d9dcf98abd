"""Hints at formats, and the files that are not even opened for one."""

from __future__ import annotations

import os
import subprocess

import pytest

from batchdiff.image.format_marks import looks_like
from batchdiff.image_source import ImageFormat

MARKS = [
    (b"QFI\xfb", ImageFormat.QCOW2),
    (b"QED\0", ImageFormat.QED),
    (b"KDMV", ImageFormat.VMDK),
    (b"# Disk DescriptorFile\nversion=1\n", ImageFormat.VMDK),
    (b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(0x40, b"\0") + b"\x7f\x10\xda\xbe", ImageFormat.VDI),
    (b"vhdxfile", ImageFormat.VHDX),
    (b"conectix", ImageFormat.VPC),
    (b"WithoutFreeSpace", ImageFormat.PARALLELS),
    (b"WithouFreSpacExt", ImageFormat.PARALLELS),
    (b"LUKS\xba\xbe", ImageFormat.LUKS),
    (b"<<< Oracle VM VirtualBox Disk Image >>>\n", ImageFormat.RAW),
    (b"\0QFI\xfb", ImageFormat.RAW),
    (b"QFI", ImageFormat.RAW),
    (b"", ImageFormat.RAW),
]


@pytest.mark.parametrize(("head", "expected"), MARKS)
@pytest.mark.parametrize("length", [0, 4096])
def test_marks(tmp_path, head, expected, length):
    image = tmp_path / "image"
    image.write_bytes(head.ljust(length, b"\0"))
    assert looks_like(str(image)) is expected


@pytest.mark.parametrize(("size", "expected"), [(512, "vpc"), (5000, "vpc"), (511, "raw")])
def test_a_fixed_vhd_has_its_mark_in_the_footer(tmp_path, size, expected):
    image = tmp_path / "image"
    image.write_bytes(b"\0" * (size - 512) + b"conectix".ljust(512, b"\0") if size >= 512 else b"\0" * size)
    assert looks_like(str(image)) == expected


QEMU_OPTIONS = {
    "vpc": ["-o", "subformat=fixed"],
    "luks": ["--object", "secret,id=s,data=x", "-o", "key-secret=s,iter-time=10"],
}


@pytest.mark.parametrize("image_format", list(ImageFormat))
def test_what_qemu_writes_is_known(tmp_path, image_format):
    image = tmp_path / "image"
    options = QEMU_OPTIONS.get(image_format.value, [])
    command = ["qemu-img", "create", "-q", "-f", image_format, *options, image, "8M"]
    for _ in range(30):
        # QEMU times its key derivation and, where the CPU clock is coarse, gives up on LUKS now and then.
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        if "Unable to get accurate CPU usage" not in result.stderr:
            break
    assert result.returncode == 0, result.stderr
    assert looks_like(str(image)) is image_format


def test_a_link_to_an_image_is_followed(tmp_path):
    (tmp_path / "image").write_bytes(b"QFI\xfb")
    (tmp_path / "link").symlink_to("image")
    assert looks_like(str(tmp_path / "link")) is ImageFormat.QCOW2


def test_no_telling(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for path in (
        tmp_path,
        tmp_path / "fifo",
        tmp_path / "absent",
        tmp_path / "loop",
        "/dev/null",
        "a\0b",
        "a\udfffb",
    ):
        assert looks_like(str(path)) is None
