"""Mutants of images that QEMU exports or that have several files: refused by name, or read as QEMU reads them."""

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
    """A sound image; ``places``: parts of its metadata, start and end; ``sealed``: mends its checksums.

    ``key``: the option of QEMU with its secret, if it is encrypted.
    """

    image: bytes
    places: list[tuple[int, int]]
    sealed: Callable[[bytearray], None] = lambda image: None
    form: str = "vhdx"
    key: str = ""


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
    return Seed(image, places, form="vmdk")


def in_parts(folder: Path) -> Seed:
    """The text that describes a VMDK image of several extents."""
    image = converted(folder, "vmdk", "subformat=twoGbMaxExtentFlat")
    return Seed(image, [(0, len(image.rstrip(b"\0")))], form="vmdk")


def with_data_file(folder: Path) -> Seed:
    """A qcow2 image with its data elsewhere: header, extensions, and the tables that lead to the data."""
    image = converted(folder, "qcow2", f"data_file={folder / 'data'},cluster_size=64k")
    (l1,) = struct.unpack_from(">Q", image, 40)
    (l2,) = struct.unpack_from(">Q", image, l1)
    l2 &= 0x00FFFFFFFFFFFE00
    return Seed(image, [(0, 320), (l1, l1 + 8), (l2, l2 + 400)], form="qcow2")


def converted(folder: Path, image_format: str, options: str) -> bytes:
    raw, made = notation.write_raw(folder / "raw", CONTENT), folder / "made"
    notation.run("qemu-img", "convert", "-f", "raw", "-O", image_format, "-o", options, str(raw), str(made))
    return made.read_bytes()


def encrypted_image(folder: Path) -> Seed:
    """A LUKS image: its header, the first and the last key slot."""
    raw, secret = notation.write_raw(folder / "raw", CONTENT), encrypted.secret_file(folder / "secret")
    made = encrypted.convert(raw, folder / "made", "luks", secret)
    return Seed(made.read_bytes(), [(0, 208), (208, 256), (544, 592)], form="luks", key="key-secret")


def encrypted_qcow2(folder: Path) -> Seed:
    """A qcow2 image with LUKS: its header, that of LUKS, and the tables."""
    raw, secret = notation.write_raw(folder / "raw", CONTENT), encrypted.secret_file(folder / "secret")
    image = encrypted.convert(raw, folder / "made", "qcow2", secret).read_bytes()
    (l1,) = struct.unpack_from(">Q", image, 40)
    (l2,) = struct.unpack_from(">Q", image, l1)
    l2, start = l2 & 0x00FFFFFFFFFFFE00, image.index(b"LUKS\xba\xbe")
    places = [(0, 200), (start, start + 256), (l1, l1 + 8), (l2, l2 + 400)]
    return Seed(image, places, form="qcow2", key="encrypt.key-secret")


SEEDS = {
    "vhdx": vhdx,
    "vmdk": vmdk,
    "vmdk in parts": in_parts,
    "luks": encrypted_image,
    "encrypted qcow2": encrypted_qcow2,
    "qcow2 with a data file": with_data_file,
}


def mutate(image: bytearray, places: list[tuple[int, int]], rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(*rng.choice(places))
        form = rng.choice("<>") + rng.choice("BBIQ")
        width = struct.calcsize(form)
        at -= at % width
        value = rng.choice((*VALUES, rng.randrange(1 << 64), rng.randrange(len(image)), rng.randrange(32)))
        struct.pack_into(form, image, at, value & (1 << 8 * width) - 1)
    if rng.random() < 0.05:
        del image[rng.randrange(len(image)) :]


def read(source: ImageSource) -> bytes:
    with within(SECONDS), open_image(source) as image:
        inspect(image)
        assert image.virtual_size <= 64 << 40
        return guest_bytes(image, 0, min(image.virtual_size, BYTES))


def by_qemu(path: Path, seed: Seed, target: Path) -> bytes | None:
    """The first bytes of the disk as QEMU reads them; None if it cannot."""
    secret = ["--object", f"secret,id=s,file={path.parent / 'secret'}"] if seed.key else []
    opened = f"driver={seed.form},file.filename={path}" + (f",{seed.key}=s" if secret else "")
    argv = ["qemu-img", "dd", *secret, "--image-opts", "-O", "raw", "bs=64k", f"count={BYTES // 65536}"]
    argv += [f"if={opened}", f"of={target}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=100)
    return target.read_bytes() if done.returncode == 0 else None


@pytest.mark.parametrize("cases", [15, pytest.param(1000, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", SEEDS)
def test_mutants_that_qemu_exports(tmp_path, kind, cases, monkeypatch):
    monkeypatch.setattr(luks, "_MOST_ITERATIONS", 1 << 17)  # milliseconds of work, not minutes
    rng, seed = seeded(), SEEDS[kind](tmp_path)
    path = tmp_path / "image"
    secret = str(tmp_path / "secret") if seed.key else None
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
            found = read(ImageSource(str(path), ImageFormat(seed.form), secret_file=secret))
        except ImageError as error:
            outcomes.add("refused" if str(path) in str(error) else str(error))
        else:
            expected = by_qemu(path, seed, tmp_path / "by-qemu")
            assert expected is not None, "QEMU cannot read it"
            assert_same(found, expected)
            outcomes.add("read")
        assert path.read_bytes() == image
    assert outcomes == {"read", "refused"}
