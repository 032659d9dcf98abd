"""Where a guest stands while its task is carried out, and the lines of its journal, one for each change."""

from __future__ import annotations

import types

import plans
import pytest

from batchdiff.applying.journal.records import Fate, Goal, GuestState, History, Step
from batchdiff.applying.results.outcome import Original
from batchdiff.applying.swap.guest_journal import GuestJournal

ASIDE = "/images/vm.img.batchdiff-original"
FILE = plans.fingerprint(7)


class Recorder:
    """A session and its journal, which keep what they are told."""

    def __init__(self, state=None):
        self.history = History({} if state is None else {"vm": state})
        self.journal, self.watch = self, self
        self.lines, self.steps = [], []

    def state(self, guest):
        return self.history.under_way(guest)

    def record(self, guest, state):
        self.lines.append(state)
        self.history.take_in({"time": "t", "guest": guest} | state.record())

    def step(self, guest, step):
        assert guest == "vm"
        self.steps.append(step)


def opened(state=None, goal=Goal.APPLY, final=Step.RETIRED):
    recorder = Recorder(state)
    return recorder, GuestJournal(types.SimpleNamespace(guest="vm", goal=goal, final=final), recorder)


def test_an_apply():
    recorder, journal = opened()
    journal.record_temporary("/images/.x.batchdiff-tmp")
    journal.record_written()
    journal.record_verified(FILE)
    journal.record_published(FILE)
    journal.record_moving()
    journal.record_end(Original(Fate.QUARANTINED, ASIDE))
    started = {"temporary": "/images/.x.batchdiff-tmp"}
    done = {"overlay": FILE, "published": True}
    assert recorder.lines == [
        GuestState(Step.CHECKED, **started),
        GuestState(Step.WRITTEN, **started),
        GuestState(Step.VERIFIED, overlay=FILE, **started),
        GuestState(Step.PUBLISHED, **done),
        GuestState(Step.RETIRING, moved=True, **done),
        GuestState(Step.RETIRED, moved=True, fate=Fate.QUARANTINED, aside=ASIDE, **done),
    ]
    assert recorder.steps == [line.step for line in recorder.lines]
    assert journal.state == recorder.lines[-1]


def test_a_restore():
    """Of the image that comes back it records the identity, but never that an overlay is published or not."""
    before = GuestState(Step.RETIRED, overlay=FILE, published=True, fate=Fate.QUARANTINED, aside=ASIDE)
    recorder, journal = opened(before, Goal.RESTORE, Step.RESTORED)
    now = plans.fingerprint(8)
    journal.record_published(now)
    assert recorder.lines == [
        GuestState(
            Step.PUBLISHED, Goal.RESTORE, None, FILE, published=True, rebuilt=now, fate=before.fate, aside=ASIDE
        )
    ]
    journal.record_end(Original(Fate.QUARANTINED, ASIDE))
    assert recorder.lines[-1] == GuestState(Step.RESTORED, Goal.RESTORE, fate=Fate.QUARANTINED, aside=ASIDE)


@pytest.mark.parametrize(("goal", "counts"), [(Goal.APPLY, True), (Goal.RESTORE, False), (Goal.PURGE, False)])
def test_what_another_verb_did_to_its_outgoing_file_does_not_count(goal, counts):
    _, journal = opened(GuestState(Step.RETIRING, published=True, moved=True, deleting=True), goal)
    assert journal.state.goal is goal
    assert journal.state.published
    assert (journal.state.moved, journal.state.deleting) == (counts, counts)


def test_a_file_that_is_renamed_or_deleted_is_recorded_once():
    recorder, journal = opened(GuestState(Step.PUBLISHED, published=True))
    for _ in range(2):
        journal.record_moving()
    for _ in range(2):
        journal.record_deleting()
    assert [(line.moved, line.deleting) for line in recorder.lines] == [(True, False), (True, True)]
    journal.record_moving()  # back: it is not about to be deleted
    assert (recorder.lines[-1].moved, recorder.lines[-1].deleting) == (True, False)
    assert recorder.steps == [Step.RETIRING]


@pytest.mark.parametrize(
    ("state", "is_taken_back"),
    [
        (GuestState(Step.WRITTEN, temporary="/x.batchdiff-tmp", overlay=FILE), True),
        (GuestState(Step.WRITTEN, temporary="/x.batchdiff-tmp", published=True), False),
        (GuestState(Step.CHECKED), False),
        (GuestState(Step.WRITTEN, Goal.RESTORE, temporary="/x.batchdiff-tmp"), False),
    ],
)
def test_rolled_back(state, is_taken_back):
    recorder, journal = opened(state)
    journal.forget_temporary()
    assert recorder.lines == []
    journal.record_rolled_back(moved=True)
    assert recorder.lines == ([GuestState(Step.CHECKED, moved=True)] if is_taken_back else [])


def test_not_rolled_back_while_the_file_is_there():
    recorder, journal = opened(GuestState(Step.WRITTEN, temporary="/x.batchdiff-tmp"))
    journal.record_rolled_back(moved=False)
    assert recorder.lines == []
