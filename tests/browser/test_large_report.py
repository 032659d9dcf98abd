"""The HTML report of a thousand guests: small enough to send, and soon open.

Guards report/plan/html_form.py.
"""

import chromium
import numpy as np
import pytest
from plans import guest_plan, planned_image, savings, small_plan

from batchdiff.extents import Extents, Kind
from batchdiff.plan.extents import runs_of
from batchdiff.report.facts import PlanFacts
from batchdiff.report.plan.change_map import BINS
from batchdiff.report.plan.html_form import plan_html
from batchdiff.units import GIB, MIB

GUESTS = 1000
LARGEST = 15 * 10**6
LONGEST = 2000
"""Milliseconds until the page is laid out and its table can be sorted."""


@pytest.fixture(scope="module")
def page():
    """Disks that differ a little all over, so that no two places beside each other look alike."""
    rng = np.random.default_rng(1)
    disk = 256 * GIB
    step = disk // 65536 // (BINS * 2)  # in clusters: two runs for each place of a map
    guests = []
    for number in range(GUESTS):
        starts = np.arange(BINS * 2) * step
        kinds = rng.choice(np.array([Kind.ZERO, Kind.DATA], dtype=np.uint8), len(starts))
        data, zero = runs_of(Extents(starts, rng.integers(1, step, len(starts)), kinds))
        path = f"/var/lib/libvirt/images/customer-database-{number:04}.img"
        image = planned_image(path, virtual_size=disk)
        sizes = savings(disk, int(rng.integers(MIB, disk)))
        guests.append(guest_plan(path[24:-4], path=path, image=image, data=data, zero=zero, savings=sizes))
    return plan_html(PlanFacts(small_plan(*guests), path="/images/fleet.plan.json"))


def test_it_is_small(page):
    assert page.count("<details") == GUESTS
    assert page.count('d="M') > GUESTS * 4, "or the maps are not as full as can be"
    assert 4 * 10**6 < len(page.encode()) < LARGEST


@pytest.mark.long
def test_it_is_soon_open(tmp_path, page):
    path = tmp_path / "report.html"
    path.write_text(page)
    script = "document.body.getBoundingClientRect(); return performance.now();"
    assert min(chromium.evaluate(path, script) for _ in range(3)) < LONGEST
