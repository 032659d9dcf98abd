"""Whether QEMU and the filesystem can take the names that images have, and those that `apply` gives them.

::

    /images/clones/web01.img                       the folder too must be UTF-8, for QEMU's options are
    /images/clones/web01.img.batchdiff-original    an original that is retired needs a longer name for that
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from batchdiff.image.names import longest_name, unfit
from batchdiff.model import own_names
from batchdiff.model.manifest import Retire
from batchdiff.model.manifest_problems import Problems, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchdiff.model.manifest_images import FoundGuest, FoundImage
    from batchdiff.model.manifest_problems import YamlPath

_RETIRED = len(own_names.QUARANTINE)
"""Bytes that are put behind the name of an original in quarantine; as many as while something is deleted."""

_RECORDED = len(own_names.SIDECAR)
"""Bytes that are put behind the name of a template, for the file that says what rests on it."""


def check_names(
    template: FoundImage | None,
    guests: Sequence[FoundGuest],
    overlays: Sequence[str | None],
    retire: Retire,
    problems: Problems,
) -> None:
    """Finds images in folders that QEMU cannot be told, and names that are or would become too long."""
    for image in (template, *(guest.image for guest in guests)):
        for place in (image.place, *image.chain) if image else ():
            _check_characters(place.path, place.where, problems)
    for guest, overlay in zip(guests, overlays, strict=True):
        if retire is not Retire.KEEP and guest.place.identity[0] == "file":
            what = f"{show(guest.place.written)}, which gets a longer name while it is retired,"
            _check_length(guest.place.path, _RETIRED, what, guest.place.where, problems)
        if overlay is not None:
            where = guest.written.overlay_where
            if not unfit(guest.place.path):  # else that has been told already
                _check_characters(overlay, where, problems)
            what = f"the overlay {show(os.path.basename(overlay))}, which gets a longer name while it is restored,"
            _check_length(overlay, _RETIRED, what, where, problems)
    if template is not None and template.place.identity[0] == "file":
        what = f"the file that is put beside {show(template.place.written)}, to say what rests on it,"
        _check_length(template.place.path, _RECORDED, what, template.place.where, problems)


def _check_characters(path: str, where: YamlPath, problems: Problems) -> None:
    if unfit(path):
        problems.add(
            where,
            f"{show(path)} has control characters, or bytes that are no UTF-8, which QEMU cannot be told; "
            "rename it, or the folder",
        )


def _check_length(path: str, more: int, what: str, where: YamlPath, problems: Problems) -> None:
    folder, name = os.path.split(path)
    length, longest = len(os.fsencode(name)) + more, longest_name(folder)
    if length > longest:
        remedy = f"shorten it by {length - longest} or more"
        problems.add(where, f"{what} would have a name of {length} bytes; {longest} are possible here; {remedy}")
