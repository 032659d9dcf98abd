"""Guests that a journal lacks: they are looked for only if a file could be theirs."""

from __future__ import annotations

import pytest
from stage import ASIDE, NAME, Stage

from batchdiff.applying.guests import recovery
from batchdiff.applying.guests.unrecorded import recover_unrecorded
from batchdiff.applying.journal.records import History
from batchdiff.choices import Retire
from batchdiff.plan.path_map import NOTHING_MOVED


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch)


@pytest.mark.parametrize("retire", Retire)
def test_a_journal_that_is_lost(stage, retire):
    stage.apply(retire)
    found = recover_unrecorded(stage.plan, History(), NOTHING_MOVED)
    assert found == recovery.recover_states(stage.plan, History(), NOTHING_MOVED)
    assert found[NAME].published


def test_an_original_in_quarantine_is_enough(stage):
    stage.apply(Retire.QUARANTINE)
    stage.overlay().unlink()
    assert stage.original(suffix=ASIDE).exists()
    assert recover_unrecorded(stage.plan, History(), NOTHING_MOVED)[NAME].published


@pytest.mark.parametrize("is_applied", [False, True])
def test_nothing_is_looked_for_without_a_reason(stage, monkeypatch, is_applied):
    if is_applied:
        stage.apply(Retire.QUARANTINE)
    monkeypatch.setattr(recovery, "recover_states", lambda *_: pytest.fail("it was looked for"))
    assert recover_unrecorded(stage.plan, stage.history, NOTHING_MOVED) == {}
