"""What must succeed: where nothing stands in the way that people put there, a refusal is a fault too.

A command that refuses everything loses nothing, and helps nobody. The conditions here are those under which
the documents promise that it works; whatever else people did, a refusal is right.
"""

from __future__ import annotations

import os

import verbs
from disks import chain
from laws import Command
from running import Done
from world import Guest, World

_ODD = {"flattened", "journal lost", "original removed", "moved"}
"""After these it may refuse."""


def _plain(world: World, guest: Guest) -> bool:
    """Whether a guest is converted, its VM runs on the overlay at its path, and all else is as it should be."""
    vm = world.vm_of(guest)
    return (
        guest.published
        and not guest.marks & _ODD
        and vm.disk == guest.overlay
        and world.is_sound(vm)
        and world.template in chain(vm.disk)
        and not world.dependents(vm.disk)
    )


def original_is_kept(guest: Guest) -> bool:
    """Whether an original stands under its own name beside its overlay."""
    return not guest.in_place and os.path.exists(guest.path)


def can_be_restored(world: World, guest: Guest) -> bool:
    """Whether restore must give a guest back what its VM sees."""
    if not _plain(world, guest):
        return False
    # Where the original was kept and the overlay used, only people know which of the two to keep.
    return not original_is_kept(guest) or world.reader.seen(guest.path) == world.reader.seen(guest.overlay)


def restore_somehow(world: World, guest: Guest) -> None:
    """With one of the plans that are there, the guest gets back what its VM sees.

    :raises ViolationError: there is no way.
    """
    allow = frozenset({"snapshots", "bitmaps"})
    said = _tried(world, guest, lambda path: verbs.restore(world, path, guest=guest.name, allow=allow), _is_back)
    if not _is_back(guest):
        raise world.violation(f"no plan gives {guest.name} back:\n{said}")


def _is_back(guest: Guest) -> bool:
    return not guest.published


def can_be_purged(world: World, guest: Guest) -> bool:
    """Whether there must be a way to end a guest's quarantine."""
    aside = os.path.exists(guest.quarantine) and not world.dependents(guest.quarantine)
    # After a kill it is the same command again that leads on.
    return aside and _plain(world, guest) and guest.name not in world.unsettled


def purge_somehow(world: World, guest: Guest) -> None:
    """With one of the plans that are there, the guest's quarantine ends.

    :raises ViolationError: there is no way.
    """
    said = _tried(
        world, guest, lambda path: verbs.purge(world, path, guest=guest.name, used=True), _is_out_of_quarantine
    )
    if not _is_out_of_quarantine(guest):
        raise world.violation(f"no plan ends the quarantine of {guest.name}:\n{said}")


def _is_out_of_quarantine(guest: Guest) -> bool:
    return not os.path.exists(guest.quarantine)


def _tried(world, guest, command, reached) -> str:
    said = ""
    for path in world.plan_files():
        done = verbs.execute(world, command(path))
        said += f"{os.path.basename(path)}: {done.code}: {done.said}"
        if reached(guest):
            break
    return said


def plan(world: World, names: list[str], *, output: str, style: str) -> Done:
    """Plans guests to a path where no plan is yet: those that are done are no obstacle to the others.

    :raises ViolationError: they are.
    """
    free = not os.path.exists(world.plan_path(output)) and not world.former
    fit = all(_plain(world, guest) or is_untouched(world, guest) for guest in map(world.guests.get, names))
    if style == "globs" and any(name.startswith("web") for name in names):
        # It takes in all that are there, and one that matches nothing is an error.
        webs = [guest for guest in world.guests.values() if guest.name.startswith("web")]
        there = [guest for guest in webs if os.path.exists(guest.path)]
        fit = fit and any(there) and all(_plain(world, guest) or is_untouched(world, guest) for guest in there)
    done = verbs.plan(world, names, output=output, style=style)
    if free and fit and done.code not in {0, 1}:
        raise world.violation(f"all guests are done or fit, and plan ends with {done.code}:\n{done.said}")
    return done


def is_untouched(world: World, guest: Guest) -> bool:
    """Whether a guest's VM runs on its full copy, and nothing else is there."""
    vm = world.vm_of(guest)
    others = [name for name in guest.names if name != guest.path and os.path.exists(name)]
    return not guest.published and vm.disk == guest.path and world.is_sound(vm) and not others


def apply(world: World, command: Command) -> None:
    """Applies a plan. Guests that are as they were planned, on a template that holds what it held, are converted,
    unless restore gave them back and nobody names them;
    and a plan of which all is done has nothing left to do.

    :raises ViolationError: that is not so.
    """
    settled = not command.guests & world.unsettled
    wanted = [name for name in sorted(command.guests) if settled and _is_as_planned(world, command, name)]
    record = world.plans[command.plan]
    in_place = record.folder == world.folder and record.template == world.template_digest()
    idle = settled and in_place and all(_is_done(world, command, name) for name in command.guests)
    done = verbs.execute(world, command)
    for name in wanted:
        if not world.guests[name].published:
            raise world.violation(f"{name} is as it was planned, and was not converted:\n{done.said}")
    if idle and done.code != 0:
        raise world.violation(f"all was done, and apply ends with {done.code}:\n{done.said}")


def _is_as_planned(world: World, command: Command, name: str) -> bool:
    record, guest = world.plans[command.plan], world.guests[name]
    return (
        record.folder == world.folder
        and record.template == world.template_digest()
        # A template that other overlays need as it was before is no ground for more of them.
        and world.bases <= {record.template}
        and record.verdicts.get(name) == "convert"
        and record.versions[name] == guest.version
        and not guest.published
        and not world.dependents(guest.path)
        and not (guest.in_place and command.retire == "keep")
        # Whom restore gave back, only an apply that names them converts again, or a new plan.
        and ("--guest" in command.argv or (record.checksum, name) not in world.given_back)
    )


def _is_done(world: World, command: Command, name: str) -> bool:
    record, guest = world.plans[command.plan], world.guests[name]
    if record.verdicts.get(name) == "skip":
        return True
    return (
        record.retired.get(name) == command.retire
        and _plain(world, guest)
        and "replaced" not in guest.marks
        and not original_is_kept(guest)
    )


def verify(world: World, command: Command) -> None:
    """Verifies a plan: what is broken is found, and what is as it should be is no fault.

    :raises ViolationError: that is not so.
    """
    guests = [world.guests[name] for name in command.guests]
    converted = [guest for guest in guests if guest.published and "journal lost" not in guest.marks]
    # A plan knows only of what it has converted itself.
    mine = [guest for guest in converted if guest.name in world.plans[command.plan].retired]
    broken = [guest for guest in mine if not os.path.exists(guest.overlay) or _lost_its_template(world, guest)]
    fine = all(
        is_untouched(world, guest) or (_plain(world, guest) and "replaced" not in guest.marks) for guest in guests
    )
    record = world.plans[command.plan]
    # A plan that converted a guest misses the overlay if another plan's restore has deleted it.
    fine = fine and record.template == world.template_digest() and not command.guests & record.undone_elsewhere
    done = verbs.execute(world, command)
    if broken and done.code == 0:
        raise world.violation(f"verify finds nothing, though {broken[0].name} is broken:\n{done.said}")
    if fine and done.code != 0 and not command.guests & world.unsettled:
        raise world.violation(f"all is as it should be, and verify ends with {done.code}:\n{done.said}")


def status(world: World, command: Command) -> None:
    """Asks where guests stand: what was converted is not said to be only planned, and a missing overlay is named.

    :raises ViolationError: that is not so.
    """
    record = world.plans[command.plan]
    done = verbs.execute(world, command)
    if done.code != 0:
        raise world.violation(f"status ends with {done.code}:\n{done.said}")
    for event in done.events:
        if event["event"] != "status":
            continue
        guest = world.guests[event["name"]]
        mine = guest.name in record.retired and guest.published and guest.name not in world.unsettled
        if mine and _plain(world, guest) and event["step"] == "planned":
            raise world.violation(f"{guest.name} is converted, and status says it is planned")
        if mine and not os.path.exists(guest.overlay) and "missing" not in event["next"]:
            raise world.violation(f"the overlay of {guest.name} is missing, and status says: {event['next']}")
        begun = event["step"] not in {"planned", "restored"}
        if is_untouched(world, guest) and record.verdicts[guest.name] == "convert" and begun:
            raise world.violation(f"{guest.name} is as it was, and status says {event['step']}: {event['next']}")


def _lost_its_template(world: World, guest: Guest) -> bool:
    vm = world.vm_of(guest)
    return vm.disk == guest.overlay and vm.base not in {None, world.template_digest()}
