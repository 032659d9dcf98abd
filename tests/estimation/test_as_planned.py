"""Fleets of which samples would be more than a plan reads: they get the figures of a plan, and read no more.

Guards estimation/as_planned.py.
"""

from __future__ import annotations

import notation
import pytest
from commands import run_here
from filesystems import mounted
from notation import run

from batchdiff.choices import Verdict
from batchdiff.estimation.estimate import Estimate
from batchdiff.estimation.estimator import EstimateOptions, make_estimate
from batchdiff.image import files
from batchdiff.manifest.file import read_manifest
from batchdiff.plan.earlier_plans import EarlierPlans
from batchdiff.planning.planner import make_plan
from batchdiff.units import MIB

TEMPLATE = "2M:A 2M:- 2M:B"
GUESTS = 6


@pytest.fixture
def manifest(tmp_path):
    return write_fleet(tmp_path)


def write_fleet(folder, more=""):
    """Six copies of a template, one of which is the template's equal, and a guest that is too small."""
    notation.write_raw(folder / "template.img", TEMPLATE)
    for number in range(GUESTS):
        changed = "" if number == 0 else f"{64 * number}k:X "
        notation.write_raw(folder / f"vm{number}.img", f"{changed}{2048 - 64 * number}k:A 2M:- 2M:B")
    notation.write_raw(folder / "small.img", "1M:A")
    (folder / "fleet.yaml").write_text(
        "version: 1\ntemplate: {path: template.img, format: raw}\ndefaults: {format: raw}\n"
        f"{more}guests: [{{glob: 'vm*.img'}}, {{path: small.img}}]\n"
    )
    return read_manifest(str(folder / "fleet.yaml"))


def estimate_of(manifest, **options) -> Estimate:
    options = {"error": 0.02, "seed": 1, "jobs": 1} | options
    return make_estimate(manifest, EstimateOptions(**options), EarlierPlans())


def same_as(found: Estimate, plan) -> None:
    assert [(each.plan.name, each.plan.verdict, each.plan.reason) for each in found.guests] == [
        (each.name, each.verdict, each.reason) for each in plan.guests
    ]
    assert found.totals.saved.estimate == plan.totals.saved_bytes
    assert found.totals.saved.is_exact


def test_it_reads_no_more_than_a_plan(manifest, monkeypatch):
    whole = files.read_into
    read = []

    def counted(fd, buffer, offset, path, observer=None):
        done = whole(fd, buffer, offset, path, observer)
        read.append(len(buffer))
        return done

    monkeypatch.setattr(files, "read_into", counted)
    seen: list[tuple[int, int]] = []
    found = estimate_of(manifest, progress=lambda done, total: seen.append((done, total)))
    in_samples = sum(read)
    assert found.read_bytes <= found.whole_bytes == (4 + 4 * GUESTS) * MIB
    assert in_samples <= found.whole_bytes + MIB, "the heads of the files, too"
    same_as(found, make_plan(manifest, jobs=1))
    assert [each.plan.verdict for each in found.guests].count(Verdict.REFUSE) == 1
    assert all(each.is_exact for each in found.guests if each.saved)
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_the_report_says_so(manifest):
    text = run_here("estimate", manifest.path, "-j", 1, expect=1)
    assert "a plan would read up to 28 MiB (100.0%)" in text
    assert "so these figures are those of a plan." in text


@pytest.mark.long
@pytest.mark.parametrize("filesystem", ["xfs", "btrfs"])
def test_guests_that_share_blocks_in_place(tmp_path, filesystem):
    with mounted(tmp_path, filesystem) as folder:
        manifest = write_fleet(folder, "strategy: share\n")
        run("sync", "-f", str(folder))
        found = estimate_of(manifest)
        same_as(found, make_plan(manifest, jobs=1))
        assert found.totals.saved.estimate > GUESTS * MIB
