"""Take one guest from its present state to the end of its task.

Look at the files, ask :mod:`~batchdiff.applying.guests.next_action` what is next, record and do it, look again.

::

    prepare()   put back, discard, write          until there is something to verify
    verify()    compare the two                   may run in another thread, while the next guest is written
    finish()    publish, retire

After a failure anywhere, what was not published is rolled back, and the outgoing file has its name.
"""

from __future__ import annotations

import os
from dataclasses import replace

from batchdiff.applying.checks.no_dependents import require_no_dependents
from batchdiff.applying.guests.file_names import discard, require_lasting
from batchdiff.applying.guests.next_action import Action, IncomingAt, OutgoingAt, Scene, next_action
from batchdiff.applying.journal.leftovers import leftover
from batchdiff.applying.journal.records import Fate, Goal, Standing, Step
from batchdiff.applying.results.outcome import Original
from batchdiff.applying.session.session import Run
from batchdiff.applying.swap import retire
from batchdiff.applying.swap.endings import (
    another_file,
    exists_already,
    lost,
    opens,
    original_at,
    quarantined_by_another,
)
from batchdiff.applying.swap.incoming import IncomingFile
from batchdiff.applying.swap.outgoing import OutgoingFile
from batchdiff.applying.swap.task import Task
from batchdiff.choices import Retire
from batchdiff.errors import GuestError
from batchdiff.files import own_files
from batchdiff.files.atomic_write import sync_folder
from batchdiff.files.fingerprint import Fingerprint, fingerprint_at
from batchdiff.image.files import identify, open_image_file
from batchdiff.image.image import Image
from batchdiff.linux.call_failures import naming, obstacle
from batchdiff.linux.permissions import Deed


class Conversion:
    """One guest in progress. ``notes``: remarks for the operator; ``original``: what became of it, in the end."""

    def __init__(self, task: Task, run: Run) -> None:
        self.task, self._run = task, run
        known = run.journal.standing(task.guest)
        self._standing = Standing(Step.CHECKED, task.goal) if known is None else replace(known, goal=task.goal)
        if known is not None and known.goal is not task.goal:
            # Another verb's outgoing file is another file: what was done to its name does not count here.
            self._standing = replace(self._standing, moved=False, deleting=False)
        self._verified = task.verified
        self._incoming = IncomingFile(task)
        self._outgoing = OutgoingFile(task, run)
        self._done: set[Action] = set()
        self.notes: list[str] = []
        self.original = Original(Fate.UNTOUCHED)

    @property
    def done(self) -> frozenset[Action]:
        """The actions that this process has taken."""
        return frozenset(self._done)

    def prepare(self) -> bool:
        """Continue until the two files must be compared; return False if that is not necessary."""
        if self.task.goal is Goal.APPLY and not self._standing.published:
            self._make_up_for_the_record()
        if self._standing.temporary not in {None, self._incoming.ready}:
            self._discard()  # even if another verb wrote it: what it was made from still exists
        if self.task.verified and self._outgoing.where is not OutgoingAt.GONE:
            self._image()  # nothing is compared, but before anything moves, see who uses the outgoing file
        if self._continue_until({Action.VERIFY, Action.DONE}) is Action.DONE:
            return False
        self._image()  # open it now: verify() may run in another thread, which must not record anything
        return True

    def verify(self) -> None:
        """Compare the two files.

        :raises VerificationError: they differ.
        """
        self.task.verify(self._image(), self._incoming.to_compare(), self._outgoing.must_end)
        self._verified = True

    def finish(self) -> None:
        """Continue to the end.

        :raises PlanError: what was compared has changed since.
        """
        if Action.UNLINK not in self._done:
            self._outgoing.check_unchanged()
        incoming = self._incoming
        # Not for an original that only gets its name back, which is not a new file.
        if self._verified and incoming.ready == self._standing.temporary and incoming.known is not None:
            self._note(Step.VERIFIED, incoming.known)
        self._continue_until({Action.DONE})
        self._settle()

    def _make_up_for_the_record(self) -> None:
        """Sync and record the overlay if a process died right after publishing it."""
        incoming = self._incoming
        if self._incoming_at() is IncomingAt.PUBLISHED:
            sync_folder(os.path.dirname(incoming.path))
            incoming.known = fingerprint_at(incoming.path)
            self._note(Step.PUBLISHED, incoming.known)
            self.notes += self.task.on_published()

    def _continue_until(self, ends: set[Action]) -> Action:
        """Take actions until the next one would be one of ``ends``, and return that one."""
        while (action := next_action(self._scene())) not in ends:
            self._run.stop.check()
            self._outgoing.check()
            self._perform(action)
            self._done.add(action)
        return action

    def _scene(self) -> Scene:
        task = self.task
        return Scene(self._outgoing.where, self._incoming_at(), self._verified, task.retire, task.one_name)

    def _incoming_at(self) -> IncomingAt:
        return self._incoming.at(self._standing.temporary)

    def _perform(self, action: Action) -> None:
        match action:
            case Action.PUT_BACK:
                self._put_back()
            case Action.DISCARD:
                self._discard()
            case Action.WRITE:
                self._write()
            case Action.PUBLISH:
                self._publish()
            case Action.QUARANTINE:
                self._move_outgoing(self.task.outgoing.names.quarantine)
            case Action.SET_ASIDE:
                self._move_outgoing(self.task.outgoing.names.deleting)
            case Action.UNLINK:
                # Check again under the private name: no program can open it by its old name any longer.
                fd, names = self._image().layers[0].fd, self.task.outgoing.names
                self._outgoing.require_no_dependents(names.own, names.quarantine)
                self._outgoing.check_unchanged()
                self._outgoing.require_alone()
                # Recorded before the deletion: if the file is gone after a crash, batchdiff has deleted it.
                if not self._standing.deleting:
                    self._note(Step.RETIRING, deleting=True)
                retire.delete(fd, names.deleting, self._run.template)
            case _:
                if self._incoming_at() is not IncomingAt.LOST:
                    self._image()  # raises an error if something is wrong with the outgoing file
                raise lost(self.task, self._outgoing.where)

    def check_holds(self) -> None:
        """Name the program for which a verification was ended, because it wants to write.

        :raises BatchdiffError: there is one.
        """
        self._outgoing.check()

    def _image(self) -> Image:
        return self._outgoing.image(moved=self._standing.moved)

    def _write(self) -> None:
        target = self._incoming.path
        if os.path.lexists(target) and not self.task.one_name:
            raise exists_already(self.task, leftover(self._run.journal.notes, self.task.guest))
        require_lasting(target)
        image = self._image()
        temporary = own_files.temporary(target)
        if fault := obstacle(Deed.RENAME, temporary):  # before the whole file is written in vain
            raise GuestError(f"{target} was not written", why=fault.why, remedy=fault.remedy)
        # Recorded before it exists, so that the next run can remove it if this process dies.
        self._note(Step.CHECKED, temporary=temporary)
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with naming(temporary):
                self.notes += self.task.write(fd, image)
                # If this fails, the file is discarded: the kernel may have dropped pages and marked them clean.
                os.fsync(fd)
                self._incoming.known = identify(fd)
        finally:
            os.close(fd)
        self._note(Step.WRITTEN)
        self._incoming.ready = temporary

    def _publish(self) -> None:
        if self._incoming.ready is not None and self._incoming.ready != self._standing.temporary:
            # An original gets its name back: an image that rests on it by its name in quarantine would lose it.
            require_no_dependents(self._run.dependents, self._incoming.ready)
        published = self._incoming.publish()
        self._run.journal.record_changed(published)
        self._note(Step.PUBLISHED, published)
        self.notes += self.task.on_published()

    def _move_outgoing(self, target: str) -> None:
        image = self._image()
        self._outgoing.check_unchanged()
        self._outgoing.require_alone()
        self._outgoing.require_no_dependents()
        self._move(image.layers[0].fd, self._outgoing.path, target)

    def _move(self, fd: int, source: str, target: str) -> None:
        # Recorded before the rename: if this process dies in between, the next run knows who renamed the file.
        if not self._standing.moved or self._standing.deleting:
            self._note(Step.RETIRING, moved=True, deleting=False)
        retire.move(fd, source, target)
        self._run.journal.record_changed(identify(fd))

    def _put_back(self) -> None:
        """Undo what a process that died, or this one, did to the outgoing file's name."""
        names = self.task.outgoing.names
        # If another file has its own name, such as an overlay with one name for both, it returns to quarantine.
        source, target = self._outgoing.path, names.quarantine if os.path.lexists(names.own) else names.own
        if source == target:
            raise another_file(self.task, source)
        if self.task.goal is Goal.APPLY and not (self._standing.published or self._standing.moved):
            raise quarantined_by_another(source)
        fd = open_image_file(source)
        try:
            self._move(fd, source, target)
        finally:
            os.close(fd)
        self.close()  # it was opened under its other name

    def _discard(self) -> None:
        self._incoming.forget()
        if self._standing.temporary is not None:
            discard(self._standing.temporary)
        self._standing = replace(self._standing, temporary=None)

    def _settle(self) -> None:
        """Record the end, unless apply keeps the original or purge has recorded its own."""
        self.original = self._fate()
        kept_or_purged = self.task.retire is Retire.KEEP or self._standing.step is Step.PURGED
        stays = self.task.goal is Goal.APPLY and kept_or_purged
        if not stays and self._standing.step is not self.task.final:
            self.notes += self.task.on_ended()
            self._note(self.task.final, fate=self.original.fate, aside=self.original.aside)

    def _fate(self) -> Original:
        if self.task.goal is Goal.RESTORE:  # the overlay is deleted, and the original is back or rebuilt
            older = self.task.older
            return Original(Fate.KEPT) if older is None else Original(Fate.QUARANTINED, older)
        ours = self._standing.deleting or self._standing.fate is Fate.DELETED
        where = self._outgoing.where
        if Action.UNLINK in self._done or (where is OutgoingAt.GONE and ours):
            return Original(Fate.DELETED)
        if where is OutgoingAt.GONE and not opens(self.task.incoming.source):
            raise lost(self.task, self._outgoing.where)
        return original_at(self.task.outgoing.names, where)

    def _note(self, step: Step, identity: Fingerprint | None = None, **changes: object) -> None:
        standing = replace(self._standing, step=step, **changes)  # type: ignore[arg-type]  # fields of a standing
        standing = self.task.noted(standing, identity)
        self._run.journal.record(self.task.guest, standing)
        if step is not self._standing.step or step is Step.CHECKED:
            self._run.session.watch.step(self.task.guest, step)
        self._standing = standing

    def abandon(self) -> None:
        """Roll back what was not published: the outgoing file gets its name back, no unfinished file stays."""
        self._verified = False
        while True:
            scene = self._scene()
            if scene.incoming is IncomingAt.READY:
                scene = replace(scene, incoming=IncomingAt.UNFINISHED)
            action = next_action(scene)
            if action not in {Action.PUT_BACK, Action.DISCARD}:
                break
            if action is Action.DISCARD and self._standing.temporary is None:
                break  # what is ready is not a new file, but an original in quarantine
            self._perform(action)
        self._note_rolled_back()

    def _note_rolled_back(self) -> None:
        """Take back the record of an unfinished file that is gone, which the next run need not clean up."""
        noted = self._run.journal.standing(self.task.guest)
        if noted is None or noted.published or noted.goal is not Goal.APPLY or noted.temporary is None:
            return
        # An apply may have died before it recorded a publication: restore must not forget that overlay.
        if self.task.goal is not Goal.APPLY or self._incoming_at() is not IncomingAt.NONE:
            return
        if self._standing.temporary is None:
            moved = self._outgoing.where is not OutgoingAt.NAMED  # if it is back, its new ctime is in the journal
            self._standing = replace(self._standing, step=Step.CHECKED, overlay=None, moved=moved)
            self._run.journal.record(self.task.guest, self._standing)

    def close(self) -> None:
        """Release the outgoing image."""
        self._outgoing.close()
