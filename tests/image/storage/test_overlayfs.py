"""Which layer of an overlayfs a file is in, what deleting it frees, and what changing its mode takes."""

import os
from contextlib import contextmanager

import pytest
from disk_cases import layers
from filesystems import look_again, mounted, opened, settle, use_of
from notation import run

from batchdiff.image.storage.allocation_units import volume_of
from batchdiff.image.storage.exactness import Exactness
from batchdiff.image.storage.overlayfs import NOTHING, copy_up, upper_place
from batchdiff.units import MIB


@pytest.fixture
def merged(tmp_path):
    """An overlayfs with a file in its lower layer and one in its upper."""
    with layers(tmp_path) as point:
        (tmp_path / "below" / "folder").mkdir()
        (tmp_path / "below" / "folder" / "lower.img").write_bytes(os.urandom(4 * MIB))
        look_again(point)
        (point / "upper.img").write_bytes(os.urandom(2 * MIB))
        run("sync", "-f", str(point))
        yield point


def copied(path):
    with opened(path) as fd:
        return copy_up(fd, str(path))


@contextmanager
def out_of_sight(merged):
    """As in a container: the folder of the upper layer is another's."""
    run("mount", "-t", "tmpfs", "batchdiff-tests", str(merged.parent / "ext4"))
    try:
        yield
    finally:
        run("umount", str(merged.parent / "ext4"))


def test_only_the_upper_layer_gives_back(merged):
    use = use_of(merged / "upper.img")
    assert (use.allocated, use.reclaimable, use.exactness) == (2 * MIB, 2 * MIB, Exactness.EXACT)
    use = use_of(merged / "folder" / "lower.img")
    assert (use.allocated, use.reclaimable, use.exactness) == (4 * MIB, 0, Exactness.EXACT)
    assert "lower layer" in use.note


def test_changing_the_mode_copies_a_file_up(merged):
    lower = merged / "folder" / "lower.img"
    assert copied(lower) == (4 * MIB, Exactness.EXACT, "")
    before = os.statvfs(merged).f_bfree
    lower.chmod(0o444)
    run("sync", "-f", str(merged))
    # The new folder takes a block, and so does the list of extents if there are several.
    assert 4 * MIB <= (before - os.statvfs(merged).f_bfree) * 4096 <= 4 * MIB + 4 * 4096
    assert copied(lower) == copied(merged / "upper.img") == NOTHING
    assert use_of(lower).reclaimable >= 4 * MIB


def remounted(merged, options):
    """The same layers with other options."""
    run("umount", str(merged))
    folder = merged.parent
    places = f"lowerdir={folder}/below,upperdir={folder}/ext4/upper,workdir={folder}/ext4/work"
    run("mount", "-t", "overlay", "-o", f"{places},{options}", "batchdiff-tests", str(merged))


def test_nothing_is_copied_without_an_upper_layer(merged):
    """It is read-only."""
    run("umount", str(merged))
    folder = merged.parent
    places = f"lowerdir={folder}/ext4/upper:{folder}/below"
    run("mount", "-t", "overlay", "-o", places, "batchdiff-tests", str(merged))
    assert copied(merged / "folder" / "lower.img") == NOTHING


def test_where_only_attributes_are_copied(merged):
    remounted(merged, "metacopy=on")
    lower = merged / "folder" / "lower.img"
    assert copied(lower) == NOTHING
    before = os.statvfs(merged).f_bfree
    lower.chmod(0o444)
    run("sync", "-f", str(merged))
    assert (before - os.statvfs(merged).f_bfree) * 4096 <= 4 * 4096
    assert use_of(lower).reclaimable <= 4096  # its attributes


def test_layers_that_may_share_blocks(tmp_path):
    """Both on one XFS: nothing is copied that could be shared."""
    with mounted(tmp_path, "xfs") as point:
        for name in ("below", "upper", "work", "all"):
            (point / name).mkdir()
        (point / "below" / "x.img").write_bytes(os.urandom(8 * MIB))
        options = f"lowerdir={point}/below,upperdir={point}/upper,workdir={point}/work"
        run("mount", "-t", "overlay", "-o", options, "batchdiff-tests", str(point / "all"))
        try:
            found = copied(point / "all" / "x.img")
            assert (found.size, found.exactness) == (8 * MIB, Exactness.AT_MOST)
            settle(point)
            before = os.statvfs(point).f_bfree
            (point / "all" / "x.img").chmod(0o444)
            settle(point)
            assert (before - os.statvfs(point).f_bfree) * 4096 < MIB
        finally:
            run("umount", str(point / "all"))


def test_a_folder_bound_elsewhere(merged, tmp_path):
    (tmp_path / "bound").mkdir()
    run("mount", "--bind", str(merged / "folder"), str(tmp_path / "bound"))
    try:
        path = tmp_path / "bound" / "lower.img"
        with opened(path) as fd:
            assert upper_place(fd, str(path)) == str(tmp_path / "ext4" / "upper" / "folder" / "lower.img")
        assert use_of(path).reclaimable == 0
        path.chmod(0o400)
        assert use_of(path).reclaimable >= 4 * MIB
    finally:
        run("umount", "--lazy", str(tmp_path / "bound"))


def test_an_upper_layer_out_of_sight(merged):
    with out_of_sight(merged):
        use, copy = use_of(merged / "upper.img"), copied(merged / "upper.img")
        assert (use.reclaimable, use.exactness) == (2 * MIB, Exactness.AT_MOST)
        assert "may be in a lower layer" in use.note
        assert (copy.size, copy.exactness) == (0, Exactness.AT_LEAST)
        with opened(merged / "upper.img") as fd:
            volume = volume_of(str(merged), fd)
        assert (volume.filesystem, volume.exactness) == ("overlay", Exactness.UNKNOWN)


def test_the_volume_is_that_of_the_upper_layer(merged):
    with opened(merged / "upper.img") as fd:
        for folder in (merged, merged / "folder"):
            volume = volume_of(str(folder), fd)
            assert (volume.filesystem, volume.unit, volume.exactness) == ("ext4", 4096, Exactness.EXACT)


def test_other_filesystems_have_no_layers(tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    assert copied(tmp_path / "x") == NOTHING
