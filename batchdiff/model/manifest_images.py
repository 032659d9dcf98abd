"""The images that a manifest's entries mean: each with its declared chain, all of them there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from batchdiff.image.identity import Identity
from batchdiff.image.names import why_unfit
from batchdiff.image.source import ImageFormat, ImageSource
from batchdiff.model.manifest_paths import Place, locate_image, missing_format
from batchdiff.model.manifest_problems import Problems, show, show_path

if TYPE_CHECKING:
    from batchdiff.model.manifest_entries import WrittenGuest, WrittenImage


class FoundImage(NamedTuple):
    """An image that is there, with the places of the images of its declared chain, the next one first."""

    source: ImageSource
    place: Place
    chain: tuple[Place, ...]


class FoundGuest(NamedTuple):
    """A guest's entry and the image that it means; a glob's entry is here once for each match."""

    written: WrittenGuest
    image: FoundImage

    @property
    def place(self) -> Place:
        """Where the guest's own image is."""
        return self.image.place

    @property
    def named(self) -> str:
        """The name that the manifest gives it, absolute."""
        return self.image.place.named

    @property
    def objection(self) -> str:
        """Why a match of a glob cannot be a guest, in words, so that the other matches can; empty if it can."""
        odd = why_unfit(self.place.written) if self.written.image.is_glob else ""
        return f"its name has {odd}; rename it, or `exclude` it" if odd else ""

    @property
    def identity(self) -> Identity:
        """What tells whether another name is the same file."""
        return self.image.place.identity

    def __str__(self) -> str:
        return f"{show_path(self.written.where)} ({show(self.place.written)})"


def find_image(written: WrittenImage, folder: str, problems: Problems) -> FoundImage | None:
    """The image of an entry; None, and problems, where it or its chain is not as declared."""
    sources, places = [], []
    # A list, so that the problems of the whole chain are found.
    for image in [written, *written.backing]:
        place = locate_image(folder, image.path, image.path_where, problems, matched=image.is_glob)
        if place is None:
            continue
        if image.format is None:
            problems.add(image.where, missing_format(folder, image.path))
            continue
        sources.append(ImageSource(place.path, image.format))
        places.append(place)
    complete = len(sources) == 1 + len(written.backing)
    if not (_check_raw(written, problems) and _check_distinct(places, problems) and complete):
        return None
    return FoundImage(replace(sources[0], backing=tuple(sources[1:])), places[0], tuple(places[1:]))


def _check_raw(written: WrittenImage, problems: Problems) -> bool:
    """A raw image names no backing file, so what is declared below one would never be read."""
    if not written.backing:
        return True
    sound = True
    for image in (written, *written.backing[:-1]):
        if image.format is ImageFormat.RAW:
            below = "`backing`" if image is written else "the images below it"
            problems.add(image.where, f"a raw image has no backing file; leave {below} out, or correct the format")
            sound = False
    return sound


def _check_distinct(places: list[Place], problems: Problems) -> bool:
    first: dict[tuple[str, int, int], Place] = {}
    sound = True
    for place in places:
        earlier = first.setdefault(place.identity, place)
        if earlier is not place:
            problems.add(
                place.where,
                f"{show(place.written)} is in the chain twice, first as {show_path(earlier.where)}; list it once",
            )
            sound = False
    return sound
