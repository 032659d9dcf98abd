"""The limit of open files: raised as far as it goes, and refused where it is too low for any work."""

import os
import resource
import subprocess
import sys

import pytest

from batchdiff.errors import BatchdiffError
from batchdiff.files import descriptors
from batchdiff.files.descriptors import free_descriptors, require_descriptors


def test_what_is_open_is_not_free():
    before = free_descriptors()
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
    try:
        assert free_descriptors() == before - 5
    finally:
        for fd in opened:
            os.close(fd)
    assert free_descriptors() == before


def test_free_means_free():
    """Exactly so many can be opened."""
    program = """
import os, resource
from batchdiff.files.descriptors import free_descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
free = free_descriptors()
opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(free)]
try:
    os.open(os.devnull, os.O_RDONLY)
except OSError as error:
    assert error.errno == 24, error
    assert free > 30 and free_descriptors() == 0
    print("full")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "full\n"


def test_a_limit_that_is_unlimited(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert free_descriptors() > 100_000


@pytest.mark.parametrize(("free", "enough"), [(31, False), (32, True), (0, False)])
def test_too_few_for_any_work(monkeypatch, free, enough):
    monkeypatch.setattr(descriptors, "free_descriptors", lambda: free)
    if enough:
        require_descriptors()
        return
    with pytest.raises(BatchdiffError, match=f"{free} more can be opened.*`ulimit -n`.*LimitNOFILE="):
        require_descriptors()


def test_without_proc(monkeypatch):
    monkeypatch.setattr(descriptors, "_FILES", "/proc/self/nothing")
    with pytest.raises(BatchdiffError, match=r"/proc is not mounted.*mount -t proc proc /proc"):
        require_descriptors()
