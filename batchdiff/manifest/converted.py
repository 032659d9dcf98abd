"""The guests of a manifest that an earlier plan converted, according to their template's sidecars.

::

    web01.img     may still exist, be named web01.img.batchdiff-original, or be gone: deleted or purged
    web01.qcow2   must exist and have the template in its chain, or its entry in the sidecar does not count

A sidecar can be out of date: an overlay may have been removed by hand or flattened, or the folder restored from
a backup. Only headers are read to find that out.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from batchdiff.files import own_files
from batchdiff.files.filenames import unfit
from batchdiff.files.identity import Identity, identity_of
from batchdiff.image.backing.heads import Heads
from batchdiff.image.backing.links import BackingGraph
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.manifest.names import default_overlay, former_overlays
from batchdiff.manifest.text.problems import show_path
from batchdiff.plan.sidecar import OverlayOrigin, Sidecar, read_sidecar, sidecar_path
from batchdiff.quoting import show

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from batchdiff.manifest.entries import WrittenGuest


class Done(NamedTuple):
    """The overlay of a converted guest, and its origin."""

    overlay_path: str
    origin: OverlayOrigin


class GoneGuest(NamedTuple):
    """A converted guest whose original is no longer at its path; ``named`` is that path."""

    written: WrittenGuest
    named: str
    done: Done

    @property
    def source(self) -> ImageSource:
        """The image as it was. Its backing files are not looked up, because nothing reads it."""
        declared = self.written.image.format or ImageFormat.RAW
        return ImageSource(self.done.origin.original or self.named, declared)

    @property
    def identity(self) -> None:
        """None: there is no file."""

    def __str__(self) -> str:
        return f"{show_path(self.written.where)} ({show(self.named)})"


class ConvertedGuests:
    """The guests that were converted to overlays of one template; empty if the template is not known."""

    def __init__(self, template_path: str | None) -> None:
        self._template = template_path
        self._sidecars: dict[str, Sidecar | None] = {}
        self._are_overlays: dict[str, bool] = {}
        self._quarantined: dict[str, list[str]] = {}

    @property
    def can_know(self) -> bool:
        """True if the template is known; otherwise no conversion can be recognised."""
        return self._template is not None

    def of(self, paths: Collection[str], overlays: Collection[str], former: Collection[str] = ()) -> Done | None:
        """Return how the guest with these names was converted; None if it was not.

        Version 1.0 of the sidecar does not record which guest an overlay was made from, so the overlay's path
        decides. ``former``: overlays that count only if the sidecar does record that they were made from this
        guest.
        """
        for overlay in overlays:
            origin = self.origin_of(overlay)
            if origin is not None and (overlay in paths or origin.original in {"", *paths}):
                return Done(overlay, origin)
        for overlay in former:
            origin = self.origin_of(overlay)
            if origin is not None and origin.original in paths:
                return Done(overlay, origin)
        return None

    def in_folder(self, folder: str) -> dict[str, Done]:
        """Return the conversions of guests that are or were in a folder, by the guests' paths."""
        return {
            original: Done(overlay, origin)
            for overlay, origin in self._recorded(os.path.join(folder, "any")).items()
            for original in self._originals(overlay, origin)
            if os.path.dirname(original) == folder and self._is_overlay_of_template(overlay)
        }

    def origin_of(self, overlay: str) -> OverlayOrigin | None:
        """Return the origin of an overlay; None if it is not known to be an overlay of the template."""
        origin = self._recorded(overlay).get(overlay)
        return None if origin is None or not self._is_overlay_of_template(overlay) else origin

    def _recorded(self, overlay: str) -> dict[str, OverlayOrigin]:
        """Return the overlays in the sidecar that lists, or would list, this one."""
        if self._template is None:
            return {}
        where = sidecar_path(self._template, overlay)
        if where not in self._sidecars:
            self._sidecars[where] = read_sidecar(where)
        sidecar = self._sidecars[where]
        return {} if sidecar is None else sidecar.overlays

    def _is_overlay_of_template(self, overlay: str) -> bool:
        """Return True if an overlay exists and has the template in its chain, directly or below a snapshot."""
        if overlay not in self._are_overlays:
            # The sidecar is untrusted: follow only paths that an image can have.
            sound = os.path.isabs(overlay) and not unfit(overlay)
            template = identity_of(self._template) if sound and self._template else None
            self._are_overlays[overlay] = template is not None and _has_in_chain(overlay, template)
        return self._are_overlays[overlay]

    def _originals(self, overlay: str, origin: OverlayOrigin) -> Iterator[str]:
        """Yield the path of the guest that an overlay was made from.

        If the sidecar does not record it, find originals in quarantine whose default overlay has this path.
        """
        if origin.original:
            yield origin.original
            return
        for original in self._in_quarantine(os.path.dirname(overlay)):
            plain = default_overlay(original, ())
            if overlay in {plain, default_overlay(original, (plain,)), *former_overlays(original)}:
                yield original

    def _in_quarantine(self, folder: str) -> list[str]:
        """Return the paths that a folder's originals in quarantine had before."""
        if folder not in self._quarantined:
            found: list[str] = []
            with contextlib.suppress(OSError, ValueError):
                found = sorted(name for name in os.listdir(folder) if name.endswith(own_files.QUARANTINE))
            bare = (os.path.join(folder, name.removesuffix(own_files.QUARANTINE)) for name in found)
            self._quarantined[folder] = list(bare)
        return self._quarantined[folder]


def _has_in_chain(overlay: str, template: Identity) -> bool:
    """Return True if an image has the template in its chain; the template itself is not opened."""
    graph = BackingGraph(Heads(), untouched=frozenset({template}))
    graph.add(overlay)
    return identity_of(overlay) in graph.dependents_of([template])
