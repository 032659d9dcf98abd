"""The task of a guest, as a protocol: the file to retire, the one that takes its place, and their comparison.

::

    ApplyTask      apply_task      writes the overlay, which takes the place of the original
    RestoreTask    restore_task    gives back the original, or an image that an earlier restore has rebuilt
    RebuildTask    rebuild_task    writes a rebuilt image, which takes the place of the overlay
    PurgeTask      purge_task      deletes the original in quarantine
"""

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
    """The outgoing file. ``source``: its image under its own name. ``names``: all its names.

    ``known``: its fingerprint as planned or found; NO_FILE if it was not found. ``parts``: the paths of the other
    files that are deleted with an overlay; the plan lists those of an original.
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
        """The verb that works on the guest."""

    @property
    def final(self) -> Step:
        """The step that is recorded at the end."""

    @property
    def outgoing(self) -> Outgoing:
        """The file that is to be retired."""

    @property
    def incoming(self) -> IncomingFile:
        """The file that takes the outgoing one's place."""

    @property
    def retire(self) -> Retire:
        """The way in which the outgoing file is retired."""

    @property
    def original(self) -> PlannedImage:
        """The guest's original as it was planned."""

    @property
    def data_file(self) -> str | None:
        """The planned path of the overlay's data file; None if the overlay contains its own data."""

    @property
    def needs_comparison(self) -> bool:
        """False if a file to compare is missing, or if the operator discards changes."""

    @property
    def older(self) -> str | None:
        """The path of the older original that a restore leaves in quarantine; None if it leaves none."""

    def check(self, outgoing: Image) -> None:
        """Check that neither the open outgoing image nor the template has changed.

        :raises BatchdiffError: one of them has changed, or a program wants to write to the held incoming image.
        """

    def verify(self, outgoing: Image, incoming: ImageSource, ended: Callable[[], bool]) -> None:
        """Compare the open outgoing image with the incoming one; end early once ``ended`` returns true.

        :raises DifferenceError: they differ, or count as different because the incoming one is in use.
        :raises StopError: the comparison was ended early.
        :raises BatchdiffError: one of them is damaged, in use or stale, or cannot be compared.
        """

    def if_different(self) -> SwapTask | None:
        """Return the task to continue with if the two files differ; None if there is none.

        :raises GuestError: the operator must decide what to do.
        """

    def after_publish(self) -> list[str]:
        """Do what must be done before the outgoing file may be retired; return remarks for the operator."""

    def before_end(self) -> list[str]:
        """Do what no later run will do, because the final step is about to be recorded; return remarks."""


@runtime_checkable
class Writer(Protocol):
    """A task that writes its incoming file, unless an earlier run has published it."""

    def write(self, fd: int, outgoing: Image, data_fd: int | None = None) -> list[str]:
        """Write the incoming image to an empty file, from the outgoing one; return remarks for the operator.

        ``data_fd``: another empty file, for the data of an overlay with a data file; otherwise None.

        :raises BatchdiffError, FormatError, OSError: it cannot be written.
        """


def is_in_place(task: SwapTask) -> bool:
    """Return whether the incoming file takes the outgoing one's own name."""
    return task.incoming.source.path == task.outgoing.names.own
