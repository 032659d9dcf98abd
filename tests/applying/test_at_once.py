"""How many guests may be under way at once; memory and open files are what the test says."""

import dataclasses

import pytest
from plans import guest_plan, planned_image

from batchdiff.applying import at_once as bounds
from batchdiff.applying.at_once import at_once
from batchdiff.units import GIB, MIB

TEMPLATE = planned_image("/srv/template.img").source


@pytest.fixture
def machine(monkeypatch):
    def has(*, memory=64 * GIB, files=1000):
        monkeypatch.setattr(bounds, "available_memory", lambda: memory)
        monkeypatch.setattr(bounds, "free_descriptors", lambda: files)

    has()
    return has


def on_chain(length):
    guest = guest_plan()
    backing = tuple(planned_image(f"/srv/{number}.img").source for number in range(length - 1))
    return dataclasses.replace(guest, source=dataclasses.replace(guest.source, backing=backing))


@pytest.mark.parametrize("jobs", [1, 2, 64])
def test_as_many_as_asked_for(machine, jobs):
    assert at_once(jobs, [guest_plan()], TEMPLATE) == jobs
    machine(memory=None)
    assert at_once(jobs, [guest_plan()], TEMPLATE) == jobs


@pytest.mark.parametrize(("memory", "expected"), [(GIB, 8), (GIB - 1, 7), (200 * MIB, 1), (0, 1)])
def test_memory(machine, memory, expected):
    machine(memory=memory)
    assert at_once(64, [guest_plan()], TEMPLATE) == expected


@pytest.mark.parametrize(
    ("files", "chain", "expected"), [(32, 1, 3), (24, 1, 2), (8, 1, 1), (0, 1, 1), (88, 7, 4)]
)
def test_open_files(machine, files, chain, expected):
    """Those of the guest with the longest chain: twice that, its overlay, the template, and four of a program."""
    machine(files=files)
    assert at_once(64, [guest_plan(), on_chain(chain)], TEMPLATE) == expected


def test_nothing_to_do(machine):
    assert at_once(4, [], TEMPLATE) == 4
