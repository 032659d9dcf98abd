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
"""Bytes; plans before 1.2 counted the space of overlays in units of this size."""


@frozen
class PlannedImage:
    """An image at the time of planning; ``fingerprints`` has one for each file, in the order of ``paths``."""

    source: ImageSource
    virtual_size: int
    fingerprints: tuple[Fingerprint, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of the chain's files: its images, this one first, then their extents and data files."""
        return self.source.files

    @property
    def other_files(self) -> tuple[tuple[str, Fingerprint], ...]:
        """The paths and fingerprints of the image's own extents or data file, without those of images below it."""
        return tuple(zip(self.source.other_files, self.fingerprints[1 + len(self.source.backing) :], strict=False))

    @property
    def vouches_for_content(self) -> bool:
        """True if a change of content would change the fingerprints; False if any file is a block device."""
        return all(fingerprint.vouches_for_content for fingerprint in self.fingerprints)

    def changes(self, now: tuple[Fingerprint, ...]) -> str:
        """Describe how the chain's present fingerprints differ; return an empty string if they do not."""
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

    ``overlay_error_bytes`` is 0 if ``overlay_bytes`` is exact; otherwise, the true length differs by more than
    that in no more than 1 of 20 cases. ``exactness`` is that of ``saved_bytes``; ``note`` explains why that figure
    is not exact, or why deleting the guest would free nothing. ``allocation_unit``: the size of the units in which
    the overlay's filesystem allocates space. The sizes by cluster size are those of an uncompressed overlay.
    ``standard_l2_disk_bytes`` and ``extended_l2_disk_bytes``: its space on disk, for each kind of L2 entries that
    was considered; both are empty if only standard entries were considered and the overlay has no data file, and
    in plans before 1.3.
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
    """The result of comparing a guest with the template: the content of its overlay, and the space saved.

    ``data`` and ``zero`` are the runs that the overlay stores as data and as zeros, in granules of ``geometry``.
    ``similarity`` is None if it is unknown, as in plans before 1.2.
    """

    geometry: Geometry
    data: Runs
    zero: Runs
    savings: Savings
    similarity: Similarity | None = None

    @property
    def unit(self) -> int:
        """The bytes in a unit of the runs: the overlay's cluster or, with extended L2, a subcluster."""
        return self.geometry.granule


@frozen
class OriginalLosses:
    """The features of an original that its overlay, and an image rebuilt from the overlay, do not take over.

    The fields are the numbers of the original's internal snapshots and persistent bitmaps, and the bytes on disk
    that its file has reserved in advance.
    """

    snapshots: int = 0
    bitmaps: int = 0
    preallocated_bytes: int = 0


NO_LOSSES = OriginalLosses()


@frozen(kw_only=True)
class Sharing:
    """The space that a guest gives back by sharing blocks in place with the template, in bytes.

    ``allocated_bytes``: the space that the guest takes on disk now. ``shareable_bytes``: the bytes of its files
    that equal the template's and can be shared, but are not in the same blocks yet. ``left_out_bytes``: equal
    bytes that cannot be shared, such as those that the guest or the template stores in compressed clusters.
    ``saved_bytes``: the increase in free space; ``exactness`` and ``note`` are those of that figure. ``runs``: the
    equal parts of the disk for apply to share, in units of ``unit`` bytes; empty unless the verdict is share.
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
    """The fields that every guest in a plan has, whatever its verdict.

    ``alias``: the absolute path of the symbolic link by which the manifest names the guest; empty if the manifest
    names the file itself. ``strategy``: the one that the manifest gives the guest.
    """

    name: str
    source: ImageSource
    reason: str
    overlay_path: str
    options: OverlayOptions
    alias: str = ""
    strategy: Strategy = Strategy.OVERLAY


@frozen(kw_only=True)
class GuestToConvert(_Guest):
    """A guest that apply converts. ``sharing``: the savings if it shared blocks instead; None if not known."""

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
        """Return how the original is retired if ``how`` applies to originals in files; a block device is kept."""
        return Retire.KEEP if self.is_on_device else how


@frozen(kw_only=True)
class GuestToShare(_Guest):
    """A guest whose blocks apply shares with the template.

    ``diff`` is that of an overlay, for comparison only; None if no overlay with the guest's options is possible.
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
    """A guest that apply leaves as it is, because the plan skips or refuses it.

    ``image`` is None if the guest was not opened. ``diff`` is None if the guest was refused or not compared,
    or if its strategy is ``share`` and no overlay with its options is possible.
    """

    verdict: Verdict
    image: PlannedImage | None = None
    diff: Diff | None = None
    sharing: Sharing | None = None


GuestPlan: TypeAlias = GuestToConvert | GuestToShare | UntouchedGuest
"""One guest's part of a plan."""


@frozen
class Totals:
    """The number of guests, in total and with each verdict, and sums in bytes over those to convert or to share.

    ``overlay_bytes`` is a sum over the guests to convert alone. ``peak_extra_bytes``: the maximum that apply takes
    at any moment beyond what was in use before. ``template_copy_bytes``: the size of the copy that overlayfs makes
    if apply changes the mode of a template in a lower layer; it is subtracted from ``saved_bytes`` and included in
    ``peak_extra_bytes``. ``exactness`` is that of ``saved_bytes``; ``note`` explains why that figure is not exact,
    unless the guests' notes do.
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

    ``left_out``: the images of guests that `--guest` left out. ``minimum_savings``: as in the manifest, minus
    infinity for `none`. ``checksum``: the checksum in the plan's file, by
    which the journal identifies the plan; empty if the plan was not read from a file. It covers everything except
    itself and ``created``, even fields of a newer minor version that this version does not know.
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
        """The guests whose blocks apply shares with the template."""
        return [guest for guest in self.guests if isinstance(guest, GuestToShare)]
