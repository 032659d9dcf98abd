"""How many guests may be under way at once; memory and open files are what the test says."""

import contextlib
import dataclasses
import os

import pytest
from plans import guest_plan, planned_image
from stage import Stage

from batchdiff.applying import at_once as bounds
from batchdiff.applying.at_once import at_once
from batchdiff.applying.checks import verify as comparing
from batchdiff.applying.health_check import check_health
from batchdiff.applying.session.stop import Stop
from batchdiff.choices import Retire
from batchdiff.image.open import inspect
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
    ("files", "chain", "data_file", "expected"),
    [(38, 1, None, 3), (28, 1, None, 2), (8, 1, None, 1), (0, 1, None, 1), (96, 7, None, 4), (38, 1, "/d", 2)],
)
def test_open_files(machine, files, chain, data_file, expected):
    """Those of the guest with the most: its chain and its overlay's, each twice, and four of a program."""
    machine(files=files)
    most = on_chain(chain)
    most = dataclasses.replace(most, options=dataclasses.replace(most.options, data_file=data_file))
    assert at_once(64, [guest_plan(), most], TEMPLATE) == expected


def verify(stage):
    list(check_health(stage.plan, stage.history, None, Stop()))


@pytest.mark.parametrize("place", ["beside", "data"])
@pytest.mark.parametrize("verb", [Stage.apply, Stage.restore, Stage.purge, verify])
def test_no_verb_opens_more(tmp_path, monkeypatch, verb, place):
    """As counted while the two images are compared, besides the template that is held for all guests."""
    stage = Stage(tmp_path, monkeypatch, place=place)
    if verb is not Stage.apply:
        stage.apply(Retire.QUARANTINE)
    opened = []

    def look(image):
        opened.append(sum(str(tmp_path) in path and "plan.json" not in path for path in open_files()))
        inspect(image)

    monkeypatch.setattr(comparing, "inspect", look)
    verb(stage)
    template = stage.plan.template.source
    most = bounds._files(stage.guest(), template) - bounds._OF_A_PROGRAM
    assert max(opened) <= len(template.files) + most


def open_files():
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself
            yield os.readlink(f"/proc/self/fd/{fd}")


def test_nothing_to_do(machine):
    assert at_once(4, [], TEMPLATE) == 4
