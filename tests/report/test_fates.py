"""What became of originals, in the words that people and scripts read."""

from __future__ import annotations

import pytest

from batchdiff.applying.journal.records import Fate, Goal
from batchdiff.applying.results.outcome import GuestOutcome, Original, Status
from batchdiff.report.fates import kept_words, original_words

ASIDE = "/images/vm.img.batchdiff-original"


@pytest.mark.parametrize(
    ("status", "original", "words"),
    [
        (Status.SKIPPED, Original(Fate.UNTOUCHED), "untouched"),
        (Status.CONVERTED, Original(Fate.KEPT), "kept"),
        (Status.CONVERTED, Original(Fate.QUARANTINED, ASIDE), f"quarantined as {ASIDE}"),
        (Status.CONVERTED, Original(Fate.DELETED), "deleted"),
        (Status.UNCHANGED, Original(Fate.GONE), "gone: an earlier run or another program deleted or moved it"),
        (Status.FAILED, Original(Fate.GONE), "gone"),
        (Status.FAILED, Original(Fate.UNKNOWN, doubt="both a and b"), "unknown: both a and b"),
        (Status.KEPT, Original(Fate.QUARANTINED), "kept in quarantine"),
        (Status.RESTORED, Original(Fate.BACK), "back under its name"),
        (Status.RESTORED, Original(Fate.REBUILT), "rebuilt from its overlay"),
    ],
)
def test_originals(status, original, words):
    outcome = GuestOutcome("vm", status, original=original)
    assert original_words(outcome) == words


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (None, "converted"),
        (Goal.APPLY, "apply not finished"),
        (Goal.RESTORE, "restore not finished"),
        (Fate.QUARANTINED, "original in quarantine"),
        (Fate.DELETED, "original deleted"),
        (Fate.KEPT, "original kept"),
    ],
)
def test_guests_of_a_plan_that_is_kept(what, words):
    assert kept_words(what) == words
