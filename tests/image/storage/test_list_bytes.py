"""The blocks in which a filesystem lists a file's extents, and counts as the file's."""

import os

import pytest
from filesystems import mounted

from batchdiff.image.storage.allocation import list_bytes
from batchdiff.units import KIB


@pytest.fixture(scope="module", params=["ext4", "xfs", "btrfs"])
def folder(request, tmp_path_factory):
    with mounted(tmp_path_factory.mktemp("lists"), request.param) as point:
        yield point


@pytest.mark.parametrize("extents", [1, 5, 100, 1000, 5000])
def test_they_are_no_more(folder, extents):
    path = folder / f"{extents}.img"
    with path.open("wb") as file:
        file.truncate(extents * 8 * KIB)  # or XFS reserves space past the end
        for number in range(extents):
            file.seek(number * 8 * KIB)
            file.write(b"x" * 4 * KIB)
        os.fsync(file.fileno())
        more = os.fstat(file.fileno()).st_blocks * 512 - extents * 4 * KIB
        assert more <= list_bytes(file.fileno(), str(path)) <= extents * 41 + 4 * KIB
    if folder.name == "ext4" and extents == 1000:
        assert more > 0, "or nothing is counted there, and this test is blind"


def test_a_file_system_without_lists(tmp_path):
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        assert list_bytes(fd, "/dev/null") == 0
    finally:
        os.close(fd)
