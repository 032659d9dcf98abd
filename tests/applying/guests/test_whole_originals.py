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
)
from batchdiff.choices import Retire
from batchdiff.errors import ImageError, VerificationError
from batchdiff.files.fingerprint import Fingerprint, fingerprint_at
from batchdiff.qcow2.faults import NOT_OPENED, RESTORE_IT, SHUT_DOWN_OR_REPAIR

WHOLE = (
    "The original {0} is intact, as before the conversion. `batchdiff restore PLAN --guest vm --discard-changes`"
    " goes back to it, and discards what the VM has written since."
)

REMEDIES = [NOT_OPENED, RESTORE_IT, SHUT_DOWN_OR_REPAIR]


@pytest.fixture
def stage(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch)
    stage.apply(Retire.KEEP)
    return stage


@pytest.mark.parametrize("remedy", REMEDIES)
def test_the_advice_is_true_of_guests_templates_and_overlays(remedy):
    """A template, or an image that has an overlay, cannot be left out of the manifest."""
    assert "manifest" not in remedy


@pytest.mark.parametrize("remedy", REMEDIES)
def test_the_advice_about_a_template_says_what_it_is_about(stage, remedy):
    """After a sentence about the original, "it" alone would be the original."""
    error = originals_first(ImageError("t", remedy=remedy), [stage.guest()], stage.plan, stage.history)
    whole = WHOLE.format(stage.original())
    assert error.remedy == f"{whole} To keep what was written, you need the template. {remedy}"
    assert originals_first(error, [stage.guest()], stage.plan, stage.history).remedy == error.remedy
    without = originals_first(ImageError("t"), [stage.guest()], stage.plan, stage.history)
    assert without.remedy == whole


@pytest.mark.parametrize("remedy", REMEDIES)
def test_without_an_original_the_advice_about_a_template_stays(stage, remedy):
    stage.original(NAME).unlink()
    error = originals_first(ImageError("t", remedy=remedy), [stage.guest()], stage.plan, stage.history)
    assert error.remedy == remedy


@pytest.mark.parametrize("remedy", REMEDIES)
def test_the_advice_about_an_overlay_comes_before_its_original(stage, remedy):
    error = original_too(ImageError("o", remedy=remedy), stage.guest(), stage.history)
    assert error.remedy == f"{remedy} {WHOLE.format(stage.original())}"


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
        intact = f"The original {stage.original('vm')} is intact, as before the conversion. "
    the, are, has = ("The original", "is a block device", "it has") if len(devices) == 1 else SEVERAL
    named = f"{the} {' and '.join(paths)} {are}"
    unknown = f"{named}, so nothing shows whether {has} been written to since the conversion. "
    them = "goes back to it," if len(guests) == 1 else "goes back to them,"
    said = whole_originals(guests, stage.history)
    assert said.startswith(f"{intact}{unknown}`batchdiff restore PLAN --guest vm")
    assert them in said


SEVERAL = ("The originals", "are block devices", "they have")


@pytest.mark.parametrize("is_verified", [False, True])
@pytest.mark.parametrize("where", ["at byte 4096", ""])
def test_a_fault_in_the_original_itself_shows_in_no_fingerprint(stage, is_verified, where):
    """A bad sector does not change its times, so nothing proves that it is intact."""
    what = f"cannot read {stage.original()} {where}".strip()
    fault = ImageError(what, path=str(stage.original()), why="Input/output error", remedy="See it.")
    error = fault
    if is_verified:
        error = VerificationError(f"{stage.overlay()} cannot be verified", why=fault.reason, remedy="See it.")
        error.__cause__ = fault
    assert original_too(error, stage.guest(), stage.history).remedy == "See it."


def test_a_fault_in_the_overlay_is_none_in_the_original(stage):
    """Restore verifies the original; and the name of the overlay may begin with that of the original."""
    overlay = f"{stage.original()}.qcow2"
    fault = ImageError(f"cannot read {overlay} at byte 0", path=overlay, why="Input/output error")
    error = VerificationError(f"{stage.original()} cannot be verified", why=fault.reason)
    error.__cause__ = fault
    for each in (fault, error, VerificationError(f"{stage.original()} and {stage.overlay()} differ")):
        assert original_too(each, stage.guest(), stage.history).remedy == WHOLE.format(stage.original())
