"""The images that a manifest's entries name, each with its declared chain."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from batchdiff.files.filenames import shell_word, unfit, why_unfit
from batchdiff.files.identity import Identity
from batchdiff.image_source import MAX_CHAIN, ImageFormat, ImageSource
from batchdiff.manifest.paths import Place, locate_folders, locate_image, missing_format, resolve_folder
from batchdiff.manifest.text.problems import Problems, YamlPath, show_path
from batchdiff.quoting import show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchdiff.manifest.text.written import WrittenGuest, WrittenImage


class FoundImage(NamedTuple):
    """An existing image, with the places of the images declared below it, the nearest first."""

    source: ImageSource
    place: Place
    chain: tuple[Place, ...]


class FoundGuest(NamedTuple):
    """A guest's entry, and its image."""

    written: WrittenGuest
    image: FoundImage

    @property
    def place(self) -> Place:
        """The place of the image."""
        return self.image.place

    @property
    def named(self) -> str:
        """The absolute name of the image, which may be a symbolic link."""
        return self.image.place.named

    @property
    def objection(self) -> str:
        """The fault in the name of a glob's match; empty if there is none, or if the image is listed by path."""
        odd = why_unfit(self.place.written) if self.written.image.is_glob else ""
        return f"its name has {odd}; rename it, or `exclude` it" if odd else ""

    @property
    def identity(self) -> Identity:
        """The identity of the image."""
        return self.image.place.identity

    def __str__(self) -> str:
        return f"{show_path(self.written.where)} ({show(self.place.written)})"


def find_image(written: WrittenImage, folder: str, problems: Problems) -> FoundImage | None:
    """Return an entry's image, and report problems; None if the image or its declared chain cannot be used."""
    sources, places = [], []
    # Look at the whole chain before giving up, to report all its problems.
    for image in [written, *written.backing]:
        place = locate_image(folder, image.path, image.path_where, problems, matched=image.is_glob)
        if place is None:
            continue
        if image.format is None:
            problem = missing_format(folder, image.path)
            file = f"{show(image.path)}, which the glob matches,"
            named = missing_format(folder, image.path, file=file) if image.is_glob else problem
            problems.add(image.where, named, alike=problem)
            continue
        folders = locate_folders(folder, image.allow_folders, problems)
        secret = (
            None
            if image.secret_file is None
            else secret_path(image.secret_file, image.secret_where, folder, problems)
        )
        sources.append(ImageSource(place.path, image.format, secret_file=secret, allow_folders=folders))
        places.append(place)
    complete = len(sources) == 1 + len(written.backing)
    if not (_check_raw(written, problems) and _check_distinct(places, problems) and complete):
        return None
    return FoundImage(replace(sources[0], backing=tuple(sources[1:])), places[0], tuple(places[1:]))


def check_depth(template: FoundImage | None, pending: Sequence[object], problems: Problems) -> None:
    """Report a template whose chain is too long for an overlay, unless there are no ``pending`` guests."""
    depth = 0 if template is None else 1 + len(template.chain) + 1
    if pending and depth > MAX_CHAIN:
        problems.add(
            ("template", "backing"),
            f"with an overlay, the chain would have {depth} images, and at most {MAX_CHAIN} are allowed; copy the"
            " template into a single image with `qemu-img convert`, and name the copy as the template (see"
            " docs/deep-chains.md)",
        )


def secret_path(written: str, where: YamlPath, folder: str, problems: Problems) -> str:
    """Return the absolute path of a secret file; report one that is unusable or that other users can read.

    A path with unfit characters is returned as written.
    """
    if unfit(written):
        problems.add(where, f"{show(written)} has {why_unfit(written)}; rename it")
        return written
    from batchdiff.qemu.secret_files import (  # noqa: PLC0415  # few manifests have secrets
        is_descriptor,
        mode_for_others,
        why_unusable_as_secret,
    )

    path = written if is_descriptor(written) else resolve_folder(folder, written)
    if why := why_unusable_as_secret(path):
        problems.add(where, f"{show(path)} cannot be used as a secret file: {why}")
    elif mode := mode_for_others(path):
        problems.warn(
            where,
            f"other users can read the secret in {show(path)} (mode {mode}); run `chmod 600 {shell_word(path)}`",
        )
    return path


def _check_raw(written: WrittenImage, problems: Problems) -> bool:
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
