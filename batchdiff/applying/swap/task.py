"""The task of one guest: which file goes, which one takes its place, how that one is made and verified."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from batchdiff.applying.guests.file_names import Names
from batchdiff.applying.journal.records import Goal, Standing, Step
from batchdiff.choices import Retire
from batchdiff.files.fingerprint import Fingerprint
from batchdiff.image.image import Image
from batchdiff.image_source import ImageSource

Write = Callable[[int, Image], list[str]]
"""Write the incoming image into an empty file, from the open outgoing one; return notes for the operator."""

Verify = Callable[[Image, ImageSource, Callable[[], bool]], None]
"""Compare the open outgoing image with the incoming one; end early once the last argument returns true.

:raises DifferenceError: they differ.
:raises VerificationError: one of them is damaged.
:raises StopError: it was ended early.
"""

Check = Callable[[Image], None]
"""Compare the open outgoing image with what is known of it, and the template with the plan.

:raises PlanError: one of them changed.
"""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """The file that goes: its image under its own name, its other names, and its identity."""

    source: ImageSource
    names: Names
    known: Fingerprint


@dataclass(frozen=True, slots=True)
class Incoming:
    """The file that takes its place: its image under its own name.

    ``known``: its identity, once it has been verified. ``ready``: its path, if it is complete under another name
    already. ``published``: whether it has had its own name before.
    """

    source: ImageSource
    known: Fingerprint | None = None
    ready: str | None = None
    published: bool = False


def _nothing_more() -> list[str]:
    return []


@dataclass(frozen=True, slots=True)
class Task:
    """The work on one guest.

    ``final``: the step that is recorded at the end. ``verified``: there is nothing to compare, and nothing to
    lose. ``on_published`` is called before the outgoing file may go, ``on_ended`` before the final step is
    recorded, because no later run would do it; both return notes for the operator. ``otherwise``: makes the task
    for two files that differ. ``older``: the path at which an older original stays in quarantine.
    """

    guest: str
    goal: Goal
    outgoing: Outgoing
    incoming: Incoming
    retire: Retire
    final: Step
    write: Write
    verify: Verify
    check: Check
    verified: bool = False
    on_published: Callable[[], list[str]] = _nothing_more
    on_ended: Callable[[], list[str]] = _nothing_more
    otherwise: Callable[[], Task] | None = None
    older: str | None = None

    @property
    def one_name(self) -> bool:
        """True if the incoming file takes the outgoing one's own name."""
        return self.incoming.source.path == self.outgoing.names.own

    def noted(self, standing: Standing, identity: Fingerprint | None) -> Standing:
        """Return a standing as it goes into the journal; ``identity``: the incoming file's, if it is known now."""
        if identity is not None:
            standing = self._identified(standing, identity)
        if standing.step is Step.RESTORED:  # of the conversion only an older original may be left
            return Standing(standing.step, self.goal, fate=standing.fate, aside=standing.aside)
        return replace(standing, temporary=None) if standing.step in {Step.PUBLISHED, self.final} else standing

    def _identified(self, standing: Standing, identity: Fingerprint) -> Standing:
        if self.goal is Goal.RESTORE:
            return replace(standing, rebuilt=identity)
        # Once published, it stays so: it is verified again before its original goes.
        published = standing.published or standing.step is Step.PUBLISHED
        return replace(standing, overlay=identity, published=published)
