"""The manifest of a group, as commented YAML; pure.

::

    template: {path: /images/debian-12.img, format: raw}
    guests:
      # 97.2% similar (95% interval: 95.9 - 98.1%), saves ~2.4 GiB
      - {path: /images/web01.img, format: raw}
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Iterator

from batchdiff.choices import Loss
from batchdiff.discovery.copies import Copy, Group
from batchdiff.discovery.exclusion import Cause, Exclusion
from batchdiff.discovery.sampled_image import SampledImage
from batchdiff.files import own_files
from batchdiff.files.filenames import readable
from batchdiff.linux.device_names import is_among_devices
from batchdiff.manifest.names import default_overlay, without_suffix
from batchdiff.quoting import fits_yaml, yaml_text


def manifest_names(groups: list[Group]) -> list[str]:
    """Return a different file name for each group."""
    found: list[str] = []
    for group in groups:
        stem = without_suffix(posixpath.basename(group.template.path))
        name, number = f"{stem}.yaml", 2
        while name in found:
            name, number = f"{stem}-{number}.yaml", number + 1
        found.append(name)
    return found


def manifest_text(  # noqa: PLR0913  # options by keyword
    group: Group,
    *,
    why: str,
    figures: Callable[[Copy], str],
    exists: Callable[[str], bool],
    longest: Callable[[str], int],
    folder: str,
    left_out: tuple[Exclusion, ...] = (),
) -> str:
    """Return the manifest of a group. :func:`is_listed` must accept its template and at least one copy.

    ``figures`` returns the text of a copy's comment; ``exists``, whether a path is taken; ``longest``, how many
    bytes a name in a folder may have. ``folder``: the place for overlays of guests in /dev if the template is
    there, too.
    """
    listed = [copy for copy in group.copies if is_listed(copy.image)]
    lines = [
        "# Written by `batchdiff discover` from samples: check this file, then run `batchdiff plan` with it.",
        "# Formats are those that VM definitions declare, or that the images' names and contents show.",
        "version: 1",
        *_comment(f"The template: {why}.", indent=""),
        *([_BY_CONTENT] if group.template.by_content else []),
        f"template: {{path: {yaml_text(group.template.path)}, format: {group.template.source.format}}}",
        *_allowance(listed),
        "guests:",
        *_Guests(listed, group.template, exists, longest, folder).lines(figures),
        "retire: keep",
    ]
    missing = [copy.image.path for copy in group.copies if not is_listed(copy.image)]
    for path in missing:
        lines += _comment(f"Not listed: {_shown(path)}, whose path is not UTF-8; a glob can match it", indent="")
    lines += _exclusions(group.template.path, left_out)
    return "\n".join(lines) + "\n"


def is_listed(image: SampledImage) -> bool:
    """Return whether YAML can contain the path of an image."""
    return fits_yaml(image.path)


_BY_CONTENT = "# Only its content shows its format, and a guest could have written that: check the format."


_IN_DEV = "# Its overlay cannot be in /dev, which is in memory. The folder below is only a suggestion."


class _Guests:
    def __init__(
        self,
        copies: list[Copy],
        template: SampledImage,
        exists: Callable[[str], bool],
        longest: Callable[[str], int],
        folder: str,
    ) -> None:
        self._copies, self._template, self._exists, self._longest = copies, template, exists, longest
        self._folder = folder if is_among_devices(template.path) else posixpath.dirname(template.path)
        self._paths = {copy.image.path for copy in copies}
        self._stems = Counter(_stem(copy.image.path) for copy in copies)
        self._names = set(self._stems)
        self._overlays: set[str] = set()

    def lines(self, figures: Callable[[Copy], str]) -> Iterator[str]:
        for copy in self._copies:
            yield from _comment(figures(copy), indent="  ")
            if copy.image.losses:
                lost = f"It has {copy.image.losses}, which an overlay would lose"
                yield from _comment(f"{lost}: a plan refuses it unless `allow_loss` above is set.", indent="  ")
            if copy.image.by_content:
                yield f"  {_BY_CONTENT}"
            if is_among_devices(copy.image.path):
                yield f"  {_IN_DEV}"
            yield f"  - {{{', '.join(self._keys(copy.image))}}}"

    def _keys(self, image: SampledImage) -> Iterator[str]:
        yield f"path: {yaml_text(image.path)}"
        yield f"format: {image.source.format}"
        stem = _stem(image.path)
        if self._stems[stem] > 1 or not stem.strip():
            name = _free(readable(_with_folder(image.path)), self._names.__contains__)
            self._names.add(name)
            yield f"name: {yaml_text(name)}"
        default = default_overlay(image.path, self._paths)
        wanted = default
        if is_among_devices(default):
            wanted = posixpath.join(self._folder, posixpath.basename(default))
        most = self._longest(posixpath.dirname(wanted)) - len(own_files.QUARANTINE)
        overlay = _free(wanted, self._is_taken, most)
        self._overlays.add(overlay)
        if overlay != default:
            yield f"overlay: {{path: {yaml_text(overlay)}}}"

    def _is_taken(self, path: str) -> bool:
        return path in self._overlays or path == self._template.path or self._exists(path)


def _allowance(copies: list[Copy]) -> Iterator[str]:
    lost = [
        kind
        for kind, is_lost in (
            (Loss.SNAPSHOTS, any(copy.image.snapshots for copy in copies)),
            (Loss.BITMAPS, any(copy.image.bitmaps for copy in copies)),
        )
        if is_lost
    ]
    if lost:
        one = sum(bool(copy.image.losses) for copy in copies) == 1
        guests, them = ("One guest", "it") if one else ("Some guests", "them")
        yield f"# {guests} would lose what the next line names; plans refuse {them} until you uncomment that line:"
        yield f"# allow_loss: [{', '.join(lost)}]"


def _exclusions(template: str, left_out: tuple[Exclusion, ...]) -> Iterator[str]:
    of_template = [each for each in left_out if each.template == template]
    overlays = sum(each.cause is Cause.OVERLAY for each in of_template)
    for each in of_template:
        if each.cause is not Cause.OVERLAY:
            yield from _comment(f"Left out: {each.path}: {each.reason}", indent="")
    if overlays:
        which = "1 file that is already an overlay"
        if overlays > 1:
            which = f"{overlays} files that are already overlays"
        yield f"# Left out: {which} on this template."
    if others := len(left_out) - len(of_template):
        which = "1 file, for a reason" if others == 1 else f"{others} files, for reasons"
        yield f"# Left out: {which} unrelated to this template."
        yield "# `batchdiff discover` lists every file that was left out, with the reason."


def _stem(path: str) -> str:
    return readable(without_suffix(posixpath.basename(path)))


def _with_folder(path: str) -> str:
    return f"{posixpath.basename(posixpath.dirname(path)) or 'root'}-{posixpath.basename(path)}"


def _free(wanted: str, taken: Callable[[str], bool], most: int | None = None) -> str:
    """Return a name or path that is not taken. ``most``: the maximum length of its last component, in bytes."""
    folder, last = posixpath.split(wanted)
    stem, suffix = posixpath.splitext(last)
    number = 1
    while True:
        end = suffix if number == 1 else f"-{number}{suffix}"
        kept = stem if most is None else stem.encode()[: most - len(end)].decode(errors="ignore")
        found = posixpath.join(folder, kept + end)
        if not taken(found):
            return found
        number += 1


def _shown(text: str) -> str:
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _comment(text: str, *, indent: str) -> Iterator[str]:
    yield f"{indent}# {_shown(text)}"
