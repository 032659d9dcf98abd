"""How often a plan opens each image: every opening reads the header and compares fingerprints once more."""

from collections import Counter
from pathlib import Path

import pytest
from small_fleet import GUESTS, manifest

from batchdiff.image import qcow2_tables
from batchdiff.image.files import ImageFile
from batchdiff.planning import scan_all
from batchdiff.planning.planner import make_plan


@pytest.fixture
def opened(monkeypatch):
    """Count the openings of each image, by name, and the parsed headers."""
    opened, real, parse = Counter(), ImageFile.__init__, qcow2_tables.parse

    def init(file, path, observer=None):
        opened[Path(path).name] += 1
        real(file, path, observer)

    def parsed(head, size):
        opened["parsed headers"] += 1
        return parse(head, size)

    monkeypatch.setattr(ImageFile, "__init__", init)
    monkeypatch.setattr(qcow2_tables, "parse", parsed)
    return opened


def test_a_guest_is_opened_once_for_each_step(folder, opened):
    """To be examined, for its ranges with data, to be scanned, and to be assessed; between these it is closed."""
    make_plan(manifest(folder), jobs=1)
    assert opened == {"template.img": 2, **dict.fromkeys(GUESTS, 4), "parsed headers": 4}


def test_every_opening_before_the_scan_is_progress(folder, monkeypatch):
    """From the first, which slow storage may delay, to the last."""
    seen = []
    monkeypatch.setattr(scan_all, "run_tasks", lambda *_, **__: iter(seen.append("scan") or ()))
    make_plan(manifest(folder), jobs=1, opened=seen.append)
    assert seen[:8] == [0, 1, 2, 3, 4, 4, 5, 6]
    assert seen[8] == "scan"


def test_before_the_scan_a_guest_is_opened_twice(folder, opened, monkeypatch):
    at_the_scan = []

    def run_tasks(*_, **__):
        at_the_scan.append(opened.copy())
        return iter(())

    monkeypatch.setattr(scan_all, "run_tasks", run_tasks)
    make_plan(manifest(folder), jobs=1)
    assert at_the_scan == [{"template.img": 1, **dict.fromkeys(GUESTS, 2), "parsed headers": 2}]
