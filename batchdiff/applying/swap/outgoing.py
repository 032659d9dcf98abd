"""The outgoing file: found by its identity, opened at its present path, and held against writers."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace

from batchdiff.applying.checks.no_dependents import require_no_dependents
from batchdiff.applying.guests.file_names import original_names
from batchdiff.applying.guests.guest_files import KnownPart
from batchdiff.applying.guests.next_action import OutgoingAt
from batchdiff.applying.journal.records import Goal
from batchdiff.applying.session.session import Run
from batchdiff.applying.swap import retire
from batchdiff.applying.swap.observe import outgoing_at
from batchdiff.applying.swap.refusals import open_unseen
from batchdiff.applying.swap.task import SwapTask
from batchdiff.choices import Retire
from batchdiff.errors import GuestError, InUseError
from batchdiff.files.identity import identity_of
from batchdiff.image.backing.heads import identifier_of
from batchdiff.image.image import Image
from batchdiff.image.in_use.check import Purpose
from batchdiff.image.in_use.hold import Held, hold
from batchdiff.image.layer import Layer
from batchdiff.image.open import inspect, open_image
from batchdiff.linux.call_failures import AGAIN, UNDO_SECOND_NAME, obstacle
from batchdiff.linux.permissions import Deed
from batchdiff.plan.earlier_plans import EarlierPlans


class OutgoingFile:
    """The outgoing file of one task."""

    def __init__(self, task: SwapTask, run: Run) -> None:
        self._task, self._run = task, run
        self._opened = ExitStack()
        self._identifier: str | None = None
        self._image: Image | None = None
        self._held: Held | None = None

    @property
    def where(self) -> OutgoingAt:
        """The present place of the file."""
        return outgoing_at(self._task)

    @property
    def path(self) -> str:
        """The present path of the file; its own path if it is gone."""
        outgoing, where = self._task.outgoing, self.where
        return outgoing.source.path if where is OutgoingAt.GONE else outgoing.names.at(where)

    @property
    def former_path(self) -> str:
        """The path to put the file back at: its own or, if that is taken, the one in quarantine."""
        names = self._task.outgoing.names
        return names.quarantine if os.path.lexists(names.own) else names.own

    @property
    def lasting_path(self) -> str:
        """The path of the file after an error: one that was set aside to be deleted is put back."""
        return self.former_path if self.where is OutgoingAt.DELETING else self.path

    def image(self, *, moved: bool) -> Image:
        """Return the image, opened, held and checked; it stays open until :meth:`close`.

        ``moved``: whether batchdiff may have renamed the file, which changes its ctime.

        :raises BatchdiffError: it cannot be used or retired.
        """
        if self._image is None:
            path = self.path
            self._run.session.require_no_domain(path)
            image = self._opened.enter_context(open_image(replace(self._task.outgoing.source, path=path)))
            self._held = self._opened.enter_context(hold(image, Purpose.GUEST))
            now = image.layers[0].fingerprint()
            if moved and self._task.outgoing.known.is_unwritten(now):
                # A process may have died after a rename, before it recorded the new ctime.
                self._run.journal.record_changed(now)
            self._task.check(image)
            if path == self._task.outgoing.names.own:
                self._require_retirable(image)
            if self._task.retire is not Retire.KEEP:
                # Both checks come early to save work, and are repeated before the file is retired.
                self._require_unseen_allowed(self._held.unknown)
                self._identifier = identifier_of(image.layers[0].fd)
                self.require_no_dependents()
            inspect(image)
            self._image = image
        return self._image

    def _require_retirable(self, image: Image) -> None:
        if self._task.retire is Retire.KEEP:
            return
        own = image.layers[0]
        for layer in (own, *self._deleted_with(image)):
            names = self._task.outgoing.names if layer is own else original_names(layer.path)
            folders = (os.path.dirname(self._run.session.plan_path), os.path.dirname(layer.path))
            plans = EarlierPlans(filter(None, folders))
            against = retire.objection(layer.fd, names, self._task.retire, self._task.goal, plans=plans)
            against = against or obstacle(Deed.RENAME, layer.path)
            if against is not None:
                raise GuestError(f"{self._task.guest} was left unchanged", why=against.why, remedy=against.remedy)

    def _deleted_with(self, image: Image) -> list[Layer]:
        if self._task.retire is not Retire.DELETE:
            return []
        others = image.own_files[1:]
        if self._task.goal is not Goal.RESTORE:
            return others
        # The operator may have given the overlay another data file, which is left alone.
        return [layer for layer in others if layer.path in self._task.outgoing.parts]

    def check_holds(self) -> None:
        """If a program wants to write to a held file, let that program continue, and raise an error.

        :raises BatchdiffError: there is such a program.
        """
        self._run.held.check()
        if self._held is not None:
            self._held.check()

    def check_unchanged(self) -> None:
        """Call :meth:`check_holds`; if the image is open, make sure that neither it nor the template has changed.

        :raises BatchdiffError: one of the checks fails.
        """
        self.check_holds()
        if self._image is not None:
            self._task.check(self._image)

    def must_end(self) -> bool:
        """Return whether the comparison must end early."""
        broken = self._run.held.is_broken() or (self._held is not None and self._held.is_broken())
        return broken or self._run.stop.is_asked

    def require_alone(self) -> None:
        """Make sure that no other program has the image's own files open.

        :raises GuestError: a program has one of them open or, before a deletion without `--unseen`, could have it
            open unnoticed.
        """
        if self._held is None:
            return
        usage = self._held.alone()
        if usage.objection:
            remedy = f"Stop whatever is using it, {AGAIN}"
            raise InUseError(f"{self.lasting_path} was left unchanged", why=usage.objection, remedy=remedy)
        self._require_unseen_allowed(usage.unknown)

    def _require_unseen_allowed(self, unknown: str) -> None:
        if unknown and self._task.retire is Retire.DELETE and not self._run.session.unseen:
            raise open_unseen(self.lasting_path, unknown)

    def require_no_dependents(self, *former: str) -> None:
        """Make sure that no other image depends on the file or, right before a deletion, on its other files.

        :raises GuestError: an image depends on one of them, or perhaps does; or the incoming file is the same file
            as this one.
        """
        incoming = self._task.incoming.source.path
        if incoming != self.path and identity_of(incoming) == identity_of(self.path) is not None:
            raise GuestError(
                f"{self.lasting_path} was left alone",
                why=f"{incoming} is the same file by another name",
                remedy=UNDO_SECOND_NAME,
            )
        require_no_dependents(
            self._run.dependents, self.path, *former, identifier=self._identifier, lasting=self.lasting_path
        )
        if self._image is not None:
            own = self._image.layers[0].path
            for layer in self._deleted_with(self._image):
                require_no_dependents(self._run.dependents, layer.path, but=(own, self.path, *former))

    def parts(self) -> tuple[KnownPart, ...]:
        """Return the other files of an overlay that are deleted with it."""
        layers = [] if self._image is None else self._image.own_files[1:]
        return tuple((each.path, each.fingerprint()) for each in layers if each.path in self._task.outgoing.parts)

    def close(self) -> None:
        """Close the image and release its files."""
        self._image = self._held = None
        self._opened.close()
