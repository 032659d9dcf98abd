"""Find the templates among sampled images; pure.

::

    hub                the image whose samples occur most often in other images   -> its group: all images like it
    template           of the images that are tried, one with which the group takes about the least space
    further template   an image of the group whose differences from the template occur in other images, too
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchdiff.discovery.sample_index import SampleIndex
from batchdiff.discovery.sample_offsets import SampleNumbers

ALIKE = 0.25
"""The least share of an image's data that its template must have. With less, an overlay saves little, and even
separate installations of one system may have as much in common."""

_CANDIDATES = 16
"""The maximum number of images from each ranking that are tried as a group's template."""

_TRIED = 64
"""The maximum number of images whose copies are looked for in one round."""

_TIE, _TIE_OF_DATA = 0.02, 0.001
"""How much more space a template may take to count as equally good: ``_TIE`` times the overlays on the best
template, plus ``_TIE_OF_DATA`` times the best template's data. A guest that has hardly changed is as good a
template as its source."""

_WHOLE = 0.8
"""The least share of a second template's changes that its copies must have, relative to the share of its other
data that they have. Guests that upgraded the same packages independently have 55% to 71% of each other's
changes."""

_HALF, _FEW_CHANGES = 0.5, 0.05
"""``_HALF`` replaces ``_WHOLE`` for images that have few changes and are not second templates: the intervals of
similarities decide later whether copies fit. ``_FEW_CHANGES``: the largest share of an image's samples that counts
as few changes."""

_FEWEST_CHANGES = 4
"""The minimum number of changed samples in a second template."""

_LEAST_COPIES = 2
"""The minimum number of copies of a second template; one is enough if the template is marked."""


_NONE = np.zeros(0, dtype=np.int64)


class Trait(NamedTuple):
    """The properties of an image besides its samples, in bytes and nanoseconds."""

    virtual_size: int
    is_backing: bool
    read_only: bool
    modified_ns: int
    allocated: int
    path: str

    @property
    def marked(self) -> bool:
        """True if it looks like a template."""
        return self.is_backing or self.read_only

    @property
    def preference(self) -> tuple[int | str, ...]:
        """A sort key, in the order of ``Tie``; the lowest key wins."""
        return not self.is_backing, not self.read_only, self.modified_ns, self.allocated, self.path


class Tie(enum.Enum):
    """A rule that decides between equally good templates."""

    BACKING = "it is already a backing file"
    READ_ONLY = "it is read-only"
    OLDEST = "it was modified least recently"
    SMALLEST = "it takes the least space"
    NAME = "its name comes first"


class ChosenTemplate(NamedTuple):
    """A template (its place in the index), and the number of images that would do as well.

    ``ties``: the rules that ruled out some of these. ``all_tried``: False if untried images may do as well.
    """

    template: int
    equals: int
    ties: tuple[Tie, ...]
    all_tried: bool = True


class Grouping:
    """The search for templates. Images are known by their places in the index.

    ``either``: for some images, another one that is not a template, but of which the image could equally be a
    copy.
    """

    def __init__(self, index: SampleIndex, traits: Sequence[Trait]) -> None:
        self._index, self._traits = index, traits
        self._sizes = np.array([each.virtual_size for each in traits], dtype=np.int64)
        self._data = index.data_bytes
        # For each key, the number of free images that have it.
        self._left = np.bincount(np.concatenate([_NONE, *index.keys]), minlength=index.key_count)
        self._free = np.ones(len(index), dtype=bool)
        self.either: dict[int, int] = {}

    def templates(self) -> list[ChosenTemplate]:
        """Return all templates, those of one group together."""
        found: list[ChosenTemplate] = []
        queue = [(-self._reach(image), image) for image in range(len(self._index))]
        heapq.heapify(queue)
        while queue:
            _, image = heapq.heappop(queue)
            if not self._free[image]:
                continue
            reach = self._reach(image)
            if queue and -reach > queue[0][0]:  # its reach has dropped since it was queued
                heapq.heappush(queue, (-reach, image))
                continue
            if not reach:
                break  # no remaining image has a sample in common with another
            found += self._group_of(image)
        return found

    def fitting(self, template: int) -> npt.NDArray[np.float64]:
        """Return the share of each image's data that a template has; 0 for the template and for smaller disks."""
        shares = self._index.shares(template)
        shares[self._sizes < self._sizes[template]] = 0
        shares[template] = 0
        return shares

    def _reach(self, image: int) -> int:
        """Return how often the samples of an image occur in other free images."""
        return int((self._left[self._index.keys[image]] - 1).sum())

    def _group_of(self, hub: int) -> list[ChosenTemplate]:
        group = [hub, *self._near(hub)]
        choice = self._best(group)
        members = self._near(choice.template) if len(group) > 1 else []
        if not members:
            self._take([hub, choice.template])
            return []
        found = [choice, *self._below(choice, members)]
        self._take([each.template for each in found] + members)
        return found

    def _near(self, template: int) -> list[int]:
        """Return the free images that are like a template, even if their disks are smaller."""
        shares = self._index.shares(template)
        shares[template] = 0
        alike = (shares >= ALIKE) & self._free
        return [int(each) for each in np.flatnonzero(alike)]

    def _take(self, images: Iterable[int]) -> None:
        for image in images:
            if self._free[image]:
                self._free[image] = False
                self._left[self._index.keys[image]] -= 1

    def _best(self, group: Sequence[int]) -> ChosenTemplate:
        by_reach = sorted(group, key=lambda image: (-self._reach(image), self._traits[image].preference))
        marked = [each for each in by_reach if self._traits[each].marked]
        preferred = sorted(group, key=lambda image: self._traits[image].preference)
        chosen = dict.fromkeys(by_reach[:_CANDIDATES] + marked[:_CANDIDATES] + preferred[:_CANDIDATES])
        among = np.array(group, dtype=np.int64)
        taken = {each: self._space(each, among) for each in chosen}
        least, overlays = min(taken.values())
        margin = _TIE * overlays + _TIE_OF_DATA * (least - overlays)
        good = [each for each, (space, _) in taken.items() if space <= least + margin]
        best, *others = sorted(good, key=lambda image: self._traits[image].preference)
        return ChosenTemplate(best, len(others), self._ties(best, others), len(chosen) == len(group))

    def _ties(self, best: int, others: Sequence[int]) -> tuple[Tie, ...]:
        left = [self._traits[each].preference for each in others]
        found: list[Tie] = []
        for place, (tie, value) in enumerate(zip(Tie, self._traits[best].preference, strict=True)):
            equal = [each for each in left if each[place] == value]
            if len(equal) < len(left):
                found.append(tie)
            left = equal
        return tuple(found)

    def _space(self, template: int, images: SampleNumbers) -> tuple[float, float]:
        """Estimate the bytes of a template with overlays, and of the overlays alone."""
        overlays = (1 - self.fitting(template)) * self._data
        overlays[template] = 0
        total = float(overlays[images].sum())
        return float(self._data[template]) + total, total

    def _below(self, first: ChosenTemplate, members: Sequence[int]) -> list[ChosenTemplate]:
        """Return further templates: members whose changes other members have, too. Update ``either``."""
        found: list[ChosenTemplate] = []
        nearest = dict.fromkeys(members, first.template)
        alike = {first.template: self.fitting(first.template)}
        tried: set[int] = set()
        while (choice := self._one_below(nearest, tried)) is not None:
            new = choice.template
            found.append(choice)
            del nearest[new]
            alike[new] = self.fitting(new)
            for each, template in nearest.items():
                if alike[new][each] > alike[template][each]:
                    nearest[each] = new
        self._find_either(nearest)
        return found

    def _one_below(self, nearest: dict[int, int], tried: set[int]) -> ChosenTemplate | None:
        """Return a further template, if any, and update ``tried``. ``nearest``: each member's template."""
        changes = {each: self._changes(each, template) for each, template in nearest.items()}
        many = [
            each for each, changed in changes.items() if changed.sum() >= _FEWEST_CHANGES and each not in tried
        ]
        for image in self._by_spread(changes, many):
            tried.add(image)
            copies = self._copies(image, changes[image], nearest)
            # The image and its copies share these changes: any of these images may be the template.
            if len(copies) >= self._least_copies(image):
                tried.update(copies)
                return self._best([image, *copies])
        return None

    def _find_either(self, nearest: dict[int, int]) -> None:
        changes = {each: self._changes(each, template) for each, template in nearest.items()}
        few = [each for each, changed in changes.items() if 0 < changed.sum() <= _FEW_CHANGES * len(changed)]
        for image in self._by_spread(changes, few):
            copies = self._copies(image, changes[image], nearest, fewest=1, whole=_HALF)
            if len(copies) >= self._least_copies(image):
                for each in copies:
                    self.either.setdefault(each, image)

    def _least_copies(self, image: int) -> int:
        return 1 if self._traits[image].marked else _LEAST_COPIES

    def _by_spread(self, changes: dict[int, npt.NDArray[np.bool_]], chosen: Sequence[int]) -> list[int]:
        keys = {each: self._index.keys[each][changed] for each, changed in changes.items()}
        counts = np.bincount(np.concatenate([_NONE, *keys.values()]), minlength=self._index.key_count)
        spread = {each: float((counts[keys[each]] - 1).mean()) for each in chosen}
        likely = [each for each in chosen if spread[each] >= self._least_copies(each) * _HALF]
        return sorted(likely, key=lambda image: (-spread[image], self._traits[image].preference))[:_TRIED]

    def _changes(self, image: int, template: int) -> npt.NDArray[np.bool_]:
        """Return for each sample of an image whether it can be compared with a template and is missing from it."""
        level = int(max(self._index.levels[image], self._index.levels[template]))
        is_new = ~np.isin(self._index.keys[image], self._index.keys[template])
        return is_new & (self._index.heights[image] >= level)

    def _copies(
        self,
        image: int,
        changed: npt.NDArray[np.bool_],
        members: Iterable[int],
        *,
        fewest: int = _FEWEST_CHANGES,
        whole: float = _WHOLE,
    ) -> list[int]:
        """Return the other members that have enough of an image's changes.

        ``fewest``: how many changes must be comparable; ``whole``: the least share of the changes that a copy must
        have, relative to the share of the image's other samples that it has.
        """
        of_changes, count = self._shares_of(image, changed)
        of_rest, _ = self._shares_of(image, ~changed)
        fits = (count >= fewest) & (of_changes >= ALIKE) & (of_changes >= whole * of_rest)
        return [each for each in members if fits[each] and each != image]

    def _shares_of(
        self, image: int, chosen: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.float64], SampleNumbers]:
        """Return the share of chosen samples that each image has, and how many can be compared."""
        heights = np.sort(self._index.heights[image][chosen])
        of = len(heights) - np.searchsorted(heights, self._index.levels)
        return self._index.common(self._index.keys[image][chosen]) / np.maximum(of, 1), of
