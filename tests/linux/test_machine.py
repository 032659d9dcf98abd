"""CPUs and memory that this process may use, by files that stand for those of the kernel."""

import os

import pytest

from batchdiff.linux import machine
from batchdiff.linux.machine import available_memory, usable_cpus
from batchdiff.units import GIB, MIB


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Files that say: 8 GiB available, and this process is in the cgroup /a/b."""
    for name, text in {
        "_MEMORY_INFO": "MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n",
        "_OWN_GROUPS": "9:name=systemd:/x\n0::/a/b\n",
    }.items():
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(machine, name, str(tmp_path / name))
    (tmp_path / "groups/a/b").mkdir(parents=True)
    monkeypatch.setattr(machine, "_GROUPS", str(tmp_path / "groups"))
    return tmp_path


def test_the_cpus_that_it_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 6})
    assert usable_cpus() == 3


def test_the_memory_of_this_machine():
    memory = available_memory()
    assert memory is not None
    assert 64 * MIB < memory < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_without_a_cgroup(kernel):
    assert available_memory() == 8 * GIB
    (kernel / "_OWN_GROUPS").unlink()
    assert available_memory() == 8 * GIB


@pytest.mark.parametrize("group", ["a", "a/b"])
def test_a_cgroup_or_one_around_it_has_less(kernel, group):
    for each in ("a", "a/b"):
        (kernel / "groups" / each / "memory.max").write_text("max\n")
    assert available_memory() == 8 * GIB
    (kernel / "groups" / group / "memory.max").write_text(f"{300 * MIB}\n")
    assert available_memory() == 300 * MIB


def test_without_proc(kernel):
    (kernel / "_MEMORY_INFO").unlink()
    assert available_memory() is None
    (kernel / "_MEMORY_INFO").write_text("nonsense\n")
    assert available_memory() is None
