"""Change definitions in libvirt while their VMs are off, and undo the changes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from datetime import UTC, datetime

from batchdiff.definitions import saved
from batchdiff.definitions.domain_state import OFF, contradictions_of
from batchdiff.definitions.guest_disks import RESTORING, GuestDisk
from batchdiff.definitions.libvirt_changes import DomainChange, domain_changes, path_of
from batchdiff.definitions.libvirt_domain import DomainDisk, parse_domain
from batchdiff.definitions.libvirt_pool import Pool
from batchdiff.definitions.uses import NOT_WRITTEN
from batchdiff.definitions.virsh import Libvirt
from batchdiff.errors import BatchdiffError, DefinitionError, ProgramError
from batchdiff.frozen import frozen
from batchdiff.linux.call_failures import AGAIN

_REMEDIES = {RESTORING: "`batchdiff restore` again", NOT_WRITTEN: "`batchdiff apply`"}

_TO_SHUT_DOWN = {
    "paused": ("resume", "shutdown"),
    "pmsuspended": ("dompmwakeup", "shutdown"),
    "crashed": ("destroy",),
}
"""The virsh commands, by state, for a VM that cannot react to ``shutdown`` alone."""


@frozen
class Definer:
    """The means to change VM definitions for one plan. ``folder``: that of the saved definitions."""

    libvirt: Libvirt
    disks: Sequence[GuestDisk]
    pools: Sequence[Pool]
    folder: str

    def define(self, change: DomainChange) -> bool:
        """Save a domain's definition, change it for the plan, and save the result.

        Return False, and change nothing, if the definition is right already. If the change succeeds, but its
        result cannot be read or saved, an error is raised, and the change stays.

        :raises DefinitionError: batchdiff must not change the definition now, or a definition cannot be parsed or
            saved.
        :raises ProgramError: libvirt cannot be queried, or refuses the change.
        """
        name = change.domain.name
        # Read again, with the passwords: what was true when the change was found may no longer be.
        domain = self.libvirt.domain(name, with_passwords=True)
        now = next(domain_changes([domain], self.disks, self.pools), None)
        if now is None:
            what = f"the definition of {name} was not changed"
            why = "since this command read it, it has been modified, and no longer uses a guest of the plan"
            raise DefinitionError(what, why=why, remedy=f"Check it, {AGAIN}")
        if now.is_right:
            return False
        self._require_may_change(now)
        before = saved.save_before(self.folder, name, domain.document, datetime.now(UTC))
        try:
            self.libvirt.define(name, now.changed)
        except ProgramError:
            # A change that was refused must not hide the one before it from undo.
            with contextlib.suppress(BatchdiffError, OSError):
                if self.libvirt.domain(name, with_passwords=True).document == domain.document:
                    saved.forget(before)
            raise
        saved.save_after(before, self.libvirt.domain(name, with_passwords=True).document)
        return True

    def undo(self, name: str) -> bool:
        """Bring back a domain's former definition; return False if there is nothing to undo.

        :raises DefinitionError: the change cannot be undone safely, or a definition cannot be read or parsed.
        :raises ProgramError: libvirt cannot be queried, or refuses the change.
        """
        last = saved.latest(self.folder, name)
        now = self.libvirt.domain(name, with_passwords=True)
        if last is None or now.document == last.before:
            return False
        what = f"the definition of {name} was left alone"
        if now.document != last.after:
            command = self.libvirt.command("define", "--file", last.path)
            by_hand = f"To bring back the former definition, run `{command}`."
            since = "has been modified since batchdiff changed it"
            why = f"it {since}" if last.after is not None else f"it is not known whether it {since}"
            raise DefinitionError(what, why=why, remedy=by_hand)
        self._require_off(name, what)
        self._require_consistent(name, what)
        disks = parse_domain(last.before, last.path).disks
        self._require_right_formats(disks, what)
        for path in (path_of(disk, self.pools) for disk in disks):
            if path and not os.path.exists(path):
                why = f"an image that its VM would use, {path}, is missing"
                raise DefinitionError(what, why=why, remedy=self._to_bring_back(path))
        self.libvirt.define(name, last.before, saved=last.path)
        return True

    def refresh_pools(self) -> list[tuple[str, ProgramError]]:
        """Have libvirt refresh the pools that contain guests' images; return the pools that failed, and why."""
        failed = []
        folders = {os.path.dirname(path) for disk in self.disks for path in disk.known_as}
        for pool in self.pools:
            if pool.folder and os.path.realpath(pool.folder) in folders:
                try:
                    self.libvirt.refresh(pool.name)
                except ProgramError as error:
                    failed.append((pool.name, error))
        return failed

    def _require_right_formats(self, disks: Sequence[DomainDisk], what: str) -> None:
        """Refuse a wrong format: a VM that uses an overlay as a raw disk destroys the overlay."""
        guests = {os.path.realpath(guest.now.path): guest for guest in self.disks}
        for disk in disks:
            path, given = path_of(disk, self.pools), disk.format or "raw"
            guest = guests.get(path)
            if guest is not None and guest.now.format != given:
                now = guest.now.format
                why = f"its VM would use {path} as {given}, but that image is now {now}, and could be destroyed"
                raise DefinitionError(what, why=why, remedy=_to_exchange(guest))

    def _to_bring_back(self, path: str) -> str:
        guest = next((each for each in self.disks if path in each.known_as), None)
        if guest is None or path == os.path.realpath(guest.now.path):
            return f"Bring it back, {AGAIN}"
        return _to_exchange(guest)

    def _require_may_change(self, change: DomainChange) -> None:
        name = change.domain.name
        what = f"the definition of {name} was not changed"
        if change.waiting:
            states = {use.waiting for use in change.uses}
            remedy = f"Run {' and '.join(what for state, what in _REMEDIES.items() if state in states)} first."
            raise DefinitionError(what, why="; ".join(change.waiting), remedy=remedy)
        if reasons := [f"{use.guest}: {use.by_hand}" for use in change.uses if use.by_hand and not use.is_right]:
            by_hand = "Change it by hand, as `batchdiff definitions` shows."
            raise DefinitionError(what, why="; ".join(reasons), remedy=by_hand)
        self._require_off(name, what)
        self._require_consistent(name, what)

    def _require_consistent(self, name: str, what: str) -> None:
        if found := contradictions_of(self.libvirt, name):
            remedy = " ".join(f"{each.advice}." for each in found)
            raise DefinitionError(what, why="; ".join(each.what for each in found), remedy=remedy)

    def _require_off(self, name: str, what: str) -> None:
        if (state := self.libvirt.state(name)) != OFF:
            verbs = _TO_SHUT_DOWN.get(state, ("shutdown",))
            commands = " && ".join(self.libvirt.command(verb, "--domain", name) for verb in verbs)
            remedy = f"Shut it down: `{commands}`."
            raise DefinitionError(what, why=f"its VM is {state}", remedy=remedy)


def _to_exchange(guest: GuestDisk) -> str:
    return f"Run `batchdiff {'restore' if guest.is_overlay else 'apply'}` first."
