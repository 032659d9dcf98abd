"""The advice for a template or an overlay that cannot be read, beside originals that are intact."""

from __future__ import annotations

import dataclasses

import pytest
from stage import NAME, Stage

from batchdiff.applying.guests import guest_files
from batchdiff.applying.guests.whole_originals import (
    original_too,
    originals_first,
    whole_originals,
    without_planning_advice,
)
from batchdiff.choices import Retire
from batchdiff.errors import ImageError
from batchdiff.files.fingerprint import Fingerprint, fingerprint_at
from batchdiff.qcow2.faults import NOT_OPENED, RESTORE_IT, SHUT_DOWN_OR_REPAIR

WHOLE = (
    "This original is intact, as before the conversion: {0}. `batchdiff restore PLAN --guest vm --discard-changes`"
    " goes back to it, and discards what the VM has written since."
)

REMEDIES = [
    (NOT_OPENED, "QEMU cannot open it either: restore it from a backup."),
    (RESTORE_IT, "Restore it from a backup."),
    (
        "Put the regular file back, or leave the image out of the manifest.",
        "Put the regular file back.",
    ),
    (SHUT_DOWN_OR_REPAIR, SHUT_DOWN_OR_REPAIR),
]


@pytest.fixture
def stage(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch)
    stage.apply(Retire.KEEP)
    return stage


@pytest.mark.parametrize(("remedy", "applying"), REMEDIES)
def test_the_advice_about_a_template_says_what_it_is_about(stage, remedy, applying):
    """After a sentence about the original, "it" alone would be the original."""
    error = originals_first(ImageError("t", remedy=remedy), [stage.guest()], stage.plan, stage.history)
    whole = WHOLE.format(stage.original())
    assert error.remedy == f"{whole} To keep that, the template is needed. {applying}"
    assert originals_first(error, [stage.guest()], stage.plan, stage.history).remedy == error.remedy
    without = originals_first(ImageError("t"), [stage.guest()], stage.plan, stage.history)
    assert without.remedy == whole


@pytest.mark.parametrize(("remedy", "applying"), REMEDIES)
def test_no_template_of_overlays_can_be_left_out(stage, remedy, applying):
    stage.original(NAME).unlink()
    error = originals_first(ImageError("t", remedy=remedy), [stage.guest()], stage.plan, stage.history)
    assert error.remedy == applying


@pytest.mark.parametrize(("remedy", "applying"), REMEDIES)
def test_no_overlay_can_be_left_out(stage, remedy, applying):
    error = original_too(ImageError("o", remedy=remedy), stage.guest(), stage.history)
    assert error.remedy == f"{applying} {WHOLE.format(stage.original())}"


@pytest.mark.parametrize(("remedy", "applying"), REMEDIES)
def test_neither_is_left_out_if_no_original_is_named(remedy, applying):
    assert without_planning_advice(ImageError("o", why="w", remedy=remedy)).remedy == applying


@pytest.mark.parametrize("devices", [("vm",), ("vm", "web"), ("web",)], ids=str)
def test_nothing_shows_whether_a_block_device_is_intact(tmp_path, monkeypatch, devices):
    """Its times do not change when it is written to; what is known of a file is said of the file alone."""
    stage = Stage(tmp_path, monkeypatch, names=("vm", "web"))
    stage.apply(Retire.KEEP)
    device = Fingerprint(1, 0, 4096, 0, 0)
    paths = [str(stage.original(name)) for name in devices]
    monkeypatch.setattr(
        guest_files, "fingerprint_at", lambda path: device if path in paths else fingerprint_at(path)
    )
    images = {name: dataclasses.replace(stage.guest(name).image, fingerprints=(device,)) for name in devices}
    guests = [dataclasses.replace(stage.guest(name), image=images[name]) for name in devices]
    intact = ""
    if devices == ("web",):
        guests.insert(0, stage.guest("vm"))
        intact = f"This original is intact, as before the conversion: {stage.original('vm')}. "
    it, has = ("this original is a block device", "it has") if len(devices) == 1 else SEVERAL
    unknown = f"Because {it}, nothing shows whether {has} been written to since the conversion: "
    them = "goes back to it," if len(guests) == 1 else "goes back to them,"
    said = whole_originals(guests, stage.history)
    assert said.startswith(f"{intact}{unknown}{' and '.join(paths)}. `batchdiff restore PLAN --guest vm")
    assert them in said


SEVERAL = ("these originals are block devices", "they have")
