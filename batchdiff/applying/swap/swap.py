"""Take one guest from its present state to the end of its task.

::

    prepare()   put back, discard, write     up to the comparison; to the end if nothing needs to be compared
    verify()    compare the two files        may run in another thread, while the next guest is written
    finish()    publish, retire, record

After a failure, abandon() rolls back; if that fails, too, the next run rolls back.
"""

from __future__ import annotations

import os
from dataclasses import replace

from batchdiff.applying.checks.no_dependents import require_no_dependents
from batchdiff.applying.guests.file_names import original_names, where_is
from batchdiff.applying.guests.guest_files import parts_left
from batchdiff.applying.guests.next_action import Action, IncomingAt, OutgoingAt, next_action
from batchdiff.applying.journal.leftovers import leftover
from batchdiff.applying.journal.records import Fate, Goal, Step
from batchdiff.applying.results.outcome import UNTOUCHED, Original
from batchdiff.applying.session.session import Run
from batchdiff.applying.swap import refusals, retire
from batchdiff.applying.swap.guest_journal import GuestJournal
from batchdiff.applying.swap.new_files import discard_new_files, require_name, write_new_files
from batchdiff.applying.swap.observe import can_be_opened, fate_of_original, incoming_at, observe
from batchdiff.applying.swap.other_files import delete_other_files
from batchdiff.applying.swap.outgoing import OutgoingFile
from batchdiff.applying.swap.task import SwapTask, Writer
from batchdiff.choices import Retire
from batchdiff.files import own_files
from batchdiff.files.atomic_write import sync_folder
from batchdiff.files.fingerprint import fingerprint_at
from batchdiff.image.files import identify, open_image_file
from batchdiff.image.image import Image


class Swap:
    """One guest in progress. Methods that fail raise BatchdiffError, FormatError or OSError.

    ``original``: what became of the original; UNTOUCHED until the end. ``changes``: the bytes by which each file
    written or deleted has changed the free space; None if unknown.
    """

    def __init__(self, task: SwapTask, run: Run) -> None:
        self.task, self._run = task, run
        self._journal = GuestJournal(task, run.session)
        self._outgoing = OutgoingFile(task, run)
        self._verified = not task.needs_comparison
        self._done: set[Action] = set()
        self.remarks: list[str] = []
        self.original = UNTOUCHED
        self.changes: list[int | None] = []

    @property
    def done(self) -> frozenset[Action]:
        """The actions of ``next_action`` taken so far, except those of a rollback."""
        return frozenset(self._done)

    def prepare(self) -> bool:
        """Take actions until the two files must be compared; return False if nothing is left to do."""
        if self.task.goal is Goal.APPLY and not self._journal.state.published:
            self._record_missed_publication()
        if self._journal.state.temporary is not None:
            self._discard()  # even if another verb wrote the file: the image that it was made from still exists
        if self.task.incoming.is_quarantined:
            self._require_name()  # before the comparison: the name may be taken
        if not self.task.needs_comparison and self._outgoing.where is not OutgoingAt.GONE:
            self._image()  # even if nothing is compared, find users of the outgoing file before any rename
        if self._continue_until({Action.VERIFY, Action.DONE}) is Action.DONE:
            return False
        self._image()  # open it now: verify() may run in another thread, which must not record anything
        return True

    def verify(self) -> None:
        """Have the task verify the incoming file."""
        self.task.verify(self._image(), self.task.incoming.to_compare(), self._outgoing.must_end)
        self._verified = True

    def finish(self) -> None:
        """Publish the incoming file, retire the outgoing one, and record the end."""
        if Action.UNLINK not in self._done:
            self._outgoing.check_unchanged()
        incoming = self.task.incoming
        # An original that only gets its name back is not a new file, so there is nothing to record.
        if self._verified and incoming.known is not None and not incoming.is_quarantined:
            self._journal.record_verified(incoming.known)
        self._continue_until({Action.DONE})
        self._delete_other_files()
        self._end()

    def check_holds(self) -> None:
        """Raise BatchdiffError if a program wants to write to a held file, and let that program continue."""
        self._outgoing.check_holds()
        self.task.incoming.check_held()

    def abandon(self) -> None:
        """Roll back any unpublished work."""
        self._verified = False
        while True:
            scene = observe(self.task, self._journal.state.temporary, verified=False)
            if scene.incoming is IncomingAt.READY:
                scene = replace(scene, incoming=IncomingAt.UNFINISHED)
            action = next_action(scene)
            if action not in {Action.PUT_BACK, Action.DISCARD}:
                break
            if action is Action.DISCARD and self._journal.state.temporary is None:
                break  # what is ready is not a new file, but an original in quarantine
            self._perform(action)
        # An overlay that was published without a record must stay known, so that restore finds it.
        if self.task.goal is Goal.APPLY and self._incoming_at() is IncomingAt.NONE:
            # A file that is back under its own name does not count as moved: the journal has its new ctime.
            self._journal.record_rolled_back(moved=self._outgoing.where is not OutgoingAt.NAMED)

    def close(self) -> None:
        """Close both images and release their files."""
        self.task.incoming.close()
        self._outgoing.close()

    def _record_missed_publication(self) -> None:
        """Make a publication durable, and record it, if a process died before doing so."""
        incoming = self.task.incoming
        if self._incoming_at() is IncomingAt.PUBLISHED:
            sync_folder(os.path.dirname(incoming.path))
            incoming.known = fingerprint_at(incoming.path)
            if incoming.known is None:
                raise refusals.error_vanished(incoming.path)
            self._journal.record_published(incoming.known)
            self.remarks += self.task.after_publish()

    def _continue_until(self, ends: set[Action]) -> Action:
        while True:
            scene = observe(self.task, self._journal.state.temporary, verified=self._verified)
            action = next_action(scene)
            if action in ends:
                return action
            self._run.stop.check()
            self._outgoing.check_holds()
            self._perform(action)
            self._done.add(action)

    def _incoming_at(self) -> IncomingAt:
        return incoming_at(self.task, self._journal.state.temporary)

    def _image(self) -> Image:
        return self._outgoing.image(moved=self._journal.state.moved)

    def _perform(self, action: Action) -> None:
        names = self.task.outgoing.names
        match action:
            case Action.PUT_BACK:
                self._put_back()
            case Action.DISCARD:
                self._discard()
            case Action.WRITE if isinstance(self.task, Writer):
                self._write(self.task)
            case Action.PUBLISH:
                self._publish()
            case Action.QUARANTINE:
                self._move_outgoing(names.quarantine)
            case Action.SET_ASIDE:
                self._move_outgoing(names.deleting)
            case Action.UNLINK:
                self._unlink_outgoing()
            case _:
                if self._incoming_at() is IncomingAt.LOST:
                    raise refusals.lost_meanwhile(self.task, self._outgoing.where)
                self._image()  # raises an error if something is wrong with the outgoing file
                raise refusals.lost(self.task, self._outgoing.where)

    def _put_back(self) -> None:
        source, target, state = self._outgoing.path, self._outgoing.former_path, self._journal.state
        if source == target:
            raise refusals.another_file(self.task, source, self._run.journal.history)
        if self.task.goal is Goal.APPLY and not (state.published or state.moved):
            raise refusals.quarantined_by_another(source)
        fd = open_image_file(source)
        try:
            self._move(fd, source, target)
        finally:
            os.close(fd)
        self.close()  # an image that is open has the file's former path

    def _discard(self) -> None:
        self.task.incoming.discarded()
        discard_new_files(self._journal.state, self.task.data_file)
        self._journal.forget_temporary()

    def _write(self, writer: Writer) -> None:
        incoming, task = self.task.incoming, self.task
        self._require_name()  # before a whole file is written in vain
        image, temporary = self._image(), own_files.temporary(incoming.path)
        data_file = task.data_file if task.goal is Goal.APPLY else None
        self._journal.record_temporary(temporary)

        def fill(fd: int, data_fd: int | None) -> None:
            self.remarks += writer.write(fd, image, data_fd)

        written = write_new_files(temporary, data_file, fill, self._journal.record_written, self.changes)
        incoming.known, incoming.data_file = written
        incoming.ready = temporary

    def _require_name(self) -> None:
        require_name(self.task, leftover(self._run.journal.history, self.task.guest))

    def _publish(self) -> None:
        incoming = self.task.incoming
        if incoming.is_quarantined:
            # The rename would break any image that names the original in quarantine as its backing file.
            require_no_dependents(self._run.dependents, str(incoming.ready))
        published = incoming.publish()
        self._run.journal.record_changed(published)
        self._journal.record_published(published)
        self.remarks += self.task.after_publish()

    def _move_outgoing(self, target: str) -> None:
        image = self._image()
        self._outgoing.check_unchanged()
        self._outgoing.require_alone()
        self._outgoing.require_no_dependents()
        self._move(image.layers[0].fd, self._outgoing.path, target)

    def _move(self, fd: int, source: str, target: str) -> None:
        self._journal.record_moving()
        retire.move(fd, source, target)
        self._run.journal.record_changed(identify(fd))

    def _unlink_outgoing(self) -> None:
        fd, names = self._image().layers[0].fd, self.task.outgoing.names
        self._outgoing.require_no_dependents(names.own, names.quarantine)
        self._outgoing.check_unchanged()
        self._outgoing.require_alone()
        self._journal.record_deleting(self._outgoing.parts())
        self.changes.append(retire.delete(fd, names.deleting, self._run.template))

    def _delete_other_files(self) -> None:
        original, state = self.task.original, self._journal.state
        if self.task.goal is Goal.RESTORE and state.deleting and self._outgoing.where is OutgoingAt.GONE:
            self.close()
            # A journal is untrusted input: delete no data file except the plan's.
            parts = [part for part in state.parts if part[0] == self.task.data_file]
            self.remarks += delete_other_files(parts, self._run, of="the overlay", freed=self.changes)
        names = original_names(original.source.path)
        where = where_is(names, original.fingerprints[0])
        # The image that this swap wrote may have got the inode number of the deleted original.
        is_new = where is OutgoingAt.NAMED and Action.WRITE in self._done and self.task.incoming.path == names.own
        if not ((is_new or where is OutgoingAt.GONE) and parts_left(original.other_files)):
            return
        if state.fate is Fate.DELETED or (state.deleting and self.task.goal is not Goal.RESTORE):
            if Action.UNLINK not in self._done and not can_be_opened(self.task.incoming.source):
                raise refusals.lost(self.task, OutgoingAt.GONE)
            self.close()  # delete_other_files opens and holds each file by itself
            self.remarks += delete_other_files(
                original.other_files, self._run, of="the original", but=names.all, freed=self.changes
            )

    def _end(self) -> None:
        self.original = self._original()
        recorded = self._journal.state.step
        stays = self.task.goal is Goal.APPLY and (self.task.retire is Retire.KEEP or recorded is Step.PURGED)
        if not stays and recorded is not self.task.final:
            self.remarks += self.task.before_end()
            self._journal.record_end(self.original)

    def _original(self) -> Original:
        if self.task.goal is Goal.RESTORE:  # the overlay is deleted; the original is back, or an image was rebuilt
            older = self.task.older
            return Original(Fate.KEPT) if older is None else Original(Fate.QUARANTINED, older)
        where, state = self._outgoing.where, self._journal.state
        ours = state.deleting or state.fate is Fate.DELETED
        if Action.UNLINK in self._done or (where is OutgoingAt.GONE and ours):
            return Original(Fate.DELETED)
        if where is OutgoingAt.GONE and not can_be_opened(self.task.incoming.source):
            raise refusals.lost(self.task, where)
        return fate_of_original(self.task.outgoing.names, where)
