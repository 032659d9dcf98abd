"""Which images the ``exclude`` patterns of a manifest keep out of its globs.

::

    guests:  [{glob: "clones/**/*.img"}]       web01.img  old-web.img  archive/db.img
    exclude: ["clones/old-*", "clones/archive/**"]        `---------------`-- left out

They follow the rules of globs. A guest that is listed by path stays one: whoever lists it means it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from batchdiff.image.names import unfit
from batchdiff.model.manifest_globs import glob_matches, would_match
from batchdiff.model.manifest_paths import resolve_folder
from batchdiff.model.manifest_problems import Problems, show

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batchdiff.model.manifest_entries import WrittenGuest

KEY = "exclude"


class Excluded(NamedTuple):
    """What no glob takes in: existing names, and patterns for names that do not exist."""

    paths: frozenset[str]
    likes: tuple[tuple[str, Callable[[str], bool]], ...]

    def has(self, named: str) -> bool:
        """Return whether an absolute name, or the file that it leads to, is left out."""
        if named in self.paths or (self.paths and os.path.realpath(named) in self.paths):
            return True
        if not self.likes or os.path.lexists(named):
            return False
        folder, name = os.path.split(named)
        return any(place == folder and fits(name) for place, fits in self.likes)


def find_excluded(
    data: Mapping[str, Any], guests: Sequence[WrittenGuest], folder: str, problems: Problems
) -> Excluded:
    """Return what the ``exclude`` list of a manifest's data leaves out; an entry with a problem, nothing.

    A pattern that leaves nothing out gets a warning.
    """
    written = data.get(KEY)
    patterns = written if isinstance(written, list) else []
    paths: set[str] = set()
    likes: list[tuple[str, Callable[[str], bool]]] = []
    listed = _listed(guests, folder)
    for at, pattern in enumerate(patterns):
        where = (KEY, at)
        if problems.objects_to(where) or not isinstance(pattern, str):
            continue
        found = glob_matches(pattern, where, folder, problems)
        paths.update(resolve_folder(folder, path) for path in found)
        likes += would_match(pattern, folder)
        if not problems.objects_to(where) and (why := _idle(pattern, found, listed, folder)):
            problems.warn(where, why)
    return Excluded(frozenset(paths), tuple(likes))


def _listed(guests: Sequence[WrittenGuest], folder: str) -> frozenset[str]:
    """Return the absolute names of the guests that are listed by path, and the files that links lead to."""
    paths = [guest.image.path for guest in guests if not guest.image.is_glob and not unfit(guest.image.path)]
    names = [resolve_folder(folder, path) for path in paths]
    return frozenset([*names, *map(os.path.realpath, names)])


def _idle(pattern: str, found: Sequence[str], listed: frozenset[str], folder: str) -> str:
    """Return why a pattern leaves nothing out; empty if it does. Typing errors are what this is for."""
    # A guest that was converted is not there, and may be listed.
    named = [resolve_folder(folder, path) for path in found or [pattern]]
    images = [name for name in named if not os.path.isdir(name)]
    if images and all(name in listed or os.path.realpath(name) in listed for name in images):
        return f"{show(pattern)} is listed by path, so it stays a guest; remove that entry to leave it out"
    if not found:
        return f"nothing matches {show(pattern)} in {show(folder)}, so it leaves nothing out"
    if all(os.path.isdir(os.path.join(folder, path)) for path in found):
        inside = show(f"{pattern.rstrip('/')}/**")
        return f"{show(pattern)} is a folder, which leaves nothing out; write {inside} for all that is in it"
    return ""
