"""The names that a glob of a manifest matches, and those that it would match if they existed."""

from __future__ import annotations

import fnmatch
import glob
import os
from itertools import islice
from typing import TYPE_CHECKING

from batchdiff.files import own_files
from batchdiff.files.filenames import unfit, why_unfit
from batchdiff.manifest.text.problems import Problems
from batchdiff.quoting import show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchdiff.manifest.text.problems import YamlPath

MAX_MATCHES = 100_000
"""This limit stops a ``**`` that loops through symbolic links to folders."""


def is_own_file(path: str) -> bool:
    """Return True if a path or its real path has a suffix of batchdiff's own files."""
    return path.endswith(own_files.ALL) or os.path.realpath(path).endswith(own_files.ALL)


def glob_matches(pattern: str, where: YamlPath, folder: str, problems: Problems) -> list[str]:
    """Return all matches, sorted, including folders and dangling links.

    Matches of a relative glob are relative paths. A glob with unfit characters or too many matches is reported,
    and matches nothing.
    """
    if unfit(pattern):
        problems.add(where, f"{show(pattern)} has {why_unfit(pattern)}; write ? in its place")
        return []
    matches = list(islice(glob.iglob(pattern, root_dir=folder, recursive=True), MAX_MATCHES + 1))
    if len(matches) > MAX_MATCHES:
        problems.add(where, f"{show(pattern)} matches more than {MAX_MATCHES} files; write narrower patterns")
        return []
    return sorted(set(matches))  # ``**`` can yield a name twice


def searched(pattern: str, folder: str) -> str:
    """Return words to put after a glob: the folder from which it is resolved; empty if the glob is absolute."""
    return "" if os.path.isabs(pattern) else f" in {show(folder)}"


def would_match(pattern: str, folder: str) -> Iterator[tuple[str, Callable[[str], bool]]]:
    """Yield the folders in which a glob could match files: each folder's real path, and a test for file names."""
    if unfit(pattern):
        return
    head, name = os.path.split(pattern)
    if name == "**":  # files at any depth
        head, name = pattern, "*"

    def fits(found: str) -> bool:
        hidden = found.startswith(".") and not name.startswith(".")
        return not hidden and fnmatch.fnmatchcase(found, name)

    folders = head.rstrip("/") + "/" if head else ""
    found = list(islice(glob.iglob(folders, root_dir=folder, recursive=True), MAX_MATCHES)) if folders else []
    if not folders or folders.startswith("**/"):
        found.append("")  # the starting folder itself, which iglob does not yield
    for place in sorted({os.path.realpath(os.path.join(folder, each)) for each in found}):
        yield place, fits
