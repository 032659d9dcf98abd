"""Hints at formats, and the files that are not even opened for one."""

from __future__ import annotations

import os
import subprocess

import pytest

from batchdiff.image.format_marks import guesses_of_qemu, looks_like
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
    assert guesses_of_qemu(str(image), str(image)) == {"raw" if image_format == "vpc" else image_format}


BOCHS = (
    b"Bochs Virtual HD Image".ljust(32, b"\0")
    + b"Redolog".ljust(16, b"\0")
    + b"Growing".ljust(16, b"\0")
    + b"\0\0\2\0"
)
CLOOP = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n"
GUESSES = {
    "a descriptor without the usual first line": (b"# any comment\nversion=1\n", "", {"vmdk"}),
    "a descriptor after blank lines": (b"#\n  \n \r\nversion=3\r\n", "", {"vmdk"}),
    "a descriptor with an empty line": (b"#\n\nversion=1\n", "", {"raw"}),
    "a descriptor of an unknown version": (b"# Disk DescriptorFile\nversion=4\n", "", {"raw"}),
    "a descriptor without a version": (b"# Disk DescriptorFile\nCID=12345678\n", "", {"raw"}),
    "a sparse extent of ESXi": (b"COWD", "", {"vmdk"}),
    "bochs": (BOCHS, "", {"bochs"}),
    "cloop": (CLOOP, "", {"cloop"}),
    "dmg": (b"", ".dmg", {"dmg"}),
    "qcow2 by a name of dmg": (b"QFI\xfb", ".dmg", {"qcow2"}),
    "two at once": (b"KDMV".ljust(0x40, b"\0") + b"\x7f\x10\xda\xbe", "", {"vmdk", "vdi"}),
    "a footer": (bytes(4096) + b"conectix".ljust(512, b"\0"), "", {"raw"}),
}


@pytest.mark.parametrize(("content", "suffix", "expected"), GUESSES.values(), ids=GUESSES)
def test_what_qemu_guesses(tmp_path, content, suffix, expected):
    image = tmp_path / f"image{suffix}"
    image.write_bytes(content.ljust(1 << 16, b"\0") if b"conectix" not in content else content)
    assert guesses_of_qemu(str(image), str(image)) == expected
    told = subprocess.run(["qemu-img", "info", image], check=False, capture_output=True, text=True)
    # QEMU opens what it takes for a raw disk, and refuses a mere beginning of another format.
    assert ("file format: raw" in told.stdout) is (expected == {"raw"})


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
        assert guesses_of_qemu(str(path), str(path)) == set()
