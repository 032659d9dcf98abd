"""What must change in the definitions of VMs after an apply or a restore, and the command that shows it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace

from batchdiff.applying.results.outcome import GuestOutcome, Status
from batchdiff.choices import Verdict
from batchdiff.cli.console import Console
from batchdiff.definitions.guest_disks import encrypted_images
from batchdiff.files.filenames import as_argument, shell_line
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.managers.proxmox import is_of_proxmox
from batchdiff.plan.plan import GuestPlan, Plan
from batchdiff.qemu.image_options import decryption, dotted
from batchdiff.units import few

_MOST_CHANGES = 3

PROXMOX_FOLDER = ("--proxmox", "/etc/pve/qemu-server")


def report_changes(console: Console, path: str, plan: Plan, outcomes: list[GuestOutcome]) -> None:
    """Print what to change in definitions, if messages and results go to a terminal.

    Otherwise, each change is reported when its guest is done.
    """
    if not console.is_one_terminal:
        return
    guests = {guest.name: guest for guest in plan.guests}
    changes = [
        (each.name, list(changes_in_definition(guests[each.name], each, plan.template.source, path)))
        for each in outcomes
    ]
    found = [(name, lines) for name, lines in changes if lines]
    to_change = {name for name, _ in found if must_change(guests[name], plan.template.source)}
    if console.verbosity <= 0:  # list a few examples, starting with definitions that must change
        found = sorted(found, key=lambda each: each[0] not in to_change)[:_MOST_CHANGES]
    for name, lines in found:
        for line in lines:
            console.say(f"{name}: {line}")
    left = len(to_change - {name for name, _ in found})
    if left:
        console.say(f"{left} more {'definition' if left == 1 else 'definitions'} must change; -v lists all.")


def print_step_to_overlays(
    console: Console, arguments: argparse.Namespace, plan: Plan, outcomes: list[GuestOutcome]
) -> None:
    """Print the command for the definitions that must change, if any.

    VMs of Proxmox VE are left out: their reported changes include the command.
    """
    guests = {guest.name: guest for guest in plan.guests}
    converted = [guests[each.name] for each in outcomes if _has_overlay(guests[each.name], each)]
    to_change = [guest for guest in converted if must_change(guest, plan.template.source)]
    if others := [guest for guest in to_change if not is_on_proxmox([guest])]:
        print_definitions_step(console, arguments, others, "overlay", plan.template.source)


def print_definitions_step(
    console: Console, arguments: argparse.Namespace, guests: Iterable[GuestPlan], image: str, template: ImageSource
) -> None:
    """Print the commands that show what must change in the definitions of these guests' VMs.

    ``image``: a noun for the message, such as ``overlay``.
    """
    options = ["--connect", arguments.connect] if arguments.connect else []
    moves = [word for move in getattr(arguments, "moves", None) or () for word in ("--map", move)]
    of_proxmox: list[GuestPlan] = []
    others: list[GuestPlan] = []
    for guest in guests:
        (of_proxmox if is_on_proxmox([guest]) else others).append(guest)
    for chosen, where in ((of_proxmox, "In Proxmox VE, the"), (others, "In libvirt, the")):
        if chosen:
            command = definitions_command(arguments.plan, chosen, moves=moves, options=options)
            one = len(chosen) == 1
            whose, images = ("VM's definition", image) if one else ("VMs' definitions", f"{image}s")
            what = f"{whose} must match the {images}"
            the = where if of_proxmox and others else "The"
            end = "." if chosen is of_proxmox else _how_to_define(chosen, template)
            console.say(f"{the} {what}: `{command}` shows what must change{end}")


def _how_to_define(guests: list[GuestPlan], template: ImageSource) -> str:
    secret = [any(_secrets(guest, template)) for guest in guests]
    if all(secret):
        return "."
    return f"; add --define to make the changes{' that need no secret' if any(secret) else ''}."


def definitions_command(
    path: str, guests: Iterable[GuestPlan], *, moves: Iterable[str] = (), options: Iterable[str] = ()
) -> str:
    """Return the command that shows what must change in the definitions of these guests' VMs.

    ``path``: the plan's. ``moves``: each ``--map`` and its value. ``options``: those for libvirt, left out if a
    guest is on Proxmox VE.
    """
    manager = PROXMOX_FOLDER if is_on_proxmox(guests) else options
    return shell_line(["batchdiff", "definitions", as_argument(path), *manager, *moves])


def is_on_proxmox(guests: Iterable[GuestPlan]) -> bool:
    """Return True if any guest's overlay has the place and name of a disk of Proxmox VE."""
    return any(is_of_proxmox(guest.overlay_path) for guest in guests)


def changes_in_definition(
    guest: GuestPlan, outcome: GuestOutcome, template: ImageSource, plan_path: str
) -> Iterator[str]:
    """Yield lines about the definition of a guest's VM, if the guest has an overlay now."""
    if _has_overlay(guest, outcome):
        yield from _definition(guest, plan_path)
        yield from _secrets(guest, template)


def must_change(guest: GuestPlan, template: ImageSource) -> bool:
    """Return True if a VM may need one definition for a guest's original and another for its overlay."""
    is_other = guest.overlay_path != guest.source.path or guest.options.format != guest.source.format.value
    return is_other or is_on_proxmox([guest]) or any(_secrets(guest, template))


def _has_overlay(guest: GuestPlan, outcome: GuestOutcome) -> bool:
    is_there = outcome.status in {Status.CONVERTED, Status.UNCHANGED, Status.RETIRED}
    return is_there and guest.verdict is not Verdict.SHARE


def _definition(guest: GuestPlan, plan_path: str) -> Iterator[str]:
    """Yield lines for a definition that is assumed to name the guest as the manifest does."""
    file, kind = guest.source.path, guest.source.format.value
    named = guest.alias or file
    before = f"{guest.alias} (a link to {file}, {kind})" if guest.alias else f"{file} ({kind})"
    form = guest.options.format
    if is_on_proxmox([guest]):
        # The volume name of a linked clone contains the name of its base, so it changes even if the path does not.
        command = definitions_command(plan_path, [guest])
        yield f"change the VM's configuration: `{command}` prints the command to run"
    elif guest.overlay_path != file:
        yield f"change the VM's definition: {before} -> {guest.overlay_path} ({form})"
    elif kind == form:
        yield f"path and format in the VM's definition stay the same: {named} ({form})"
    else:
        yield f"change the VM's definition: the format of {named}, {kind} -> {form}"
    if guest.options.data_file is not None:
        yield f"the overlay keeps its data in {guest.options.data_file}, which the VM opens as well"
    if guest.alias and os.path.islink(guest.alias) and not os.path.exists(guest.alias):
        yield f"the link {guest.alias} points to nothing now; remove it once no definition names it"


def _secrets(guest: GuestPlan, template: ImageSource) -> Iterator[str]:
    chosen = guest.options.encryption
    if chosen is not None:
        yield (
            f"the overlay is encrypted: give the VM the secret in {chosen.secret_file}"
            " (QEMU: encrypt.key-secret=ID; libvirt: <encryption> in the disk's <source>)"
        )
    elif former := _no_longer_needed(guest.source, template):
        secrets = "secret" if len(former) == 1 else "secrets"
        yield f"the overlay is not encrypted: remove the {secrets} of {few(former)} from the VM's definition"
    overlay = ImageSource(guest.overlay_path, ImageFormat.QCOW2, (template, *template.backing))
    ids = {each.secret_file: "SECRET" for each in overlay.backing if each.secret_file is not None}
    options = [each for each in dotted(decryption(overlay, ids)) if each.endswith("=SECRET")]
    if options:
        below = encrypted_images(template, "the template")
        are, secrets = ("is", "its secret") if len(below) == 1 else ("are", "their secrets")
        too = "" if chosen is None else ", too"
        yield (
            f"{few(below)} {are} encrypted: give the VM {secrets}{too} (QEMU: {', '.join(options)};"
            " libvirt: <encryption> in the disk's <backingStore>)"
        )


def _no_longer_needed(original: ImageSource, template: ImageSource) -> list[str]:
    kept = {each.path for each in (template, *template.backing)}
    backing = tuple(each for each in original.backing if each.path not in kept)
    return encrypted_images(replace(original, backing=backing), "the original")
