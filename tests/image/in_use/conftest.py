"""Images in a tmpfs, which has leases and is not an overlayfs, for tests of who uses them."""

import contextlib
import os
import resource

import notation
import pytest
from filesystems import tmpfs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with tmpfs(tmp_path_factory.mktemp("in_use")) as point:
        yield point


@pytest.fixture(params=["disk.img", "disk.qcow2"])
def path(folder, request):
    write = notation.write_qcow2 if request.param.endswith("qcow2") else notation.write_raw
    path = write(folder / request.param, "1M:A")
    yield path
    path.unlink()


@pytest.fixture
def full():
    """A context in which this process can open no more files."""

    @contextlib.contextmanager
    def limited():
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        last = os.open(os.devnull, os.O_RDONLY)  # it gets the lowest number that is free
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1, hard))
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            os.close(last)

    return limited


@pytest.fixture
def raw(folder):
    path = notation.write_raw(folder / "raw.img", "1M:A")
    yield path
    path.unlink()
