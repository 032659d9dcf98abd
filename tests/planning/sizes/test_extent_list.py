"""The blocks in which ext4 and XFS list extents, against what they take for real files.

Guards planning/sizes/extent_list.py.
"""

import json
import os
import random
import shutil

import notation
import numpy as np
import pytest
from commands import rarely, run_here
from filesystems import mounted

from batchdiff.image.storage.allocation_units import Volume
from batchdiff.planning.sizes.extent_list import LIST_FORMATS, WrittenRuns
from batchdiff.units import GIB, KIB, MIB

OPTIONS = [
    "{}",
    "{cluster_size: 4KiB}",
    "{cluster_size: 512}",
    "{extended_l2: true}",
    "{compression: zlib}",
    "{preallocation: metadata, extended_l2: true}",
    "{preallocation: falloc, extended_l2: true}",
    "{data_file: true}",
    "{data_file: true, preallocation: falloc, extended_l2: true}",
    "{format: qed}",
    '{compat: "0.10", cluster_size: 16KiB}',
]


@pytest.fixture(scope="module")
def ext4(tmp_path_factory):
    with mounted(tmp_path_factory.mktemp("lists"), "ext4", GIB) as point:
        yield point


def counted(parts, *, at_once):
    """The count of parts (start, end), added some at a time."""
    runs = WrittenRuns(LIST_FORMATS["ext4"], Volume("ext4", 4 * KIB))
    for first in range(0, len(parts), at_once):
        starts, ends = np.array(parts[first : first + at_once], dtype=np.int64).T
        runs.add(starts, ends)
    return runs


@pytest.mark.parametrize("extents", [1, 4, 5, 340, 341, 1000, 1361, 5000])
def test_a_file_with_holes(ext4, extents):
    parts = [(number * 8 * KIB, number * 8 * KIB + 1) for number in range(extents)]
    path = ext4 / f"{extents}.img"
    with path.open("wb", buffering=0) as file:
        for start, end in parts:
            file.seek(start)
            file.write(b"x" * (end - start))
        os.fsync(file.fileno())
    runs = counted(parts, at_once=7)
    assert runs.extents == extents
    assert path.stat().st_blocks * 512 == extents * 4 * KIB + runs.list_bytes
    path.unlink()


def test_parts_that_touch_the_same_blocks_are_one_run():
    rng = random.Random(5)
    for _ in range(50):
        edges = sorted(rng.sample(range(200 * KIB), 40))
        parts = list(zip(edges[::2], edges[1::2], strict=True))
        touched = {block for start, end in parts for block in range(start // (4 * KIB), -(-end // (4 * KIB)))}
        runs = sum(block - 1 not in touched for block in touched)
        assert {counted(parts, at_once=many).extents for many in (1, 3, 100)} == {runs}


def test_a_run_of_more_blocks_than_an_extent_has():
    assert counted([(0, 128 * MIB), (256 * MIB, 512 * MIB + 1)], at_once=1).extents == 1 + 3


def test_an_extent_that_is_only_reserved_has_one_block_less(ext4):
    path = ext4 / "reserved.img"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 512 * MIB)
        os.fsync(file.fileno())
    reserved = WrittenRuns(LIST_FORMATS["ext4"], Volume("ext4", 4 * KIB), reserved=True)
    reserved.reach(512 * MIB)
    assert reserved.extents == 5
    assert path.stat().st_blocks * 512 == 512 * MIB + reserved.list_bytes
    path.unlink()
    apart = WrittenRuns(LIST_FORMATS["ext4"], Volume("ext4", 4 * KIB), reserved=True)
    apart.add(np.array([0, 129 * MIB]), np.array([MIB, 130 * MIB]))
    assert apart.extents == 4


@pytest.mark.parametrize("overlay", OPTIONS)
def test_overlays_take_what_was_predicted(ext4, overlay):
    folder = ext4 / str(OPTIONS.index(overlay))
    folder.mkdir()
    planned, taken = planned_and_taken(folder, overlay)
    assert taken == planned


@pytest.mark.parametrize("overlay", ["{extended_l2: true}", *rarely("{preallocation: falloc, extended_l2: true}")])
@pytest.mark.parametrize("make", [("ext4", "-O", "bigalloc", "-C", "65536"), ("xfs",)])
def test_on_other_filesystems(tmp_path, make, overlay):
    """On bigalloc a list takes a cluster of 16 blocks. Of longer lists, XFS fills some blocks only half."""
    kind, *options = make
    with mounted(tmp_path, kind, GIB, make=options) as point:
        planned, taken = planned_and_taken(point, overlay)
    assert taken == planned


@pytest.mark.parametrize("outside", [False, *rarely(True)])
def test_a_file_that_is_written_in_full_has_a_list_if_it_is_long(ext4, outside):
    """Of 128 MiB each, more than four extents do not fit in the inode."""
    folder = ext4 / "full"
    folder.mkdir()
    overlay = f"{{preallocation: full, extended_l2: true{', data_file: true' if outside else ''}}}"
    planned, taken = planned_and_taken(folder, overlay, unused=640 * MIB)
    assert taken == planned
    assert planned > 640 * MIB
    shutil.rmtree(folder)


def planned_and_taken(folder, overlay, *, unused=0):
    """The bytes that an overlay of a guest was to take, and takes.

    The changed clusters of the guest have holes, as in one that was made sparse with fallocate -d. ``unused``: by
    how many bytes the disks are longer.
    """
    guest = " ".join(["4k:B 4k:- 4k:C 52k:A"] * 100 + ["64k:B 192k:A"] * 10)
    notation.write_raw(folder / "template.img", f"{100 * 64 + 10 * 256}k:A")
    notation.write_raw(folder / "guest.img", guest)
    for disk in ("template.img", "guest.img"):
        os.truncate(folder / disk, (100 * 64 + 10 * 256) * KIB + unused)
    (folder / "fleet.yaml").write_text(
        f"version: 1\ntemplate: {{path: template.img, format: raw}}\n"
        f"defaults: {{format: raw, overlay: {overlay}}}\nguests: [{{path: guest.img}}]\nminimum_savings: none\n"
    )
    run_here("plan", "-q", "-j", 1, folder / "fleet.yaml")
    run_here("apply", "-q", "--verify", "native", folder / "fleet.plan.json")
    (planned,) = json.loads((folder / "fleet.plan.json").read_text())["guests"]
    made = [path for path in folder.iterdir() if path.name.startswith("guest.") and path.name != "guest.img"]
    return planned["savings"]["overlay_disk_bytes"], sum(path.stat().st_blocks * 512 for path in made)
