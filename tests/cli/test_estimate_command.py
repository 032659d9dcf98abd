"""The verb estimate, as its users run it.

Guards report/estimate/text.py, report/estimate/json_form.py, cli/options/estimate_options.py,
files/own_documents.py.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time

import pytest
from clumped_fleets import write_fleet
from commands import batchdiff, events, run_here

from batchdiff.cli.options.estimate_options import error_share, seed
from batchdiff.estimation.estimator import EstimateOptions, make_estimate
from batchdiff.files.own_documents import ESTIMATE_HEADING
from batchdiff.manifest.file import read_manifest
from batchdiff.plan.earlier_plans import EarlierPlans
from batchdiff.report.estimate.text import estimate_text
from batchdiff.units import MIB


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("estimate")
    write_fleet(path, 10, guests=2, size=64 * MIB)
    return path


def test_on_a_pipe(folder):
    before = sorted(os.listdir(folder))
    done = batchdiff("estimate", "fleet.yaml", cwd=folder)
    assert done.stdout.startswith(ESTIMATE_HEADING.decode())
    assert re.search(r"^guest0 +[0-9.]+ MiB +~[0-9.]+ [KM]iB +~[0-9.]+ MiB +[0-9.]+%", done.stdout, re.M)
    assert re.search(r"^total .* MiB to [0-9.]+ MiB$", done.stdout, re.M)
    assert "In 95 of 100 cases, the plan's figure is within the interval" in done.stdout
    assert done.stderr == "Next: batchdiff plan fleet.yaml\n"
    assert sorted(os.listdir(folder)) == before, "nothing is written"


@pytest.fixture(scope="module")
def done(folder):
    """The command with --json, for one guest."""
    return batchdiff("estimate", "fleet.yaml", "--json", "--guest", "guest1", "--seed", "5", cwd=folder)


def test_events(done):
    (event,) = events(done)
    report = event["report"]
    assert event["event"] == "estimate"
    assert [guest["name"] for guest in report["guests"]] == ["guest1"]
    assert report["seed"] == 5
    saved = report["guests"][0]["saved_bytes"]
    assert saved["low"] < saved["estimate"] < saved["high"]
    assert report["totals"]["saved_bytes"] == saved
    assert report["totals"]["error"] <= report["wanted_error"] == 0.02
    assert report["read_bytes"] < report["plan_read_bytes"]
    progress = [json.loads(line) for line in done.stdout.splitlines() if '"progress"' in line]
    assert (progress[0]["step"], progress[0]["openings_done"], progress[0]["openings_total"]) == ("open", 0, 6)
    assert progress[-1]["bytes_done"] == progress[-1]["bytes_total"] > MIB
    assert progress[-1]["percent_done"] == 100
    assert json.loads(done.stdout.splitlines()[-1])["guests"]["convert"] == 1


def test_apply_refuses_an_estimate(done, folder, tmp_path):
    texts = [done.stdout, json.dumps(events(done)[0]["report"], indent=2)]
    texts.append(estimate_text(estimate_of(folder)))
    for text in texts:
        path = tmp_path / "saved"
        path.write_text(text)
        for verb in ("apply", "show"):
            said = run_here(verb, path, expect=5)
            assert f"{path} is not a plan: it is an estimate of savings. Run `batchdiff plan MANIFEST`" in said


def test_a_limit_on_the_rate_holds_for_all_workers(folder):
    """4 MiB at 2 MiB a second."""
    arguments = ("--error", "50%", "-j", "2", "--limit-rate", "2MiB", "--guest", "guest0")
    began = time.monotonic()
    said = run_here("estimate", folder / "fleet.yaml", *arguments)
    read = float(re.search(r"Read ([0-9.]+) MiB", said)[1])
    assert read > 4
    assert time.monotonic() - began >= read / 2 - 1.5


def test_refused_and_skipped_guests(tmp_path):
    write_fleet(tmp_path, 9, size=2 * MIB, guests=3)
    os.truncate(tmp_path / "guest1.img", 2 * MIB - 4096)
    (tmp_path / "guest2.img").write_bytes(os.urandom(2 * MIB))
    said = run_here("estimate", tmp_path / "fleet.yaml", expect=1)
    assert re.search(r"refused guest1: its disk is 4 KiB smaller than the template's", said)
    assert "skipped guest2: it has nothing in common with the template" in said
    assert "Everything that metadata cannot settle was read, so a plan would give the same figures." in said


def test_a_wrong_manifest_and_an_unknown_guest(folder, tmp_path):
    (tmp_path / "bad.yaml").write_text("version: 1\n")
    assert "template is missing" in run_here("estimate", tmp_path / "bad.yaml", expect=3)
    said = run_here("estimate", folder / "fleet.yaml", "--guest", "web99", expect=2)
    assert "the manifest has no guest called 'web99'" in said


def test_the_values_of_options():
    assert [error_share(text) for text in ("2%", "0.02", "0", "12.5%")] == [0.02, 0.02, 0.0, 0.125]
    assert seed("17") == 17
    assert error_share("99.9%") == pytest.approx(0.999)
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        error_share("100%")
    assert str(caught.value) == "'100%' is not a percentage of at least 0% and less than 100%, such as 2%"
    for parse, text in (
        (error_share, "-1%"),
        (error_share, "nan"),
        (seed, "-1"),
        (seed, "x"),
    ):
        with pytest.raises(argparse.ArgumentTypeError):
            parse(text)


def estimate_of(folder):
    return make_estimate(read_manifest(str(folder / "fleet.yaml")), EstimateOptions(0.02, 1, 1), EarlierPlans())


def test_on_a_narrow_terminal(folder):
    assert max(map(len, estimate_text(estimate_of(folder), 80).splitlines())) <= 80
