"""A diff plan as data: the findings, the extents to write, and the savings (docs/plan-format.md)."""

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

FORMAT_VERSION = (1, 5)
"""1.1 added the filesystem's UUID to fingerprints; 1.2 added the exactness of savings, links to guests, and
similarity; 1.3 added options of overlays, the space that an overlay takes with each kind of L2 entries, the secret
files of images, the other files of images that consist of several files, and the losses of an original; 1.4 added
sharing in place; 1.5 added the images of guests that `--guest` left out."""

DEFAULT_UNIT = 4096
"""Bytes; plans before 1.2 counted all space in units of this size."""


@frozen
class PlannedImage:
    """An image at the time of planning; ``fingerprints`` has one for each file, in the order of ``paths``."""

    source: ImageSource
    virtual_size: int
    fingerprints: tuple[Fingerprint, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """The files of the chain: its images, this one first, then their extents and data files."""
        return self.source.files

    @property
    def other_files(self) -> tuple[tuple[str, Fingerprint], ...]:
        """The paths and fingerprints of the image's own extents or data file, without those of images below it."""
        return tuple(zip(self.source.other_files, self.fingerprints[1 + len(self.source.backing) :], strict=False))

    @property
    def vouches_for_content(self) -> bool:
        """True if a change of content would change the fingerprints; those of block devices stay the same."""
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

    ``overlay_error_bytes`` is 0 if ``overlay_bytes`` is exact; with compression, ``overlay_bytes`` is an estimate,
    whose error exceeds ``overlay_error_bytes`` in no more than 1 of 20 cases. ``exactness`` is that of
    ``saved_bytes``; ``note`` explains why that figure is not exact, or why deleting the guest would free nothing.
    ``allocation_unit``: the size of the units in which the overlay's filesystem allocates space.
    ``standard_l2_disk_bytes`` and ``extended_l2_disk_bytes``: the space on disk with each kind of L2 entries, by
    cluster size, from which ``auto`` chooses; empty if only standard entries were considered and the overlay has
    no data file.
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
    """The nonzero bytes of a guest, and how many of them the template has at the same offset."""

    equal_bytes: int
    nonzero_bytes: int

    @property
    def share(self) -> float:
        """The share that is equal, from 0 to 1; 1 for a guest of zeros only, which resembles any template."""
        return self.equal_bytes / self.nonzero_bytes if self.nonzero_bytes else 1.0


_UNLIKE = 0.01
"""Below this share, two disks have in common only what any two have: boot code, partition tables, licences."""


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
    ``similarity`` is None in plans before 1.2.
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
    """The parts of an original that are missing from its overlay, and from an image rebuilt from the overlay.

    The fields are the numbers of its internal snapshots and persistent bitmaps, and the bytes of its file that are
    reserved in advance.
    """

    snapshots: int = 0
    bitmaps: int = 0
    preallocated_bytes: int = 0


NO_LOSSES = OriginalLosses()


@frozen(kw_only=True)
class Sharing:
    """The space that a guest gives back by sharing blocks in place with the template, in bytes.

    ``allocated_bytes``: the space that it takes on disk now. ``shareable_bytes``: the bytes of its file that equal
    the template's and are in blocks of their own; ``left_out_bytes``: equal bytes that cannot be shared, such
    as those that the guest or the template stores in compressed clusters. ``saved_bytes``: the increase in free
    space; ``exactness`` and ``note`` are those of that figure. ``runs``: the equal parts of its disk that apply
    shares, in units of ``unit`` bytes; none if the guest is not to share blocks.
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

    ``alias``: the symbolic link by which the manifest names the guest, absolute; empty if it names the file.
    ``strategy``: the one that the manifest gives the guest.
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
    """A guest that apply converts. ``sharing``: what sharing would save instead, if that is possible and known."""

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
        """True if the original is a block device, which can be neither renamed nor deleted."""
        return not self.image.fingerprints[0].vouches_for_content

    def retired(self, how: Retire) -> Retire:
        """Return how the original is retired if the plan retires originals as ``how``: a block device is kept."""
        return Retire.KEEP if self.is_on_device else how


@frozen(kw_only=True)
class GuestToShare(_Guest):
    """A guest whose blocks apply shares with the template.

    ``diff`` is that of an overlay, for comparison only; None if no overlay with these options can map the disk.
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
    or if it was to share blocks and no overlay with these options can map its disk.
    """

    verdict: Verdict
    image: PlannedImage | None = None
    diff: Diff | None = None
    sharing: Sharing | None = None


GuestPlan: TypeAlias = GuestToConvert | GuestToShare | UntouchedGuest
"""One guest's part of a plan."""


@frozen
class Totals:
    """Sums over the guests to convert or to share, in bytes, and the number of guests with each verdict.

    ``template_copy_bytes``: the bytes that overlayfs needs to change the mode of a template in a lower layer;
    ``saved_bytes`` is smaller by them, and ``peak_extra_bytes`` larger. ``exactness`` is that of ``saved_bytes``;
    ``note`` explains why that figure is not exact, unless the guests' notes do.
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

    ``left_out``: the images of guests that `--guest` left out. ``checksum``: the checksum in the plan's file, by
    which the journal identifies the plan. It covers everything except itself and ``created``, even fields of a
    newer minor version that this version does not know.
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
    checksum: str = field(default="", compare=False)

    @property
    def to_convert(self) -> list[GuestToConvert]:
        """The guests that apply converts."""
        return [guest for guest in self.guests if isinstance(guest, GuestToConvert)]

    @property
    def to_share(self) -> list[GuestToShare]:
        """The guests whose blocks apply shares with the template."""
        return [guest for guest in self.guests if isinstance(guest, GuestToShare)]
