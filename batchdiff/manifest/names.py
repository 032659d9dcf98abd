"""The names of a manifest's guests, and the paths of their overlays and data files."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

from batchdiff.files import own_files
from batchdiff.files.filenames import readable, shell_word, why_unfit
from batchdiff.linux.device_names import is_among_devices
from batchdiff.managers.proxmox_overlay import PlacementError, overlay_in_storage, template_problem
from batchdiff.manifest.paths import locate_overlay, resolve_folder
from batchdiff.manifest.text.problems import Problems
from batchdiff.manifest.text.written import IN_PLACE
from batchdiff.plan.overlay_options import OverlayFormat
from batchdiff.quoting import show

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from batchdiff.manifest.guests import AnyGuest
    from batchdiff.manifest.images import FoundGuest
    from batchdiff.manifest.text.problems import YamlPath
    from batchdiff.manifest.text.written import WrittenGuest


_IMAGE_SUFFIXES = (".img", ".raw", ".qcow2", ".qed", ".vmdk", ".vdi", ".vhd", ".vhdx", ".hdd")
"""Text after any other dot is part of a guest's name: web-1.0 and web-1.1 are two machines."""


def without_suffix(path: str) -> str:
    """Return a path without its image suffix, if any."""
    stem, suffix = os.path.splitext(path)
    return stem if suffix.lower() in _IMAGE_SUFFIXES else path


def former_overlays(named: str) -> tuple[str, ...]:
    """Return the default overlay paths that older versions, which cut names at the last dot, gave a guest.

    Empty if this version shortens the name in the same way.
    """
    stem = os.path.splitext(named)[0]
    return (f"{stem}.qcow2", f"{stem}.overlay.qcow2") if stem != without_suffix(named) else ()


def default_overlay(named: str, guests: Collection[str], form: str = OverlayFormat.QCOW2) -> str:
    """Return the default path of a guest's overlay: ``web01.qcow2`` for ``web01.img`` and for ``web01``.

    If ``web01.qcow2`` is itself a guest, the overlay is ``web01.overlay.qcow2``.
    """
    stem = without_suffix(named)
    plain = f"{stem}.{form}"
    return f"{stem}.overlay.{form}" if plain == named or plain in guests else plain


def default_data_file(overlay: str) -> str:
    """Return the default path of an overlay's data file: ``web01.data.raw`` for ``web01.qcow2``."""
    return f"{without_suffix(overlay)}.data.raw"


def placed(guest: WrittenGuest, named: str, template: str | None) -> WrittenGuest:
    """Return a guest's entry with the overlay path from its layout, or unchanged if there is no such path."""
    if guest.layout is None or template is None or template_problem(template):
        return guest
    try:
        path = overlay_in_storage(template, named, guest.layout)
    except PlacementError:
        return guest
    return guest._replace(overlay_path=IN_PLACE if path == named else path)


def elsewhere(guest: WrittenGuest) -> str:
    """Return advice for an overlay that must not take its guest's path."""
    if guest.image.is_glob or guest.overlay_where[0] == "defaults":
        return "leave overlay.path out"  # `same` is the only value allowed there
    return "give the overlay another path (`./same` for a file named same)"


class Naming:
    """The choice of guests' names, and of the paths of their overlays and data files."""

    def __init__(self, folder: str, problems: Problems) -> None:
        self._folder = folder
        self._problems = problems

    def check_overlay_paths(self, guests: Sequence[WrittenGuest]) -> None:
        """Report unusable overlay paths."""
        for guest in guests:
            if guest.overlay_path and not guest.in_place and guest.gets_overlay:
                locate_overlay(self._folder, guest.overlay_path, guest.overlay_where, self._problems)

    def overlay_paths(
        self, guests: Sequence[FoundGuest], *, gone: Collection[str] = (), template: str | None = None
    ) -> list[str | None]:
        """Return the absolute path of each guest's overlay; None for one without a usable path.

        For a guest that gets no overlay, the path is the default. ``gone``: the paths of guests whose originals
        are gone.
        """
        named = {guest.named for guest in guests} | set(gone)
        return [
            self._overlay_path(guest, named, template)
            if guest.written.gets_overlay
            else default_overlay(guest.place.named, named)  # nothing is written there
            for guest in guests
        ]

    def data_file(self, guest: WrittenGuest, overlay: str) -> str | None:
        """Return the absolute path of an overlay's data file; None if there is none, or its path is unusable."""
        written, where = guest.options.data_file, guest.data_file_where
        if not written:
            return None if written is None else default_data_file(overlay)
        path, default = resolve_folder(self._folder, written), show(default_data_file(overlay))
        if self._problems.objects_to(where):
            return None
        if guest.image.is_glob or where[0] == "defaults":
            why = (
                "a path here would be the same for every guest; write `data_file: true`, or list the guests by"
                " path, each with its own data_file"
            )
        elif why_unfit(written) or os.path.basename(written) in {"", ".", ".."}:
            why = f"{show(written)} is not a usable file name; write `data_file: true` for {default}"
        elif os.path.dirname(path) != os.path.dirname(overlay):
            why = (
                f"{show(path)} is not beside the overlay {show(overlay)}; write `data_file: true` for {default},"
                " or name a file in the overlay's folder"
            )
        elif path.endswith(own_files.RESERVED):
            why = (
                f"{show(written)} has a name that is reserved for batchdiff's own files; write `data_file: true`"
                f" for {default}"
            )
        else:
            return path
        self._problems.add(where, why)
        return None

    def guest_names(self, guests: Sequence[AnyGuest]) -> list[str]:
        """Return the name of each guest; report unusable names."""
        stems = [guest.written.name or _stem(guest) for guest in guests]
        count = Counter(stems)
        # A guest without a name of its own is named after its file or, if another has that name, after its path.
        names = [
            self._relative(guest) if guest.written.name is None and count[stem] > 1 else stem
            for guest, stem in zip(guests, stems, strict=True)
        ]
        first: dict[str, AnyGuest] = {}
        for guest, name in zip(guests, names, strict=True):
            if self._problems.objects_to((*guest.written.where, "name")):
                continue
            if why_not := why_unfit(name) or ("" if name.strip() else "only blanks"):
                self._problems.add(_where(guest), f"{show(name)} is not a valid name: it contains {why_not}")
            earlier = first.setdefault(name, guest)
            if earlier is not guest and not _one_file_unnamed(earlier, guest):
                why = f"{guest} has the name {show(name)}, as does {earlier}; change one of the names"
                self._problems.add(_where(guest), why)
        return names

    def _overlay_path(self, guest: FoundGuest, named: set[str], template: str | None) -> str | None:
        where = guest.written.overlay_where
        if self._problems.objects_to((*guest.written.where, "overlay", "path")):
            return None
        if guest.written.in_place:
            return self._own_path(guest)
        if guest.written.overlay_path and not self._is_in_linked_folder(guest):
            return locate_overlay(self._folder, guest.written.overlay_path, where, self._problems)
        if guest.written.layout is not None:
            self._report_unplaced(guest, template)
            return None
        path = default_overlay(guest.place.named, named, guest.written.options.format)
        if is_among_devices(path):
            why = f"no overlay can be written beside {show(guest.place.named)}, in /dev; {_set_path(guest)}"
            self._problems.add(where, why)
            return None
        return path

    def _report_unplaced(self, guest: FoundGuest, template: str | None) -> None:
        if guest.written.layout is None or template is None or template_problem(template):
            return
        try:
            overlay_in_storage(template, guest.named, guest.written.layout)
        except PlacementError as error:
            is_given = getattr(guest.written.layout, error.key, None) is not None
            where = (*guest.written.where, "overlay", error.key) if is_given else guest.written.image.path_where
            by_path = "`exclude` it, or list it by path and " if guest.written.image.is_glob else ""
            what = f"{show(guest.place.written)} cannot become a disk of Proxmox VE: {error.why}"
            self._problems.add(where, f"{what}; {by_path}write {error.write}")

    def _is_in_linked_folder(self, guest: FoundGuest) -> bool:
        folder = os.path.dirname(guest.written.overlay_path or "")
        real = os.path.realpath(folder) if folder else folder
        if guest.written.layout is None or real == folder or not os.path.islink(folder):
            return False
        link, target = shell_word(folder), shell_word(real)
        self._problems.add(
            guest.written.image.path_where,
            f"{show(folder)} is a symbolic link to {show(real)}, from which the relative backing file name of"
            f" a linked clone would be resolved; replace the link: `rm {link} && mv {target} {link}`, or, if the"
            f" images must stay there, `rm {link} && mkdir {link} && mount --bind {target} {link}`",
        )
        return True

    def _own_path(self, guest: FoundGuest) -> str | None:
        if guest.place.identity[0] == "device":
            why = f"{guest} is a block device, which no file can replace; {_set_path(guest)}"
            self._problems.add(guest.written.overlay_where, why)
            return None
        if guest.written.layout is not None and guest.place.named != guest.place.path:
            # The relative backing file name would be resolved from the folder of the link's target.
            why = (
                f"{guest} is a symbolic link to {show(guest.place.path)}, and the overlay that takes its place"
                f" must be in the VM's own folder; move the image there: `mv {shell_word(guest.place.path)}"
                f" {shell_word(guest.place.named)}`"
            )
            self._problems.add(guest.written.overlay_where, why)
            return None
        return guest.place.path

    def _relative(self, guest: AnyGuest) -> str:
        return readable(os.path.relpath(guest.named, self._folder))


def _set_path(guest: FoundGuest) -> str:
    return f"{'list it by path and ' if guest.written.image.is_glob else ''}set overlay.path"


def _where(guest: AnyGuest) -> YamlPath:
    written = guest.written
    return (*written.where, "name") if written.name is not None else written.image.path_where


def _one_file_unnamed(one: AnyGuest, other: AnyGuest) -> bool:
    # Two guests that are one file are reported elsewhere: as the same file, or for their common overlay.
    same = one.named == other.named if one.identity is None else one.identity == other.identity
    return same and not (one.written.name and other.written.name)


def _stem(guest: AnyGuest) -> str:
    return readable(without_suffix(os.path.basename(guest.named)))
