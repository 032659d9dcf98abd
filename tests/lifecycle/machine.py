"""Histories of a fleet, drawn by hypothesis: every rule is one kind of thing that people, VMs or batchdiff do.

A rule counts what can be done now, and a number picks one of them; the world's log has the history in words. The
invariants are :mod:`laws` (what a command may do to files), :meth:`world.World.check` (what each VM sees), and
:mod:`promises` (what must succeed); they are asked after every step.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import ClassVar

import admin
import promises
import verbs
from disks import chain
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from laws import Command
from pool import Pool
from running import CALLS, Kill, options
from world import FILES, OTHER, PLAN, Guest, Vm, World

WHICH = st.integers(0, 999)
"""Picks one of the things that can be done, modulo their number."""

RETIRE = st.sampled_from(["quarantine", "delete", "keep"])
OUTPUT = st.sampled_from([PLAN, OTHER])
STYLE = st.sampled_from(["globs", "paths", "open"])
ONE = st.none() | st.integers(0, 3)
KILL = st.builds(Kill, st.sampled_from(CALLS), st.integers(1, 12))
ALLOWED = st.sets(st.sampled_from(["snapshots", "bitmaps"])).map(frozenset)


class Lives(RuleBasedStateMachine):
    """The life of one fleet."""

    pool: ClassVar[Pool]
    begun: ClassVar[int] = 0
    """Histories so far."""
    failure: ClassVar[Exception | None] = None
    """What broke in one of them."""

    def __init__(self) -> None:
        super().__init__()
        type(self).begun += 1
        self.world = World(self.pool)

    @initialize(
        files=st.sets(st.sampled_from(list(FILES)), min_size=1, max_size=2),
        retire=RETIRE,
        done=st.sampled_from(["applied", "applied", "applied", "planned"]),
        relative=st.booleans(),
        style=STYLE,
    )
    def begin(self, files: set[str], retire: str, done: str, relative: bool, style: str) -> None:
        """Full copies of a template, planned already, and most often converted."""
        self.world.relative = relative
        for file in sorted(files):
            self.world.add_guest(file)
        self.plan(PLAN, style)
        if done == "applied":
            self.apply(0, retire, None)

    def teardown(self) -> None:
        error = sys.exception()
        if isinstance(error, Exception) and not isinstance(error, HypothesisException):
            type(self).failure = error

    # ---- what there is

    def _usable(self) -> list[Vm]:
        return [vm for vm in self.world.vms if self.world.usable(vm)]

    def _sound(self) -> list[Vm]:
        return [vm for vm in self.world.vms if self.world.is_sound(vm)]

    def _converted(self) -> list[Vm]:
        """VMs that run on overlays at their own paths."""
        return [vm for vm in self._usable() if vm.guest and vm.guest.published and vm.disk == vm.guest.overlay]

    def _plans(self) -> list[str]:
        return [path for path in self.world.plans if os.path.exists(path)]

    def _guests(self) -> list[Guest]:
        return list(self.world.guests.values())

    def _do(self, acts: Sequence[tuple[object, ...]], which: int) -> None:
        """Does one of what can be done, each a function of the module ``admin`` and its arguments."""
        if acts:
            act, *arguments = acts[which % len(acts)]
            act(self.world, *arguments)
            self.world.settle()
            self.world.check()

    # ---- what VMs and their administrators do

    @precondition(lambda self: self._usable())
    @rule(which=WHICH, at=st.integers(0, 2000), length=st.sampled_from([128, 1, 300]), letter=st.integers(1, 255))
    def write(self, which: int, at: int, length: int, letter: int) -> None:
        self._do([(admin.write, vm, at, length, letter) for vm in self._usable()], which)

    @precondition(lambda self: self._usable())
    @rule(which=WHICH, steps=st.sampled_from([1, 4, -1]))
    def inside(self, which: int, steps: int) -> None:
        """Internal snapshots, bitmaps, another size."""
        able = [vm for vm in self._usable() if admin.kind_of(vm.disk) == "qcow2"]
        acts = [(act, vm) for act in (admin.snapshot, admin.bitmap) for vm in able]
        # QEMU goes back to a snapshot only if there are no bitmaps.
        acts += [(admin.revert, vm) for vm in able if vm.snapshots and not admin.has_bitmaps(vm)]
        acts += [(admin.forget_snapshots, vm) for vm in able if vm.snapshots]
        large = [vm for vm in self._usable() if not vm.snapshots and len(vm.truth) > 4 * admin.STEP]
        self._do(acts + [(admin.resize, vm, steps) for vm in large], which)

    @rule(which=WHICH, how=st.sampled_from(["absolute", "relative", "symlink"]))
    def linked(self, which: int, how: str) -> None:
        """External snapshots and linked clones, and their end."""
        acts = [(admin.external, vm, how) for vm in self._usable()]
        acts += [(admin.commit, vm) for vm in self._usable() if self._can_be_committed(vm)]
        acts += [(admin.clone, vm, how) for vm in self._sound()]
        acts += [(admin.drop, vm) for vm in self._usable() if vm.guest is None]
        self._do(acts, which)

    def _can_be_committed(self, vm: Vm) -> bool:
        is_external = os.path.basename(vm.disk).startswith("external")
        return is_external and self.world.dependents(chain(vm.disk)[1]) == [vm.disk]

    @precondition(lambda self: self._converted())
    @rule(which=WHICH)
    def rewritten(self, which: int) -> None:
        """An overlay's file is made again."""
        resting = [vm for vm in self._converted() if vm.base is not None]
        acts = [(admin.compact, vm) for vm in resting]
        acts += [(admin.transfer, vm) for vm in self._sound()]
        acts += [(admin.flatten, vm, how) for vm in resting for how in ("convert", "rebase")]
        self._do(acts, which)

    @rule(which=WHICH, how=st.sampled_from(["into", "in place"]))
    def carried(self, which: int, how: str) -> None:
        """Files are moved away and back, copied and copied back, deleted, and lost."""
        own = [vm for vm in self._usable() if vm.guest and vm.disk in vm.guest.names and not self.world.relative]
        acts = [(admin.move, vm) for vm in own]
        acts += [(admin.move_back, vm) for vm in self._usable() if self._is_away(vm)]
        acts += [(admin.back_up, vm) for vm in self._usable() if "external" not in vm.disk]
        acts += [(admin.from_backup, vm, how) for vm in self.world.vms if self._can_come_back(vm)]
        acts += [(admin.lose, vm) for vm in self._converted()]
        acts += [(admin.take_back, vm) for vm in self._converted() if self._can_be_taken_back(vm)]
        acts += [(admin.remove_aside, path) for path in self._not_needed()]
        acts += [(admin.lose_journal, path) for path in self._plans() if os.path.exists(f"{path}.journal")]
        self._do(acts, which)

    def _can_be_taken_back(self, vm: Vm) -> bool:
        """Whether its original is in quarantine, and nothing stands at its own name but the overlay."""
        guest = vm.guest
        if guest is None or guest.name in self.world.unsettled or not os.path.exists(guest.quarantine):
            return False
        return guest.in_place or not os.path.exists(guest.path)

    def _not_needed(self) -> list[str]:
        """Originals that people may delete by hand."""
        settled = [guest for guest in self._guests() if guest.name not in self.world.unsettled]
        found = [guest.quarantine for guest in settled if self.world.is_sound(self.world.vm_of(guest))]
        found += [vm.guest.path for vm in self._converted() if vm.guest in settled and not vm.guest.in_place]
        return [path for path in found if os.path.exists(path) and not self.world.dependents(path)]

    def _is_away(self, vm: Vm) -> bool:
        name = os.path.basename(vm.disk)
        own = vm.guest is not None and str(self.world.folder / name) in vm.guest.names
        return own and not os.path.exists(self.world.folder / name)

    def _can_come_back(self, vm: Vm) -> bool:
        world = self.world
        if vm.name not in world.copies or (vm.guest is not None and vm.guest.name in world.unsettled):
            return False
        disk = world.copies[vm.name][1]
        return (vm.lost or vm.disk == disk) and not world.dependents(disk)

    @rule(which=WHICH, at=st.integers(0, 1500))
    def below(self, which: int, at: int) -> None:
        """The template and the filesystem; nearly always nothing that anybody sees has changed."""
        acts: list[tuple] = [(admin.remount,), (admin.remount,)]
        acts += [(admin.touch_template, how) for how in admin.TOUCHES]
        acts += [(admin.chmod, vm) for vm in self._sound()]
        acts += [(admin.move_pool,)] if "--map" in options("restore") else []
        if self.world.template_digest() == self.world.first_digest:
            acts.append((admin.change_template, at))
        else:
            acts += [(admin.bring_template_back,)] * 5
        self._do(acts, which)

    # ---- batchdiff

    @rule(output=OUTPUT, style=STYLE)
    def plan(self, output: str, style: str) -> None:
        """The fleet is planned; in the style ``open`` without the guests that are converted."""
        names = [guest.name for guest in self._guests() if style != "open" or not guest.published]
        if names:
            promises.plan(self.world, names, output=output, style=style)

    @rule(file=st.sampled_from(list(FILES)), output=OUTPUT, style=STYLE)
    def plan_more(self, file: str, output: str, style: str) -> None:
        """A new full copy, and a plan with it."""
        if os.path.splitext(file)[0] not in self.world.guests:
            self.world.add_guest(file)
        self.plan(output, style)

    def _chosen(self, which: int) -> str:
        plans = self._plans()
        return plans[which % len(plans)]

    def _one(self, path: str, one: int | None) -> str | None:
        names = sorted(self.world.plans[path].verdicts)
        return None if one is None or not names else names[one % len(names)]

    def _untouched(self) -> list[str]:
        return [guest.name for guest in self._guests() if promises.is_untouched(self.world, guest)]

    @precondition(lambda self: self._untouched())
    @rule(output=OUTPUT, style=STYLE, retire=RETIRE)
    def convert(self, output: str, style: str, retire: str) -> None:
        """What has not been converted is planned and converted."""
        promises.plan(self.world, self._untouched(), output=output, style=style)
        path = self.world.plan_path(output)
        if path in self._plans():
            promises.apply(self.world, verbs.apply(self.world, path, retire))

    @precondition(lambda self: self._plans())
    @rule(which=WHICH, retire=RETIRE, one=ONE)
    def apply(self, which: int, retire: str, one: int | None) -> None:
        if self._plans():
            path = self._chosen(which)
            promises.apply(self.world, verbs.apply(self.world, path, retire, guest=self._one(path, one)))

    def _is_something_to_undo(self) -> bool:
        begun = self.world.unsettled or any(g.published or os.path.exists(g.quarantine) for g in self._guests())
        return bool(begun and self._plans())

    @precondition(lambda self: self._is_something_to_undo())
    @rule(which=WHICH, one=ONE)
    def restore(self, which: int, one: int | None) -> None:
        path = self._chosen(which)
        verbs.execute(self.world, verbs.restore(self.world, path, guest=self._one(path, one)))

    @precondition(lambda self: self._is_something_to_undo())
    @rule(which=WHICH, one=ONE, discard=st.booleans(), allow=ALLOWED)
    def restore_at_a_price(self, which: int, one: int | None, discard: bool, allow: frozenset[str]) -> None:
        path = self._chosen(which)
        guest = self._one(path, one)
        verbs.execute(self.world, verbs.restore(self.world, path, guest=guest, discard=discard, allow=allow))

    @precondition(lambda self: self._is_something_to_undo())
    @rule(which=WHICH, one=ONE, used=st.booleans())
    def purge(self, which: int, one: int | None, used: bool) -> None:
        path = self._chosen(which)
        verbs.execute(self.world, verbs.purge(self.world, path, guest=self._one(path, one), used=used))

    @precondition(lambda self: self._is_something_to_undo())
    @rule(which=WHICH, verb=st.sampled_from(["verify", "status", "restore", "purge"]))
    def only_look(self, which: int, verb: str) -> None:
        path = self._chosen(which)
        match verb:
            case "verify":
                promises.verify(self.world, verbs.verify(self.world, path))
            case "status":
                promises.status(self.world, verbs.status(self.world, path))
            case "restore":
                verbs.execute(self.world, verbs.restore(self.world, path, dry=True))
            case "purge":
                verbs.execute(self.world, verbs.purge(self.world, path, dry=True))

    def _command(self, verb: str, path: str, retire: str, force: bool) -> Command:
        match verb:
            case "apply":
                return verbs.apply(self.world, path, retire)
            case "restore":
                return verbs.restore(self.world, path, discard=force)
            case "purge":
                return verbs.purge(self.world, path, used=force)
            case _:
                return verbs.verify(self.world, path)

    def _unchanged_by_opening(self) -> list[Vm]:
        return [vm for vm in self._usable() if not admin.has_bitmaps(vm)]

    @precondition(lambda self: self._plans() and self._unchanged_by_opening())
    @rule(
        which=WHICH,
        vm=WHICH,
        verb=st.sampled_from(["apply", "restore", "purge", "verify"]),
        retire=RETIRE,
        force=st.booleans(),
    )
    def while_a_vm_runs(self, which: int, vm: int, verb: str, retire: str, force: bool) -> None:
        usable = self._unchanged_by_opening()
        command = self._command(verb, self._chosen(which), retire, force)
        verbs.execute(self.world, command, running=usable[vm % len(usable)])

    @precondition(lambda self: self._plans())
    @rule(
        which=WHICH,
        verb=st.sampled_from(["apply", "restore", "purge", "plan"]),
        retire=RETIRE,
        force=st.booleans(),
        kill=KILL,
        again=st.booleans(),
    )
    def killed(self, which: int, verb: str, retire: str, force: bool, kill: Kill, again: bool) -> None:
        """A command is killed, and run again at once, or perhaps later."""
        if verb == "plan":
            names = [guest.name for guest in self._guests()]
            verbs.plan(self.world, names, output=PLAN, style="globs" if force else "paths", kill=kill)
            return
        command = self._command(verb, self._chosen(which), retire, force)
        done = verbs.execute(self.world, command, kill=kill)
        if done.code is None and again:
            verbs.execute(self.world, command)
            self.world.unsettled -= command.guests
            self.world.check()

    # ---- what must succeed

    def _restorable(self) -> list[Guest]:
        return [guest for guest in self._guests() if promises.can_be_restored(self.world, guest)]

    @precondition(lambda self: self._restorable())
    @rule(which=WHICH)
    def wanted_back(self, which: int) -> None:
        guests = self._restorable()
        promises.restore_somehow(self.world, guests[which % len(guests)])

    def _purgeable(self) -> list[Guest]:
        return [guest for guest in self._guests() if promises.can_be_purged(self.world, guest)]

    @precondition(lambda self: self._purgeable())
    @rule(which=WHICH)
    def out_of_quarantine(self, which: int) -> None:
        guests = self._purgeable()
        promises.purge_somehow(self.world, guests[which % len(guests)])
