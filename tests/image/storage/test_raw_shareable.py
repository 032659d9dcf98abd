"""The sums of raw images at once are those of all ranges found one by one.

Guards image/storage/raw_shareable.py, image/storage/left_to_share.py.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
from filesystems import mounted
from notation import run
from oracle import source

from batchdiff.image.open import open_image
from batchdiff.image.raw import RawLayer
from batchdiff.image.storage.left_to_share import gain_left, shareable_left
from batchdiff.image.storage.raw_shareable import TemplateBlocks, raw_shareable
from batchdiff.image.storage.shareable import shareable_stretches
from batchdiff.image.storage.sharing_gain import raw_sharing_gain, sharing_gain
from batchdiff.units import KIB, MIB

UNIT = 4 * KIB
SIZE = 8 * MIB + 700


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def disk(request, tmp_path_factory):
    with mounted(tmp_path_factory.mktemp("raw"), request.param) as point:
        yield point


def write(path: Path, seed: int) -> Path:
    """Data, zeros that were written, holes, and space that was reserved only."""
    rng = random.Random(seed)
    with path.open("w+b") as file:
        file.truncate(SIZE)
        for offset in range(0, SIZE, 256 * KIB):
            kind = rng.random()
            file.seek(offset)
            if kind < 0.7:
                file.write(random.Random(offset).randbytes(min(rng.choice((256, 250, 4, 1)) * KIB, SIZE - offset)))
            elif kind < 0.8:
                os.posix_fallocate(file.fileno(), offset, 64 * KIB)
    return path


def equal_runs(one: Path, other: Path) -> tuple[np.ndarray, np.ndarray]:
    first, second = (
        np.frombuffer(each.read_bytes().ljust(-SIZE % UNIT + SIZE, b"\0"), np.uint8) for each in (one, other)
    )
    differs = (first != second).reshape(-1, UNIT).any(axis=1)
    edges = np.flatnonzero(np.diff(differs, prepend=True, append=True)).reshape(-1, 2) * UNIT
    return edges[:, 0], np.minimum(edges[:, 1], SIZE)


@pytest.mark.parametrize("seed", range(4))
def test_at_once_as_one_by_one(disk, seed):
    template = write(disk / "template.img", 100)
    guest = disk / "guest.img"
    if seed % 2:
        run("cp", "--reflink=always", str(template), str(guest))
    else:
        write(guest, seed)
    with guest.open("r+b") as file:
        for at in random.Random(seed).sample(range(0, SIZE - UNIT, 512), 60):
            file.seek(at)
            file.write(b"changed" * 100)
    run("sync", "-f", str(disk))
    starts, ends = equal_runs(template, guest)
    with open_image(source(template)) as one, open_image(source(guest)) as other:
        found = raw_shareable(TemplateBlocks(one), other, (starts, ends))
        stretches = list(shareable_stretches(one, other, zip(starts.tolist(), ends.tolist(), strict=True)))
        ranges = [each for stretch in stretches for each in stretch.ranges]
        assert int((found.ends - found.starts).sum()) == sum(each.length for each in ranges) > 0 or seed % 2
        assert raw_sharing_gain(other, *found) == sharing_gain(other, ranges)
        assert (found.ends[:-1] <= found.starts[1:]).all()
        left = sum(each.length for each in shareable_left(one, other, (starts, ends)))
        assert left == sum(each.length for each in ranges)
        assert gain_left(one, other, (starts, ends)) == sharing_gain(other, ranges)


def test_other_formats_are_left_to_the_other_way(disk):
    template = write(disk / "template.img", 1)
    run("qemu-img", "convert", "-O", "qcow2", str(template), str(disk / "guest.qcow2"))
    nothing = np.empty(0, dtype=np.int64)
    with open_image(source(template)) as one, open_image(source(disk / "guest.qcow2")) as other:
        assert raw_shareable(TemplateBlocks(one), other, (nothing, nothing)) is None


def test_a_reflink_copys_pieces_of_data_are_not_listed(disk, monkeypatch):
    """Each takes two system calls, and there is nothing left to share."""
    template = write(disk / "template.img", 1)
    guest = disk / "guest.img"
    run("cp", "--reflink=always", str(template), str(guest))
    with guest.open("r+b") as file:
        file.write(b"changed" * 10_000)
    run("sync", "-f", str(disk))
    equal = equal_runs(template, guest)
    monkeypatch.setattr(RawLayer, "parts", lambda *_: pytest.fail("its data is listed"))
    with open_image(source(template)) as one, open_image(source(guest)) as other:
        assert not len(raw_shareable(TemplateBlocks(one), other, equal).starts)
