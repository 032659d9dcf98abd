"""Where no lease can tell who has a file open, nothing is deleted without ``--unseen``."""

import re

import notation
import pytest
from commands import GUESTS, OVERLAYS, Fleet, batchdiff, events
from filesystems import overlayfs
from oracle import assert_same

MANIFEST = "version: 1\ntemplate: {path: template.img, format: raw}\nguests: [{path: raw.img, format: raw}]\n"
ORIGINAL = "raw.img.batchdiff-original"


@pytest.fixture
def fleet(tmp_path):
    with overlayfs(tmp_path) as point:
        fleet = Fleet(point, MANIFEST)
        fleet.plan("-q")
        yield fleet


def run(fleet, verb, *arguments, expect=0):
    return batchdiff(verb, "fleet.plan.json", *arguments, "--json", cwd=fleet.folder, expect=expect)


def assert_refused(fleet, verb, *arguments):
    """It says why and what to do, and changes nothing but the journal."""
    before = fleet.names() | {"fleet.plan.json.journal"}
    (outcome,) = [event for event in events(run(fleet, verb, *arguments, expect=1)) if event["event"] == "guest"]
    assert outcome["status"] == "failed"
    assert re.fullmatch(
        rf"{fleet.folder}/raw\.\S+ was not deleted: its filesystem \(overlay\) cannot show who has it open, so a"
        r" VM could have it open without being noticed\. If you are sure that no VM has it open, add `--unseen`\.",
        outcome["reason"],
    )
    assert fleet.names() | {"fleet.plan.json.journal"} == before


@pytest.mark.parametrize("retire", ["keep", "delete"])
def test_plan_says_so_before_the_work(fleet, retire):
    fleet.write_manifest(f"{MANIFEST}retire: {retire}\n")
    said = fleet.plan().stderr
    where = f"{fleet.folder}/raw.img: its filesystem (overlay) cannot show who has it open. Deleting"
    assert f"batchdiff: {'warning' if retire == 'delete' else 'note'}: {where}" in said
    assert "needs `--unseen`" in said
    assert ("--unseen" in fleet.plan("-q").stderr) is (retire == "delete")


@pytest.mark.parametrize("converted", [False, True])
def test_apply(fleet, converted):
    """Refused before an overlay is written, which may take hours; and if one is there."""
    if converted:
        run(fleet, "apply")
    assert_refused(fleet, "apply", "--retire", "delete", "--yes")
    assert_same((fleet.folder / "raw.img").read_bytes(), notation.content(GUESTS["raw.img"]))
    run(fleet, "apply", "--retire", "delete", "--yes", "--unseen")
    assert "raw.img" not in fleet.names()
    fleet.assert_converted("raw.img")


def test_quarantine_deletes_nothing(fleet):
    run(fleet, "apply", "--retire", "quarantine")
    assert ORIGINAL in fleet.names()


def test_purge(fleet):
    run(fleet, "apply", "--retire", "quarantine")
    assert_refused(fleet, "purge", "--yes")
    assert_refused(fleet, "purge", "--dry-run")
    run(fleet, "purge", "--dry-run", "--unseen")
    assert ORIGINAL in fleet.names()
    run(fleet, "purge", "--yes", "--unseen")
    assert ORIGINAL not in fleet.names()
    fleet.assert_converted("raw.img")


@pytest.mark.parametrize("retire", ["keep", "quarantine", "delete"])
def test_restore(fleet, retire):
    run(fleet, "apply", "--retire", retire, "--yes", "--unseen")
    assert_refused(fleet, "restore", "--dry-run")
    run(fleet, "restore", "--dry-run", "--unseen")
    assert_refused(fleet, "restore")
    run(fleet, "restore", "--unseen")
    assert_same((fleet.folder / "raw.img").read_bytes(), notation.content(GUESTS["raw.img"]))
    assert OVERLAYS["raw.img"] not in fleet.names()
