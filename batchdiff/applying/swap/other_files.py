"""Delete the extents or the data file of an image, once its own file, which names them, is deleted.

::

    web01.vmdk                   renamed, checked, unlinked: from then on the image counts as deleted
    web01-f001.vmdk, ...         each by itself: renamed, checked again, unlinked

If a process dies in between, the next run finds the remaining files by their fingerprints, under either name. The
plan has the fingerprints of an original's files; restore records that of an overlay's data file before it deletes
the overlay.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from batchdiff.applying.checks.no_dependents import require_no_dependents
from batchdiff.applying.guests.file_names import original_names
from batchdiff.applying.guests.guest_files import KnownPart, parts_left
from batchdiff.applying.session.session import Run
from batchdiff.applying.swap import retire
from batchdiff.applying.swap.refusals import open_unseen
from batchdiff.errors import InUseError
from batchdiff.files import own_files
from batchdiff.files.fingerprint import fingerprint_at
from batchdiff.image.files import identify, open_image_file
from batchdiff.image.in_use.check import Purpose
from batchdiff.image.in_use.hold import Held
from batchdiff.linux.call_failures import AGAIN


def delete_other_files(
    parts: Iterable[KnownPart], run: Run, *, of: str, freed: list[int | None], but: tuple[str, ...] = ()
) -> list[str]:
    """Delete the unchanged other files of a deleted image; return a remark about each changed one.

    ``of``: the image, in words; ``but``: the names that it had. ``freed`` gets the bytes that each deletion frees,
    None if unknown.

    :raises BatchdiffError, OSError: one cannot be deleted safely.
    """
    remarks = []
    for path, known in parts_left(parts):
        now = fingerprint_at(path)
        if now is not None and known.is_unwritten(now):
            freed.append(_delete(path, but, run))
        else:
            remarks.append(f"{path}, a part of {of}, was not deleted: {known.changes(now)}")
    return remarks


def _delete(path: str, but: tuple[str, ...], run: Run) -> int | None:
    own = path.removesuffix(own_files.DELETING)
    deleting = original_names(own).deleting
    fd = open_image_file(path)
    held = Held()
    try:
        held.take(path, fd, Purpose.GUEST)
        if path == own:
            _require_free(held, path, but, run)
            retire.move(fd, path, deleting)
            run.journal.record_changed(identify(fd))
        _require_free(held, deleting, but, run, own)
        return retire.delete(fd, deleting, run.template)
    finally:
        held.release()
        os.close(fd)


def _require_free(held: Held, path: str, but: tuple[str, ...], run: Run, *former: str) -> None:
    held.check()
    usage = held.alone()
    if usage.objection:
        remedy = f"Stop whatever is using it, {AGAIN}"
        raise InUseError(f"{path} was not deleted", why=usage.objection, remedy=remedy)
    if usage.unknown and not run.session.unseen:
        raise open_unseen(path, usage.unknown)
    require_no_dependents(run.dependents, path, *former, but=but)
    run.check_template()
