"""The present paths of images that moved after a plan, a journal or a sidecar recorded them.

::

    --map /images=/fast/images

    /images/web01.img       -> /fast/images/web01.img
    /images2/web01.img      unchanged: only whole names match
    /fast/images/web02.img  unchanged: it was recorded after the move

Entries recorded after the move have the new paths already, so mapping a path twice must give the same result as
mapping it once. If NEW is under OLD (`--map /images=/images/old`), a path under NEW counts as already moved.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace

from batchdiff.files.filenames import unfit, why_unfit
from batchdiff.frozen import frozen
from batchdiff.image_source import ImageSource
from batchdiff.linux.call_failures import reason
from batchdiff.linux.permissions import Deed
from batchdiff.plan.overlay_options import OverlayOptions
from batchdiff.plan.plan import GuestPlan, Plan, PlannedImage
from batchdiff.plan.sidecar import OverlayOrigin, Sidecar


class NoSuchPlaceError(ValueError):
    """The NEW of a move cannot be found."""


@frozen
class Move:
    """A move of ``old``, and of everything under it, to ``new``; both are absolute paths."""

    old: str
    new: str


def move_in(text: str) -> Move:
    """Parse the text ``OLD=NEW`` of a command line; NEW may be relative to the working folder.

    :raises NoSuchPlaceError: NEW cannot be found.
    :raises ValueError: the text does not describe a move.
    """
    old, equals, new = text.partition("=")
    if not (old and equals and new):
        raise ValueError(f"{text!r} does not have the form OLD=NEW, as in /images=/fast/images")
    if unfit(text):
        raise ValueError(f"{text!r} has {why_unfit(text)}")
    if not old.startswith("/"):
        raise ValueError(f"{old!r} is not an absolute path; write OLD as it appears in the plan")
    try:
        found = _without_links(new)
    except OSError as error:
        hint = "; OLD ends at the first =" if "=" in new else ""
        why = reason(error, Deed.READ, new) if isinstance(error, PermissionError) else error.strerror
        raise NoSuchPlaceError(f"{new!r} cannot be found ({why}){hint}") from error
    # No realpath for OLD: whatever has that path now need not be what the plan recorded.
    return Move(f"/{os.path.normpath(old).strip('/')}", found)


@frozen
class PathMap:
    """The moves of one command."""

    moves: tuple[Move, ...] = ()

    def path(self, path: str) -> str:
        """Return the present form of a recorded path; if several moves match, the longest OLD counts."""
        under = [move for move in self.moves if _lies_under(path, move.old)]
        if not under:
            return path
        move = max(under, key=lambda each: len(each.old))
        if _lies_under(move.new, move.old) and _lies_under(path, move.new):
            return path
        rest = path[len(move.old.rstrip("/")) :]
        return (move.new.rstrip("/") + rest) or "/"

    def plan(self, plan: Plan) -> Plan:
        """Return a plan with its paths as they are now, except in texts such as reasons.

        The checksum stays the same, because it links the plan to its journal.

        :raises ValueError: the moves do not fit the plan or each other.
        """
        if not self.moves:
            return plan
        self._check(plan)
        return replace(
            plan,
            manifest_path=self.path(plan.manifest_path),
            template=self._planned(plan.template),
            guests=tuple(self._guest(guest) for guest in plan.guests),
            left_out=tuple(map(self.source, plan.left_out)),
        )

    def sidecar(self, sidecar: Sidecar) -> Sidecar:
        """Return a sidecar with all paths as they are now."""
        overlays = {self.path(path): self._origin(origin) for path, origin in sidecar.overlays.items()}
        return replace(sidecar, overlays=overlays)

    def source(self, source: ImageSource) -> ImageSource:
        """Return an image and its chain with their present paths."""
        return replace(
            source,
            path=self.path(source.path),
            backing=tuple(self.source(each) for each in source.backing),
            secret_file=None if source.secret_file is None else self.path(source.secret_file),
            allow_folders=tuple(map(self.path, source.allow_folders)),
            other_files=tuple(map(self.path, source.other_files)),
        )

    def _check(self, plan: Plan) -> None:
        news = {move.old: move.new for move in self.moves}
        for move in self.moves:
            if news[move.old] != move.new:
                raise ValueError(f"{move.old} cannot have moved both to {move.new} and to {news[move.old]}")
        paths = list(_paths_of(plan))
        if not any(_lies_under(path, old) for path in paths for old in news):
            olds = " or ".join(news)
            raise ValueError(f"no path in the plan is under {olds}; the template is {plan.template.source.path}")
        before: dict[str, str] = {}
        for path in paths:
            now = self.path(path)
            if self.path(now) != now:
                raise ValueError(f"{path} would be moved to {now}, and from there to {self.path(now)}")
            if before.setdefault(now, path) != path:
                raise ValueError(f"{before[now]} and {path} would both become {now}")

    def _planned(self, image: PlannedImage) -> PlannedImage:
        return replace(image, source=self.source(image.source))

    def _guest(self, guest: GuestPlan) -> GuestPlan:
        if guest.image is not None:
            guest = replace(guest, image=self._planned(guest.image))
        return replace(
            guest,
            source=self.source(guest.source),
            overlay_path=self.path(guest.overlay_path),
            options=self._options(guest.options),
            alias=self.path(guest.alias) if guest.alias else "",
        )

    def _options(self, options: OverlayOptions) -> OverlayOptions:
        chosen, data_file = options.encryption, options.data_file
        if chosen is not None:
            chosen = chosen._replace(secret_file=self.path(chosen.secret_file))
        return replace(options, encryption=chosen, data_file=None if data_file is None else self.path(data_file))

    def _origin(self, origin: OverlayOrigin) -> OverlayOrigin:
        return replace(
            origin,
            plan_path=self.path(origin.plan_path),
            original=self.path(origin.original),
            before=tuple(self._origin(each) for each in origin.before),
        )


NOTHING_MOVED = PathMap()


def _lies_under(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _paths_of(plan: Plan) -> Iterator[str]:
    yield plan.manifest_path
    yield from _chain(plan.template.source)
    for guest in plan.guests:
        yield from _chain(guest.source)
        yield guest.overlay_path
        if guest.options.data_file is not None:
            yield guest.options.data_file
        if guest.options.encryption is not None:
            yield guest.options.encryption.secret_file
        if guest.alias:
            yield guest.alias
    for source in plan.left_out:
        yield from _chain(source)


def _chain(source: ImageSource) -> Iterator[str]:
    yield from source.files
    for each in (source, *source.backing):
        if each.secret_file is not None:
            yield each.secret_file
        yield from each.allow_folders


def _without_links(path: str) -> str:
    if stat.S_ISBLK(os.stat(path).st_mode):
        # /dev/vg/lv is stable; the /dev/dm-3 behind it may be another volume after a reboot.
        folder, name = os.path.split(os.path.abspath(path))
        return os.path.join(os.path.realpath(folder), name)
    return os.path.realpath(path, strict=True)
