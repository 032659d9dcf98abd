"""A diff plan as data: what was found, what is to be written, what it saves (docs/plan-format.md)."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from batchdiff.choices import Retire
from batchdiff.files.fingerprint import Fingerprint
from batchdiff.image.storage.exactness import Exactness
from batchdiff.image_source import ImageSource
from batchdiff.plan.overlay_options import OverlayOptions
from batchdiff.plan.runs import Runs

FORMAT_VERSION = (1, 2)
"""1.1 added the lasting name of the filesystem to fingerprints; 1.2 how exact savings are, links to guests, and
similarity."""

DEFAULT_UNIT = 4096
"""In plans before 1.2 all space was counted in units of this size."""


class Verdict(enum.StrEnum):
    """What apply will do with a guest."""

    CONVERT = "convert"
    SKIP = "skip"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """An image as it was when planned; ``fingerprints`` has one for each file of its chain, itself first."""

    source: ImageSource
    virtual_size: int
    fingerprints: tuple[Fingerprint, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """The files of the chain, the image itself first."""
        return (self.source.path, *(backing.path for backing in self.source.backing))

    def changes(self, now: tuple[Fingerprint, ...]) -> str:
        """What differs from the fingerprints of the same chain now, in words; empty where nothing does."""
        found = [
            f"{path}: {changes}"
            for path, before, after in zip(self.paths, self.fingerprints, now, strict=True)
            if (changes := before.changes(after))
        ]
        return "; ".join(found)


@dataclass(frozen=True, slots=True)
class Savings:
    """What converting one guest gives back, in bytes (docs/plan-format.md says how each is found).

    ``overlay_error_bytes`` is 0 where ``overlay_bytes`` is exact; with compression it is an estimate that
    is off by no more than this in 19 cases of 20. ``exactness`` is that of ``saved_bytes``, and ``note`` says why
    it is not exact, or why deleting the guest would free nothing. ``allocation_unit``: bytes in which the
    filesystem of the overlay gives space.
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


@dataclass(frozen=True, slots=True)
class Similarity:
    """How much of a guest is not zeros, and how much of that the template has at the same place, in bytes."""

    equal_bytes: int
    nonzero_bytes: int

    @property
    def share(self) -> float:
        """From 0 to 1; 1 for a guest that is nothing but zeros, which is like any template."""
        return self.equal_bytes / self.nonzero_bytes if self.nonzero_bytes else 1.0


_UNLIKE = 0.01
"""Below it two disks have in common what any two have: boot code, partition tables, licences."""


def why_unlike(similarity: Similarity | None) -> str:
    """Return that a guest does not look like a copy of the template, in words; empty if it does."""
    if similarity is None or similarity.share >= _UNLIKE:
        return ""
    much = f"next to nothing ({similarity.share:.2%} of its data)" if similarity.equal_bytes else "nothing"
    return f"it has {much} in common with the template: was it copied from another one?"


@dataclass(frozen=True, slots=True)
class GuestPlan:
    """One guest's part. ``data`` and ``zero`` are what is written as data and as zeros.

    Both are in units of ``unit`` bytes, the granule of the overlay: its clusters, or subclusters.

    ``image`` is None where the guest could not be opened, and ``savings`` where it could not be compared.

    ``alias``: the symbolic link by which the manifest names the guest, absolute; empty if it names the file.
    ``similarity`` is None in plans before 1.2 as well.
    """

    name: str
    source: ImageSource
    image: PlannedImage | None
    verdict: Verdict
    reason: str
    overlay_path: str
    options: OverlayOptions
    unit: int
    data: Runs
    zero: Runs
    savings: Savings | None
    alias: str = ""
    similarity: Similarity | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the guests to convert, in bytes, and how many guests have which verdict.

    ``template_copy_bytes``: what it takes on overlayfs to change the mode of a template in a lower layer; it is
    in ``saved_bytes`` and ``peak_extra_bytes``. ``exactness`` is that of ``saved_bytes``; ``note`` says why it is
    not exact where no guest's note does.
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


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole plan. ``created`` is an ISO 8601 time in UTC.

    ``checksum``: that of the file that it was read from, which names the plan to its journal; it covers all but
    itself and ``created``, also what a newer minor version has and this one does not know.
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
    checksum: str = field(default="", compare=False)
