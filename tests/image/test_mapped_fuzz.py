"""Mutated images of the formats that QEMU maps: each is refused with its name, or reads as QEMU reads it."""

import struct

import notation
import pytest
from oracle import guest_bytes, within
from seeds import seeded
from vhd import right_checksums

from batchdiff.errors import ImageError
from batchdiff.image.open import inspect, open_image
from batchdiff.image_source import ImageFormat, ImageSource

METADATA = {"vdi": 1024, "vpc": 2560, "vmdk": 66_000, "qed": 330_000, "parallels": 100}
"""Bytes at the start of an image that are its metadata."""
SECONDS = 10
CONTENT = "1M:- 100k:A 4M:- 64k:B 2884k:-"
WORDS = (0, 1, 2, 3, 0x7FFFFFFF, 0xFFFFFFFF)
LONGS = (0, 1, 1 << 62, (1 << 64) - 1, 65536)


def mutate(image, end, rng):
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(rng.choice((min(end, 1100), end))) & ~7
        match rng.randrange(4):
            case 0:
                image[at + rng.randrange(8)] = rng.randrange(256)
            case 1:
                struct.pack_into(rng.choice("<>") + "I", image, at, rng.choice((*WORDS, rng.randrange(1 << 32))))
            case 2:
                struct.pack_into(
                    rng.choice("<>") + "Q", image, at, rng.choice((*LONGS, rng.randrange(len(image))))
                )
            case 3:
                length = rng.randrange(512, len(image))
                del image[max(length, end + 8) :]


def read(source):
    with within(SECONDS), open_image(source) as image:
        inspect(image)
        assert image.virtual_size <= 64 << 40
        return guest_bytes(image, 0, min(image.virtual_size, 16 << 20))


@pytest.mark.parametrize("cases", [20, pytest.param(1000, marks=pytest.mark.long)])
@pytest.mark.parametrize("image_format", METADATA)
def test_mutated_images(tmp_path, image_format, cases):
    rng = seeded()
    raw, made = notation.write_raw(tmp_path / "raw", CONTENT), tmp_path / "made"
    notation.run("qemu-img", "convert", "-f", "raw", "-O", image_format, str(raw), str(made))
    whole = made.read_bytes()
    path, by_qemu = tmp_path / "image", tmp_path / "by-qemu"
    outcomes = set()
    for _ in range(cases):
        image = bytearray(whole)
        mutate(image, METADATA[image_format], rng)
        if image_format == "vpc" and rng.random() < 0.8:
            right_checksums(image)
        path.write_bytes(image)
        try:
            found = read(ImageSource(str(path), ImageFormat(image_format)))
        except ImageError as error:
            outcomes.add("refused" if str(path) in str(error) else str(error))
            continue
        notation.run(
            "qemu-img", "dd", "-f", image_format, "-O", "raw", "bs=1M", "count=16", f"if={path}", f"of={by_qemu}"
        )
        assert by_qemu.read_bytes() == found
        assert path.read_bytes() == image
        outcomes.add("read")
    assert outcomes <= {"read", "refused"}
    assert "refused" in outcomes
