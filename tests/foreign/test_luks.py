"""LUKS headers made by QEMU are accepted, and each fault in one is refused before QEMU sees it.

Guards foreign/luks.py.
"""

import struct

import encrypted
import notation
import pytest

from batchdiff.foreign.luks import LONGEST_ITER_TIME, inspect_luks, inspect_luks_image
from batchdiff.qcow2.faults import FormatError

SLOT = 208
ACTIVE = 0x00AC71F3


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A LUKS image of 1 MiB, by QEMU, as bytes."""
    folder = tmp_path_factory.mktemp("made")
    raw = notation.write_raw(folder / "raw", "1M:A")
    return encrypted.convert(raw, folder / "luks", "luks", encrypted.secret_file(folder / "secret")).read_bytes()


def inspect(image):
    """Bytes of the disk in an image that is accepted."""

    def read(offset, length):
        return bytes(image[offset : offset + length])

    inspect_luks_image(read, len(image))
    return len(image) - inspect_luks(read, len(image))


def test_what_qemu_makes_is_accepted(made):
    assert inspect(made) == 1 << 20


@pytest.mark.long
def test_other_ciphers_of_qemu_are_accepted(tmp_path):
    raw = notation.write_raw(tmp_path / "raw", "64k:A")
    secret = encrypted.secret_file(tmp_path / "secret")
    options = "cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256"
    assert inspect(encrypted.convert(raw, tmp_path / "luks", "luks", secret, options).read_bytes()) == 65536


def test_a_file_that_ends_inside_its_header_is_refused(made):
    for length in range(0, 592, 7):
        with pytest.raises(FormatError):
            inspect_luks(lambda offset, count, end=length: made[:end][offset : offset + count], length)


def slot(number, field, value):
    """A change of a key slot: its state (0), iterations (4), first sector (40) or stripes (44)."""
    return (SLOT + number * 48 + field, ">I", value)


FAULTS = [
    ((0, "6s", b"LUXUS!"), "magic number"),
    ((6, ">H", 2), "QEMU reads version 1 only"),
    ((6, ">H", 3), "version 3 is unknown"),
    ((8, "32s", b"a" * 32), "cipher or hash is not text"),
    ((8, "32s", b"aes\x1b[2J"), "cipher or hash is not text"),
    ((40, "32s", b"x" * 32), "cipher or hash is not text"),
    ((72, "32s", b"\xff"), "cipher or hash is not text"),
    ((104, ">I", 1 << 31), "truncated"),
    ((104, ">I", 7), "overlaps the data"),
    ((108, ">I", 0), "key of 0 bytes"),
    ((108, ">I", 1 << 31), "key of 2147483648 bytes"),
    ((164, ">I", 0), "0 rounds"),
    ((164, ">I", (1 << 32) - 1), "rounds of PBKDF2"),
    (slot(0, 0, 1), "neither active nor inactive"),
    (slot(0, 0, 0xDEAD), "no active key slot"),
    (slot(0, 4, 0), "0 rounds"),
    (slot(0, 4, (1 << 32) - 1), "rounds of PBKDF2"),
    (slot(0, 4, 1 << 30), "rounds of PBKDF2"),
    (slot(0, 40, 0), "overlaps the header"),
    (slot(0, 40, 7), "overlaps the header"),
    (slot(0, 40, 513), "or another key slot"),
    (slot(7, 40, 1 << 31), "overlaps the data"),
    (slot(0, 44, 3999), "3999 instead of 4000 stripes"),
    (slot(7, 44, (1 << 32) - 1), "4294967295 instead of 4000 stripes"),
]


@pytest.mark.parametrize(("change", "words"), FAULTS)
def test_a_fault_is_refused(made, change, words):
    image = bytearray(made)
    at, form, value = change
    struct.pack_into(form, image, at, value)
    with pytest.raises(FormatError, match=words) as caught:
        inspect(image)
    assert "\x1b" not in str(caught.value)


def test_the_rounds_of_all_slots_count_together(made):
    image = bytearray(made)
    for number in range(8):
        struct.pack_into(">II", image, SLOT + number * 48, ACTIVE, 1 << 27)
    with pytest.raises(FormatError, match="rounds of PBKDF2"):
        inspect(image)
    for number in range(8):
        struct.pack_into(">I", image, SLOT + number * 48 + 4, 10_000_000)  # two seconds on a fast CPU
    assert inspect(image) == 1 << 20


@pytest.mark.parametrize("per_second", [5_000_000, 30_000_000])
def test_an_overlay_with_the_longest_time_for_a_guess_is_accepted(made, per_second):
    """As QEMU makes it on a CPU with that many rounds a second."""
    image, rounds = bytearray(made), per_second * LONGEST_ITER_TIME // 1000
    struct.pack_into(">I", image, SLOT + 4, rounds)
    struct.pack_into(">I", image, 164, rounds // 8)
    assert inspect(image) == 1 << 20


def test_a_truncated_image_is_refused(made):
    with pytest.raises(FormatError, match="incomplete") as caught:
        inspect(made[:-1])
    assert "QEMU cannot" not in caught.value.remedy  # it pads the sector with zeros


def test_luks_of_version_2_comes_with_the_way_to_convert_it(made):
    with pytest.raises(FormatError) as caught:
        inspect(made[:6] + b"\0\2" + made[8:])
    assert "cryptsetup convert --type luks1" in caught.value.remedy
