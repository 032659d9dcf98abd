"""Refuse to move or delete a file that another image depends on.

Locks do not reveal such an image: a VM holds them only while it runs.
"""

from __future__ import annotations

from collections.abc import Iterable

from batchdiff.dependents.dependents import Dependents
from batchdiff.errors import GuestError
from batchdiff.linux.call_failures import AGAIN
from batchdiff.units import few

_SEVERAL = ("those images", "standalone ones", "them")


def require_no_dependents(
    dependents: Dependents,
    path: str,
    *former: str,
    identifier: str | None = None,
    but: Iterable[str] = (),
    lasting: str = "",
) -> None:
    """Make sure that no other image depends on the file at ``path``.

    ``former``: names that the file had a moment ago. ``but``: the paths of images that are allowed to
    depend on it. ``identifier``: an identifier in the file, which other images may use to name it.
    ``lasting``: the path that the file will have after an error, if not ``path``.

    :raises GuestError: an image depends on the file, or perhaps does.
    """
    found = dependents.on(path, former=former, identifier=identifier, but=but)
    if found.doubtful and not found.paths:
        one = len(found.doubtful) == 1
        places, them = ("that file or folder", "it") if one else ("those files or folders", "them")
        raise GuestError(
            f"{lasting or path} was left alone",
            why=f"it may be needed by {few(found.doubtful)}",
            remedy=f"If you are not allowed to read {places}, run the same command as root. Otherwise, repair"
            f" {them} or move {them} away, {AGAIN}",
        )
    if found.paths:
        one = len(found.words) == 1
        images, ones, them = ("that image", "a standalone one", "it") if one else _SEVERAL
        raise GuestError(
            f"{lasting or path} was left alone",
            why=f"{few(found.words)} cannot be read without it",
            remedy=f"Convert {images} to {ones} (`qemu-img convert`) or remove {them}, {AGAIN}",
        )
