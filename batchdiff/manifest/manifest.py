"""A manifest that has passed all checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchdiff.choices import Loss, Retire, Strategy
from batchdiff.frozen import frozen
from batchdiff.image_source import ImageSource
from batchdiff.plan.overlay_options import OverlayOptions

if TYPE_CHECKING:
    from batchdiff.plan.sidecar import OverlayOrigin


@frozen
class GuestEntry:
    """One guest of a manifest.

    ``name``: unique in the manifest. ``overlay_path``: absolute; if the guest shares blocks in place, this path
    and ``options`` serve only to compare the two strategies. ``converted``: the origin of the overlay if an
    earlier plan converted the guest, whose image may then be gone. ``named``: the image's absolute name, which may
    be a symbolic link; empty if the image is gone. ``objection``: why the image cannot be a guest, although a glob
    matches it. ``rethin``: True if the image is an overlay of the template, to be replaced with a thinner one.
    ``glob``: the glob as written; empty if the guest is listed by path. ``domain``: a clause about the libvirt
    domain that uses the image; empty if none is known. ``overlay_key``: the key of the manifest that determines
    the overlay's path.
    """

    name: str
    image: ImageSource
    overlay_path: str
    options: OverlayOptions
    converted: OverlayOrigin | None = None
    named: str = ""
    objection: str = ""
    rethin: bool = False
    glob: str = ""
    domain: str = ""
    strategy: Strategy = Strategy.OVERLAY
    overlay_key: str = "overlay.path"

    @property
    def alias(self) -> str:
        """``named`` if it differs from the image's path; otherwise empty."""
        return "" if self.named == self.image.path else self.named

    @property
    def paths(self) -> tuple[str, ...]:
        """The image's path and, unless empty, ``named``; the two may be equal."""
        return tuple(path for path in (self.image.path, self.named) if path)

    @property
    def gets_overlay(self) -> bool:
        """True unless the guest shares blocks in place."""
        return self.strategy is Strategy.OVERLAY

    @property
    def in_place(self) -> bool:
        """True if the overlay takes the guest's own path."""
        return self.overlay_path == self.image.path


@frozen
class Manifest:
    """A valid manifest, with its globs expanded.

    ``sha256``: of the manifest's bytes, in hexadecimal. ``minimum_savings``: a share from 0 to 1 of a guest's
    allocation, or minus infinity if there is no minimum. ``left_out``: guests that the operator did not choose,
    but whose chains may contain chosen ones. ``warnings``: each as ``LINE: YAML.PATH: message``.
    """

    path: str
    sha256: str
    template: ImageSource
    guests: tuple[GuestEntry, ...]
    retire: Retire
    minimum_savings: float
    protect_template: bool
    allow_loss: frozenset[Loss]
    left_out: tuple[GuestEntry, ...] = ()
    warnings: tuple[str, ...] = ()
