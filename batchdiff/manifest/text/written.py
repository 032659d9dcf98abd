"""The entries of a manifest as written: typed, with defaults applied, before any file is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from batchdiff.choices import Strategy
from batchdiff.image_source import ImageFormat
from batchdiff.plan.overlay_options import OverlayOptions

if TYPE_CHECKING:
    from batchdiff.managers.proxmox_overlay import ProxmoxDisk
    from batchdiff.manifest.text.problems import YamlPath

IN_PLACE = "same"
"""The ``overlay.path`` that stands for the guest's own path; write ``./same`` for a file of that name."""


class WrittenImage(NamedTuple):
    """An image as written in the manifest; ``backing`` is its declared chain, the next image first.

    If ``is_glob``, the path is a pattern, or one of the matches of ``pattern``. ``secret_where``: the place in the
    manifest that names the secret file. ``allow_folders``: the folders in which its extents and data files may be,
    each with its place in the manifest.
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
        """The place of the path, or of the glob, in the manifest."""
        return (*self.where, "glob" if self.is_glob else "path")


class WrittenGuest(NamedTuple):
    """A guest's entry: one image, or a glob, each of whose matches is an image.

    ``overlay_where`` is the place in the manifest that decides the overlay's path: ``overlay.path`` in the entry
    or in the defaults, otherwise the image's path. ``rethin``: an overlay of the template may be replaced by a
    thinner one; ``rethin_where``: the place that decides that. ``layout``: the disk of Proxmox VE that the overlay
    will be; None if the manifest does not ask for that layout. ``data_file_where``: the place of the data file;
    its path in ``options`` is as written, and empty for the default path. ``secret_where``: the place of the
    overlay's secret file. ``strategy``: the guest's own, or the manifest's.
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
        """The entry's place in the manifest."""
        return self.image.where

    @property
    def in_place(self) -> bool:
        """True if the overlay takes the guest's own path."""
        return self.overlay_path == IN_PLACE

    @property
    def gets_overlay(self) -> bool:
        """True unless the guest shares blocks in place."""
        return self.strategy is Strategy.OVERLAY

    @property
    def overlay_key(self) -> str:
        """The key of the manifest that determines the overlay's path."""
        return "overlay.path" if self.layout is None else "overlay.disk"
