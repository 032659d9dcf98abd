"""Which guests of a manifest an earlier plan has converted, as the sidecars of their template say.

::

    web01.img     may be there still, be web01.img.batchdiff-original now, or be gone: deleted, purged
    web01.qcow2   must be there and rest on the template, or the sidecar's word for it does not count

A sidecar can be wrong: an overlay was removed by hand, or flattened, or the folder was restored from a backup.
Only headers are read to find that out.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from batchdiff.image.heads import Heads
from batchdiff.image.identity import Identity, identity_of
from batchdiff.image.names import unfit
from batchdiff.image.resting import RestingImages
from batchdiff.image.source import ImageFormat, ImageSource
from batchdiff.model import own_names
from batchdiff.model.manifest_names import default_overlay, former_overlays
from batchdiff.model.manifest_problems import show, show_path
from batchdiff.model.sidecar import Origin, Sidecar, read_sidecar, sidecar_path

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from batchdiff.model.manifest_entries import WrittenGuest


class Done(NamedTuple):
    """Where the overlay of a guest is that was converted, and how it came there."""

    overlay_path: str
    origin: Origin


class GoneGuest(NamedTuple):
    """A guest that was converted and whose original is not at its path now; ``named`` is that path."""

    written: WrittenGuest
    named: str
    done: Done

    @property
    def source(self) -> ImageSource:
        """What it was. Backing files that it had are not looked for: nothing reads it."""
        declared = self.written.image.format or ImageFormat.RAW
        return ImageSource(self.done.origin.original or self.named, declared)

    @property
    def identity(self) -> None:
        """It has none: there is no file."""

    def __str__(self) -> str:
        return f"{show_path(self.written.where)} ({show(self.named)})"


class Converted:
    """The guests that were converted to overlays of one template; none if the template is not known."""

    def __init__(self, template_path: str | None) -> None:
        self._template = template_path
        self._sidecars: dict[str, Sidecar | None] = {}
        self._rests: dict[str, bool] = {}
        self._quarantined: dict[str, list[str]] = {}

    @property
    def can_know(self) -> bool:
        """Whether it is known of any guest if it was converted: not without a template."""
        return self._template is not None

    def of(self, paths: Collection[str], overlays: Collection[str], former: Collection[str] = ()) -> Done | None:
        """Return how the guest with these names was converted; None if it was not.

        Version 1.0 of the sidecar does not say which guest an overlay was made from; then its path decides.
        ``former``: overlays that it can only have if the sidecar does say so.
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
        """Return the conversions of guests that are, or were, in a folder, by the guests' paths."""
        return {
            original: Done(overlay, origin)
            for overlay, origin in self._recorded(os.path.join(folder, "any")).items()
            for original in self._originals(overlay, origin)
            if os.path.dirname(original) == folder and self._rests_on_the_template(overlay)
        }

    def origin_of(self, overlay: str) -> Origin | None:
        """Return where an overlay of the template comes from; None if it is not known to be one."""
        origin = self._recorded(overlay).get(overlay)
        return None if origin is None or not self._rests_on_the_template(overlay) else origin

    def _recorded(self, overlay: str) -> dict[str, Origin]:
        """Return the overlays in the sidecar that has, or would have, this one."""
        if self._template is None:
            return {}
        where = sidecar_path(self._template, overlay)
        if where not in self._sidecars:
            self._sidecars[where] = read_sidecar(where)
        sidecar = self._sidecars[where]
        return {} if sidecar is None else sidecar.overlays

    def _rests_on_the_template(self, overlay: str) -> bool:
        """Return whether an overlay is there and has the template in its chain, directly or below a snapshot."""
        if overlay not in self._rests:
            # The sidecar is input: what is no path of an image is not looked at.
            sound = os.path.isabs(overlay) and not unfit(overlay)
            template = identity_of(self._template) if sound and self._template else None
            self._rests[overlay] = template is not None and _rests_on(overlay, template)
        return self._rests[overlay]

    def _originals(self, overlay: str, origin: Origin) -> Iterator[str]:
        """Yield the path of the guest that an overlay was made from.

        If it is not recorded, an original in quarantine that would get this overlay shows it.
        """
        if origin.original:
            yield origin.original
            return
        for original in self._in_quarantine(os.path.dirname(overlay)):
            plain = default_overlay(original, ())
            if overlay in {plain, default_overlay(original, (plain,)), *former_overlays(original)}:
                yield original

    def _in_quarantine(self, folder: str) -> list[str]:
        """Return the paths that the originals in a folder had before they were put into quarantine."""
        if folder not in self._quarantined:
            found: list[str] = []
            with contextlib.suppress(OSError, ValueError):
                found = sorted(name for name in os.listdir(folder) if name.endswith(own_names.QUARANTINE))
            bare = (os.path.join(folder, name.removesuffix(own_names.QUARANTINE)) for name in found)
            self._quarantined[folder] = list(bare)
        return self._quarantined[folder]


def _rests_on(overlay: str, template: Identity) -> bool:
    """Return whether an image has the template in its chain; the template itself is not opened."""
    look = RestingImages(Heads(), untouched=frozenset({template}))
    look.take_in(overlay)
    return identity_of(overlay) in look.on([template])
