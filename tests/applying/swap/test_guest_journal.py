"""Where a guest stands while its task is carried out, and the lines of its journal, one for each change."""

from __future__ import annotations

import types

import plans
import pytest

from batchdiff.applying.journal.records import Fate, Goal, Notes, Standing, Step
from batchdiff.applying.results.outcome import Original
from batchdiff.applying.swap.guest_journal import GuestJournal

ASIDE = "/images/vm.img.batchdiff-original"
FILE = plans.fingerprint(7)


class Recorder:
    """A session and its journal, which keep what they are told."""

    def __init__(self, standing=None):
        self.notes = Notes({} if standing is None else {"vm": standing})
        self.journal, self.watch = self, self
        self.lines, self.steps = [], []

    def standing(self, guest):
        return self.notes.under_way(guest)

    def record(self, guest, standing):
        self.lines.append(standing)
        self.notes.take_in({"time": "t", "guest": guest} | standing.record())

    def step(self, guest, step):
        assert guest == "vm"
        self.steps.append(step)


def opened(standing=None, goal=Goal.APPLY, final=Step.RETIRED):
    recorder = Recorder(standing)
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
        Standing(Step.CHECKED, **started),
        Standing(Step.WRITTEN, **started),
        Standing(Step.VERIFIED, overlay=FILE, **started),
        Standing(Step.PUBLISHED, **done),
        Standing(Step.RETIRING, moved=True, **done),
        Standing(Step.RETIRED, moved=True, fate=Fate.QUARANTINED, aside=ASIDE, **done),
    ]
    assert recorder.steps == [line.step for line in recorder.lines]
    assert journal.standing == recorder.lines[-1]


def test_a_restore():
    """Of the image that comes back it records the identity, but never that an overlay is published or not."""
    before = Standing(Step.RETIRED, overlay=FILE, published=True, fate=Fate.QUARANTINED, aside=ASIDE)
    recorder, journal = opened(before, Goal.RESTORE, Step.RESTORED)
    now = plans.fingerprint(8)
    journal.record_published(now)
    assert recorder.lines == [
        Standing(
            Step.PUBLISHED, Goal.RESTORE, None, FILE, published=True, rebuilt=now, fate=before.fate, aside=ASIDE
        )
    ]
    journal.record_end(Original(Fate.QUARANTINED, ASIDE))
    assert recorder.lines[-1] == Standing(Step.RESTORED, Goal.RESTORE, fate=Fate.QUARANTINED, aside=ASIDE)


@pytest.mark.parametrize(("goal", "counts"), [(Goal.APPLY, True), (Goal.RESTORE, False), (Goal.PURGE, False)])
def test_what_another_verb_did_to_its_outgoing_file_does_not_count(goal, counts):
    _, journal = opened(Standing(Step.RETIRING, published=True, moved=True, deleting=True), goal)
    assert journal.standing.goal is goal
    assert journal.standing.published
    assert (journal.standing.moved, journal.standing.deleting) == (counts, counts)


def test_a_file_that_is_renamed_or_deleted_is_recorded_once():
    recorder, journal = opened(Standing(Step.PUBLISHED, published=True))
    for _ in range(2):
        journal.record_moving()
    for _ in range(2):
        journal.record_deleting()
    assert [(line.moved, line.deleting) for line in recorder.lines] == [(True, False), (True, True)]
    journal.record_moving()  # back: it is not about to be deleted
    assert (recorder.lines[-1].moved, recorder.lines[-1].deleting) == (True, False)
    assert recorder.steps == [Step.RETIRING]


@pytest.mark.parametrize(
    ("standing", "is_taken_back"),
    [
        (Standing(Step.WRITTEN, temporary="/x.batchdiff-tmp", overlay=FILE), True),
        (Standing(Step.WRITTEN, temporary="/x.batchdiff-tmp", published=True), False),
        (Standing(Step.CHECKED), False),
        (Standing(Step.WRITTEN, Goal.RESTORE, temporary="/x.batchdiff-tmp"), False),
    ],
)
def test_rolled_back(standing, is_taken_back):
    recorder, journal = opened(standing)
    journal.forget_temporary()
    assert recorder.lines == []
    journal.record_rolled_back(moved=True)
    assert recorder.lines == ([Standing(Step.CHECKED, moved=True)] if is_taken_back else [])


def test_not_rolled_back_while_the_file_is_there():
    recorder, journal = opened(Standing(Step.WRITTEN, temporary="/x.batchdiff-tmp"))
    journal.record_rolled_back(moved=False)
    assert recorder.lines == []
