"""The context that all guests of one command share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from functools import partial
from typing import Protocol

from batchdiff.applying.guests.whole_originals import template_needed
from batchdiff.applying.journal.file import Journal, MemoryJournal
from batchdiff.applying.journal.records import Step
from batchdiff.applying.session.change_detection import ChangeDetector
from batchdiff.applying.session.stop import Stop
from batchdiff.dependents.dependents import Dependents, dependents_in_plan
from batchdiff.errors import InUseError
from batchdiff.frozen import frozen
from batchdiff.image.image import Image
from batchdiff.image.in_use.check import SHUT_DOWN_DOMAIN, Purpose
from batchdiff.image.in_use.hold import Held, hold
from batchdiff.image.open import open_image
from batchdiff.plan.plan import Plan
from batchdiff.plan.totals import PLANNED_AT_ONCE
from batchdiff.progress import Meter, Phase


class Watch(Protocol):
    """A receiver of a session's reports; its methods must not fail."""

    def step(self, guest: str, step: Step) -> None:
        """Report that a guest has reached a step."""

    def notice(self, text: str) -> None:
        """Report something that concerns all guests."""


@frozen
class Session:
    """One command working on a plan.

    ``plan_path``: absolute; empty in a dry run. ``unseen``: whether to delete files even if a program could have
    them open unnoticed. ``jobs``: the maximum number of guests in progress at once. ``in_domains``: by an image's
    resolved path, how a domain uses it, perhaps on another host; empty if libvirt was not asked.
    """

    plan: Plan
    journal: Journal | MemoryJournal
    watch: Watch
    stop: Stop
    unseen: bool = False
    plan_path: str = ""
    jobs: int = PLANNED_AT_ONCE
    meter: Meter = field(default_factory=Meter)
    in_domains: Mapping[str, str] = field(default_factory=dict)

    def require_no_domain(self, path: str) -> None:
        """Raise InUseError if ``in_domains`` lists the image."""
        if who := self.in_domains.get(os.path.realpath(path)):
            raise InUseError(f"{path} is in use", why=who, remedy=SHUT_DOWN_DOMAIN)


@frozen
class Run:
    """The state that guests share while the template is open and held."""

    template: Image
    held: Held
    session: Session
    detector: ChangeDetector
    dependents: Dependents = field(repr=False)

    @property
    def journal(self) -> Journal | MemoryJournal:
        """The plan's journal."""
        return self.session.journal

    @property
    def stop(self) -> Stop:
        """The request to stop."""
        return self.session.stop

    def reporter(self, guest: str, phase: Phase) -> Callable[[int], None]:
        """Return a function that reports the bytes done so far in a guest's phase."""
        return partial(self.session.meter.reach, guest, phase)

    def check_template(self) -> None:
        """Check that the template's files are at their paths, unchanged since the first call.

        :raises PlanError: one is not.
        :raises ImageError: one cannot be examined.
        """
        self.detector.check_at_paths(self.template)


@contextmanager
def template_held(session: Session) -> Iterator[Run]:
    """Open the template, and hold it against writers until the block ends.

    :raises ImageError: it cannot be opened or held.
    """
    with template_needed(session.plan, session.journal.history):
        opened = open_image(session.plan.template.source)
    with opened as template, hold(template, Purpose.TEMPLATE) as held:
        yield Run(template, held, session, ChangeDetector(session.journal), dependents_in_plan(session.plan))
