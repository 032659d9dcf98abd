"""The folders in which images may depend on the guests of a manifest or plan."""

from __future__ import annotations

import os
from collections.abc import Iterable

from batchdiff.files.filenames import is_possible
from batchdiff.image_source import ImageSource
from batchdiff.manifest.manifest import Manifest
from batchdiff.plan.plan import Plan
from batchdiff.plan.sidecar import read_sidecar, sidecar_path


def folders_of_manifest(manifest: Manifest) -> list[str]:
    """Return the folders of a manifest and its images, sorted.

    Its images include guests left out, backing files, overlays, and the images that the template's sidecars name.
    """
    guests = (*manifest.guests, *manifest.left_out)
    sources = [manifest.template, *(guest.image for guest in guests)]
    return _folders(manifest.path, manifest.template.path, sources, [guest.overlay_path for guest in guests])


def folders_of_plan(plan: Plan) -> list[str]:
    """Return the folders of a plan's manifest and of the plan's images, as in :func:`folders_of_manifest`.

    Overlays of guests left out do not count.
    """
    sources = [plan.template.source, *(guest.source for guest in plan.guests), *plan.left_out]
    overlays = [guest.overlay_path for guest in plan.guests]
    return _folders(plan.manifest_path, plan.template.source.path, sources, overlays)


def _folders(manifest: str, template: str, sources: Iterable[ImageSource], overlays: list[str]) -> list[str]:
    paths = {manifest, *overlays}
    for source in sources:
        paths |= {source.path, *(below.path for below in source.backing)}
    # A template on a block device may have a sidecar in each folder of its overlays.
    for sidecar in {sidecar_path(template, overlay) for overlay in overlays}:
        known = read_sidecar(sidecar)
        if known is not None:
            paths |= {path for overlay, origin in known.overlays.items() for path in (overlay, origin.original)}
    return sorted({os.path.dirname(path) for path in paths if path.startswith("/") and is_possible(path)})
