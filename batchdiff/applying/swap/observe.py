"""Find out where the two files of a task are now."""

from __future__ import annotations

import os

from batchdiff.applying.guests.file_names import FileNames, where_is
from batchdiff.applying.guests.next_action import IncomingAt, OutgoingAt, Scene
from batchdiff.applying.journal.records import Fate
from batchdiff.applying.results.outcome import Original
from batchdiff.applying.swap.task import SwapTask, is_in_place
from batchdiff.errors import ImageError
from batchdiff.files.fingerprint import fingerprint_at
from batchdiff.image.open import open_image
from batchdiff.image_source import ImageSource


def observe(task: SwapTask, temporary: str | None, *, verified: bool) -> Scene:
    """Return the state of a task's two files; ``temporary``: the unfinished file that the journal names."""
    return Scene(outgoing_at(task), incoming_at(task, temporary), verified, task.retire, is_in_place(task))


def outgoing_at(task: SwapTask) -> OutgoingAt:
    """Return the present place of the outgoing file."""
    return where_is(task.outgoing.names, task.outgoing.known)


def incoming_at(task: SwapTask, temporary: str | None) -> IncomingAt:
    """Return the state of the incoming file."""
    incoming = task.incoming
    if incoming.ready is not None:
        return IncomingAt.READY
    if incoming.was_published or incoming.known is not None:
        return IncomingAt.PUBLISHED if _is_in_its_place(task) else IncomingAt.LOST
    return IncomingAt.UNFINISHED if temporary is not None and os.path.lexists(temporary) else IncomingAt.NONE


def _is_in_its_place(task: SwapTask) -> bool:
    incoming, now = task.incoming, fingerprint_at(task.incoming.path)
    if now is None or incoming.changed_part() is not None:
        return False
    if not incoming.was_published:
        return incoming.known is not None and incoming.known.is_unwritten(now)
    # The VM uses whatever file is at that path; but once a file has been compared, no other is accepted.
    is_outgoing = is_in_place(task) and task.outgoing.known.is_unwritten(now)
    return not is_outgoing and (incoming.compared is None or incoming.compared.is_same_file(now))


def fate_of_original(names: FileNames, where: OutgoingAt) -> Original:
    """Return the fate of an original that batchdiff has not deleted."""
    match where:
        case OutgoingAt.GONE:
            return Original(Fate.GONE)
        case OutgoingAt.NAMED:
            return Original(Fate.KEPT)
        case _:
            return Original(Fate.QUARANTINED, names.at(where))


def can_be_opened(overlay: ImageSource) -> bool:
    """Return whether an image can be opened with its declared chain."""
    try:
        open_image(overlay).close()
    except ImageError:
        return False
    return True
