"""A manifest's entries as written: typed, their defaults applied, no file looked at yet.

The schema has been checked before. What it objected to counts as not written, so that everything else in the
entry is still checked; a manifest with problems is never used, so what stands in its place matters to
no one.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from batchdiff.image.source import ImageFormat
from batchdiff.model.manifest_problems import Problems, YamlPath, show, suggestion
from batchdiff.model.overlay_options import (
    AUTO,
    CLUSTER_SIZES,
    DEFAULT_CLUSTER_SIZE,
    BackingPath,
    Compression,
    OverlayOptions,
)
from batchdiff.units import KIB, format_size, parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping

SMALLEST_EXTENDED_L2 = 16 * KIB
"""A subcluster is 1/32 cluster and at least one sector (QEMU's qcow2 driver refuses less)."""

IN_PLACE = "same"
"""The ``overlay.path`` that means the guest's own; a file of that name is written ``./same``."""

_STAND_IN = ImageFormat.QCOW2
"""For a format that was objected to: nothing is objectionable about a qcow2 image, with a chain or without."""

_DEFAULTS: YamlPath = ("defaults",)
_PERCENT = re.compile(r"(.+?)\s*%")


class WrittenImage(NamedTuple):
    """An image as the manifest has it; ``backing`` is its declared chain, the next image first.

    With ``is_glob`` the path is a pattern, or one of a pattern's matches.
    """

    where: YamlPath
    path: str
    format: ImageFormat | None
    backing: tuple[WrittenImage, ...] = ()
    is_glob: bool = False

    @property
    def path_where(self) -> YamlPath:
        """The place of the path, or of the glob, in the manifest."""
        return (*self.where, "glob" if self.is_glob else "path")


class WrittenGuest(NamedTuple):
    """A guest's entry: one image, or a glob whose every match is one.

    ``overlay_where`` is the place of what decides where the overlay goes: of the overlay's path, in the entry
    or in the defaults, else of the image's.
    """

    image: WrittenImage
    name: str | None
    overlay_path: str | None
    overlay_where: YamlPath
    options: OverlayOptions

    @property
    def where(self) -> YamlPath:
        """The entry's place in the manifest."""
        return self.image.where

    @property
    def in_place(self) -> bool:
        """Whether the overlay takes the guest's own path."""
        return self.overlay_path == IN_PLACE


def sound_keys(entry: object, where: YamlPath, problems: Problems) -> dict[str, Any]:
    """The keys of an entry whose values nothing has been said against; none where it is no mapping."""
    if not isinstance(entry, dict):
        return {}
    return {key: value for key, value in entry.items() if not problems.objects_to((*where, key))}


def written_image(
    entry: object, where: YamlPath, default: ImageFormat | None, problems: Problems
) -> WrittenImage | None:
    """An image's entry; ``default`` is its format unless it says one. None where it does not say which file."""
    sound = sound_keys(entry, where, problems)
    names = [key for key in ("path", "glob") if key in sound]
    if len(names) != 1:
        return None
    backing = sound.get("backing", [])
    images = [
        written_image(item, (*where, "backing", at), None, problems)
        for at, item in enumerate(backing if isinstance(backing, list) else [])
    ]
    return WrittenImage(
        where=where,
        path=sound[names[0]],
        format=_format(entry, where, default, problems),
        backing=tuple(image for image in images if image),
        is_glob=names == ["glob"],
    )


def written_guest(entry: object, where: YamlPath, defaults: object, problems: Problems) -> WrittenGuest | None:
    """A guest's entry, the manifest's defaults applied; None where it does not say which files."""
    overlay_at = (*where, "overlay")
    own = sound_keys(_mapping(entry, "overlay"), overlay_at, problems)
    shared = sound_keys(_mapping(defaults, "overlay"), (*_DEFAULTS, "overlay"), problems)
    options = _options(own, where, shared, problems)
    image = written_image(entry, where, default_format(defaults, problems), problems)
    if image is None:
        return None
    path_at = (*(overlay_at if "path" in own else (*_DEFAULTS, "overlay")), "path")
    path = own.get("path", shared.get("path"))
    return WrittenGuest(
        image=image,
        # A glob's name was objected to as a whole; it must not be that of all matches.
        name=None if image.is_glob else sound_keys(entry, where, problems).get("name"),
        overlay_path=path,
        overlay_where=image.path_where if path is None else path_at,
        options=options,
    )


def default_format(defaults: object, problems: Problems) -> ImageFormat | None:
    """The format of guests that say none."""
    return _format(defaults, _DEFAULTS, None, problems)


def check_defaults(defaults: object, problems: Problems) -> None:
    """Finds what is wrong in the defaults, whether there is a guest that takes them or not."""
    where = (*_DEFAULTS, "overlay")
    sound = sound_keys(_mapping(defaults, "overlay"), where, problems)
    if "cluster_size" in sound:
        _cluster_size(sound["cluster_size"], (*where, "cluster_size"), problems)


def _mapping(entry: object, key: str) -> object:
    return entry.get(key) if isinstance(entry, dict) else None


def _format(entry: object, where: YamlPath, default: ImageFormat | None, problems: Problems) -> ImageFormat | None:
    sound = sound_keys(entry, where, problems)
    if "format" in sound:
        return ImageFormat(sound["format"])
    # A misspelt key has been told already; that the right one is missing is no second problem.
    wrong = [key for key in entry if key not in sound] if isinstance(entry, dict) else []
    return _STAND_IN if any(suggestion(key, ["format"]) for key in wrong) else default


def minimum_savings(value: float | str, problems: Problems) -> float:
    """The share, 0 to 1, that ``5%``, ``"0.05"`` or ``0.05`` stand for."""
    share = _share(value) if isinstance(value, str) else float(value)
    if math.isnan(share) or share < 0 or math.isinf(share):
        problems.add(("minimum_savings",), f"{_shown(value)} is not a share; write it as 5% or 0.05")
    elif share > 1:
        hint = f'; did you mean "{value}%"?' if not isinstance(value, str) and share <= 100 else ""
        problems.add(("minimum_savings",), f"{_shown(value)} is more than 100%{hint}")
    else:
        return share
    return 0.0


def _share(text: str) -> float:
    percent = _PERCENT.fullmatch(text.strip())
    try:
        return float(percent[1]) / 100 if percent else float(text)
    except ValueError:
        return math.nan


def _shown(value: float | str) -> str:
    return show(value) if isinstance(value, str) else str(value)


def _options(
    own: Mapping[str, Any], where: YamlPath, defaults: Mapping[str, Any], problems: Problems
) -> OverlayOptions:
    merged = {**defaults, **own}

    def place(key: str) -> YamlPath:
        return (*where, "overlay", key) if key in own else ("defaults", "overlay", key)

    size = _cluster_size(merged.get("cluster_size", DEFAULT_CLUSTER_SIZE), place("cluster_size"), problems)
    extended = bool(merged.get("extended_l2", False))
    if extended:
        _check_extended_l2(size, place("extended_l2"), problems)
    return OverlayOptions(
        cluster_size=size,
        extended_l2=extended,
        compression=Compression(merged.get("compression", Compression.NONE)),
        backing_path=BackingPath(merged.get("backing_path", BackingPath.ABSOLUTE)),
        lazy_refcounts=bool(merged.get("lazy_refcounts", False)),
    )


def _cluster_size(value: float | str, where: YamlPath, problems: Problems) -> int | None:
    if value == AUTO:
        return None
    try:
        size = parse_size(value) if isinstance(value, str) else int(value)
    except ValueError:
        # The text may be thousands of digits long, so it is told here and not by parse_size.
        size = 0
    if size in CLUSTER_SIZES:
        return size
    problems.add(where, f"{_shown(value)} is not a cluster size; {_ALLOWED_SIZES}")
    return DEFAULT_CLUSTER_SIZE


_ALLOWED_SIZES = (
    f"it is {AUTO}, or a power of two from {format_size(CLUSTER_SIZES[0])} "
    f"to {format_size(CLUSTER_SIZES[-1])}, such as 64KiB"
)


def _check_extended_l2(size: int | None, where: YamlPath, problems: Problems) -> None:
    least = format_size(SMALLEST_EXTENDED_L2)
    if size is None:
        problems.add(where, f"needs a fixed cluster_size of {least} or more, not {AUTO}")
    elif size < SMALLEST_EXTENDED_L2:
        problems.add(where, f"needs a cluster_size of {least} or more, not {format_size(size)}")
