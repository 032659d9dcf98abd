"""What a command may do to the files of a fleet, judged by how they were before and how they are after.

::

    original      goes by apply only, after its overlay shows the same; or is set aside as a quarantined original
    quarantined   goes by purge (--used: though its VM has run since), by apply --retire delete, or back by restore
    overlay       goes by restore only, after what it showed stands in the original's place; or --discard-changes
    all others    stay as they are, to the byte; nothing comes that nobody asked for
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from disks import File
from world import Guest, Look, World

_OWN = (".batchdiff-tmp", ".batchdiff-template.json")
_PLANS = re.compile(r"(fleet|other)(\..+)?\.plan\.json")
"""A plan that can still be undone is kept under a name with a date when another one takes its place."""


@dataclass(frozen=True)
class Command:
    """A command line, and what it asks for. ``guests``: the names that it is about."""

    verb: str
    argv: tuple[str, ...]
    guests: frozenset[str] = frozenset()
    plan: str = ""
    retire: str = ""
    used: bool = False
    discard: bool = False
    dry: bool = False
    allow: frozenset[str] = field(default_factory=frozenset)

    @property
    def reads_only(self) -> bool:
        return self.dry or self.verb in {"plan", "verify", "status", "show", "validate"}


@dataclass(frozen=True)
class Case:
    """A command, and the files around it.

    ``broken``: guests whose VMs cannot see what they saw, by their owners' doing.
    """

    world: World
    command: Command
    before: Look
    after: Look
    was_killed: bool
    broken: frozenset[str]
    dependents: dict[str, list[str]]

    def is_at(self, file: File, names: tuple[str, ...]) -> bool:
        """Whether that very content stands under one of the names now."""
        return any(name in self.after.files and self.after.files[name].digest == file.digest for name in names)

    def stays(self, path: str) -> bool:
        """Whether a file is as it was."""
        then, now = self.before.files.get(path), self.after.files.get(path)
        return then is not None and now is not None and then.digest == now.digest


def offences(case: Case) -> list[str]:
    """What the command did that it must not do, in words."""
    found = []
    for path, file in case.before.files.items():
        if not case.stays(path):
            found += [f"{path} {why}" for why in _changed(case, path, file)]
    for path in case.after.files.keys() - case.before.files.keys():
        found += [f"{path} {why}" for why in _came(case, path)]
    return found


def untruths(case: Case, outcomes: dict[str, dict]) -> list[str]:
    """What was said of guests and is not so."""
    found = []
    for name, outcome in outcomes.items():
        guest, status = case.world.guests[name], outcome["status"]
        has = {path: path in case.after.files for path in guest.names}
        is_true = {
            "converted": has[guest.overlay],
            "retired": has[guest.overlay],
            "unchanged": has[guest.overlay],
            "restored": has[guest.path] and (guest.in_place or case.command.discard or not has[guest.overlay]),
            "purged": not has[guest.quarantine],
            "kept": has[guest.quarantine],
        }
        if not is_true.get(status, True):
            found.append(f"{name} is said to be {status}; there are {sorted(path for path in has if has[path])}")
        unused = guest.published and guest.overlay not in case.before.files and name not in case.world.unsettled
        if status == "restored" and unused and not case.command.discard:
            found.append(f"{name} is said to be restored, and nobody knows what its VM had written to its overlay")
        if outcome["original"].startswith("quarantined") and not has[guest.quarantine]:
            found.append(f"the original of {name} is said to be in quarantine, and is not")
    return found


def _is_own(path: str) -> bool:
    name = os.path.basename(path)
    return name.endswith(_OWN) or _PLANS.match(name) is not None


def _guest_of(world: World, path: str) -> Guest | None:
    return next((guest for guest in world.guests.values() if path in guest.names), None)


def _changed(case: Case, path: str, file: File) -> list[str]:
    if _is_own(path):
        return ["was changed by a command that only reads"] if case.command.verb in {"verify", "status"} else []
    guest = _guest_of(case.world, path)
    if guest is None:
        return ["was changed, or is gone: nobody asked for that"]
    if case.command.reads_only or guest.name not in case.command.guests:
        return [f"was changed, or is gone, by `{case.command.verb}`, which was not asked to do that"]
    if case.dependents.get(path):
        return [f"went, and {case.dependents[path]} rested on it"]
    law = _law_of(guest, path)
    return [why for why in [law(case, guest, path, file)] if why]


_Law = Callable[[Case, Guest, str, File], str]


def _law_of(guest: Guest, path: str) -> _Law:
    if path == guest.quarantine:
        return _quarantined
    if path in guest.passing:
        return _passing
    if path == guest.overlay and (guest.published or not guest.in_place):
        return _overlay
    return _original


def _original(case: Case, guest: Guest, path: str, file: File) -> str:
    if case.command.verb != "apply":
        return f"is an original, and went by {case.command.verb}"
    if case.was_killed and case.is_at(file, guest.names):
        return ""
    if guest.overlay not in case.after.files or case.after.seen.get(guest.overlay) != case.before.seen[path]:
        return "is an original that went, and its overlay does not show what it held"
    if case.command.retire == "quarantine" and not case.is_at(file, (guest.quarantine,)):
        return "is an original that went, and is not in quarantine"
    if case.command.retire == "keep":
        return "is an original that went, though it was to be kept"
    return ""


def _quarantined(case: Case, guest: Guest, path: str, file: File) -> str:
    command, before = case.command, case.before
    same = before.seen.get(guest.overlay) is not None and before.seen[guest.overlay] == before.seen[path]
    published = case.after.seen.get(guest.overlay) == before.seen[path]
    if case.was_killed and case.is_at(file, guest.names):
        return ""
    if command.verb == "restore":
        if not case.is_at(file, (guest.path,)):
            return "is a quarantined original that went, and did not get its name back"
        finished = before.seen.get(guest.path) == before.seen[path] or not guest.published
        told = command.discard or finished
        return "" if same or told else "came back, and nobody said to discard what its VM has written"
    if command.verb == "purge" and command.used and _was_restored(case, guest):
        return ""
    if command.verb == "apply" and command.retire == "delete" and published:
        return ""  # also one that an apply which was killed had set aside before it published the overlay
    if not case.stays(guest.overlay) or before.seen.get(guest.overlay) is None:
        return f"is a quarantined original that went by {command.verb}, and its overlay is not there or unreadable"
    if guest.name in case.broken:
        return f"is a quarantined original that went by {command.verb}, and what its VM has is not whole"
    if command.verb == "purge":
        return "" if same or command.used else "was purged though its overlay shows something else"
    return f"is a quarantined original that went by {command.verb}"


def _was_restored(case: Case, guest: Guest) -> bool:
    """Whether a guest's VM runs on its restored image, and what is in quarantine is older."""
    return not guest.published and case.stays(guest.path) and case.world.vm_of(guest).disk == guest.path


def _overlay(case: Case, guest: Guest, path: str, file: File) -> str:
    command, before, after = case.command, case.before, case.after
    if case.was_killed and case.is_at(file, guest.names):
        return ""
    was_full = command.verb == "apply" and command.retire == "delete" and file.backing is None
    if was_full and after.seen.get(path) == before.seen.get(path) is not None:
        return ""  # flattened, it was a full copy again, and a later plan has put an overlay in its place
    if command.verb != "restore":
        return f"is an overlay that went by {command.verb}"
    for what, count in (("snapshots", file.snapshots), ("bitmaps", file.bitmaps)):
        if count and what not in command.allow and not command.discard:
            return f"is an overlay that went with its {what}, and nobody allowed that"
    back = after.seen.get(guest.path)
    if guest.path not in after.files or back is None:
        return "is an overlay that went, and nothing readable is in its place"
    if back == before.seen.get(path) and guest.name not in case.broken:
        return ""
    if command.discard:
        originals = {before.seen.get(name) for name in (guest.path, guest.quarantine, *guest.passing)} - {None}
        return "" if back in originals else "is an overlay that went, and what came back is not the old original"
    return "is an overlay that went, and what came back is not what it showed"


def _passing(case: Case, guest: Guest, path: str, file: File) -> str:
    """A name from an earlier kill: what it held is there under another name, or shown by what is there."""
    if case.is_at(file, guest.names):
        return ""
    left = {case.after.seen.get(name) for name in guest.names} - {None}
    if case.before.seen[path] in left or case.command.used or case.command.discard:
        return ""
    return "held something that stands nowhere now"


def _came(case: Case, path: str) -> list[str]:
    command, world = case.command, case.world
    if path.endswith(".batchdiff-tmp"):
        return [] if case.was_killed else ["was left behind"]
    if _is_own(path):
        return ["was made by a command that only reads"] if command.verb in {"verify", "status"} else []
    guest = _guest_of(world, path)
    if guest is None or command.reads_only or guest.name not in command.guests:
        return ["was made, and nobody asked for it"]
    if path in guest.passing:
        # An overlay that nothing can read without its template is left, for the template may come back.
        return [] if case.was_killed or command.discard else ["was left behind"]
    file = case.after.files[path]
    names = [name for name in guest.names if name in case.before.files]
    if any(case.before.files[name].digest == file.digest for name in names):
        return []  # a rename
    if path == guest.quarantine:
        return ["is said to be an original, but no such file was there"]
    shown = [case.before.seen[name] for name in names]
    if case.after.seen[path] in shown:
        return []
    return ["was made, and shows nothing that was there before"]
