"""Which attributes lock a file: what chattr sets is what is found."""

from __future__ import annotations

import os
import subprocess

import pytest
from filesystems import mounted
from notation import run

from batchdiff.linux.inode_locks import InodeLock, Project, lock_in, lock_on, project_of


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.touch()
    yield path
    subprocess.run(["chattr", "-i", "-a", str(path)], check=False, capture_output=True, timeout=60)


@pytest.mark.parametrize(("letter", "word"), [("i", "immutable"), ("a", "append-only")])
def test_found_by_path_and_by_descriptor(file, letter, word):
    assert lock_on(str(file)) is None
    run("chattr", f"+{letter}", str(file))
    fd = os.open(file, os.O_RDONLY)
    try:
        assert lock_in(fd) == lock_on(str(file)) == InodeLock(letter, word)
    finally:
        os.close(fd)


def test_other_attributes_lock_nothing(file):
    run("chattr", "+d", str(file))
    assert lock_on(str(file)) is None


def test_what_has_no_attributes(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert lock_on(str(tmp_path / "fifo")) is None
    assert lock_on(str(tmp_path / "missing")) is None
    assert project_of(str(tmp_path / "missing")) is None
    assert lock_on("/proc/self/status") is None
    assert project_of("/proc/self/status") is None


def test_projects(tmp_path):
    with mounted(tmp_path, "xfs") as point:
        (point / "before").touch()
        run("chattr", "-p", "7", "+P", str(point))
        (point / "after").touch()
        assert project_of(str(point)) == Project(7, inherited=True)
        assert project_of(str(point / "before")) == Project(0, inherited=False)
        assert project_of(str(point / "after")) == Project(7, inherited=False)
