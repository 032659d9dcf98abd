"""What all guests of one command have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from batchdiff.applying.journal import Journal
from batchdiff.applying.notes import Step
from batchdiff.applying.stopping import Stop
from batchdiff.image.holding import Held, hold
from batchdiff.image.image import Image
from batchdiff.image.opening import open_image
from batchdiff.image.usage import Purpose
from batchdiff.model.plan import Plan


class Watch(Protocol):
    """Is told what happens; must not fail."""

    def step(self, guest: str, step: Step) -> None:
        """A guest has reached a step."""


@dataclass(frozen=True, slots=True)
class Session:
    """One command at work on a plan: who is told of each step, and who may ask it to stop.

    ``unseen``: whether files may be deleted where nothing can tell who has them open.
    """

    plan: Plan
    journal: Journal
    watch: Watch
    stop: Stop
    unseen: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """What all guests of one command have in common; the template is open and held as long as it runs."""

    template: Image
    held: Held
    session: Session

    @property
    def journal(self) -> Journal:
        """The plan's journal."""
        return self.session.journal

    @property
    def stop(self) -> Stop:
        """Whether somebody has asked to stop."""
        return self.session.stop


@contextmanager
def template_held(session: Session) -> Iterator[Run]:
    """The template of a session's plan, open and held against writers.

    :raises ImageError: it cannot be opened, or somebody writes to it.
    """
    with open_image(session.plan.template.source) as template, hold(template, Purpose.TEMPLATE) as held:
        yield Run(template, held, session)
