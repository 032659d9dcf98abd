"""What is preallocated and was never written, told whatever the page cache holds."""

import os

import pytest
from filesystems import mounted
from notation import run

from batchdiff.image.storage.preallocated import Unwritten
from batchdiff.units import KIB


def parts(path, start, end):
    fd = os.open(path, os.O_RDONLY)
    try:
        return list(Unwritten(fd, str(path)).split(start, end))
    finally:
        os.close(fd)


@pytest.fixture(scope="module", params=["ext4", "xfs", "btrfs"])
def folder(request, tmp_path_factory):
    with mounted(tmp_path_factory.mktemp("unwritten"), request.param) as point:
        yield point


def test_parts_whatever_was_read(folder):
    path = folder / "a.img"
    run("fallocate", "-l", "64k", str(path))
    with path.open("r+b") as file:
        file.seek(16 * KIB)
        file.write(b"x" * 8 * KIB)
    expected = [(0, 16 * KIB, True), (16 * KIB, 24 * KIB, False), (24 * KIB, 64 * KIB, True)]
    assert parts(path, 0, 64 * KIB) == expected
    path.read_bytes()
    assert parts(path, 0, 64 * KIB) == expected
    assert parts(path, 18 * KIB, 30 * KIB) == [(18 * KIB, 24 * KIB, False), (24 * KIB, 30 * KIB, True)]
    assert parts(path, 20 * KIB, 24 * KIB) == [(20 * KIB, 24 * KIB, False)]


def test_a_plain_file_and_one_with_holes_have_none(folder):
    path = folder / "b.img"
    path.write_bytes(b"x" * 4 * KIB)
    os.truncate(path, 64 * KIB)
    assert parts(path, 0, 64 * KIB) == [(0, 64 * KIB, False)]
