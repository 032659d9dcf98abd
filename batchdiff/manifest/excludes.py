"""The images that the ``exclude`` patterns of a manifest keep out of its globs.

::

    guests:  [{glob: "clones/**/*.img"}]       web01.img  old-web.img  archive/db.img
    exclude: ["clones/old-*", "clones/archive/**"]        `---------------`-- left out

A guest that is listed by path stays a guest: it was named on purpose.
"""

from __future__ import annotations

import glob
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from batchdiff.files.filenames import unfit
from batchdiff.manifest.globs import glob_matches, searched, would_match
from batchdiff.manifest.paths import resolve_folder
from batchdiff.manifest.text.problems import Problems
from batchdiff.quoting import show, yaml_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batchdiff.manifest.text.written import WrittenGuest

KEY = "exclude"


class Excluded(NamedTuple):
    """Names that globs leave out.

    ``paths``: existing ones. ``likes``: folders, each with a function that returns True for a file name that would
    be left out if it existed there.
    """

    paths: frozenset[str]
    likes: tuple[tuple[str, Callable[[str], bool]], ...]

    def has(self, named: str) -> bool:
        """Return True if an absolute name, or the file that it links to, is excluded."""
        if named in self.paths or (self.paths and os.path.realpath(named) in self.paths):
            return True
        if not self.likes or os.path.lexists(named):
            return False
        folder, name = os.path.split(named)
        return any(place == folder and fits(name) for place, fits in self.likes)


def find_excluded(
    data: Mapping[str, Any], guests: Sequence[WrittenGuest], folder: str, problems: Problems
) -> Excluded:
    """Return the names that a manifest's ``exclude`` list excludes, and report its problems."""
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
        if not problems.objects_to(where) and (why := _why_unused(pattern, found, listed, folder)):
            problems.warn(where, why)
    return Excluded(frozenset(paths), tuple(likes))


def _listed(guests: Sequence[WrittenGuest], folder: str) -> frozenset[str]:
    paths = [guest.image.path for guest in guests if not guest.image.is_glob and not unfit(guest.image.path)]
    names = [resolve_folder(folder, path) for path in paths]
    return frozenset([*names, *map(os.path.realpath, names)])


def _why_unused(pattern: str, found: Sequence[str], listed: frozenset[str], folder: str) -> str:
    # A converted guest may be gone and still be listed, so fall back to the pattern itself.
    named = [resolve_folder(folder, path) for path in found or [pattern]]
    images = [name for name in named if not os.path.isdir(name)]
    if images and all(name in listed or os.path.realpath(name) in listed for name in images):
        if glob.has_magic(pattern):
            what = f"every image that {show(pattern)} matches is listed by path"
            return f"{what}, so this pattern excludes no existing image; to exclude an image, remove its entry"
        return f"{show(pattern)} is listed by path, so it stays a guest; remove its entry to exclude it"
    if not found:
        where = searched(pattern, folder)
        return f"nothing matches {show(pattern)}{where}, so this pattern excludes no existing image"
    if all(os.path.isdir(os.path.join(folder, path)) for path in found):
        inside = yaml_text(f"{pattern.rstrip('/')}/**")
        what, them = "is a folder, so it excludes nothing", "it"
        if glob.has_magic(pattern):
            what, them = "matches only folders, so it excludes no existing image", "them"
        return f"{show(pattern)} {what}; write {inside} to exclude all files in {them}"
    return ""
