"""Raw images that look like other formats, or hold such an image: all bytes are the disk, and name nothing."""

from __future__ import annotations

import functools

import notation
import qcow2_kinds
import qed_kinds
from kinds import READ, Kind, both, named, put

DISK = "1M:- 1M:A 1M:- 100k:B 924k:-"
"""The same as in ``hostile_fleet.py``: the lookalike takes its first MiB."""
MIB = 1 << 20
QCOW2, VMDK, QED, VPC = "-O qcow2", "-O vmdk", "-O qed", "-O vpc"
FORMATS = ("qcow2", "qcow", "vmdk", "vdi", "vhdx", "vpc", "qed", "parallels")
MARKS = {
    "luks": (0, b"LUKS\xba\xbe\0\1"),
    "luks2": (0, b"LUKS\xba\xbe\0\2"),
    "bochs": (0, b"Bochs Virtual HD Image\0"),
    "cloop": (0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0"),
    "dmg": (4 * MIB - 512, b"koly"),
    "cow": (0, b"OOOM"),
    "dos": (510, b"\x55\xaa"),
    "gpt": (512, b"EFI PART"),
    "iso": (0x8001, b"CD001"),
    "ext4": (0x438, b"\x53\xef"),
    "xfs": (0, b"XFSB"),
    "btrfs": (0x10040, b"_BHRfS_M"),
    "lvm": (512, b"LABELONE"),
    "swap": (4086, b"SWAPSPACE2"),
    "squashfs": (0, b"hsqs"),
    "gzip": (0, b"\x1f\x8b\x08"),
    "xz": (0, b"\xfd7zXZ\0"),
    "elf": (0, b"\x7fELF"),
    "script": (0, b"#!/bin/sh\nexec cat /etc/passwd\n"),
    "vmdk-of-esx": (0, b"COWD"),
    "vhd-at-the-end": (4 * MIB - 512, b"conectix"),
    "json": (0, b'json:{"driver":"nbd","host":"127.0.0.1"}'),
}


@functools.cache
def disk():
    return notation.content(DISK)


def as_disk(image):
    """The image as the first MiB of the disk."""
    image[:] = bytes(image[:MIB]).ljust(MIB, b"\0") + disk()[MIB:]


def as_end(image):
    image[:] = disk()[: 3 * MIB] + bytes(image[-MIB:]).rjust(MIB, b"\0")


def at(offset):
    """A change that moves the image to an offset of the disk."""

    def change(image):
        head = bytes(image[: MIB - offset])
        image[:] = bytes(offset) + head.ljust(MIB - offset, b"\0") + disk()[MIB:]

    return change


def descriptor(*lines):
    text = "\n".join(["# Disk DescriptorFile", "version=1", "CID=12345678", *lines, ""]).encode()
    return put(0, f"{len(text)}s", text)


def kinds(outside: dict[str, str]) -> list[Kind]:
    """All kinds; ``outside``: names of other files, by what they are."""
    return [
        *(Kind(f"a-{name}", as_disk, READ, f"-O {name}") for name in FORMATS),
        *(Kind(f"a-{name}-at-its-end", as_end, READ, f"-O {name}") for name in FORMATS),
        *(Kind(f"a-{name}-in-a-partition", at(32256), READ, f"-O {name}") for name in FORMATS),
        *(
            Kind(f"mark-of-{name}", put(where, f"{len(mark)}s", mark), READ)
            for name, (where, mark) in MARKS.items()
        ),
        *(
            Kind(name, both(qcow2_kinds.backing(to), as_disk), READ, QCOW2)
            for name, to in named("qcow2-with-backing", outside)
        ),
        *(
            Kind(name, both(qcow2_kinds.data_file(to), as_disk), READ, QCOW2)
            for name, to in named("qcow2-with-data-file", outside)
        ),
        *(
            Kind(name, both(qed_kinds.backing(to, 1), as_disk), READ, QED)
            for name, to in named("qed-with-backing", outside)
        ),
        *(
            Kind(
                name,
                descriptor("parentCID=ffffffff", 'createType="monolithicFlat"', f'RW 8192 FLAT "{to}" 0'),
                READ,
            )
            for name, to in named("vmdk-with-extent", outside)
        ),
        *(
            Kind(
                name,
                descriptor("parentCID=1", 'createType="monolithicSparse"', f'parentFileNameHint="{to}"'),
                READ,
            )
            for name, to in named("vmdk-with-parent", outside)
        ),
        Kind("qcow2-that-is-dirty", both(put(72, ">Q", 1), as_disk), READ, QCOW2),
        Kind("qcow2-that-is-corrupt", both(put(72, ">Q", 2), as_disk), READ, QCOW2),
        Kind("qcow2-of-2^63-bytes", both(put(24, ">Q", 1 << 63), as_disk), READ, QCOW2),
        Kind("qcow2-of-noise", both(put(0, "4sI", b"QFI\xfb", 3), put(8, "504s", bytes(range(252)) * 2)), READ),
        Kind(
            "vhd-of-two-footers",
            lambda image: image.__setitem__(slice(0, 512), bytes(image[-512:])),
            READ,
            "-O vpc -o subformat=fixed,force_size=on",
        ),
        Kind("vhd-that-is-fixed", lambda image: None, READ, "-O vpc -o subformat=fixed,force_size=on"),
    ]
