"""Record the steps of one guest in the journal, on disk, before anything depends on them."""

from __future__ import annotations

from dataclasses import replace

from batchdiff.applying.journal.records import Fate, Goal, GuestState, Step
from batchdiff.applying.results.outcome import Original
from batchdiff.applying.session.session import Session
from batchdiff.applying.swap.task import SwapTask
from batchdiff.files.fingerprint import Fingerprint


class GuestJournal:
    """The journal of one guest during its task. ``state``: its present state, perhaps not recorded yet."""

    def __init__(self, task: SwapTask, session: Session) -> None:
        self._task, self._session = task, session
        known = session.journal.state(task.guest)
        self.state = GuestState(Step.CHECKED, task.goal) if known is None else replace(known, goal=task.goal)
        if known is not None and known.goal is not task.goal:
            # Another verb recorded these values about its own outgoing file, or about this file under other names.
            self.state = replace(self.state, moved=False, deleting=False, parts=())
            if known.deleting and known.goal is not Goal.RESTORE:
                # If the original is gone, batchdiff deleted it, and its remaining parts are to be deleted.
                self.state = replace(self.state, fate=Fate.DELETED, aside=None)

    def record_temporary(self, path: str) -> None:
        """Record a temporary file before it is created, so that the next run can remove it after a crash."""
        self._record(replace(self.state, step=Step.CHECKED, temporary=path, data_file=None))

    def record_written(self, data_file: Fingerprint | None = None) -> None:
        """Record that the temporary file and any data file are complete and on disk."""
        self._record(replace(self.state, step=Step.WRITTEN, data_file=data_file))

    def record_verified(self, incoming: Fingerprint) -> None:
        """Record that the incoming file was compared, or need not be."""
        self._record(replace(self._identified(incoming), step=Step.VERIFIED))

    def record_published(self, incoming: Fingerprint) -> None:
        """Record that the incoming file has its own name."""
        state = replace(self._identified(incoming), step=Step.PUBLISHED, temporary=None)
        # `published` is about the overlay, and a restore publishes another file.
        self._record(state if self._task.goal is Goal.RESTORE else replace(state, published=True))

    def record_moving(self) -> None:
        """Record that the outgoing file is about to be renamed, so that the next run knows who renamed it."""
        if not self.state.moved or self.state.deleting:
            self._record(replace(self.state, step=Step.RETIRING, moved=True, deleting=False))

    def record_deleting(self, parts: tuple[tuple[str, Fingerprint], ...] = ()) -> None:
        """Record that the outgoing file is about to be deleted: if it is gone after a crash, batchdiff deleted it.

        ``parts``: an overlay's other files, which are deleted later.
        """
        if not self.state.deleting:
            self._record(replace(self.state, step=Step.RETIRING, deleting=True, parts=parts))

    def record_end(self, original: Original) -> None:
        """Record the final step and the fate of the original."""
        before = self.state
        if self._task.final is Step.RESTORED:  # all that the conversion may leave is an older original
            before = GuestState(Step.RESTORED, self._task.goal)
        fate, aside, _ = original
        self._record(replace(before, step=self._task.final, temporary=None, fate=fate, aside=aside))

    def forget_temporary(self) -> None:
        """Leave the unfinished file out of the next record."""
        self.state = replace(self.state, temporary=None)

    def record_rolled_back(self, *, moved: bool) -> None:
        """Withdraw apply's record of an unfinished file that was removed, unless the overlay is published."""
        recorded = self._session.journal.state(self._task.guest)
        if recorded is None or recorded.published or recorded.goal is not Goal.APPLY:
            return
        if recorded.temporary is not None and self.state.temporary is None:
            self.state = replace(self.state, step=Step.CHECKED, overlay=None, moved=moved)
            self._session.journal.record(self._task.guest, self.state)

    def _identified(self, incoming: Fingerprint) -> GuestState:
        if self._task.goal is Goal.RESTORE:
            return replace(self.state, rebuilt=incoming)
        if self._task.goal is Goal.PURGE and self.state.overlay is not None:
            return self.state  # the overlay as it was after the conversion, whatever its VM has written since
        return replace(self.state, overlay=incoming)

    def _record(self, state: GuestState) -> None:
        self._session.journal.record(self._task.guest, state)
        if state.step is not self.state.step or state.step is Step.CHECKED:
            self._session.watch.step(self._task.guest, state.step)
        self.state = state
