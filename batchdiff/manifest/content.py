"""The interpretation of a manifest's plain data as images, guests and overlays."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from batchdiff.choices import NO_MINIMUM, Loss, Retire, Strategy
from batchdiff.managers.proxmox_overlay import template_problem
from batchdiff.manifest.conflicts import check_data_files, check_guests, check_overlays, check_unshared
from batchdiff.manifest.converted import ConvertedGuests, Done, GoneGuest, OverlayFinder
from batchdiff.manifest.entries import EntryReader
from batchdiff.manifest.excludes import find_excluded
from batchdiff.manifest.guests import GuestFinder
from batchdiff.manifest.images import FoundGuest, FoundImage, check_depth, find_image, secret_path
from batchdiff.manifest.links import check_links
from batchdiff.manifest.manifest import GuestEntry, Manifest
from batchdiff.manifest.name_limits import check_data_file_names, check_names
from batchdiff.manifest.names import Naming, elsewhere, former_overlays
from batchdiff.plan.overlay_rules import template_objection
from batchdiff.quoting import show

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from batchdiff.manifest.guests import AnyGuest
    from batchdiff.manifest.text.problems import Problems
    from batchdiff.manifest.text.written import WrittenGuest


_PERCENT = re.compile(r"(.+?)\s*%")


class _Settled(NamedTuple):
    """A guest and its overlay's path; ``overlay`` is None if that path is unusable.

    ``rethin``: the guest is an overlay, to be replaced by a thinner one; ``done`` is then None.
    """

    guest: AnyGuest
    name: str
    overlay: str | None
    done: Done | None
    rethin: bool = False


class ManifestReader:
    """A reader of a manifest's plain data. Relative paths are resolved from ``folder``.

    Values that the schema has rejected are ignored, so that other problems are still found.
    """

    def __init__(self, data: Mapping[str, Any], folder: str, problems: Problems) -> None:
        self._data = data
        self._folder = folder
        self._problems = problems
        strategy = Strategy.OVERLAY if problems.touches(("strategy",)) else data.get("strategy", Strategy.OVERLAY)
        self._entries = EntryReader(data.get("defaults", {}), problems, Strategy(strategy))
        self._naming = Naming(folder, problems)

    def manifest(self, *, allow_existing_overlays: bool, left: Collection[str] = ()) -> Manifest | None:
        """Return the manifest that the data describes, its ``path`` and ``sha256`` empty; None if it has problems.

        ``left``: the paths of unmodified overlays that restores left behind.
        """
        template = self._template()
        written = self._written_guests()
        # Check missing guests, too, and continue in spite of problems, so that one run reports all problems.
        self._naming.check_overlay_paths(written)
        converted = ConvertedGuests(template.source.path if template else None)
        excluded = find_excluded(self._data, written, self._folder, self._problems)
        everyone = GuestFinder(template, converted, self._folder, self._problems).guests(written, excluded)
        overlays = OverlayFinder(template, self._folder, self._problems)
        guests = self._settled(overlays.guests(everyone), converted, overlays, template)
        check_guests(
            template, [each.guest for each in guests if isinstance(each.guest, FoundGuest)], self._problems
        )
        check_unshared(
            [(each.guest, each.overlay) for each in guests if _gets_overlay(each.guest)], self._problems
        )
        self._check_pending(template, guests, left=None if allow_existing_overlays else left)
        data_files = self._data_files(template, guests, may_exist=allow_existing_overlays)
        secrets = self._overlay_secrets(written)
        to_convert = [guest for guest in written if guest.gets_overlay]
        self._check_retired(to_convert, guests)
        self._check_template_format(template, to_convert)
        savings = self._minimum_savings()
        if self._problems or template is None:
            return None
        return Manifest(
            path="",
            sha256="",
            template=template.source,
            guests=tuple(
                _entry(each, each.overlay, secrets, data_files) for each in guests if each.overlay is not None
            ),
            retire=self._retire(),
            minimum_savings=savings,
            protect_template=self._data.get("protect_template", True),
            allow_loss=frozenset(Loss(loss) for loss in self._data.get("allow_loss", ())),
            warnings=self._problems.warnings,
        )

    def _template(self) -> FoundImage | None:
        written = self._entries.image(self._data.get("template"), ("template",))
        return find_image(written, self._folder, self._problems) if written else None

    def _written_guests(self) -> list[WrittenGuest]:
        entries = self._data.get("guests")
        self._entries.check_defaults()
        if not isinstance(entries, list):
            return []
        guests = [self._entries.guest(entry, ("guests", at)) for at, entry in enumerate(entries)]
        return [guest for guest in guests if guest]

    def _settled(
        self,
        everyone: Sequence[AnyGuest],
        converted: ConvertedGuests,
        thin: OverlayFinder,
        template: FoundImage | None,
    ) -> list[_Settled]:
        names = self._naming.guest_names(everyone)
        there = [guest for guest in everyone if isinstance(guest, FoundGuest)]
        gone = [guest.named for guest in everyone if isinstance(guest, GoneGuest)]
        path = template.source.path if template else None
        overlays = iter(self._naming.overlay_paths(there, gone=gone, template=path))
        found = []
        for guest, name in zip(everyone, names, strict=True):
            if isinstance(guest, GoneGuest):
                found.append(_Settled(guest, name, guest.done.overlay_path, guest.done))
                continue
            found.append(_settled(guest, name, next(overlays), converted, thin))
        return found

    def _check_pending(
        self, template: FoundImage | None, settled: list[_Settled], *, left: Collection[str] | None
    ) -> None:
        everyone = [each.guest for each in settled if isinstance(each.guest, FoundGuest)]
        pending = [
            (each.guest, each.overlay)
            for each in settled
            if isinstance(each.guest, FoundGuest) and not each.done and _gets_overlay(each.guest)
        ]
        check_overlays(template, everyone, pending, self._problems, left=left)
        check_depth(template, pending, self._problems)
        guests, overlays = [guest for guest, _ in pending], [overlay for _, overlay in pending]
        check_names(template, guests, overlays, self._retire(), self._problems)
        check_links(template, guests, overlays, self._problems)

    def _data_files(
        self, template: FoundImage | None, settled: list[_Settled], *, may_exist: bool
    ) -> dict[str, str]:
        """Check data files; return their paths by those of their overlays."""
        everyone = [each.guest for each in settled if isinstance(each.guest, FoundGuest)]
        pending, found = [], {}
        for each in settled:
            if isinstance(each.guest, FoundGuest) and each.overlay is not None and not each.done:
                path = self._naming.data_file(each.guest.written, each.overlay)
                if path is not None and _gets_overlay(each.guest):
                    pending.append((each.guest, path))
                    found[each.overlay] = path
        overlays = {each.overlay for each in settled if each.overlay is not None}
        check_data_files(template, everyone, overlays, pending, self._problems, may_exist=may_exist)
        check_data_file_names(pending, self._problems)
        return found

    def _check_retired(self, written: list[WrittenGuest], guests: list[_Settled]) -> None:
        if self._problems.objects_to(("retire",)) or self._data.get("retire", Retire.KEEP) != Retire.KEEP:
            return
        for where in dict.fromkeys(guest.rethin_where for guest in written if guest.rethin):
            self._problems.add(
                where,
                "a thinner overlay takes its guest's place, but `retire: keep` (the default) leaves the guest "
                "there; write `retire: quarantine` or `retire: delete`",
            )
        for guest in written:
            if guest.in_place:
                self._problems.add(
                    guest.overlay_where,
                    "the overlay is to take the guest's place, but `retire: keep` (the default) leaves the guest "
                    f"there; write `retire: quarantine` or `retire: delete`, or {elsewhere(guest)}",
                )
        for each in guests:
            laid_out = each.guest.written
            stays = each.done is not None or each.rethin or not laid_out.gets_overlay
            if laid_out.layout is not None and laid_out.in_place and not stays:
                self._problems.add(
                    laid_out.image.path_where,
                    f"{each.guest} already has the path that its overlay gets as a disk of Proxmox VE, but "
                    "`retire: keep` (the default) leaves the guest there; write `retire: quarantine` or "
                    "`retire: delete`",
                )

    def _overlay_secrets(self, written: list[WrittenGuest]) -> dict[str, str]:
        found = {}
        for guest in written:
            chosen = guest.options.encryption
            if chosen is not None and chosen.secret_file not in found:
                path = secret_path(chosen.secret_file, guest.secret_where, self._folder, self._problems)
                found[chosen.secret_file] = path
        return found

    def _check_template_format(self, template: FoundImage | None, written: list[WrittenGuest]) -> None:
        if template and any(guest.layout for guest in written) and (why := template_problem(template.source.path)):
            self._problems.add(("template", "path"), why)
        for guest in written:
            if template is not None and (why := template_objection(guest.options, template.source.format)):
                self._problems.add((*guest.where, "overlay", "format"), why)

    def _retire(self) -> Retire:
        wrong = self._problems.touches(("retire",))
        return Retire.KEEP if wrong else Retire(self._data.get("retire", Retire.KEEP))

    def _minimum_savings(self) -> float:
        """Return a share from 0 to 1; minus infinity for ``none``."""
        where = ("minimum_savings",)
        value = 0 if self._problems.touches(where) else self._data.get("minimum_savings", 0)
        if value == NO_MINIMUM:
            return -math.inf
        share = _share(value) if isinstance(value, str) else float(value)
        shown = show(value) if isinstance(value, str) else value
        if math.isnan(share) or share < 0 or math.isinf(share):
            why = f"{shown} is not a percentage from 0% to 100%"
            self._problems.add(where, f"{why}; write a share such as 5% or 0.05, or {NO_MINIMUM}")
        elif share > 1:
            hint = f'; did you mean "{value}%"?' if not isinstance(value, str) and share <= 100 else ""
            self._problems.add(where, f"{shown} is more than 100%{hint}")
        else:
            return share
        return 0.0


def _share(text: str) -> float:
    percent = _PERCENT.fullmatch(text.strip())
    try:
        return float(percent[1]) / 100 if percent else float(text)
    except ValueError:
        return math.nan


def _settled(
    guest: FoundGuest, name: str, overlay: str | None, converted: ConvertedGuests, thin: OverlayFinder
) -> _Settled:
    place = guest.place
    former = () if guest.written.overlay_path else former_overlays(place.named)
    done = converted.of((place.named, place.path), (overlay, place.path), former) if overlay else None
    if thin.is_overlay(guest):
        again = None if done and thin.awaits_purge(guest) else guest
    else:
        again = thin.of_done(guest, done) if done and guest.written.rethin else None
    if again is not None:
        return _Settled(again, name, again.place.path, None, rethin=True)
    return _Settled(guest, name, done.overlay_path if done else overlay, done)


def _entry(
    settled: _Settled, overlay_path: str, secrets: Mapping[str, str], data_files: Mapping[str, str]
) -> GuestEntry:
    guest, done = settled.guest, settled.done
    data_file = data_files.get(overlay_path) if guest.written.gets_overlay else None
    options = replace(guest.written.options, data_file=data_file)
    if options.encryption is not None:
        encryption = options.encryption._replace(secret_file=secrets[options.encryption.secret_file])
        options = replace(options, encryption=encryption)
    source = guest.source if isinstance(guest, GoneGuest) else guest.image.source
    written = "" if isinstance(guest, GoneGuest) else guest.place.named
    return GuestEntry(
        settled.name,
        source,
        overlay_path,
        options,
        None if done is None else done.origin,
        written,
        _objection(guest),
        settled.rethin,
        guest.written.image.pattern,
        strategy=guest.written.strategy,
        overlay_key=guest.written.overlay_key,
    )


def _objection(guest: AnyGuest) -> str:
    return "" if isinstance(guest, GoneGuest) else guest.objection


def _gets_overlay(guest: AnyGuest) -> bool:
    return guest.written.gets_overlay and not _objection(guest)
