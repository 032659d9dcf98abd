"""Headers made by QEMU are accepted, and each fault in one is refused before QEMU sees it.

Guards foreign/parallels.py, foreign/qed.py, foreign/vdi.py, foreign/vmdk.py and foreign/vpc.py.
"""

import functools
import struct

import notation
import pytest
from vhd import right_checksums

from batchdiff.foreign.parallels import inspect_parallels
from batchdiff.foreign.qed import inspect_qed
from batchdiff.foreign.vdi import inspect_vdi
from batchdiff.foreign.vmdk import inspect_vmdk
from batchdiff.foreign.vpc import inspect_vpc
from batchdiff.qcow2.faults import FormatError

INSPECT = {
    "vdi": inspect_vdi,
    "vpc": inspect_vpc,
    "parallels": inspect_parallels,
    "qed": inspect_qed,
    "vmdk": inspect_vmdk,
}
CONTENT = "1M:- 64k:A 1M:- 100k:B 1948k:-"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An image of each format, by QEMU, as bytes."""
    folder = tmp_path_factory.mktemp("made")
    raw = notation.write_raw(folder / "raw", CONTENT)

    @functools.cache
    def make(image_format, *options):
        path = folder / "made"
        notation.run("qemu-img", "convert", "-f", "raw", "-O", image_format, *options, str(raw), str(path))
        return path.read_bytes()

    return make


def inspect(image_format, image):
    INSPECT[image_format](lambda offset, length: bytes(image[offset : offset + length]), len(image))


@pytest.mark.parametrize("image_format", INSPECT)
def test_what_qemu_makes_is_accepted(made, image_format):
    inspect(image_format, made(image_format))


@pytest.mark.parametrize("options", ["subformat=fixed", "force_size=on", "subformat=fixed,force_size=on"])
def test_every_kind_of_vhd_of_qemu_is_accepted(made, options):
    inspect("vpc", made("vpc", "-o", options))


@pytest.mark.parametrize("image_format", INSPECT)
def test_a_file_that_ends_inside_its_header_is_refused(made, image_format):
    image = made(image_format)
    for length in [*range(0, 1100, 7), len(image) // 2]:
        try:
            inspect(image_format, image[:length])
        except FormatError:
            continue
        assert length > 64  # the shortest header


def at(offset, form, *values):
    """A change of an image: values written at an offset, in a form of :mod:`struct`."""

    def change(image):
        struct.pack_into(form, image, offset, *values)

    return change


def test_a_vhd_with_a_wrong_checksum_is_refused(made):
    image = bytearray(made("vpc"))
    image[100] ^= 1
    with pytest.raises(FormatError, match="the checksum of its footer is wrong"):
        inspect("vpc", image)


def test_a_grain_table_past_the_end_is_refused(made):
    """QEMU would read it as zeros."""
    image = bytearray(made("vmdk"))
    at = struct.unpack_from("<Q", image, 56)[0] * 512
    struct.pack_into("<I", image, at, len(image) // 512)
    with pytest.raises(FormatError, match=r"a grain table at .* is outside the file"):
        inspect("vmdk", image)


def text(old, new):
    """A change of the descriptor of a VMDK, which keeps its length."""

    def change(image):
        start = image.index(b"# Disk DescriptorFile")
        # QEMU writes a shorter text over a longer one, of which a piece may remain after the null byte.
        descriptor = bytes(image[start : start + 20 * 512]).partition(b"\0")[0].replace(old, new)
        image[start : start + 20 * 512] = descriptor.ljust(20 * 512, b"\0")

    return change


def hidden_descriptor(at, size):
    """A change of a VMDK, whose header names a harmless descriptor, not the one with a parent that QEMU reads."""

    def change(image):
        harmless = bytes(image[512 : 512 + 20 * 512])
        text(b"createType", PARENT)(image)
        found = image[512 : 512 + 20 * 512].partition(b"\0")[0]
        if size == 1:  # the parent comes after the first sector
            found = harmless.partition(b"\0")[0].ljust(512, b"\n") + PARENT[:-10]
        image[512 : 512 + 20 * 512] = found.ljust(20 * 512, b"\0")
        image += bytes(-len(image) % 512)
        struct.pack_into("<QQ", image, 28, at or len(image) // 512, size)
        image += harmless

    return change


PARENT = b'parentFileNameHint="/etc/passwd"\ncreateType'

FAULTS = {
    "vdi": [
        (at(0x40, "<I", 0), "signature"),
        (at(0x44, "<I", 0x00010002), "version 1.2"),
        (at(0x4C, "<I", 4), "difference"),
        (at(0x1A8, "16s", b"a parent's uuid."), "difference"),
        (at(0x1B8, "16s", b"a parent's uuid."), "difference"),
        (at(0x168, "<I", 4096), "sectors"),
        (at(0x178, "<I", 4096), "blocks"),
        (at(0x17C, "<I", 1), "blocks"),
        (at(0x170, "<Q", 1 << 62), "number of its blocks"),
        (at(0x180, "<I", 0xFFFFFFFF), "number of its blocks"),
        (at(0x180, "<I", 0x1FFFFFFF), "past the end"),
        (at(0x154, "<I", 0xFFFFFE00), "past the end"),
        (at(0x154, "<I", 513), "is not aligned"),
    ],
    "vpc": [
        (at(0, "8s", b"conectiX"), "disk type 3"),
        (at(60, ">I", 4), "difference"),
        (at(-512 + 60, ">I", 2), "forged"),
        (at(60, ">I", 2), "disk type 2"),
        (at(60, ">I", 99), "disk type 99"),
        (at(16, ">Q", 1 << 40), "truncated"),
        (at(512, "8s", b"nothing."), "header of its block table"),
        (at(512 + 16, ">Q", 1 << 40), "past the end"),
        (at(512 + 28, ">I", 1 << 27), "past the end"),
        (at(512 + 32, ">I", 0), "invalid"),
        (at(512 + 32, ">I", 3 << 20), "invalid"),
        (at(512 + 28, ">I", (1 << 27) + 1), "clusters are too many"),
    ],
    "parallels": [
        (at(0, "16s", b"WithNoSpaceAtAll"), "signature"),
        (at(16, "<I", 3), "version 3"),
        (at(28, "<I", 0), "invalid"),
        (at(28, "<I", 0x7FFFFFFF), "invalid"),
        (at(32, "<I", 0xFFFFFFFF), "past the end"),
        (at(36, "<Q", 1 << 60), "too few entries"),
        (at(44, "<I", 0x746F6E59), "in use"),
        (at(56, "<Q", 2048), "bitmaps"),
    ],
    "qed": [
        (at(0, "4s", b"QED1"), "signature"),
        (at(16, "<Q", 1 << 40), "unknown features"),
        (at(16, "<Q", 1), "backing file"),
        (at(16, "<Q", 2), "cleanly"),
        (at(4, "<I", 512), "cluster size of 512"),
        (at(4, "<I", 3 << 16), "cluster size of"),
        (at(8, "<I", 0), "table size of 0"),
        (at(8, "<I", 32), "table size of 32"),
        (at(48, "<Q", 1 << 63), "size"),
        (at(48, "<Q", 513), "size"),
        (at(4, "<II36xQ", 1 << 20, 16, 1 << 50), "clusters are too many"),
        (at(40, "<Q", 1 << 50), "L1 table"),
        (at(40, "<Q", 65537), "L1 table"),
    ],
    "vmdk": [
        (at(0, "4s", b"KDMW"), "signature"),
        (at(4, "<I", 4), "version 4"),
        (at(77, "<H", 1), "compression method 1"),
        (at(56, "<Q", (1 << 64) - 1), "compressed"),
        (at(12, "<Q", 0), "size is 0"),
        (at(20, "<Q", 0), "grains"),
        (at(20, "<Q", 1), "grains"),
        (at(20, "<Q", 129), "grains"),
        (at(12, "<Q", 1 << 40), "64 TiB"),
        (at(12, "<Q", 1 << 34), "grain directory"),
        (at(44, "<I", 1024), "grains"),
        (at(28, "<Q", 0), "descriptor"),
        (at(36, "<Q", 1 << 20), "descriptor"),
        (at(28, "<Q", 1 << 30), "after the header"),
        (at(56, "<Q", 1 << 40), "grain directory"),
        (hidden_descriptor(0, 20), "after the header"),
        (hidden_descriptor(1, 1), "difference"),
        (at(12, "<QQ", 1 << 31, 8), "clusters are too many"),
        (text(b"parentCID=ffffffff", b"parentCID=12345678"), "difference"),
        (text(b"createType", PARENT), "difference"),
        (text(b'"monolithicSparse"', b'"monolithicFlat"'), "monolithicflat"),
        (text(b'createType="monolithicSparse"', b""), "no type"),
        (text(b"version=1", b'version=1\ncreateType="custom"'), "more than once"),
        (text(b"RW 8388 SPARSE", b'RW 1 FLAT "/etc/passwd" 0\nRW 8388 SPARSE'), "one sparse extent"),
        (text(b"SPARSE", b"FLAT"), "one sparse extent"),
    ],
}


@pytest.mark.parametrize(
    ("image_format", "change", "words"),
    [
        pytest.param(name, change, words, id=f"{name}-{number}-{words}")
        for name, faults in FAULTS.items()
        for number, (change, words) in enumerate(faults)
    ],
)
def test_a_fault_is_refused(made, image_format, change, words):
    image = bytearray(made(image_format))
    if image_format == "vmdk":
        sectors = notation.size(CONTENT) // 512
        image = bytearray(bytes(image).replace(b"RW %d " % sectors, b"RW 8388 "))
    change(image)
    if image_format == "vpc":
        right_checksums(image)
    with pytest.raises(FormatError) as caught:
        inspect(image_format, image)
    assert words.lower() in str(caught.value).lower()


def test_a_descriptor_of_other_files_is_not_an_image_in_one_file():
    with pytest.raises(FormatError, match=r"signature|truncated"):
        inspect("vmdk", b'# Disk DescriptorFile\ncreateType="monolithicFlat"\nRW 1 FLAT "/etc/passwd" 0\n')
