"""Images that have changed since they were planned, for a report."""

from __future__ import annotations

import dataclasses
import os

import pytest
from stage import Stage

from batchdiff.applying.guests.changed_images import changed_images
from batchdiff.applying.journal.records import History
from batchdiff.choices import Retire
from batchdiff.files.fingerprint import fingerprint_at


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch)


def changed(stage):
    return changed_images(stage.plan, stage.history)


def test_none(stage):
    assert changed(stage) == []


@pytest.mark.parametrize("which", ["template", "original"])
def test_each_is_named_with_its_change(stage, which):
    path = stage.template if which == "template" else stage.original()
    os.utime(path, (1, 1))
    (notice,) = changed(stage)
    assert notice.startswith(f"{path}: its modification time changed (mtime)")


def test_one_that_is_gone(stage):
    stage.original().unlink()
    assert changed(stage) == [f"{stage.original()}: it is gone, or cannot be examined"]


def test_what_batchdiff_did_does_not_count(stage):
    """Apply protects the template; and an original does not matter any longer once its overlay is published."""
    stage.apply(Retire.KEEP)
    os.utime(stage.original(), (1, 1))
    assert changed(stage) == []
    stage.template.chmod(0o644)
    (notice,) = changed(stage)
    assert notice.startswith(f"{stage.template}: ")


def on_the_template(stage):
    """The stage's plan with the template in the guest's chain, as in that of an overlay to be made thinner."""
    (guest,) = stage.plan.to_convert
    source = dataclasses.replace(guest.image.source, backing=(stage.plan.template.source,))
    prints = (*guest.image.fingerprints, *stage.plan.template.fingerprints)
    image = dataclasses.replace(guest.image, source=source, fingerprints=prints)
    return dataclasses.replace(stage.plan, guests=(dataclasses.replace(guest, image=image),))


def test_a_template_that_another_plan_has_protected_does_not_count_in_a_guest_s_chain(stage):
    """This plan's journal does not record that; the template's sidecar does."""
    stage.apply(Retire.KEEP)
    plan = on_the_template(stage)
    assert plan.template.fingerprints != (fingerprint_at(str(stage.template)),)
    assert changed_images(plan, History()) == []


def test_a_changed_template_is_named_once(stage):
    plan = on_the_template(stage)
    os.utime(stage.template, (1, 1))
    assert changed_images(plan, History()) == [f"{stage.template}: its modification time changed (mtime)"]


def test_a_guest_whose_name_batchdiff_gave_back_does_not_count(stage):
    """Its ctime is new, as the journal records."""
    stage.original().chmod(0o600)
    assert len(changed(stage)) == 1
    now = fingerprint_at(str(stage.original()))
    assert changed_images(stage.plan, History(changed={now})) == []


def test_a_rebuilt_image_is_another_file(stage):
    """Though the journal records that batchdiff renamed it."""
    content = stage.original().read_bytes()
    stage.original().rename(stage.original().with_name("older"))
    stage.original().write_bytes(content)
    now = fingerprint_at(str(stage.original()))
    assert changed_images(stage.plan, History(changed={now})) == [
        f"{stage.original()}: another file is in its place"
    ]
