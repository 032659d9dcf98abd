"""What df shows after a command: measured by filesystem, whatever the guests' folders are."""

import os
from itertools import chain, repeat

import plans
import pytest
from clocks import Clock
from filesystems import mounted, settle
from notation import run

from batchdiff.applying.checks import free_space
from batchdiff.applying.checks.free_space import FreeSpace
from batchdiff.units import MIB


def guest(name, folder, overlays=None):
    for each in {folder, overlays or folder}:
        each.mkdir(exist_ok=True)
    path = str(folder / f"{name}.img")
    return plans.guest_plan(name, path=path, overlay_path=str((overlays or folder) / f"{name}.qcow2"))


def fill(path, size):
    with path.open("wb") as file:
        file.write(os.urandom(size))
        os.fsync(file.fileno())


def assert_about(found, expected):
    """Tables of the filesystem aside."""
    assert abs(found - expected) <= MIB


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_what_was_freed_and_taken(tmp_path, kind):
    """XFS and btrfs free the blocks of deleted files later; XFS is settled here, however busy the machine is."""
    with mounted(tmp_path, kind) as point:
        fill(point / "old", 16 * MIB)
        space = FreeSpace.of(plans.small_plan(guest("web01", point)))
        (point / "old").unlink()
        if kind == "xfs":
            settle(point)
        (grown,) = space.grown().values()
        assert_about(grown, 16 * MIB)
        fill(point / "new", 24 * MIB)
        (grown,) = space.grown().values()
        assert_about(grown, -8 * MIB)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(free_space, "time", clock)
    return clock


def looks_show(monkeypatch, *free):
    """What each query of the free space finds, in MiB; the last one again and again."""
    looks = chain(free, repeat(free[-1]))
    monkeypatch.setattr(free_space, "_free", lambda _: next(looks) * MIB)


@pytest.mark.parametrize(
    ("free", "expected", "grown", "longest"),
    [
        ((5, 5, 5, 5, 21), 16, 16, 0.3),  # nothing at first: the kernel still keeps the deleted file
        ((5, 4, 9, 9, 9, 21), 16, 16, 0.3),  # in pieces
        ((5, 21), 16, 16, 0.1),
        ((5, 20), 16, 15, 0.1),  # other programs have taken a little
        ((5, 21, 25), 16, 20, 0.2),  # more than expected: not before it stops
        ((21, 5), -8, -16, 2.5),  # a restored image was written, and the overlay is not freed
        ((5, 4), 16, -1, 2.5),
        ((5, 5, 8), None, 3, 2.5),
        (tuple(range(1000)), 2000, 302, 16),  # another program deletes files all the time
    ],
)
def test_what_was_deleted_is_waited_for(tmp_path, monkeypatch, clock, free, expected, grown, longest):
    """Filesystems free deleted files in the background; an idle one shows nothing for a tenth of a second."""
    looks_show(monkeypatch, *free)
    space = FreeSpace.of(plans.small_plan(guest("web01", tmp_path)))
    started = clock.monotonic()
    found = space.grown(expected=None if expected is None else expected * MIB)
    assert found == {str(tmp_path): grown * MIB}
    assert clock.monotonic() - started < longest


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_deleted_file_that_is_still_open_for_a_moment(tmp_path, monkeypatch, clock, kind):
    """So it is while a program ends that was confined by Landlock. Then btrfs needs another sync."""
    with mounted(tmp_path, kind) as point:
        fill(point / "old", 16 * MIB)
        space = FreeSpace.of(plans.small_plan(guest("web01", point)))
        file = (point / "old").open("rb")
        (point / "old").unlink()

        def sleep(seconds):
            clock.now += round(seconds * 1e9)
            if clock.now >= 1_000_150_000_000 and not file.closed:
                file.close()
                if kind == "xfs":
                    settle(point)

        monkeypatch.setattr(clock, "sleep", sleep)
        (grown,) = space.grown(expected=16 * MIB).values()
        assert_about(grown, 16 * MIB)


def test_a_filesystem_is_not_waited_for_if_nothing_was_deleted(tmp_path, monkeypatch):
    looks_show(monkeypatch, 5, 3, 4)
    monkeypatch.setattr(free_space.time, "sleep", lambda _: pytest.fail("it waits"))
    space = FreeSpace.of(plans.small_plan(guest("web01", tmp_path)))
    assert space.grown(deleted=False) == {str(tmp_path): -2 * MIB}


def test_each_filesystem_once(tmp_path):
    """Guests, overlays and their folders may be many."""
    with mounted(tmp_path, "ext4", 64 * MIB) as point:
        guests = [
            guest("web01", tmp_path / "a", point / "x"),
            guest("web02", tmp_path / "b", point / "y"),
            guest("web03", tmp_path / "a", tmp_path / "a"),
        ]
        space = FreeSpace.of(plans.small_plan(*guests))
        assert set(space.before) == {str(point / "x"), str(tmp_path / "a")}
        fill(point / "new", 8 * MIB)
        grown = space.grown()
        assert set(grown) == set(space.before)
        assert_about(grown[str(point / "x")], -8 * MIB)


def test_folders_that_are_not_there(tmp_path):
    """A guest whose folder went away fails later; what can be measured is."""
    lost = plans.guest_plan("lost", path="/no/such/folder/lost.img", overlay_path="/no/such/folder/lost.qcow2")
    space = FreeSpace.of(plans.small_plan(lost, guest("web01", tmp_path / "a")))
    assert set(space.before) == {str(tmp_path / "a")}
    (tmp_path / "a").rmdir()
    assert space.grown() == {}


def test_two_subvolumes_are_one_filesystem(tmp_path):
    """Though each has a device number of its own."""
    with mounted(tmp_path, "btrfs") as point:
        for name in ("one", "two"):
            run("btrfs", "subvolume", "create", str(point / name))
        space = FreeSpace.of(plans.small_plan(guest("a", point / "one"), guest("b", point / "two")))
        assert len(space.before) == 1
