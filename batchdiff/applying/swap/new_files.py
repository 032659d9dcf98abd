"""The temporary files of a new image; a data file gets its final name before its overlay does.

::

    .web01.qcow2.XX.batchdiff-tmp         the overlay      written, synced  -> verified -> published: web01.qcow2
    .web01.qcow2.XX.data.batchdiff-tmp    its data file    written, synced, recorded -> web01.data.raw

The overlay's header contains the data file's final name, so the data file is renamed before verification. When
unfinished files are discarded, the data file goes first: its recorded fingerprint identifies it only while the
overlay still has its temporary name. So the record and the overlay must be on disk before the data file is
renamed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from batchdiff.applying.guests.file_names import discard, require_lasting
from batchdiff.applying.journal.records import Goal, GuestState
from batchdiff.applying.swap import refusals, retire
from batchdiff.applying.swap.task import SwapTask, is_in_place
from batchdiff.errors import GuestError
from batchdiff.files import own_files
from batchdiff.files.atomic_write import sync_folder
from batchdiff.files.fingerprint import NO_FILE, Fingerprint, fingerprint_at
from batchdiff.image.files import identify, open_image_file
from batchdiff.linux.call_failures import naming, obstacle
from batchdiff.linux.permissions import Deed


def require_name(task: SwapTask, left: str | None) -> None:
    """Refuse a task if its incoming file, or the data file, cannot be given its final name.

    ``left``: an overlay that a restore left behind.

    :raises GuestError: a name is taken or cannot be given.
    """
    incoming = task.incoming
    if os.path.lexists(incoming.path) and not is_in_place(task):
        raise refusals.exists_already(task, left)
    data_file = task.data_file if task.goal is Goal.APPLY else None
    if data_file is not None and os.path.lexists(data_file):
        raise refusals.data_file_exists(data_file)
    require_lasting(incoming.path)
    if fault := obstacle(Deed.RENAME, incoming.ready or own_files.temporary(incoming.path)):
        what = (
            f"{incoming.ready} cannot be given its final name"
            if incoming.ready
            else f"{incoming.path} was not written"
        )
        raise GuestError(what, why=fault.why, remedy=fault.remedy)


def write_new_files(
    temporary: str,
    data_file: str | None,
    fill: Callable[[int, int | None], None],
    record: Callable[[Fingerprint | None], None],
    changes: list[int | None],
) -> tuple[Fingerprint, Fingerprint | None]:
    """Create the file of an image, and any data file; return their fingerprints.

    ``data_file``: its final path. ``fill`` gets the empty files. ``record`` gets the data file's fingerprint once
    both files are on disk, before the data file is renamed. ``changes`` gets the bytes by which each file changes
    the free space, None if unknown.

    :raises OSError, BatchdiffError: a file cannot be written or renamed. The files must then be discarded: after a
        failed fsync, the kernel may have marked pages as clean without writing them.
    """
    beside = own_files.temporary_data_file(temporary)
    with naming(temporary), _new(temporary) as fd, _new(beside) if data_file else nullcontext() as data_fd:
        fill(fd, data_fd)
        os.fsync(fd)
        known, of_data = identify(fd), None
        changes.append(retire.change_by_writing(fd, temporary))
        if data_fd is not None:
            os.fsync(data_fd)
            of_data = identify(data_fd)
            changes.append(retire.change_by_writing(data_fd, beside))
            sync_folder(os.path.dirname(temporary))  # a data file with its final name must never lack its overlay
    record(of_data)
    if data_file is not None:
        _rename(beside, data_file)
    return known, of_data


@contextmanager
def _new(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def _rename(source: str, target: str) -> None:
    fd = open_image_file(source)
    try:
        retire.move(fd, source, target)
    finally:
        os.close(fd)


def unfinished_files(state: GuestState, data_file: str | None) -> tuple[str, ...]:
    """Return the paths at which a process that died may have left its unpublished image."""
    if state.temporary is None:
        return ()
    found = [state.temporary, own_files.temporary_data_file(state.temporary)]
    if data_file is not None and _is_unpublished(state, data_file):
        found.append(data_file)
    return tuple(found)


def discard_new_files(state: GuestState, data_file: str | None) -> None:
    """Remove the files that :func:`unfinished_files` returns, if they exist.

    :raises BatchdiffError, OSError: one of them cannot be removed.
    """
    if state.temporary is None:
        return
    temporary = own_files.temporary_data_file(state.temporary)
    if data_file is not None and _is_unpublished(state, data_file):
        _rename(data_file, temporary)
    discard(temporary)
    discard(state.temporary)


def _is_unpublished(state: GuestState, data_file: str) -> bool:
    now = fingerprint_at(data_file) or NO_FILE
    known = state.data_file
    return (
        not state.published
        and known is not None
        and known.is_unwritten(now)
        and state.temporary is not None
        and os.path.lexists(state.temporary)
    )
