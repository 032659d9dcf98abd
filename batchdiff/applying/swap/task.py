"""The task of a guest, as a protocol: the file to retire, the one that takes its place, and their comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from batchdiff.applying.guests.file_names import FileNames
from batchdiff.applying.journal.records import Goal, Step
from batchdiff.applying.swap.incoming import IncomingFile
from batchdiff.choices import Retire
from batchdiff.files.fingerprint import Fingerprint
from batchdiff.frozen import frozen
from batchdiff.image.image import Image
from batchdiff.image_source import ImageSource
from batchdiff.plan.plan import PlannedImage


@frozen
class Outgoing:
    """The outgoing file. ``source``: the image, under the file's own name.

    ``known``: its fingerprint, as planned or found; NO_FILE if it was not found. ``parts``: other files that are
    deleted with an overlay.
    """

    source: ImageSource
    names: FileNames
    known: Fingerprint
    parts: tuple[str, ...] = ()


class SwapTask(Protocol):
    """The work of apply, restore or purge on one guest."""

    @property
    def guest(self) -> str:
        """The guest's name."""

    @property
    def goal(self) -> Goal:
        """The task's verb."""

    @property
    def final(self) -> Step:
        """The step recorded at the end."""

    @property
    def outgoing(self) -> Outgoing:
        """The file to be retired."""

    @property
    def incoming(self) -> IncomingFile:
        """The file that takes the outgoing one's place."""

    @property
    def retire(self) -> Retire:
        """The way in which the outgoing file is retired."""

    @property
    def original(self) -> PlannedImage:
        """The original as planned."""

    @property
    def data_file(self) -> str | None:
        """The planned path of the overlay's data file; None if it has none."""

    @property
    def needs_comparison(self) -> bool:
        """False if a file to compare is missing, or if the operator discards changes."""

    @property
    def older(self) -> str | None:
        """The path of an older original that a restore leaves in quarantine, if any."""

    def check(self, outgoing: Image) -> None:
        """Refuse a changed outgoing image or template.

        :raises BatchdiffError: one has changed or cannot be examined, or a program wants to write to a held file.
        """

    def verify(self, outgoing: Image, incoming: ImageSource, ended: Callable[[], bool]) -> None:
        """Verify the incoming image; end early once ``ended`` returns true.

        :raises DifferenceError: the image differs from the outgoing one, or counts as different.
        :raises StopError: verification was ended early.
        :raises BatchdiffError: the image cannot be verified.
        """

    def if_different(self) -> SwapTask | None:
        """Return the task that follows if the two files differ; None if there is none.

        :raises GuestError: the operator must decide what to do.
        """

    def after_publish(self) -> list[str]:
        """Do the work that must precede retiring the outgoing file; return remarks for the operator."""

    def before_end(self) -> list[str]:
        """Do the work that must precede the record of the final step; return remarks."""


@runtime_checkable
class Writer(Protocol):
    """A task that can write its incoming file."""

    def write(self, fd: int, outgoing: Image, data_fd: int | None = None) -> list[str]:
        """Write the incoming image to an empty file; return remarks for the operator.

        ``data_fd``: another empty file, for the data of an overlay with a data file.

        :raises BatchdiffError, FormatError, OSError: it cannot be written.
        """


def is_in_place(task: SwapTask) -> bool:
    """Return whether the incoming file takes the outgoing file's own name."""
    return task.incoming.source.path == task.outgoing.names.own
