"""The entries of a manifest as written: typed, with defaults applied."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from batchdiff.choices import Strategy
from batchdiff.image_source import ImageFormat
from batchdiff.plan.overlay_options import OverlayOptions

if TYPE_CHECKING:
    from batchdiff.managers.proxmox_overlay import ProxmoxDisk
    from batchdiff.manifest.text.problems import YamlPath

IN_PLACE = "same"
"""The ``overlay.path`` that stands for the guest's own path; write ``./same`` for a file named ``same``."""


class WrittenImage(NamedTuple):
    """An image as written in the manifest; ``backing`` is its declared chain, the next image first.

    ``is_glob``: the path is a pattern, or a match of ``pattern``. ``allow_folders``: the folders, besides the
    image's own, in which its extents or data file are allowed to be, each paired with its place in the manifest.
    """

    where: YamlPath
    path: str
    format: ImageFormat | None
    backing: tuple[WrittenImage, ...] = ()
    is_glob: bool = False
    secret_file: str | None = None
    secret_where: YamlPath = ()
    allow_folders: tuple[tuple[YamlPath, str], ...] = ()
    pattern: str = ""

    @property
    def path_where(self) -> YamlPath:
        """The place of the path or the glob."""
        return (*self.where, "glob" if self.is_glob else "path")


class WrittenGuest(NamedTuple):
    """A guest's entry, for one image or for a glob.

    ``name`` and ``overlay_path``: None for the default. ``overlay_where``: the place of the overlay's path or, if
    that is not given, of the image's path or glob. Paths in ``options`` are as written; that of the data file is
    empty for the default path. ``rethin``: if the image is an overlay of the template, replace it with a thinner
    one.
    """

    image: WrittenImage
    name: str | None
    overlay_path: str | None
    overlay_where: YamlPath
    options: OverlayOptions
    secret_where: YamlPath = ()
    rethin: bool = False
    rethin_where: YamlPath = ()
    layout: ProxmoxDisk | None = None
    data_file_where: YamlPath = ()
    strategy: Strategy = Strategy.OVERLAY

    @property
    def where(self) -> YamlPath:
        """The entry's place."""
        return self.image.where

    @property
    def in_place(self) -> bool:
        """True if the overlay is to have the guest's own path."""
        return self.overlay_path == IN_PLACE

    @property
    def gets_overlay(self) -> bool:
        """True unless the guest shares blocks in place."""
        return self.strategy is Strategy.OVERLAY

    @property
    def overlay_key(self) -> str:
        """The key to set in the manifest to give the overlay another path."""
        return "overlay.path" if self.layout is None else "overlay.disk"
