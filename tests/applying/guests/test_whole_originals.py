"""The advice for a template or an overlay that cannot be read, beside originals that are intact."""

from __future__ import annotations

import pytest
from stage import NAME, Stage

from batchdiff.applying.guests.whole_originals import original_too, originals_first
from batchdiff.choices import Retire
from batchdiff.errors import ImageError
from batchdiff.qcow2.faults import NOT_OPENED, RESTORE_IT, SHUT_DOWN_OR_REPAIR

WHOLE = (
    "This original is intact, as before the conversion: {0}. `batchdiff restore PLAN --guest vm --discard-changes`"
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
    assert error.remedy == f"{whole} To keep that, the template is needed. {remedy}"
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
