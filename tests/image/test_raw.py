"""Raw images: holes, sizes that are no multiple of anything, block devices."""

from __future__ import annotations

import os

import notation
import pytest
from access import as_user
from oracle import assert_reads_like_qemu, assert_same, guest_bytes, source
from seeds import seeded

from batchdiff.errors import ImageError
from batchdiff.image.open import open_image
from batchdiff.image.raw import open_part
from batchdiff.qcow2.entries import Origin

SHAPES = {
    "data-only": "1M:A",
    "zero-only": "64k:0",
    "hole-only": "1M:-",
    "mix": "64k:A 64k:- 64k:0 64k:B",
    "hole-first": "64k:- 4k:A",
    "hole-last": "4k:A 64k:-",
    "mix-unaligned": "5000:A 70000:- 3333:0 4097:B 12345:-",
    "many-holes": "4k:A 4k:- " * 100,
    "hole-then-one-byte": "64k:A 64k:- 1:B",
    "data-then-one-byte-hole": "64k:A 1:-",
    "tail-hole-below-a-sector": "4k:A 64k:- 100:-",
    "huge-and-sparse": "4k:A 64M:- 4k:B 7:C",
}


@pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES)
def test_reads_like_qemu(tmp_path, text):
    path = notation.write_raw(tmp_path / "a.raw", text)
    assert_reads_like_qemu(path, expected=notation.content(text))


@pytest.mark.parametrize("offset", [-1, 0, 1])
@pytest.mark.parametrize("round_size", [512, 4096, 65536])
@pytest.mark.parametrize("what", ["A", "-"])
def test_odd_sizes_are_right_to_the_last_byte(tmp_path, round_size, offset, what):
    text = f"4k:B {round_size + offset}:{what}"
    path = notation.write_raw(tmp_path / "a.raw", text)
    assert_reads_like_qemu(path, expected=notation.content(text))


@pytest.mark.parametrize(("size", "shown"), [(1, 512), (511, 512), (512, 512), (513, 1024)])
def test_the_virtual_size_is_rounded_up_to_sectors(tmp_path, size, shown):
    with open_image(source(notation.write_raw(tmp_path / "a.raw", f"{size}:A"))) as image:
        assert image.virtual_size == shown
        assert guest_bytes(image, 0, 2048) == notation.data("A", 0, size).ljust(2048, b"\0")


def test_holes_are_never_read(tmp_path):
    with open_image(source(notation.write_raw(tmp_path / "a.raw", "64k:A 1M:- 64k:0"))) as image:
        origins = [(segment.origin, segment.end - segment.start) for segment in image.segments(0, 2 << 20)]
    assert origins == [(Origin.FILE, 64 << 10), (Origin.ZERO, 1 << 20), (Origin.FILE, 64 << 10)]


def test_random_reads(tmp_path):
    text = SHAPES["mix-unaligned"]
    expected = notation.content(text).ljust(200_000, b"\0")
    chosen = seeded()
    with open_image(source(notation.write_raw(tmp_path / "a.raw", text))) as image:
        for _ in range(500):
            start, length = chosen.randrange(100_000), chosen.randrange(20_000)
            assert_same(guest_bytes(image, start, length), expected[start : start + length])


def test_a_part_in_a_folder_that_may_not_be_entered(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o700)
    tmp_path.chmod(0o755)
    with pytest.raises(ImageError) as caught:
        as_user(3001, tmp_path, lambda: open_part("/closed/a", "extent", "/a.vmdk", None))
    assert caught.value.what == "cannot use /a.vmdk"
    assert caught.value.why.startswith('its extent "/closed/a" cannot be opened: ')
    assert caught.value.why.endswith(" may not enter the folder /closed, which belongs to uid 0 and has mode 700")


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(ImageError, match="it is empty"):
        open_image(source(notation.write_raw(tmp_path / "a.raw", "")))


@pytest.fixture
def loop_device(tmp_path):
    """Attaches image files to loop devices, and detaches just these at the end."""
    attached = []

    def attach(path):
        attached.append(notation.run("losetup", "--find", "--show", "--read-only", str(path)).strip())
        return attached[-1]

    yield attach
    for device in attached:
        notation.run("losetup", "--detach", device)


def test_a_block_device_has_no_holes_and_reads_like_qemu(tmp_path, loop_device):
    text = "64k:A 64k:- 64k:0 512:B"
    device = tmp_path / loop_device(notation.write_raw(tmp_path / "a.raw", text))
    with open_image(source(device)) as image:
        assert image.virtual_size == notation.size(text)
        assert [segment.origin for segment in image.segments(0, 1 << 20)] == [Origin.FILE]
        assert_same(guest_bytes(image, 0, image.virtual_size), notation.content(text))
        assert_same(guest_bytes(image, 0, image.virtual_size), notation.qemu_content(device, "raw"))
        assert image.fingerprints()[0].size == notation.size(text)


def test_qcow2_on_a_block_device(tmp_path, loop_device):
    text = "64k:A 64k:- 64k:0 512:B"
    device = loop_device(notation.write_qcow2(tmp_path / "a.qcow2", text))
    linked = tmp_path / "device.qcow2"
    os.mknod(linked, os.stat(device).st_mode, os.stat(device).st_rdev)
    assert_reads_like_qemu(linked, expected=notation.content(text))
