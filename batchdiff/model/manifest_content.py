"""From a manifest's plain data to what it means: entries, images, guests, overlays, and all their checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from batchdiff.model.manifest import GuestEntry, Loss, Manifest, Retire
from batchdiff.model.manifest_conflicts import check_guests, check_overlays, check_unshared
from batchdiff.model.manifest_converted import Converted, Done, GoneGuest
from batchdiff.model.manifest_entries import (
    WrittenGuest,
    check_defaults,
    minimum_savings,
    written_guest,
    written_image,
)
from batchdiff.model.manifest_excludes import find_excluded
from batchdiff.model.manifest_fitness import check_names
from batchdiff.model.manifest_guests import WrittenGuests, find_guests
from batchdiff.model.manifest_images import FoundGuest, FoundImage, find_image
from batchdiff.model.manifest_links import check_links
from batchdiff.model.manifest_names import check_overlay_paths, former_overlays, guest_names, overlay_paths

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from batchdiff.model.manifest_guests import AnyGuest
    from batchdiff.model.manifest_problems import Problems


class _Settled(NamedTuple):
    """A guest, its name, and its overlay's path; None for one that was found wrong. ``done``: if it is there."""

    guest: AnyGuest
    name: str
    overlay: str | None
    done: Done | None


def manifest_content(
    data: Mapping[str, Any],
    folder: str,
    problems: Problems,
    *,
    allow_existing_overlays: bool,
    left: Collection[str] = (),
) -> Manifest | None:
    """What a manifest's data mean, the images looked up from ``folder``; None where there are problems.

    The schema has been checked before: the keys that it objected to are passed over here, so that the problems
    of the rest are still found. ``path`` and ``sha256`` are left empty.
    """
    template = _template(data, folder, problems)
    written = _written_guests(data, problems)
    # Of guests that are not there too: nobody wants to learn of their overlays in a second round.
    check_overlay_paths(written, folder, problems)
    converted = Converted(template.source.path if template else None)
    excluded = find_excluded(data, written, folder, problems)
    everyone = find_guests(WrittenGuests(written, excluded), template, converted, folder, problems)
    guests = _settled(everyone, converted, folder, problems)
    check_guests(template, [each.guest for each in guests if isinstance(each.guest, FoundGuest)], problems)
    check_unshared([(each.guest, each.overlay) for each in guests if not _objection(each.guest)], problems)
    _check_pending(template, guests, data, problems, left=None if allow_existing_overlays else left)
    _check_retired(data, written, problems)
    savings = _minimum_savings(data, problems)
    if problems or template is None:
        return None
    return Manifest(
        path="",
        sha256="",
        template=template.source,
        guests=tuple(_entry(each, each.overlay) for each in guests if each.overlay is not None),
        retire=_retire(data, problems),
        minimum_savings=savings,
        protect_template=data.get("protect_template", True),
        allow_loss=frozenset(Loss(loss) for loss in data.get("allow_loss", ())),
        warnings=problems.warnings,
    )


def _settled(
    everyone: Sequence[AnyGuest], converted: Converted, folder: str, problems: Problems
) -> list[_Settled]:
    names = guest_names(everyone, folder, problems)
    there = [guest for guest in everyone if isinstance(guest, FoundGuest)]
    gone = [guest.named for guest in everyone if isinstance(guest, GoneGuest)]
    overlays = iter(overlay_paths(there, folder, problems, gone=gone))
    found = []
    for guest, name in zip(everyone, names, strict=True):
        if isinstance(guest, GoneGuest):
            found.append(_Settled(guest, name, guest.done.overlay_path, guest.done))
            continue
        overlay = next(overlays)
        place = guest.place
        former = () if guest.written.overlay_path else former_overlays(place.named)
        done = converted.of((place.named, place.path), (overlay, place.path), former) if overlay else None
        found.append(_Settled(guest, name, done.overlay_path if done else overlay, done))
    return found


def _check_pending(
    template: FoundImage | None,
    settled: list[_Settled],
    data: Mapping[str, Any],
    problems: Problems,
    *,
    left: Collection[str] | None,
) -> None:
    """Whether the guests that are still to be converted can get their overlays."""
    everyone = [each.guest for each in settled if isinstance(each.guest, FoundGuest)]
    pending = [
        (each.guest, each.overlay)
        for each in settled
        if isinstance(each.guest, FoundGuest) and not each.done and not _objection(each.guest)
    ]
    check_overlays(template, everyone, pending, problems, left=left)
    guests, overlays = [guest for guest, _ in pending], [overlay for _, overlay in pending]
    check_names(template, guests, overlays, _retire(data, problems), problems)
    check_links(template, guests, overlays, problems)


def _entry(settled: _Settled, overlay_path: str) -> GuestEntry:
    guest, done = settled.guest, settled.done
    origin = None if done is None else done.origin
    source = guest.source if isinstance(guest, GoneGuest) else guest.image.source
    written = "" if isinstance(guest, GoneGuest) else guest.place.named
    return GuestEntry(
        settled.name, source, overlay_path, guest.written.options, origin, written, _objection(guest)
    )


def _objection(guest: AnyGuest) -> str:
    return "" if isinstance(guest, GoneGuest) else guest.objection


def _template(data: Mapping[str, Any], folder: str, problems: Problems) -> FoundImage | None:
    written = written_image(data.get("template"), ("template",), None, problems)
    return find_image(written, folder, problems) if written else None


def _written_guests(data: Mapping[str, Any], problems: Problems) -> list[WrittenGuest]:
    entries, defaults = data.get("guests"), data.get("defaults", {})
    check_defaults(defaults, problems)
    if not isinstance(entries, list):
        return []
    guests = [written_guest(entry, ("guests", at), defaults, problems) for at, entry in enumerate(entries)]
    return [guest for guest in guests if guest]


def _check_retired(data: Mapping[str, Any], written: list[WrittenGuest], problems: Problems) -> None:
    """An overlay can take its guest's place only where the guest leaves it."""
    if problems.objects_to(("retire",)) or data.get("retire", Retire.KEEP) != Retire.KEEP:
        return
    for guest in written:
        if guest.in_place:
            problems.add(
                guest.overlay_where,
                "the overlay is to take the guest's place, but `retire: keep` (the default) leaves the guest "
                "there; write `retire: quarantine` or `retire: delete`, or give the overlay another path "
                "(`./same` for a file of that name)",
            )


def _retire(data: Mapping[str, Any], problems: Problems) -> Retire:
    return Retire.KEEP if problems.touches(("retire",)) else Retire(data.get("retire", Retire.KEEP))


def _minimum_savings(data: Mapping[str, Any], problems: Problems) -> float:
    if problems.touches(("minimum_savings",)):
        return 0.0
    return minimum_savings(data.get("minimum_savings", 0), problems)
