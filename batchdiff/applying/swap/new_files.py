"""The temporary files of a new image; if an overlay has a data file, that gets its final name first.

::

    .web01.qcow2.XX.batchdiff-tmp         the overlay      written, synced  -> verified -> published: web01.qcow2
    .web01.qcow2.XX.data.batchdiff-tmp    its data file    written, synced, recorded -> web01.data.raw

The overlay's header contains the final name of the data file, so the data file is renamed before the two are
verified. If they are discarded, the data file is removed first: a file with its name is the right one if it has
the recorded fingerprint and the overlay still has its temporary name. So the record and the overlay must be on
disk before the data file is renamed.
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
    """Refuse a task whose incoming file cannot get its own name, or whose overlay's data file cannot.

    ``left``: the path of the overlay that a restore of the guest left behind, if any.

    :raises GuestError: another file has one of these names, or the system would not let a file get it.
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
    """Create the file of an image, and its data file if it is to have one; return their fingerprints.

    ``data_file``: the final path of the data file, or None. ``fill`` gets the descriptors of the empty files, and
    writes them. ``record`` gets the data file's fingerprint, or None, once both files are on disk, before the data
    file is renamed. ``changes`` gets the bytes by which each file changes the free space, None if unknown.

    :raises OSError: a file cannot be created, written or renamed. The files must then be discarded: after a
        failed fsync, the kernel may have marked pages clean that it did not write.
    :raises BatchdiffError: the data file has been removed or replaced.
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
    """Rename a data file, durably and without replacing another file."""
    fd = open_image_file(source)
    try:
        retire.move(fd, source, target)
    finally:
        os.close(fd)


def unfinished_files(state: GuestState, data_file: str | None) -> tuple[str, ...]:
    """Return the paths of files that a process may have left behind when it died before publishing its image.

    ``data_file``: the planned path of the overlay's data file, if any.
    """
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
    """Return whether the file at ``data_file`` belongs to an overlay that still has its temporary name."""
    now = fingerprint_at(data_file) or NO_FILE
    known = state.data_file
    return (
        not state.published
        and known is not None
        and known.is_unwritten(now)
        and state.temporary is not None
        and os.path.lexists(state.temporary)
    )
