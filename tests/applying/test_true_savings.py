"""What a plan promises to save is what the filesystem gives back: on XFS and btrfs, with and without reflinks."""

import json
import os
import random
from pathlib import Path

import pytest
from commands import batchdiff
from filesystems import mounted, settle
from notation import run

from batchdiff.units import GIB, KIB, MIB

SIZE = 64 * MIB
TOLERANCE = 0.02
TREES = 256 * KIB
"""What the filesystem's own trees may grow by: btrfs has each 16 KiB node twice. Much beside images this small."""

NARROW, OLD = "compression: zlib, refcount_bits: 1, cluster_size: 16KiB", 'compat: "0.10"'
AUTO = "cluster_size: auto, extended_l2: auto"


@pytest.fixture(params=["xfs", "btrfs"])
def folder(request, tmp_path):
    """A filesystem of its own for each test, with a template: nothing but the test changes its free space."""
    with mounted(tmp_path, request.param, GIB) as point:
        write_template(point / "template.img")
        yield point


def write_template(path: Path) -> None:
    """Three quarters data, in pieces of 3 MiB."""
    rng = random.Random(3)
    with path.open("wb") as file:
        for offset in range(0, SIZE, 4 * MIB):
            file.seek(offset)
            file.write(rng.randbytes(3 * MIB))
        file.truncate(SIZE)


def copied(folder: Path, name: str, *, reflink: str, source: str = "template") -> Path:
    run("cp", f"--reflink={reflink}", "--sparse=auto", str(folder / f"{source}.img"), str(folder / f"{name}.img"))
    return folder / f"{name}.img"


def rewrite(path: Path, *, seed: int, times: int) -> None:
    """Blocks, clusters, odd places; data and zeros; over what was there and in holes."""
    rng = random.Random(seed)
    with path.open("r+b") as file:
        for _ in range(times):
            length = rng.choice((512, 4 * KIB, 4 * KIB, 20_000, 64 * KIB, 300_001))
            file.seek(rng.randrange(0, SIZE - length, 512))
            file.write(rng.randbytes(length) if rng.random() < 0.8 else bytes(length))
        os.fsync(file.fileno())
    run("fallocate", "-p", "-o", str(8 * MIB), "-l", str(MIB), str(path))


def free_bytes(folder: Path) -> int:
    """What df says when nothing is under way any more."""
    settle(folder)
    status = os.statvfs(folder)
    return status.f_bfree * status.f_frsize


def give_up_room(point: Path) -> None:
    """XFS keeps room with files that were written to by reflink, until some minutes later or whenever it likes."""
    for mode in ("ro", "rw"):
        run("mount", "-o", f"remount,{mode}", str(point))


def promised_and_given_back(folder: Path, options: str = "") -> tuple[int, int]:
    """``saved_bytes`` of the plan, and by how much the free space grew when apply had deleted the originals."""
    (folder / "fleet.yaml").write_text(
        "version: 1\ntemplate: {path: template.img, format: raw}\n"
        f"defaults: {{format: raw, overlay: {{{options}}}}}\nguests: [{{glob: 'guest*.img'}}]\n"
    )
    give_up_room(folder)
    before = free_bytes(folder)
    batchdiff("plan", "-q", "fleet.yaml", cwd=folder)
    batchdiff("apply", "-q", "fleet.plan.json", "--retire", "delete", "--yes", cwd=folder)
    plan = json.loads((folder / "fleet.plan.json").read_text())
    assert plan["totals"]["convert"] > 0
    return plan["totals"]["saved_bytes"], free_bytes(folder) - before


def assert_true(folder: Path, *, options: str = "") -> None:
    promised, given_back = promised_and_given_back(folder, options)
    assert abs(promised - given_back) <= TOLERANCE * given_back + TREES, (promised, given_back)


def test_reflink_copies_that_were_partly_rewritten(folder):
    for number in range(2):
        rewrite(copied(folder, f"guest{number}", reflink="always"), seed=number, times=300)
    assert_true(folder)


def test_a_mixed_fleet(folder):
    rewrite(copied(folder, "guest0", reflink="never"), seed=7, times=60)
    rewrite(copied(folder, "guest1", reflink="always"), seed=8, times=300)
    rewrite(copied(folder, "guest2", reflink="never"), seed=9, times=300)
    assert_true(folder)


@pytest.mark.long
@pytest.mark.parametrize(
    "options", ["", "cluster_size: 4KiB", "extended_l2: true", "compression: zstd", NARROW, OLD, AUTO]
)
def test_full_copies(folder, options):
    for number in range(2):
        rewrite(copied(folder, f"guest{number}", reflink="never"), seed=number, times=60)
    assert_true(folder, options=options)


def test_guests_that_share_with_each_other_give_back_no_less(folder):
    """Clones of a clone: their common blocks come back when the last is gone; no guest's savings have them."""
    rewrite(copied(folder, "guest0", reflink="never"), seed=11, times=100)
    rewrite(copied(folder, "guest1", reflink="always", source="guest0"), seed=12, times=50)
    rewrite(copied(folder, "guest2", reflink="always", source="guest1"), seed=13, times=50)
    promised, given_back = promised_and_given_back(folder)
    assert 0 < promised <= given_back * (1 + TOLERANCE) + TREES
