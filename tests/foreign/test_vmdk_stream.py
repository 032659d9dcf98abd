"""batchdiff.foreign.vmdk_stream: compressed images read as QEMU reads them; it never sees those with faults."""

import os
import re
import struct
import zlib
from pathlib import Path

import notation
import pytest
from oracle import guest_bytes, within

from batchdiff.errors import ImageError
from batchdiff.foreign.vmdk_stream import inspect_vmdk_stream, is_stream_optimized
from batchdiff.image import exported
from batchdiff.image.exported import ExportedLayer
from batchdiff.image.open import inspect, open_image
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.qcow2.faults import FormatError
from batchdiff.qemu import shared_export

CONTENT = "100k:A 3M:- 64k:0 1M:B 9M:- 70k:C 900k:- 512:D"
FIELDS = {
    "version": 4,
    "capacity": 12,
    "grain": 20,
    "text_at": 28,
    "text_size": 36,
    "entries": 44,
    "compression": 77,
}
FORMS = {"version": "<I", "entries": "<I", "compression": "<H"}
FOOTER, DIRECTORY_AT = -1024, -1024 + 56


@pytest.fixture(autouse=True)
def forget_runs(monkeypatch):
    monkeypatch.setattr(exported, "_kept", {})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A compressed image, by QEMU, as bytes; with a footer, as VMware writes it and QEMU does not."""
    folder = tmp_path_factory.mktemp("made")
    raw, path = notation.write_raw(folder / "raw", CONTENT), folder / "image.vmdk"
    notation.run(
        "qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", str(raw), str(path)
    )
    image = bytearray(path.read_bytes())
    footer = bytes(image[:512])
    struct.pack_into("<Q", image, 56, (1 << 64) - 1)
    return bytes(image) + struct.pack("<QII496x", 1, 0, 3) + footer + bytes(512)


@pytest.fixture
def path(tmp_path, made):
    found = tmp_path / "image.vmdk"
    found.write_bytes(made)
    return found


def source(path):
    return ImageSource(str(path), ImageFormat.VMDK)


def read(path):
    with open_image(source(path)) as image:
        assert isinstance(image.layers[0], ExportedLayer)
        inspect(image)
        return guest_bytes(image, 0, image.virtual_size)


def by_qemu(path):
    notation.run("qemu-img", "convert", "-f", "vmdk", "-O", "raw", str(path), f"{path}.by-qemu")
    return Path(f"{path}.by-qemu").read_bytes()


def at(offset, form, *values):
    """A change at an offset; a negative one counts from the end."""

    def change(image):
        struct.pack_into(form, image, offset % len(image), *values)

    return change


def head(name, value):
    return at(FIELDS[name], FORMS.get(name, "<Q"), value)


def foot(name, value):
    return at(FOOTER + FIELDS[name], FORMS.get(name, "<Q"), value)


def both(name, value):
    def change(image):
        head(name, value)(image)
        foot(name, value)(image)

    return change


def directory(image):
    (sector,) = struct.unpack_from("<Q", image, len(image) + DIRECTORY_AT)
    return sector * 512


def table(image):
    (sector,) = struct.unpack_from("<I", image, directory(image))
    return sector * 512


def in_table(number, value):
    """A change of an entry of the first grain table: a sector, or that of another entry."""

    def change(image):
        start = table(image)
        sector = struct.unpack_from("<I", image, start + value[0] * 4)[0] if isinstance(value, tuple) else value
        struct.pack_into("<I", image, start + number * 4, sector)

    return change


def in_directory(value):
    def change(image):
        struct.pack_into("<I", image, directory(image), value)

    return change


def text(old, new):
    """A change of the descriptor, of equal length."""

    def change(image):
        assert old in image[512:10752]
        image[:] = bytes(image).replace(old, new.ljust(len(old))[: len(old)])

    return change


def without_footer(image):
    """Name the directory in the first header, as QEMU does."""
    struct.pack_into("<Q", image, 56, directory(image) // 512)


def test_reads_as_qemu_reads_it(path):
    assert read(path)[: notation.size(CONTENT)] == notation.content(CONTENT)
    assert read(path) == by_qemu(path)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_versions(path, made, version):
    image = bytearray(made)
    both("version", version)(image)
    path.write_bytes(image)
    assert read(path) == by_qemu(path)


def test_the_directory_may_be_named_in_the_header(path, made):
    image = bytearray(made)
    without_footer(image)
    path.write_bytes(image)
    assert read(path) == by_qemu(path)


def test_what_is_stream_optimized(made):
    assert is_stream_optimized(lambda start, length: made[start : start + length])
    assert not is_stream_optimized(lambda start, length: bytes(length))
    assert not is_stream_optimized(lambda _start, _length: b"KDMV")


FAULTS = {
    "no signature": (at(0, "4s", b"KDMW"), "signature is missing"),
    "size 0": (head("capacity", 0), "its size is 0"),
    "another size": (head("capacity", 8), "give different sizes"),
    "size 0 in the footer": (foot("capacity", 0), "give different sizes"),
    "footer not compressed": (foot("compression", 0), "give different compression methods"),
    "unknown compression in the footer": (foot("compression", 2), "give different compression methods"),
    "unknown compression": (both("compression", 2), "compression method 2 is not supported"),
    "no descriptor": (head("text_at", 0), "its descriptor is missing"),
    "descriptor elsewhere": (head("text_at", 30), "not directly after the header"),
    "descriptor too large": (head("text_size", 21), "too large"),
    "version": (foot("version", 4), "version 4 is unknown"),
    "a grain of 0": (foot("grain", 0), "grains or tables"),
    "a grain of 100 sectors": (foot("grain", 100), "grains or tables"),
    "a grain of 512 bytes": (foot("grain", 1), "grains or tables"),
    "a grain of 1 GiB": (foot("grain", 1 << 21), "grains or tables"),
    "a grain of 2 MiB": (foot("grain", 1 << 12), "grains or tables"),
    "no entries": (foot("entries", 0), "grains or tables"),
    "many entries": (foot("entries", 513), "grains or tables"),
    "more than 64 TiB": (both("capacity", 1 << 38), "exceeds 64 TiB"),
    "too many grains": (both("capacity", 1 << 36), "too many to map"),
    "too many sectors": (both("capacity", (1 << 64) - 1), "exceeds 64 TiB"),
    "no footer": (at(-1536, "<512x"), "its footer is missing"),
    "another marker": (at(-1536 + 12, "<I", 2), "its footer is missing"),
    "a footer with a size": (at(-1536 + 8, "<I", 512), "its footer is missing"),
    "footer signature": (at(FOOTER, "4s", b"KDMW"), "its footer is missing"),
    "no end": (at(-512, "<I", 1), "its footer is missing"),
    "directory at the end, again": (at(DIRECTORY_AT, "<Q", (1 << 64) - 1), "outside the file"),
    "directory outside": (at(DIRECTORY_AT, "<Q", 1 << 40), "outside the file"),
    "table outside": (in_directory(1 << 30), "outside the file"),
    "grain outside": (in_table(0, 1 << 30), "past the end"),
    "grain twice": (in_table(1, (0,)), "several parts of the disk"),
    "first grain outside": (at(FOOTER + 64, "<Q", 1 << 30), "its first grain is missing"),
    "no type": (text(b"createType", b"creatureTy"), "no type"),
    "flat": (text(b'"streamOptimized"', b'"monolithicFlat"'), "not supported in a file with a header"),
    "sparse": (text(b'"streamOptimized"', b'"monolithicSparse'), "contradicts its header"),
    "a parent": (text(b"parentCID=ffffffff", b"parentCID=12345678"), "differences from a parent"),
    "a parent's name": (text(b"ddb.virtualHWVersion", b"parentFileNameHint="), "differences from a parent"),
    "two extents": (text(b"# The Disk Data Base", b'\nRW 1 FLAT "/etc/x"'), "exactly one sparse extent"),
    "a flat extent": (text(b" SPARSE ", b" FLAT "), "exactly one sparse extent"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_before_qemu_sees_it(path, made, fault, monkeypatch):
    monkeypatch.setattr(shared_export, "Export", lambda *_: pytest.fail("QEMU sees it"))
    change, words = FAULTS[fault]
    image = bytearray(made)
    change(image)
    path.write_bytes(image)
    with within(5), pytest.raises(ImageError) as caught, open_image(source(path)):
        pass
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == image


def test_a_file_that_is_cut_anywhere_is_refused(made):
    for length in [*range(0, 4096, 511), *range(4096, len(made), 9999), len(made) - 512, len(made) - 513]:
        part = made[:length]
        with pytest.raises(FormatError):
            inspect_vmdk_stream(lambda start, count, part=part: part[start : start + count], length)


def test_a_file_without_room_for_the_footer_that_its_header_promises(path, made):
    path.write_bytes(
        made[:36] + struct.pack("<Q", 1) + made[44:56] + struct.pack("<Q", (1 << 64) - 1) + made[64:1024]
    )
    with pytest.raises(ImageError, match="its footer is missing"), open_image(source(path)):
        pass


def test_a_grain_that_is_damaged(path, made):
    """Only its reader notices: QEMU or its library refuses it."""
    image = bytearray(made)
    (sector,) = struct.unpack_from("<I", image, table(image))
    struct.pack_into("<I", image, sector * 512 + 8, 0xFFFFFFF0)
    path.write_bytes(image)
    with within(10), pytest.raises(ImageError, match=f"cannot read {re.escape(str(path))}"):
        read(path)


def test_a_grain_that_unpacks_to_more_than_it_may(path, made):
    """QEMU gives up at the size of a grain; the memory of both is bounded."""
    image = bytearray(made)
    (sector,) = struct.unpack_from("<I", image, table(image))
    bomb = zlib.compress(bytes(64 << 20))
    place = sector * 512
    # It overlaps the grains after it, which does not matter: nothing reads them.
    image[place : place + 12 + len(bomb)] = struct.pack("<QI", 0, len(bomb)) + bomb
    path.write_bytes(image)
    with within(10), pytest.raises(ImageError, match="cannot read"), open_image(source(path)) as image:
        guest_bytes(image, 0, 4096)


def test_an_image_without_data(tmp_path):
    path = tmp_path / "image.vmdk"
    notation.run("qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=streamOptimized", str(path), "4M")
    raw = notation.write_raw(tmp_path / "raw", "4M:-")
    options = ("-o", "subformat=streamOptimized")
    notation.run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", *options, str(raw), str(path))
    assert read(path) == bytes(4 << 20)
    assert os.path.getsize(path) < 1 << 20
