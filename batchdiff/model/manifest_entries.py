"""A manifest's entries as written: typed, their defaults applied, no file looked at yet."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchdiff.image.source import ImageFormat
from batchdiff.model.manifest_problems import Problems, YamlPath, show
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

_PERCENT = re.compile(r"(.+?)\s*%")


@dataclass(frozen=True, slots=True)
class WrittenImage:
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


@dataclass(frozen=True, slots=True)
class WrittenGuest:
    """A guest's entry: one image, or a glob whose every match is one."""

    image: WrittenImage
    name: str | None
    overlay_path: str | None
    options: OverlayOptions

    @property
    def where(self) -> YamlPath:
        """The entry's place in the manifest."""
        return self.image.where


def written_image(entry: Mapping[str, Any], where: YamlPath, default: ImageFormat | None) -> WrittenImage:
    """An image's entry that the schema has no objection to; ``default`` is its format unless it says one."""
    named = entry.get("format")
    backing = tuple(
        written_image(item, (*where, "backing", at), None) for at, item in enumerate(entry.get("backing", ()))
    )
    is_glob = "glob" in entry
    path = entry["glob" if is_glob else "path"]
    return WrittenImage(where, path, ImageFormat(named) if named else default, backing, is_glob)


def written_guest(
    entry: Mapping[str, Any], where: YamlPath, defaults: Mapping[str, Any], problems: Problems
) -> WrittenGuest:
    """A guest's entry, the manifest's defaults applied, that the schema has no objection to."""
    default = defaults.get("format")
    return WrittenGuest(
        image=written_image(entry, where, ImageFormat(default) if default else None),
        name=entry.get("name"),
        overlay_path=entry.get("overlay", {}).get("path"),
        options=_options(entry.get("overlay", {}), where, defaults.get("overlay", {}), problems),
    )


def minimum_savings(value: float | str, problems: Problems) -> float:
    """The share, 0 to 1, that ``5%``, ``"0.05"`` or ``0.05`` stand for."""
    share = _share(value) if isinstance(value, str) else float(value)
    if math.isnan(share) or share < 0 or math.isinf(share):
        problems.add(("minimum_savings",), f"{_shown(value)} is no share; write it as 5% or 0.05")
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
    problems.add(where, f"{_shown(value)} is no cluster size; {_ALLOWED_SIZES}")
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
