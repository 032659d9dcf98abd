"""Assign images to templates, and estimate similarities and savings; pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchdiff.discovery.exclusion import Cause, Exclusion
from batchdiff.discovery.grouping import ALIKE, ChosenTemplate, Grouping
from batchdiff.discovery.sample_index import SampleIndex
from batchdiff.discovery.sample_offsets import SAMPLE, SampleNumbers
from batchdiff.discovery.sampled_image import SampledImage
from batchdiff.frozen import frozen
from batchdiff.image.storage.exactness import Exactness, of_sum
from batchdiff.sampling.interval import Interval
from batchdiff.units import KIB, MIB, ceil_div, format_size

_SURELY_ALIKE = 0.1
"""The minimum for the lower bound of a copy's similarity: a few matching samples do not prove that an image is a
copy."""

_HEADER = 16 * KIB
"""The bytes assumed for an overlay's header, refcount table, refcounts and L1 table: a block for each."""

_TABLE, _PER_TABLE = 64 * KIB, 512 * MIB
"""The bytes of an L2 table, and of the part of the disk that it maps, with clusters of 64 KiB."""


_PER_REFCOUNTS = 2 << 30
"""The bytes of an overlay that a cluster of 16-bit refcounts covers."""

_BLOCK, _EXTENT, _EXTENTS_IN_INODE, _EXTENTS_IN_BLOCK = 4 * KIB, 8 * KIB, 4, 340
"""In ext4: a block, the smallest extent with the hole after it, and how many extents an inode and a block can list
(Linux, ``fs/ext4/ext4_extents.h``)."""


class OtherTemplate(NamedTuple):
    """A second template: an image's estimated similarity to it reaches the lower bound of that to the first."""

    path: str
    similarity: Interval


@frozen
class Copy:
    """An image, with its similarity to its template. ``saved``: the bytes that an overlay would save."""

    image: SampledImage
    similarity: Interval
    saved: Interval
    other: OtherTemplate | None = None


@frozen
class Group:
    """A template and its copies, those that save most first. ``choice``: None if the template was given."""

    template: SampledImage
    choice: ChosenTemplate | None
    copies: tuple[Copy, ...]

    @property
    def saved(self) -> Interval:
        """The bytes that overlays would save; copies with losses do not count.

        Bounds are added up: images are sampled at the same offsets, so their errors are not independent.
        """
        saved = [copy.saved for copy in self._accepted]
        return Interval(
            sum(each.estimate for each in saved), sum(each.low for each in saved), sum(each.high for each in saved)
        )

    @property
    def exactness(self) -> Exactness:
        """The exactness of ``saved``, apart from sampling."""
        return of_sum(copy.image.exactness for copy in self._accepted)

    @property
    def _accepted(self) -> list[Copy]:
        """The copies without losses: a plan refuses the others unless its manifest allows the losses."""
        return [copy for copy in self.copies if not copy.image.losses]


class Placement:
    """The assignment of sampled images to templates. Images are known by their numbers in ``images``."""

    def __init__(self, images: Sequence[SampledImage], index: SampleIndex, grouping: Grouping) -> None:
        self._images, self._index, self._grouping = images, index, grouping
        self._is_given = False

    def groups(self, templates: dict[int, ChosenTemplate | None]) -> tuple[list[Group], list[Exclusion]]:
        """Return the groups, those that save most first, and an exclusion for each other image.

        ``templates``: by number; None if a template was given. A chosen one without copies is placed like any
        other image; a given one remains a template.
        """
        self._is_given = None in templates.values()
        while True:
            copies: dict[int, list[Copy]] = {each: [] for each in templates}
            left: list[Exclusion] = []
            nearest = self._nearest(list(templates))
            for image in range(len(self._images)):
                if image in templates:
                    continue
                found = self._placed(image, nearest)
                if isinstance(found, Copy):
                    copies[int(nearest.first[image])].append(found)
                else:
                    left.append(found)
            unused = [each for each, choice in templates.items() if choice is not None and not copies[each]]
            if not unused:
                return self._sorted(templates, copies), left
            templates = {each: choice for each, choice in templates.items() if each not in unused}

    def _sorted(self, templates: dict[int, ChosenTemplate | None], copies: dict[int, list[Copy]]) -> list[Group]:
        def most_first(copy: Copy) -> tuple[float, str]:
            return -copy.saved.estimate, copy.image.path

        groups = [
            Group(self._images[each], choice, tuple(sorted(copies[each], key=most_first)))
            for each, choice in templates.items()
        ]
        return sorted(groups, key=lambda group: (-group.saved.estimate, group.template.path))

    def _nearest(self, templates: Sequence[int]) -> _Nearest:
        count = len(self._images)
        first, second, larger = (np.full(count, -1) for _ in range(3))
        share, of_second, of_larger = (np.zeros(count) for _ in range(3))
        sizes = np.array([each.virtual_size for each in self._images])
        for template in templates:
            shares = self._index.shares(template)
            too_small = (sizes < sizes[template]) & (shares > of_larger)
            larger[too_small], of_larger[too_small] = template, shares[too_small]
            shares = self._grouping.fitting(template)
            better = shares > share
            second[better], of_second[better] = first[better], share[better]
            first[better], share[better] = template, shares[better]
            between = ~better & (shares > of_second)
            second[between], of_second[between] = template, shares[between]
        return _Nearest(first, share, second, of_second, larger, of_larger)

    def _placed(self, number: int, nearest: _Nearest) -> Copy | Exclusion:
        image, template = self._images[number], int(nearest.first[number])
        if nearest.share[number] < ALIKE:
            return self._unlike(number, nearest)
        similarity = self._index.similarity(number, template)
        if similarity.low < _SURELY_ALIKE:
            return self._unlike(number, nearest)
        if image.not_a_guest:
            cause = Cause.IN_USE if image.in_use else Cause.UNUSABLE
            alike = f"{similarity.estimate:.0%} of its data is in {self._images[template].path}"
            path = self._images[template].path
            return Exclusion(image.path, cause, f"{image.not_a_guest}; {alike}", template=path)
        other = self._other(number, nearest, similarity)
        return Copy(image, similarity, self._saved(number, template), other)

    def _other(self, image: int, nearest: _Nearest, similarity: Interval) -> OtherTemplate | None:
        second = int(nearest.second[image])
        if second < 0 or nearest.share_of_second[image] < similarity.low:
            second = self._grouping.either.get(image, -1)
        if second in {-1, int(nearest.first[image])}:
            return None
        also = self._index.similarity(image, second)
        return OtherTemplate(self._images[second].path, also) if also.estimate >= similarity.low else None

    def _saved(self, number: int, template: int) -> Interval:
        image = self._images[number]
        changed, places = self._index.changed_bytes(number, template), self._index.changed_places(number, template)
        most = ceil_div(image.virtual_size, _PER_TABLE) * _TABLE
        if places is None:
            tables = min(most, ceil_div(int(changed.estimate), SAMPLE) * _TABLE)
        else:
            most = tables = len(np.unique(places * SAMPLE // _PER_TABLE)) * _TABLE
        saved = changed.subtracted_from(image.reclaimable - _HEADER - tables)
        # Changes that are close to each other share a table; zeros where the template has data need tables, too.
        return saved.widened(below=most - tables + _other_metadata(changed.high + most), above=tables)

    def _unlike(self, number: int, nearest: _Nearest) -> Exclusion:
        image, larger = self._images[number], self._images[nearest.larger[number]]
        if nearest.share_of_larger[number] >= ALIKE:
            sizes = f"{format_size(image.virtual_size)} and {format_size(larger.virtual_size)}"
            alike = f"{nearest.share_of_larger[number]:.0%} of its data is in {larger.path}"
            why = f"{alike}, but its disk is smaller than that image's disk ({sizes})"
            return Exclusion(image.path, Cause.UNUSABLE, why, template=larger.path)
        if image.not_a_guest:
            return Exclusion(image.path, Cause.IN_USE if image.in_use else Cause.UNUSABLE, image.not_a_guest)
        likest = int(nearest.first[number])
        template = "" if likest < 0 else self._images[likest].path
        return Exclusion(image.path, Cause.UNLIKE, self._why_unlike(number, nearest), template)

    def _why_unlike(self, number: int, nearest: _Nearest) -> str:
        if len(self._images) == 1:
            return "there is no other image to compare it with"
        if nearest.first[number] >= 0:
            template = self._images[nearest.first[number]].path
            share = nearest.share[number]
            if share >= ALIKE:
                samples = f"{share:.0%} of its samples that can be compared are in {template}"
                return f"{samples}, but too few can be compared to be sure; if it is a copy, add it to a manifest"
            is_most = nearest.second[number] >= 0 and nearest.share_of_larger[number] <= share
            others = ", and no more in any other template" if is_most else ""
            return f"only {share:.0%} of its data is in {template}{others}"
        others = "template" if self._is_given else "other image"
        return f"too little of its data is in the same places in any {others}"


def _other_metadata(size: float) -> int:
    """Return roughly how many bytes further clusters of refcounts and ext4's lists of extents add at most."""
    extents = int(size) // _EXTENT
    lists = ceil_div(extents, _EXTENTS_IN_BLOCK) * _BLOCK if extents > _EXTENTS_IN_INODE else 0
    return int(size) // _PER_REFCOUNTS * _TABLE + lists


class _Nearest(NamedTuple):
    """The templates that have the largest shares of each image's data; -1 for none.

    ``first`` and ``second`` have disks that are not larger than the image's, unlike ``larger``.
    """

    first: SampleNumbers
    share: npt.NDArray[np.float64]
    second: SampleNumbers
    share_of_second: npt.NDArray[np.float64]
    larger: SampleNumbers
    share_of_larger: npt.NDArray[np.float64]
