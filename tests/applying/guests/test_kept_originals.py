"""Kept originals that have become templates: what depends on them, and that no verb advises to delete them."""

from __future__ import annotations

import json

from commands import Fleet, run_here
from notation import run
from stage import NAME, Stage

from batchdiff.applying.guests.conversions import conversions
from batchdiff.applying.guests.kept_originals import dependents_of_kept
from batchdiff.choices import Retire


def overlay_on(original, path) -> None:
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(original), "-F", "raw", str(path))


def test_what_depends_on_a_kept_original(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch)
    stage.apply(Retire.KEEP)
    assert dependents_of_kept(stage.plan, [NAME]) == {}
    assert conversions(stage.plan, stage.history)[NAME].dependents == ()
    clone = tmp_path / "clone.qcow2"
    overlay_on(stage.original(), clone)
    assert dependents_of_kept(stage.plan, [NAME]) == {NAME: (str(clone),)}
    assert dependents_of_kept(stage.plan, []) == {}
    assert conversions(stage.plan, stage.history)[NAME].dependents == (str(clone),)


def test_overlays_that_a_sidecar_lists_elsewhere_count(tmp_path, monkeypatch):
    """They may only have been moved."""
    stage = Stage(tmp_path, monkeypatch)
    stage.apply(Retire.KEEP)
    listed = json.loads((tmp_path / "template.img.batchdiff-template.json").read_text())
    listed["overlays"] = {"/gone/clone.qcow2": next(iter(listed["overlays"].values()))}
    sidecar = stage.original(suffix=".batchdiff-template.json")
    sidecar.write_text(json.dumps(listed))
    assert dependents_of_kept(stage.plan, [NAME]) == {NAME: (f"perhaps an overlay listed in {sidecar}",)}


def test_no_verb_advises_to_delete_it(tmp_path):
    fleet, plan = Fleet(tmp_path), tmp_path / "fleet.plan.json"
    fleet.plan_here()
    assert "The space is freed once the originals are deleted" in run_here("apply", plan)
    overlay_on(tmp_path / "raw.img", tmp_path / "clone.qcow2")
    must_stay = f"Do not delete {tmp_path}/raw.img while any image depends on it: {tmp_path}/clone.qcow2."
    for verb in ("apply", "show"):
        assert must_stay in run_here(verb, plan), verb
    assert "once you delete the kept originals that no other image depends on" in run_here("show", plan)
    assert "The space is freed once the other originals are deleted" in run_here("apply", plan)
    assert f"nothing: the original {tmp_path}/raw.img must stay" in run_here("status", plan)
