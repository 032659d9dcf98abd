"""What all guests of one command have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from batchdiff.applying.guests.whole_originals import template_needed
from batchdiff.applying.journal.file import FrozenJournal, Journal
from batchdiff.applying.journal.records import Step
from batchdiff.applying.session.change_detection import ChangeDetector
from batchdiff.applying.session.stop import Stop
from batchdiff.dependents.dependents import Dependents, dependents_in_plan
from batchdiff.image.image import Image
from batchdiff.image.in_use.check import Purpose
from batchdiff.image.in_use.hold import Held, hold
from batchdiff.image.open import open_image
from batchdiff.plan.plan import Plan
from batchdiff.plan.totals import PLANNED_AT_ONCE


class Watch(Protocol):
    """Is told what happens; must not fail."""

    def step(self, guest: str, step: Step) -> None:
        """A guest has reached a step."""

    def notice(self, text: str) -> None:
        """There is something to know that concerns all guests."""


@dataclass(frozen=True, slots=True)
class Session:
    """One command at work on a plan: who is told of each step, and who may ask it to stop.

    ``plan_path``: where the plan is, which the sidecar records. ``unseen``: whether files may be deleted where
    nothing can tell who has them open. ``jobs``: how many guests may be under way at once, if memory, open files
    and space allow.
    """

    plan: Plan
    journal: Journal | FrozenJournal
    watch: Watch
    stop: Stop
    unseen: bool = False
    plan_path: str = ""
    jobs: int = PLANNED_AT_ONCE


@dataclass(frozen=True, slots=True)
class Run:
    """What all guests of one command have in common; the template is open and held as long as it runs."""

    template: Image
    held: Held
    session: Session
    detector: ChangeDetector
    dependents: Dependents = field(repr=False)

    @property
    def journal(self) -> Journal | FrozenJournal:
        """The plan's journal."""
        return self.session.journal

    @property
    def stop(self) -> Stop:
        """Whether somebody has asked to stop."""
        return self.session.stop

    def check_template(self) -> None:
        """Make sure that the template at its path is still the one that was accepted when the command began.

        :raises PlanError: it changed, or another file was put in its place.
        """
        self.detector.check_at_paths(self.template)


@contextmanager
def template_held(session: Session) -> Iterator[Run]:
    """The template of a session's plan, open and held against writers.

    :raises ImageError: it cannot be opened, or somebody writes to it.
    """
    with template_needed(session.plan, session.journal.notes):
        opened = open_image(session.plan.template.source)
    with opened as template, hold(template, Purpose.TEMPLATE) as held:
        yield Run(template, held, session, ChangeDetector(session.journal), dependents_in_plan(session.plan))
