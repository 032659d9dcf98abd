"""What all guests of one command have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from batchdiff.applying.journal import Journal
from batchdiff.applying.notes import Step
from batchdiff.applying.stopping import Stop
from batchdiff.image.image import Image


class Watch(Protocol):
    """Is told what happens; must not fail."""

    def step(self, guest: str, step: Step) -> None:
        """A guest has reached a step."""


@dataclass(frozen=True, slots=True)
class Run:
    """What all guests of one command have in common; the template is open as long as it runs."""

    template: Image
    journal: Journal
    watch: Watch
    stop: Stop
