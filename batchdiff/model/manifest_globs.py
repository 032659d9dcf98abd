"""The image files that a manifest's glob matches."""

from __future__ import annotations

import glob
import os
from itertools import islice
from typing import TYPE_CHECKING

from batchdiff.image.names import unfit
from batchdiff.model import own_names
from batchdiff.model.manifest_paths import is_image
from batchdiff.model.manifest_problems import Problems, show

if TYPE_CHECKING:
    from batchdiff.model.manifest_entries import WrittenImage

MAX_MATCHES = 100_000
"""Far above any fleet; ends a ``**`` that goes in circles through symbolic links to folders."""


"""What batchdiff itself puts beside images: originals in quarantine or about to go, overlays that are taken
aside or being written, what it noted of a template. A glob never takes them for guests."""


def is_own_file(path: str) -> bool:
    """Whether a name is, or is a link to, that of a file which batchdiff put there."""
    return path.endswith(own_names.ALL) or os.path.realpath(path).endswith(own_names.ALL)


def matching_images(written: WrittenImage, folder: str, problems: Problems) -> list[str]:
    """Sorted paths, relative where the glob is, of all regular files and block devices that match.

    Symbolic links to such are in it, links to nothing are not. No match is a problem.
    """
    pattern, where = written.path, written.path_where
    if unfit(pattern):
        problems.add(where, f"control characters may not stand in a glob: {show(pattern)}")
        return []
    matches = list(islice(glob.iglob(pattern, root_dir=folder, recursive=True), MAX_MATCHES + 1))
    if len(matches) > MAX_MATCHES:
        problems.add(where, f"{show(pattern)} matches more than {MAX_MATCHES} files")
        return []
    # ``**`` can give a name twice.
    images = sorted({match for match in matches if is_image(os.path.join(folder, match))})
    if not images:
        problems.add(where, f"no image matches {show(pattern)} in {show(folder)}")
    return images
