"""The guests of a manifest that an earlier plan converted, according to their template's sidecars.

::

    web01.img     may still exist, be named web01.img.batchdiff-original, or be gone: deleted or purged
    web01.qcow2   must exist and have the template in its chain, or its entry in the sidecar does not count

A sidecar can be out of date: an overlay may have been removed or flattened. So headers are read, too.

With ``rethin``, an overlay of the template can be a guest, to be replaced by a thinner one.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from batchdiff.files import own_files
from batchdiff.files.filenames import unfit
from batchdiff.files.identity import Identity, identity_of, is_one_image
from batchdiff.image.backing.heads import Heads
from batchdiff.image.backing.links import BackingGraph
from batchdiff.image.format_marks import looks_like
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.manifest.images import FoundGuest, FoundImage
from batchdiff.manifest.names import default_overlay, former_overlays
from batchdiff.manifest.paths import locate_image
from batchdiff.manifest.text.problems import show_path
from batchdiff.manifest.text.written import IN_PLACE
from batchdiff.plan.sidecar import OverlayOrigin, Sidecar, read_sidecar, sidecar_path
from batchdiff.quoting import show

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from batchdiff.manifest.guests import AnyGuest
    from batchdiff.manifest.text.problems import Problems
    from batchdiff.manifest.text.written import WrittenGuest


class Done(NamedTuple):
    """A converted guest's overlay, and the origin that concerns the guest."""

    overlay_path: str
    origin: OverlayOrigin


class GoneGuest(NamedTuple):
    """A converted guest whose original is no longer at its path.

    ``named``: that path or the path of a link to it, absolute.
    """

    written: WrittenGuest
    named: str
    done: Done

    @property
    def source(self) -> ImageSource:
        """The former image, without backing files, because nothing reads it."""
        declared = self.written.image.format or ImageFormat.RAW
        return ImageSource(self.done.origin.original or self.named, declared)

    @property
    def identity(self) -> None:
        """None, because there is no file."""

    def __str__(self) -> str:
        return f"{show_path(self.written.where)} ({show(self.named)})"


class ConvertedGuests:
    """The guests that were converted to overlays of one template."""

    def __init__(self, template_path: str | None) -> None:
        self._template = template_path
        self._sidecars: dict[str, Sidecar | None] = {}
        self._are_overlays: dict[str, bool] = {}
        self._quarantined: dict[str, list[str]] = {}

    @property
    def can_know(self) -> bool:
        """True if the template is known."""
        return self._template is not None

    def of(self, paths: Collection[str], overlays: Collection[str], former: Collection[str] = ()) -> Done | None:
        """Return the conversion of the guest with these paths; None if none is known.

        ``overlays``: an overlay at one of these paths is this guest's, unless it is recorded only for other guests
        and its path is not in ``paths``. ``former``: an overlay at one of these paths is this guest's only if it
        is recorded for this guest.
        """
        for overlay in overlays:
            for origin in self.origins_of(overlay):
                if overlay in paths or origin.original in {"", *paths}:
                    return Done(overlay, origin)
        for overlay in former:
            for origin in self.origins_of(overlay):
                if origin.original in paths:
                    return Done(overlay, origin)
        return None

    def in_folder(self, folder: str) -> dict[str, Done]:
        """Return the known conversions of guests that are or were in a folder, by the guests' paths."""
        return {
            original: Done(overlay, origin)
            for overlay, last in self._recorded(os.path.join(folder, "any")).items()
            for origin in last.lineage
            for original in self._originals(overlay, origin)
            if os.path.dirname(original) == folder and self._is_overlay_of_template(overlay)
        }

    def origins_of(self, overlay: str) -> tuple[OverlayOrigin, ...]:
        """Return an overlay's lineage, newest first; empty if it is not a known overlay of the template."""
        origin = self._recorded(overlay).get(overlay)
        return () if origin is None or not self._is_overlay_of_template(overlay) else origin.lineage

    def _recorded(self, overlay: str) -> dict[str, OverlayOrigin]:
        """Return, by overlay path, all records in the sidecar that would list ``overlay``."""
        if self._template is None:
            return {}
        where = sidecar_path(self._template, overlay)
        if where not in self._sidecars:
            self._sidecars[where] = read_sidecar(where)
        sidecar = self._sidecars[where]
        return {} if sidecar is None else sidecar.overlays

    def _is_overlay_of_template(self, overlay: str) -> bool:
        if overlay not in self._are_overlays:
            # The sidecar is untrusted: follow only paths that an image can have.
            sound = os.path.isabs(overlay) and not unfit(overlay)
            template = identity_of(self._template) if sound and self._template else None
            self._are_overlays[overlay] = template is not None and _has_in_chain(overlay, template)
        return self._are_overlays[overlay]

    def _originals(self, overlay: str, origin: OverlayOrigin) -> Iterator[str]:
        """Yield the path of the guest that an overlay's origin records.

        If it records none, yield the former paths of quarantined originals whose default overlay path is
        ``overlay``, or was in older versions.
        """
        if origin.original:
            yield origin.original
            return
        for original in self._in_quarantine(os.path.dirname(overlay)):
            plain = default_overlay(original, ())
            if overlay in {plain, default_overlay(original, (plain,)), *former_overlays(original)}:
                yield original

    def _in_quarantine(self, folder: str) -> list[str]:
        if folder not in self._quarantined:
            found: list[str] = []
            with contextlib.suppress(OSError, ValueError):
                found = sorted(name for name in os.listdir(folder) if name.endswith(own_files.QUARANTINE))
            bare = (os.path.join(folder, name.removesuffix(own_files.QUARANTINE)) for name in found)
            self._quarantined[folder] = list(bare)
        return self._quarantined[folder]


def _has_in_chain(overlay: str, template: Identity) -> bool:
    graph = BackingGraph(Heads(), untouched=frozenset({template}))
    graph.add(overlay)
    return identity_of(overlay) in graph.dependents_of([template])


class OverlayFinder:
    """A finder of one template's overlays among the guests with ``rethin``."""

    def __init__(self, template: FoundImage | None, folder: str, problems: Problems) -> None:
        self._template, self._folder, self._problems = template, folder, problems

    def guests(self, everyone: Sequence[AnyGuest]) -> list[AnyGuest]:
        """Return the guests, after changes to those with ``rethin``.

        Of these, each qcow2 file that names the template as its backing file gets the overlay path ``same``. If
        the original of such a guest is gone, the overlay from :meth:`of_done`, if any, becomes the guest.
        """
        found = [self._overlay_or(guest) for guest in everyone]
        replaced = {
            after.identity for before, after in zip(everyone, found, strict=True) if before.named != after.named
        }
        # The overlay may also be the guest of another entry: drop it there.
        return [
            guest
            for before, guest in zip(everyone, found, strict=True)
            if before.named != guest.named or guest.identity not in replaced
        ]

    def is_overlay(self, guest: FoundGuest) -> bool:
        """Return True if a guest from :meth:`guests` is an overlay that a thinner one may replace."""
        below = guest.image.source.backing[:1]
        if not (guest.written.rethin and guest.written.in_place and below and self._template):
            return False
        return is_one_image(below[0].path, self._template.source.path)

    def awaits_purge(self, guest: FoundGuest) -> bool:
        """Return True if an overlay formerly at a guest's path is still in quarantine."""
        return self._is_direct(guest.place.path + own_files.QUARANTINE)

    def of_done(self, guest: AnyGuest, done: Done) -> FoundGuest | None:
        """Return the overlay of a converted guest as a guest; None if no thinner one may replace it now."""
        if guest.written.image.format is None or not self._is_direct(done.overlay_path):
            return None
        where = guest.written.image.path_where
        place = locate_image(self._folder, done.overlay_path, where, self._problems, matched=True)
        if place is None or place.path != done.overlay_path or looks_like(place.path) is not ImageFormat.QCOW2:
            return None
        source = ImageSource(place.path, ImageFormat.QCOW2, self._chain())
        written = guest.written._replace(overlay_path=IN_PLACE)
        found = FoundGuest(written, FoundImage(source, place, ()))
        return None if self.awaits_purge(found) else found

    def _overlay_or(self, guest: AnyGuest) -> AnyGuest:
        if not guest.written.rethin:
            return guest
        if isinstance(guest, GoneGuest):
            return self.of_done(guest, guest.done) or guest
        source = guest.image.source
        is_device = guest.place.identity[0] == "device"  # no file can take its place
        if is_device or source.format is not ImageFormat.QCOW2 or not self._is_direct(source.path):
            return guest
        written = guest.written
        if written.overlay_path not in {None, IN_PLACE}:
            key = "overlay.path" if written.layout is None else "overlay.layout"
            self._problems.add(
                written.overlay_where,
                f"{guest} is already an overlay of the template, and `rethin: true` puts a thinner one in its"
                f" place; leave {key} out, or write `rethin: false` in its entry",
            )
        chain = source.backing or self._chain()
        return FoundGuest(
            written._replace(overlay_path=IN_PLACE),
            guest.image._replace(source=replace(source, backing=chain)),
        )

    def _chain(self) -> tuple[ImageSource, ...]:
        if self._template is None:
            return ()
        return tuple(_files_of(self._template.source))

    def _is_direct(self, path: str) -> bool:
        template = None if self._template is None else self._template.place.identity
        if template is None:
            return False
        graph = BackingGraph(Heads(), untouched=frozenset({template}))
        graph.add(path)
        return identity_of(path) in graph.directly_on(template)


def _files_of(source: ImageSource) -> Iterator[ImageSource]:
    yield replace(source, backing=())
    yield from source.backing
