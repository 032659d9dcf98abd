import os
import random

import fake_judge
import pytest
from oracle import guest_bytes, source
from overlays import new_image, write, write_sparse
from patching import OFFSET, Patched

from batchdiff.applying.checks.verify import Comparison, require_judges, verify
from batchdiff.choices import VerifyMode
from batchdiff.errors import ProgramError, VerificationError
from batchdiff.image.open import open_image
from batchdiff.plan.overlay_options import Compression, OverlayOptions
from batchdiff.units import KIB, MIB

CHANGED = 300 * KIB
ALL = list(VerifyMode)
EVERY_BYTE = [VerifyMode.FULL, VerifyMode.NATIVE]


class Converted:
    """A template, a guest of which two places changed, and its overlay, not yet verified."""

    def __init__(self, folder, options=None, larger=0):
        rng = random.Random(1)
        template = bytearray(rng.randbytes(2 * MIB).ljust(3 * MIB, b"\0"))
        guest = bytearray(template.ljust(3 * MIB + larger, b"\0"))
        guest[CHANGED : CHANGED + 100] = rng.randbytes(100)
        guest[MIB : MIB + 128 * KIB] = bytes(128 * KIB)
        guest[-1] = 1
        self.template = write_sparse(folder / "t.raw", bytes(template))
        self.guest = write_sparse(folder / "g.img", bytes(guest))
        self.overlay = folder / "o.qcow2"
        self.new = new_image(bytes(template), bytes(guest), options or OverlayOptions(), str(self.template))
        write(self.overlay, self.guest, self.new)

    def verify(self, mode):
        overlay = source(self.overlay, self.template)
        written = (self.new.extents, self.new.geometry.granule)
        verify(Comparison(source(self.guest), overlay, written), mode)


def flip(path, offset):
    """One byte of a file, changed."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def data_offset(converted):
    """Where the overlay holds the byte at CHANGED of its guest."""
    with open_image(source(converted.overlay, converted.template)) as image:
        (segment,) = image.segments(CHANGED, CHANGED + 1)
        assert segment.layer == 0
        return segment.address


@pytest.fixture
def converted(tmp_path):
    return Converted(tmp_path)


@pytest.mark.parametrize("mode", ALL)
@pytest.mark.parametrize("compression", Compression)
@pytest.mark.parametrize("larger", [0, MIB + 100])
def test_sound(tmp_path, mode, compression, larger):
    converted = Converted(tmp_path, OverlayOptions(compression=compression), larger)
    converted.verify(mode)
    assert_it_looks(converted, mode)


def assert_it_looks(converted, mode):
    """That it was found sound says something: one bit of the guest, and it is not."""
    flip(converted.guest, CHANGED)
    with pytest.raises(VerificationError):
        converted.verify(mode)


@pytest.mark.parametrize("mode", ALL)
def test_a_flipped_byte_in_the_overlay(converted, mode):
    flip(converted.overlay, data_offset(converted))
    with pytest.raises(VerificationError) as caught:
        converted.verify(mode)
    assert str(converted.overlay) in str(caught.value)
    assert str(converted.guest) in str(caught.value)


@pytest.mark.parametrize("mode", ALL)
def test_a_guest_changed_where_it_was_written(converted, mode):
    flip(converted.guest, CHANGED + 50)
    with pytest.raises(VerificationError):
        converted.verify(mode)


@pytest.mark.parametrize("mode", EVERY_BYTE)
@pytest.mark.parametrize("which", ["guest", "template"])
@pytest.mark.parametrize("offset", [0, 3 * MIB - 70_000, 2 * MIB + 5])
def test_changed_where_nothing_was_written(converted, mode, which, offset):
    flip(getattr(converted, which), offset)
    with pytest.raises(VerificationError):
        converted.verify(mode)


@pytest.mark.parametrize("mode", ALL)
def test_another_size(converted, mode):
    os.truncate(converted.guest, 4 * MIB)
    with pytest.raises(VerificationError):
        converted.verify(mode)


@pytest.mark.parametrize("mode", ALL)
@pytest.mark.parametrize("damage", ["magic", "l1", "cut", "empty"])
def test_a_damaged_overlay(converted, mode, damage):
    match damage:
        case "magic":
            flip(converted.overlay, 0)
        case "l1":
            flip(converted.overlay, 65536 + 6)
        case "cut":
            os.truncate(converted.overlay, 3 * 65536)
        case "empty":
            os.truncate(converted.overlay, 0)
    with pytest.raises(VerificationError):
        converted.verify(mode)


def test_a_wrong_refcount_is_found_by_qemu(converted):
    """Our reader has no use for refcounts: that is what the second judge is for."""
    flip(converted.overlay, converted.overlay.stat().st_size - 2 * 65536 + 3)
    converted.verify(VerifyMode.NATIVE)
    with pytest.raises(VerificationError, match="qemu-img check"):
        converted.verify(VerifyMode.FULL)


DAMAGED_TABLES = {
    "a reserved bit of an L2 entry": lambda image: (image.l2(0), 1 << 1),
    "a reserved bit of the refcount table": lambda image: (image["refcount_offset"], 1 << 3),
    "a refcount block on the L2 table": lambda image: (
        image["refcount_offset"],
        image[image["refcount_offset"]] ^ (image[image.l1(0)] & OFFSET),
    ),
}
"""Where in the file, and which bits there. The guest's bytes can still be read, and are right."""


@pytest.mark.parametrize("mode", [VerifyMode.NATIVE, VerifyMode.CHANGED])
@pytest.mark.parametrize("damage", DAMAGED_TABLES.values(), ids=DAMAGED_TABLES)
def test_damaged_tables_are_found_without_qemu(converted, mode, damage):
    converted.verify(mode)
    image = Patched(converted.overlay)
    offset, bits = damage(image)
    image[offset] ^= bits
    image.save(converted.overlay)
    with (
        open_image(source(converted.overlay, converted.template)) as new,
        open_image(source(converted.guest)) as old,
    ):
        assert guest_bytes(new, 0, new.virtual_size) == guest_bytes(old, 0, old.virtual_size)
    with pytest.raises(VerificationError, match="cannot be verified"):
        converted.verify(mode)


@pytest.mark.parametrize(
    ("gone", "words"), [("guest", "cannot be compared with"), ("template", "cannot be verified")]
)
def test_the_image_with_the_fault_is_named(converted, gone, words):
    """The overlay is not said to be at fault if it is its original that cannot be read."""
    getattr(converted, gone).unlink()
    with pytest.raises(VerificationError) as caught:
        converted.verify(VerifyMode.NATIVE)
    compared = f"{words} {converted.guest}" if gone == "guest" else words
    assert str(caught.value).startswith(f"{converted.overlay} {compared}: ")
    assert str(getattr(converted, gone)) in caught.value.why


def test_each_judge_alone_is_enough_to_refuse(converted, monkeypatch):
    """Content that differs without any damage: only `compare` tells."""
    from batchdiff.qemu import qemu_img  # noqa: PLC0415

    flip(converted.overlay, data_offset(converted))
    qemu_img.check(source(converted.overlay, converted.template), 3 * MIB)
    monkeypatch.setattr(qemu_img, "compare", lambda *_, **__: None)
    converted.verify(VerifyMode.FULL)


@pytest.mark.parametrize("mode", [VerifyMode.NATIVE, VerifyMode.CHANGED])
def test_without_qemu(converted, mode, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    converted.verify(mode)
    assert_it_looks(converted, mode)


def test_full_needs_qemu(converted, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramError, match="not installed") as caught:
        require_judges("Or do without.")
    assert caught.value.remedy == "Install it (Debian: qemu-utils). Or do without."
    with pytest.raises(ProgramError, match="qemu-img"):
        converted.verify(VerifyMode.FULL)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("exit 1", ProgramError),
        ("exit 2", VerificationError),
        ("exit 3", VerificationError),
        ("kill -SEGV $$", ProgramError),
        ("[ $1 = check ] || { echo Content mismatch at offset 7!; exit 1; }", VerificationError),
        ("[ $1 = check ]", ProgramError),
        ("[ $1 = check ] || exit 2", ProgramError),
        ("[ $1 = check ] || kill -KILL $$", ProgramError),
    ],
)
def test_judges_that_fail(converted, monkeypatch, tmp_path, script, error):
    """A judge that could not say yes has not said yes."""
    monkeypatch.setenv("PATH", fake_judge.install(tmp_path, script))
    with pytest.raises(error):
        converted.verify(VerifyMode.FULL)


@pytest.mark.parametrize("name", ["a:b.img", "json:{}.img", "-x.img", "with, comma.img", 'ü \\ ".img'])
def test_names_that_qemu_would_read_otherwise(converted, name):
    converted.guest = converted.guest.rename(converted.guest.parent / name)
    converted.overlay = converted.overlay.rename(converted.overlay.parent / f"{name}.qcow2")
    converted.verify(VerifyMode.FULL)
    assert_it_looks(converted, VerifyMode.FULL)
