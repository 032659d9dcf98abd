"""A plan as data (docs/plan-format.md)."""

from __future__ import annotations

from dataclasses import field
from typing import TypeAlias

from batchdiff.choices import Retire, Strategy, Verdict
from batchdiff.files.fingerprint import Fingerprint
from batchdiff.frozen import frozen
from batchdiff.image.storage.exactness import Exactness
from batchdiff.image_source import ImageSource
from batchdiff.plan.overlay_options import OverlayOptions
from batchdiff.plan.runs import NO_RUNS, Runs
from batchdiff.qcow2.geometry import Geometry

FORMAT_VERSION = (1, 6)
"""Major and minor; docs/plan-format.md lists the fields that each version added."""

DEFAULT_UNIT = 4096
"""Bytes; plans before format version 1.2 counted the space of overlays in units of this size."""


@frozen
class PlannedImage:
    """An image at the time of planning; ``fingerprints`` has one for each file, in the order of ``paths``."""

    source: ImageSource
    virtual_size: int
    fingerprints: tuple[Fingerprint, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """The chain's files: its images, this one first, then their extents and data files."""
        return self.source.files

    @property
    def other_files(self) -> tuple[tuple[str, Fingerprint], ...]:
        """The paths and fingerprints of the image's own extents or data file."""
        return tuple(zip(self.source.other_files, self.fingerprints[1 + len(self.source.backing) :], strict=False))

    @property
    def vouches_for_content(self) -> bool:
        """True if equal fingerprints mean equal content; False if a file is a block device."""
        return all(fingerprint.vouches_for_content for fingerprint in self.fingerprints)

    def changes(self, now: tuple[Fingerprint, ...]) -> str:
        """Describe how the chain's present fingerprints differ from the planned ones; empty if they do not."""
        if len(now) != len(self.fingerprints):
            return f"{self.source.path}: the number of its files is now {len(now)}, not {len(self.fingerprints)}"
        found = [
            f"{path}: {changes}"
            for path, before, after in zip(self.paths, self.fingerprints, now, strict=True)
            if (changes := before.changes(after))
        ]
        return "; ".join(found)


@frozen
class Savings:
    """The space that converting one guest frees, in bytes (docs/plan-format.md explains each figure).

    ``exactness`` and ``note`` are those of ``saved_bytes``.
    """

    allocated_bytes: int
    reclaimable_bytes: int
    overlay_bytes: int
    overlay_error_bytes: int
    overlay_disk_bytes: int
    saved_bytes: int
    overlay_bytes_by_cluster_size: tuple[tuple[int, int], ...]
    allocation_unit: int = DEFAULT_UNIT
    exactness: Exactness = Exactness.EXACT
    note: str = ""
    standard_l2_disk_bytes: tuple[tuple[int, int], ...] = ()
    extended_l2_disk_bytes: tuple[tuple[int, int], ...] = ()


@frozen
class Similarity:
    """The bytes in nonzero units (4 KiB) of a guest, and in those that the template has at the same offset."""

    equal_bytes: int
    nonzero_bytes: int

    @property
    def share(self) -> float:
        """The share that is equal, from 0 to 1; 1 for a guest of zeros only, which resembles any template."""
        return self.equal_bytes / self.nonzero_bytes if self.nonzero_bytes else 1.0


_UNLIKE = 0.01
"""Below this share, two disks probably have in common only what many disks have, such as boot code."""


def why_unlike(similarity: Similarity | None) -> str:
    """Describe why a guest does not look like a copy of the template; empty if it does, or if that is unknown."""
    if similarity is None or similarity.share >= _UNLIKE:
        return ""
    much = f"next to nothing ({similarity.share:.2%} of its data)" if similarity.equal_bytes else "nothing"
    return f"it has {much} in common with the template: was it copied from another one?"


@frozen(kw_only=True)
class Diff:
    """The content of a guest's overlay, and the space saved.

    ``data`` and ``zero`` are in granules of ``geometry``.
    """

    geometry: Geometry
    data: Runs
    zero: Runs
    savings: Savings
    similarity: Similarity | None = None

    @property
    def unit(self) -> int:
        """The size, in bytes, of a cluster or, with extended L2, of a subcluster."""
        return self.geometry.granule


@frozen
class OriginalLosses:
    """The features of an original that a rebuilt image would lack."""

    snapshots: int = 0
    bitmaps: int = 0
    preallocated_bytes: int = 0


NO_LOSSES = OriginalLosses()


@frozen(kw_only=True)
class Sharing:
    """The space, in bytes, that a guest gives back by sharing blocks in place with the template.

    ``left_out_bytes``: equal bytes that cannot be shared. ``exactness`` and ``note`` are those of ``saved_bytes``.
    ``runs``: the parts for apply to share, in units of ``unit`` bytes; empty unless the verdict is share.
    """

    allocated_bytes: int
    shareable_bytes: int
    saved_bytes: int
    left_out_bytes: int = 0
    exactness: Exactness = Exactness.EXACT
    note: str = ""
    unit: int = DEFAULT_UNIT
    runs: Runs = NO_RUNS


@frozen(kw_only=True)
class _Guest:
    """A guest. ``alias``: the symbolic link by which the manifest names it, or empty."""

    name: str
    source: ImageSource
    reason: str
    overlay_path: str
    options: OverlayOptions
    alias: str = ""
    strategy: Strategy = Strategy.OVERLAY


@frozen(kw_only=True)
class GuestToConvert(_Guest):
    """A guest that apply converts. ``sharing``: the savings if it shared blocks instead."""

    image: PlannedImage
    diff: Diff
    losses: OriginalLosses = NO_LOSSES
    sharing: Sharing | None = None

    @property
    def verdict(self) -> Verdict:
        """The decision that this type stands for."""
        return Verdict.CONVERT

    @property
    def is_on_device(self) -> bool:
        """True if the original is a block device."""
        return not self.image.fingerprints[0].vouches_for_content

    def retired(self, how: Retire) -> Retire:
        """Return how the original is retired: as ``how`` says, but a block device is kept."""
        return Retire.KEEP if self.is_on_device else how


@frozen(kw_only=True)
class GuestToShare(_Guest):
    """A guest that will share blocks with the template.

    ``diff``: that of a possible overlay, for comparison only.
    """

    image: PlannedImage
    sharing: Sharing
    diff: Diff | None = None

    @property
    def verdict(self) -> Verdict:
        """The decision that this type stands for."""
        return Verdict.SHARE


@frozen(kw_only=True)
class UntouchedGuest(_Guest):
    """A guest that apply leaves as it is.

    ``image``, ``diff`` and ``sharing`` are None if they are not known.
    """

    verdict: Verdict
    image: PlannedImage | None = None
    diff: Diff | None = None
    sharing: Sharing | None = None


GuestPlan: TypeAlias = GuestToConvert | GuestToShare | UntouchedGuest
"""One guest's part of a plan."""


@frozen
class Totals:
    """The numbers of guests, in all and by verdict, and the space of those to convert or to share, in bytes.

    ``saved_bytes`` and ``peak_extra_bytes`` allow for ``template_copy_bytes``, the copy that overlayfs makes if
    apply changes the mode of a template in a lower layer. ``exactness`` and ``note`` are those of ``saved_bytes``.
    """

    guests: int
    convert: int
    skip: int
    refuse: int
    allocated_bytes: int
    overlay_bytes: int
    saved_bytes: int
    peak_extra_bytes: int
    template_copy_bytes: int = 0
    exactness: Exactness = Exactness.EXACT
    note: str = ""
    share: int = 0


@frozen
class Plan:
    """A whole plan. ``created`` is an ISO 8601 time in UTC.

    ``left_out``: the images of guests that `--guest` left out. ``minimum_savings``: minus infinity for `none`.
    ``checksum``: empty if the plan was not read from a file; it covers everything except itself and ``created``,
    even fields that only a newer minor version knows.
    """

    generator: str
    created: str
    manifest_path: str
    manifest_sha256: str
    template: PlannedImage
    template_digest: str
    retire: Retire
    protect_template: bool
    guests: tuple[GuestPlan, ...]
    totals: Totals
    left_out: tuple[ImageSource, ...] = ()
    minimum_savings: float = 0.0
    checksum: str = field(default="", compare=False)

    @property
    def to_convert(self) -> list[GuestToConvert]:
        """The guests that apply converts."""
        return [guest for guest in self.guests if isinstance(guest, GuestToConvert)]

    @property
    def to_share(self) -> list[GuestToShare]:
        """The guests that will share blocks with the template."""
        return [guest for guest in self.guests if isinstance(guest, GuestToShare)]
