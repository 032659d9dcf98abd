"""The task of a guest, as a protocol: the file to retire, the one that takes its place, and their comparison.

::

    ApplyTask      apply_task      writes the overlay, which takes the place of the original
    RestoreTask    restore_task    gives back the original, or an image that an earlier restore has rebuilt
    RebuildTask    rebuild_task    writes an image of what the VM sees, which takes the place of the overlay
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
    """The outgoing file: its image under its own name, all its names, and its identity.

    ``parts``: the paths of other files that are deleted with an overlay. The plan lists those of an original.
    """

    source: ImageSource
    names: FileNames
    known: Fingerprint
    parts: tuple[str, ...] = ()


class SwapTask(Protocol):
    """The work on one guest, which ``swap.Swap`` drives."""

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
        """The file that takes its place."""

    @property
    def retire(self) -> Retire:
        """The way in which the outgoing file is retired."""

    @property
    def original(self) -> PlannedImage:
        """The guest's original as it was planned; its other files are deleted after its own file."""

    @property
    def data_file(self) -> str | None:
        """The planned path of the overlay's data file; None if the overlay contains its own data."""

    @property
    def needs_comparison(self) -> bool:
        """False if there is nothing to compare, or if the operator gives up what differs."""

    @property
    def older(self) -> str | None:
        """The path at which an older original stays in quarantine after a restore; None if there is none."""

    def check(self, outgoing: Image) -> None:
        """Check that the open outgoing image is as it should be, and that the template has not changed.

        :raises BatchdiffError: one of them has changed.
        """

    def verify(self, outgoing: Image, incoming: ImageSource, ended: Callable[[], bool]) -> None:
        """Compare the open outgoing image with the incoming one; end early once ``ended`` returns true.

        :raises DifferenceError: they differ.
        :raises VerificationError: one of them is damaged.
        :raises StopError: it was ended early.
        """

    def if_different(self) -> SwapTask | None:
        """Return the task for two files that differ; None if the difference must be reported as a failure.

        :raises GuestError: the operator must decide.
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

        ``data_fd``: another empty file, for the data of an overlay that is to have a data file.
        """


def is_in_place(task: SwapTask) -> bool:
    """Return whether the incoming file takes the outgoing one's own name."""
    return task.incoming.source.path == task.outgoing.names.own
