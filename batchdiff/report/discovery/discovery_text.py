"""The results of `batchdiff discover`, as text.

::

    image      template       similar  95% interval     saves
    web01.img  debian-12.img    97.2%  95.9 - 98.1%  ~2.4 GiB

    template  debian-12.img (raw, 40 GiB), 1 copy, saving 2.3 GiB to 2.5 GiB: the overlay ...
    left out  old.img: too little of its data is in the same places in any other image
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence

from batchdiff.discovery.copies import Copy, Group
from batchdiff.discovery.discover import Discovery
from batchdiff.discovery.grouping import ChosenTemplate, Tie
from batchdiff.discovery.sample_offsets import SAMPLE
from batchdiff.discovery.samples import SampleShape
from batchdiff.image.storage.exactness import UNKNOWN_AMOUNT, Exactness, of_sum
from batchdiff.report.charset import writable
from batchdiff.report.figures import bounded_estimate, count_of, of_several
from batchdiff.report.form import WIDTH
from batchdiff.report.printable import printable
from batchdiff.report.table import Align, Column, cut, paragraph, table
from batchdiff.sampling.interval import Interval
from batchdiff.units import format_size

_COLUMNS = (
    Column("image", Align.LEFT),
    Column("template", Align.LEFT),
    Column("similar"),
    Column("95% interval"),
    Column("saves"),
)
_TEMPLATE_CELLS = 22
"""The maximum width, in cells, of a template's name on a terminal that is up to 100 cells wide."""

_MOST_NAMES = 20


_SHARE = (
    "For images on the same filesystem as their template, if files there can share blocks, `strategy: share` in a"
    " manifest is an alternative to overlays: each image stays as it is, and shares blocks on disk with its"
    " template where the two are equal; see docs/share.md."
)


def discovery_text(
    found: Discovery, shape: SampleShape, *, can_share: bool = False, width: int | None = None
) -> str:
    """Return the result for a terminal that is ``width`` cells wide (None: no terminal).

    ``can_share``: whether a copy could share blocks with its template.
    """
    names = _Names([*_paths(found)])
    heading = _heading(found, names)
    blocks = [
        [heading if width is None else paragraph(heading, width=width)],
        _table(found, names, width),
        [*_notes(found, names, width)],
        [*_left_out(found, names, width)],
        [paragraph(reading(found, shape), width=width)],
        [paragraph(_SHARE, width=width)] if can_share else [],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def reading(found: Discovery, shape: SampleShape) -> str:
    """Return how much was read, the limit for each image, and a note on any estimates."""
    samples = f"{shape.probes} samples of {format_size(SAMPLE)}"
    if shape.probe_bits:
        samples = f"{shape.probes} stretches of {format_size(shape.probe)}"
    reads = f"{found.reads:,} read{'' if found.reads == 1 else 's'}"
    read = f"Read at most {samples} from each image: {reads}, {format_size(found.read_bytes)} in all."
    estimates = "Similarities and savings are estimates; `batchdiff plan` compares all the data."
    return f"{read} {estimates}" if found.groups else read


def why_template(group: Group) -> str:
    """Return why an image is its group's template, as part of a sentence."""
    choice, copies = group.choice, group.copies
    if choice is None:
        return "named with --template"
    if copies and all(copy.similarity.estimate == 1 for copy in copies):
        why = "its copy equals it in every sample" if len(copies) == 1 else "its copies equal it in every sample"
    else:
        others = "the overlay of the other image takes" if len(copies) == 1 else "the overlays of all others take"
        why = f"{others} the least space on this template"
    return f"{why}; {_of_equals(choice)}" if choice.equals else why


def _of_equals(choice: ChosenTemplate) -> str:
    rules = " and, among those still tied, ".join(_TIES[tie] for tie in choice.ties)
    count = f"{'' if choice.all_tried else 'at least '}{count_of(choice.equals, 'other image')}"
    return f"{count} would do almost as well, but this one {rules}"


_TIES = {
    Tie.BACKING: "is a backing file already",
    Tie.READ_ONLY: "is read-only",
    Tie.OLDEST: "was modified least recently",
    Tie.SMALLEST: "takes the least space",
    Tie.NAME: "comes first by name",
}


class _Names:
    """The paths of files, without the common folder of ``paths``."""

    def __init__(self, paths: Sequence[str]) -> None:
        folders = {posixpath.dirname(path) for path in paths}
        common = posixpath.commonpath(folders) if folders else "/"
        self.folder = "" if common == "/" else common

    def __call__(self, path: str) -> str:
        return printable(path.removeprefix(f"{self.folder}/") if self.folder else path)


def _paths(found: Discovery) -> Iterator[str]:
    for group in found.groups:
        yield group.template.path
        yield from (copy.image.path for copy in group.copies)


def _heading(found: Discovery, names: _Names) -> str:
    copies = sum(len(group.copies) for group in found.groups)
    if not copies:
        return "No copies were found."
    where = f" in {printable(names.folder)}" if names.folder else ""
    noun = "copy" if copies == 1 else "copies"
    left = f", {len(found.exclusions)} left out" if found.exclusions else ""
    return f"{copies} {noun} of {count_of(len(found.groups), 'template')}{where}{left}"


def _table(found: Discovery, names: _Names, width: int | None) -> list[str]:
    rows = [
        (names(copy.image.path), names(group.template.path), *figures_of_copy(copy))
        for group, copy in in_order_of_savings(found.groups)
    ]
    if not rows:
        return []
    if width is not None:
        room = _TEMPLATE_CELLS + max(width - WIDTH, 0) // 2
        rows = [(row[0], cut(row[1], room), *row[2:]) for row in rows]
    total = sum((group.saved.estimate for group in found.groups), 0.0)
    exactness = of_sum(group.exactness for group in found.groups)
    return table(_COLUMNS, [*rows, ("total", "", "", "", bounded_estimate(total, exactness))], width=width)


def in_order_of_savings(groups: Iterable[Group]) -> list[tuple[Group, Copy]]:
    """Return all copies with their groups, those that save most first."""
    pairs = [(group, copy) for group in groups for copy in group.copies]
    return sorted(pairs, key=lambda pair: (-pair[1].saved.estimate, pair[1].image.path))


def figures_of_copy(copy: Copy) -> tuple[str, str, str]:
    """Return a copy's similarity, its interval, and the savings, in brackets if left out of the sums."""
    saves = bounded_estimate(copy.saved.estimate, copy.image.exactness)
    return (
        f"{copy.similarity.estimate:.1%}",
        interval_words(copy.similarity),
        f"({saves})" if copy.image.losses else saves,
    )


def interval_words(interval: Interval) -> str:
    """Return the bounds of a share as percentages, or ``exact``."""
    return "exact" if interval.is_exact else f"{interval.low * 100:.1f} - {interval.high:.1%}"


def _notes(found: Discovery, names: _Names, width: int | None) -> Iterator[str]:
    for group in found.groups:
        image = group.template
        what = f"{names(image.path)} ({image.source.format}, {format_size(image.virtual_size)})"
        number = len(group.copies)
        copies = f"{number} {'copy' if number == 1 else 'copies'}"
        yield _note("template", f"{what}, {copies}, saving {_range(group)}: {why_template(group)}", width)
    for group in found.groups:
        if shared := sum(copy.image.allocated - copy.image.reclaimable for copy in group.copies):
            copies = "copy" if len(group.copies) == 1 else "copies"
            what = f"{format_size(shared)} of the {copies} of {names(group.template.path)}"
            those = "the copy is" if len(group.copies) == 1 else "the copies are"
            why = "because of reflinks, hard links, or a lower layer of overlayfs"
            how = f"stays allocated even if {those} deleted ({why})"
            yield _note("shared", f"{what} {how}, so no overlay can free it", width)
    either: dict[tuple[str, str], list[str]] = {}
    for group, copy in in_order_of_savings(found.groups):
        if copy.other is not None:
            share = f"{names(copy.image.path)} ({copy.other.similarity.estimate:.1%})"
            either.setdefault((copy.other.path, group.template.path), []).append(share)
    for (other, template), shares in either.items():
        yield _note(
            "either", f"about as similar to {names(other)} as to {names(template)}: {_some(shares)}", width
        )
    for _, copy in in_order_of_savings(found.groups):
        if copy.image.losses:
            lost = (
                f"{names(copy.image.path)} has {copy.image.losses}, which an overlay would lose: the sums leave"
                " this image out, because a plan refuses it unless the manifest has `allow_loss`"
            )
            yield _note("note", lost, width)


def _some(words: Sequence[str]) -> str:
    more = f" and {len(words) - _MOST_NAMES} more" if len(words) > _MOST_NAMES else ""
    return ", ".join(words[:_MOST_NAMES]) + more


def _range(group: Group) -> str:
    saved = group.saved
    low, high = (format_size(max(int(each), 0)) for each in (saved.low, saved.high))
    match group.exactness:
        case Exactness.UNKNOWN:
            return UNKNOWN_AMOUNT
        case Exactness.AT_MOST:
            return f"at most {high}"
        case Exactness.AT_LEAST:
            return f"at least {low}"
    if low == high:
        return low if saved.is_exact else f"~{low}"
    return f"{low} to {high}"


def _left_out(found: Discovery, names: _Names, width: int | None) -> Iterator[str]:
    alike: dict[str, list[str]] = {}
    for each in found.exclusions:
        alike.setdefault(each.reason, []).append(names(each.path))
    for reason, left in alike.items():
        why = of_several(reason) if len(left) > 1 else reason
        yield _note("left out", f"{_some(left)}: {printable(why)}", width)
    if found.ignored:
        yield _note("ignored", ignored_words(found.ignored), width)


def ignored_words(count: int) -> str:
    """Return how many files were ignored and why."""
    words = "that does not look like an image" if count == 1 else "that do not look like images"
    return f"{count_of(count, 'file')} {words}"


def _note(label: str, text: str, width: int | None) -> str:
    return paragraph(writable(text), width=width, first=f"{label:<10}", rest=" " * 10)
