"""Reading a manifest from which only some guests are chosen."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from batchdiff.errors import ManifestError, UsageError
from batchdiff.manifest.conflicts import existing_data_file, existing_overlay
from batchdiff.manifest.file import read_manifest
from batchdiff.manifest.text.input import STDIN
from batchdiff.quoting import show

if TYPE_CHECKING:
    from batchdiff.manifest.manifest import Manifest


def read_selected(path: str, names: Collection[str], *, left: Collection[str] = ()) -> Manifest:
    """Return a manifest with only the named guests; the others are in ``left_out``.

    ``left``: the paths of overlays that a restore left behind.

    :raises UsageError: a name is unknown.
    :raises ManifestError: the manifest cannot be used, or the path of a new overlay or data file is taken.
    """
    manifest = read_manifest(path, allow_existing_overlays=True)
    known = {guest.name for guest in manifest.guests}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(
            f"the manifest has no guest called {' or '.join(map(repr, unknown))}",
            remedy=_the_guests(known),
        )
    chosen = tuple(guest for guest in manifest.guests if guest.name in names)
    to_convert = [guest for guest in chosen if guest.gets_overlay and not guest.objection]
    pending = [guest for guest in to_convert if not guest.in_place and guest.converted is None]
    existing = [
        existing_overlay(
            guest.overlay_path,
            guest.name,
            of_glob=bool(guest.glob),
            is_left=guest.overlay_path in left,
            key=guest.overlay_key,
        )
        for guest in pending
        if os.path.lexists(guest.overlay_path)
    ]
    existing += [
        existing_data_file(data_file, guest.name, of_glob=bool(guest.glob))
        for guest in to_convert
        if (data_file := guest.options.data_file) is not None and os.path.lexists(data_file)
    ]
    if existing:
        shown = "<stdin>" if path == STDIN else show(path)[1:-1]
        raise ManifestError("\n".join(f"{shown}: {problem}" for problem in existing))
    # The others are kept, because they may depend on a chosen guest.
    left_out = tuple(guest for guest in manifest.guests if guest.name not in names)
    return replace(manifest, guests=chosen, left_out=left_out)


def _the_guests(names: Collection[str]) -> str:
    if not names:
        return "The manifest has no guests now: its globs match only overlays of earlier plans."
    return f"{'Its only guest is' if len(names) == 1 else 'Its guests are:'} {', '.join(sorted(names))}."
