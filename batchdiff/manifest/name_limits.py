"""Checks that reports can show the names of images, and that filesystems allow the longer names that files get.

::

    /images/clones/web01.img                       no control characters, not even in the names of folders
    /images/clones/web01.img.batchdiff-original    an original needs a longer name while it is retired
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from batchdiff.choices import Retire
from batchdiff.files import own_files
from batchdiff.files.filenames import longest_name, unfit, why_unfit
from batchdiff.manifest.text.problems import Problems
from batchdiff.plan.sidecar import sidecar_path
from batchdiff.quoting import show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchdiff.manifest.images import FoundGuest, FoundImage
    from batchdiff.manifest.paths import Place
    from batchdiff.manifest.text.problems import YamlPath

_RETIRED = len(own_files.QUARANTINE)
"""Also the length of the suffix of a file that is about to be deleted."""


def check_names(
    template: FoundImage | None,
    guests: Sequence[FoundGuest],
    overlays: Sequence[str | None],
    retire: Retire,
    problems: Problems,
) -> None:
    """Report names that cannot be shown, and names that are or would become too long.

    ``overlays``: one absolute path per guest; None for an overlay with a problem.
    """
    for place in (template.place, *template.chain) if template else ():
        _check_characters(place.path, place.where, problems)
    for guest in guests:
        for place in (guest.place, *guest.image.chain):
            _check_characters(place.path, place.where, problems)
    for guest, overlay in zip(guests, overlays, strict=True):
        if retire is not Retire.KEEP and guest.place.identity[0] == "file":
            what = f"{show(guest.place.written)}, which gets a longer name while it is retired,"
            _check_length(guest.place.path, _RETIRED, what, guest.place.where, problems)
        if overlay is not None:
            where = guest.written.overlay_where
            if not unfit(guest.place.path):  # otherwise the guest's own path was reported above
                _check_characters(overlay, where, problems)
            what = f"the overlay {show(os.path.basename(overlay))}, which gets a longer name during a restore,"
            _check_length(overlay, _RETIRED, what, where, problems)
    if template is not None:
        _check_sidecars(template.place, overlays, problems)


def check_data_file_names(data_files: Sequence[tuple[FoundGuest, str]], problems: Problems) -> None:
    """Report data files whose names are or would become too long."""
    for guest, path in data_files:
        what = f"the data file {show(os.path.basename(path))}, which gets a longer name before it is deleted,"
        _check_length(path, _RETIRED, what, guest.written.data_file_where, problems)


def _check_sidecars(template: Place, overlays: Sequence[str | None], problems: Problems) -> None:
    beside, listed, paths = show(template.written), "its overlays", {sidecar_path(template.path, "")}
    shorten = "shorten the template's name"
    if template.identity[0] == "device":
        beside, listed = f"the overlays of {show(template.written)}", "them"
        shorten = "shorten the template's path"
        paths = {sidecar_path(template.path, overlay) for overlay in overlays if overlay is not None}
    for path in sorted(paths):
        what = f"the file that is put beside {beside} to list {listed}"
        _check_length(path, 0, what, template.where, problems, shorten=shorten)


def _check_characters(path: str, where: YamlPath, problems: Problems) -> None:
    if unfit(path):
        problems.add(
            where,
            f"{show(path)} has {why_unfit(path)}, and reports and logs cannot show such a name; rename it or its"
            " folder",
        )


def _check_length(  # noqa: PLR0913  # options by keyword
    path: str, more: int, what: str, where: YamlPath, problems: Problems, *, shorten: str = "shorten its name"
) -> None:
    folder, name = os.path.split(path)
    length, longest = len(os.fsencode(name)) + more, longest_name(folder)
    if length > longest:
        excess = length - longest
        remedy = f"{shorten} by {excess} byte{'' if excess == 1 else 's'} or more"
        problems.add(
            where, f"{what} would have a name of {length} bytes, but the limit here is {longest}; {remedy}"
        )
