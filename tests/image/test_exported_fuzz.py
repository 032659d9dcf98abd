"""Mutated images of VHDX, compressed VMDK and LUKS: each is refused with its name, or reads as QEMU reads it."""

import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import encrypted
import notation
import pytest
from oracle import assert_same, guest_bytes, within
from seeds import seeded

from batchdiff.errors import ImageError
from batchdiff.foreign import luks
from batchdiff.foreign.crc32c import vhdx_checksum
from batchdiff.image.open import inspect, open_image
from batchdiff.image_source import ImageFormat, ImageSource

CONTENT = "1M:- 100k:A 1M:- 64k:B 948k:-"
SECONDS = 10
BYTES = 4 << 20
"""Of the disk that are compared; a mutant may have any size."""
VALUES = (0, 1, 2, 3, 4, 7, 512, 4096, 1 << 20, 1 << 31, (1 << 32) - 1, 1 << 62, 1 << 63, (1 << 64) - 1)


class Seed(NamedTuple):
    """A sound image; ``places``: parts of its metadata, start and end; ``sealed``: mends its checksums."""

    image: bytes
    places: list[tuple[int, int]]
    sealed: Callable[[bytearray], None] = lambda image: None


def vhdx(folder: Path) -> Seed:
    """An image of VHDX, as QEMU lays it out: headers, regions, block table and metadata."""
    image = converted(folder, "vhdx", "block_size=1M")
    places = [(0x10000, 0x10050), (0x20000, 0x20050), (0x30000, 0x30050)]
    return Seed(
        image, [*places, (2 << 20, (2 << 20) + 32), (3 << 20, (3 << 20) + 192), (0x310000, 0x310028)], sealed
    )


def sealed(image: bytearray) -> None:
    for start, length in ((0x10000, 0x1000), (0x20000, 0x1000), (0x30000, 0x10000)):
        if len(image) >= start + length:
            struct.pack_into("<I", image, start + 4, vhdx_checksum(bytes(image[start : start + length])))


def vmdk(folder: Path) -> Seed:
    """A compressed image: header, descriptor, directory and table, and the marker of a grain."""
    image = converted(folder, "vmdk", "subformat=streamOptimized")
    directory = struct.unpack_from("<Q", image, 56)[0] * 512
    table = struct.unpack_from("<I", image, directory)[0] * 512
    grain = struct.unpack_from("<I", image, table + 64)[0] * 512
    places = [(0, 80), (512, 1000), (directory, directory + 8), (table + 64, table + 140), (grain, grain + 32)]
    return Seed(image, places)


def converted(folder: Path, image_format: str, options: str) -> bytes:
    raw, made = notation.write_raw(folder / "raw", CONTENT), folder / "made"
    notation.run("qemu-img", "convert", "-f", "raw", "-O", image_format, "-o", options, str(raw), str(made))
    return made.read_bytes()


def encrypted_image(folder: Path) -> Seed:
    """A LUKS image: its header, the first and the last key slot."""
    raw, secret = notation.write_raw(folder / "raw", CONTENT), encrypted.secret_file(folder / "secret")
    made = encrypted.convert(raw, folder / "made", "luks", secret)
    return Seed(made.read_bytes(), [(0, 208), (208, 256), (544, 592)])


SEEDS = {"vhdx": vhdx, "vmdk": vmdk, "luks": encrypted_image}


def mutate(image: bytearray, places: list[tuple[int, int]], rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(*rng.choice(places))
        form = rng.choice("<>") + rng.choice("BBIQ")
        width = struct.calcsize(form)
        at -= at % width
        value = rng.choice((*VALUES, rng.randrange(1 << 64), rng.randrange(len(image)), rng.randrange(32)))
        struct.pack_into(form, image, at, value & (1 << 8 * width) - 1)
    if rng.random() < 0.05:
        del image[rng.randrange(512, len(image)) :]


def read(source: ImageSource) -> bytes:
    with within(SECONDS), open_image(source) as image:
        inspect(image)
        assert image.virtual_size <= 64 << 40
        return guest_bytes(image, 0, min(image.virtual_size, BYTES))


def by_qemu(path: Path, image_format: str, target: Path) -> bytes | None:
    """The first bytes of the disk as QEMU reads them; None if it cannot."""
    secret = ["--object", f"secret,id=s,file={path.parent / 'secret'}"] if image_format == "luks" else []
    opened = f"driver={image_format},file.filename={path}" + (",key-secret=s" if secret else "")
    argv = ["qemu-img", "dd", *secret, "--image-opts", "-O", "raw", "bs=64k", f"count={BYTES // 65536}"]
    argv += [f"if={opened}", f"of={target}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=100)
    return target.read_bytes() if done.returncode == 0 else None


@pytest.mark.parametrize("cases", [15, pytest.param(1000, marks=pytest.mark.long)])
@pytest.mark.parametrize("image_format", SEEDS)
def test_mutants_that_qemu_exports(tmp_path, image_format, cases, monkeypatch):
    monkeypatch.setattr(luks, "_MOST_ITERATIONS", 1 << 17)  # milliseconds of work, not half a minute
    rng, seed = seeded(), SEEDS[image_format](tmp_path)
    path = tmp_path / "image"
    secret = str(tmp_path / "secret") if image_format == "luks" else None
    outcomes = set()
    for number in range(cases):
        image = bytearray(seed.image)
        # The first case is the sound image.
        if number:
            mutate(image, seed.places, rng)
            if rng.random() < 0.9:
                seed.sealed(image)
        path.write_bytes(image)
        try:
            found = read(ImageSource(str(path), ImageFormat(image_format), secret_file=secret))
        except ImageError as error:
            outcomes.add("refused" if str(path) in str(error) else str(error))
        else:
            expected = by_qemu(path, image_format, tmp_path / "by-qemu")
            assert expected is not None, "QEMU cannot read it"
            assert_same(found, expected)
            outcomes.add("read")
        assert path.read_bytes() == image
    assert outcomes == {"read", "refused"}
