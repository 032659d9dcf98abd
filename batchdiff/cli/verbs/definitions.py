"""``batchdiff definitions``: show, write, make or undo changes in VM definitions."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from batchdiff.cli.console import Console
from batchdiff.cli.journal_history import history_of
from batchdiff.cli.path_map import with_moved_paths
from batchdiff.definitions.define import Definer
from batchdiff.definitions.domain_state import contradictions_of
from batchdiff.definitions.guest_disks import GuestDisk, guest_disks
from batchdiff.definitions.libvirt_changes import DomainChange, domain_changes, without_guests
from batchdiff.definitions.libvirt_domain import Domain, parse_domain
from batchdiff.definitions.libvirt_pool import Pool, parse_pool
from batchdiff.definitions.proxmox_changes import VmChange, vm_changes
from batchdiff.definitions.proxmox_folder import read_host
from batchdiff.definitions.proxmox_state import doubts
from batchdiff.definitions.saved import folder_of
from batchdiff.definitions.virsh import Libvirt, virsh_is_installed
from batchdiff.definitions.xml_elements import parse_elements
from batchdiff.errors import EXIT_DONE, EXIT_SOME_GUESTS, BatchdiffError, UsageError
from batchdiff.linux.call_failures import ALREADY_EXISTS, reason
from batchdiff.linux.permissions import Deed
from batchdiff.plan.file import read_for_report
from batchdiff.report.definitions_text import definitions_text
from batchdiff.report.events import definition_event
from batchdiff.report.printable import printable


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Run the verb."""
    _check(arguments)
    plan, path_map = with_moved_paths(console, read_for_report(arguments.plan), arguments)
    if plan.to_share and not plan.to_convert:
        console.result("No definition needs to be changed: guests that share blocks in place stay as they are.\n")
        return EXIT_DONE
    disks = guest_disks(plan, history_of(console, arguments, plan, path_map))
    if arguments.proxmox is not None:
        return _of_proxmox(console, arguments, plan.template.source.path, disks)
    libvirt = None if arguments.xml else Libvirt(arguments.connect or "")
    domains, pools = _from_files(arguments.xml) if libvirt is None else (libvirt.domains(), libvirt.pools())
    changes = list(domain_changes(domains, disks, pools))
    if libvirt is not None:
        changes = [_with_contradictions(change, libvirt) for change in changes]
    definer = None if libvirt is None else Definer(libvirt, disks, pools, folder_of(arguments.plan))
    if arguments.undo and definer is not None:
        return _undo(console, definer, changes)
    for change in changes:
        console.event("definition", **definition_event(change))
    manages = "files" if arguments.xml else "libvirt"
    others = len(domains) - len(changes)
    missed = list(without_guests(domains, changes, pools)) if arguments.xml else []
    text = definitions_text(
        changes, disks, width=console.width, manages=manages, others=others, is_complete=not missed
    )
    console.result(text)
    for why in missed:
        console.warn(f"warning: {why}")
        console.event("notice", message=why)
    written = EXIT_DONE if arguments.write is None else _write(console, arguments.write, changes)
    if arguments.define and definer is not None:
        return _define(console, definer, changes) or written
    return written if changes or libvirt is not None else EXIT_SOME_GUESTS


def define_guests(console: Console, arguments: argparse.Namespace, disks: Sequence[GuestDisk]) -> int:
    """Change the definitions in libvirt that must change for the given disks, and return the exit code.

    ``arguments``: with the plan's path and the connection. If one definition cannot be changed, the others are
    changed anyway.

    :raises DefinitionError, ProgramError: the definitions in libvirt cannot be read.
    """
    libvirt = Libvirt(arguments.connect or "")
    domains, pools = libvirt.domains(), libvirt.pools()
    definer = Definer(libvirt, disks, pools, folder_of(arguments.plan))
    return _define(console, definer, list(domain_changes(domains, disks, pools)))


def _with_contradictions(change: DomainChange, libvirt: Libvirt) -> DomainChange:
    if change.is_right:
        return change
    found = contradictions_of(libvirt, change.name)
    notes = tuple(f"{each.what}. {each.advice}" for each in found)
    return replace(change, commands=tuple(chain.from_iterable(each.commands for each in found)), notes=notes)


def _of_proxmox(console: Console, arguments: argparse.Namespace, template: str, disks: Sequence[GuestDisk]) -> int:
    host = read_host(arguments.proxmox, arguments.storage_cfg)
    changes = list(vm_changes(host.configs, disks, host.storages))
    wrong = list(doubts(template, disks, host))
    for change in changes:
        console.event("definition", **definition_event(change))
    for text in wrong if console.json else ():
        console.event("notice", message=text)
    others = len(host.configs) - len(changes)
    text = definitions_text(
        changes,
        disks,
        width=console.width,
        doubts=wrong,
        manages="Proxmox",
        others=others,
        is_complete=not host.unread,
    )
    console.result(text)
    written = EXIT_DONE if arguments.write is None else _write(console, arguments.write, changes)
    return EXIT_SOME_GUESTS if host.unread else written


def _check(arguments: argparse.Namespace) -> None:
    copies = " To get changed copies of the definitions, use `--write FOLDER`."
    for option in ("xml", "connect", "define", "undo") if arguments.proxmox is not None else ():
        if getattr(arguments, option):
            raise UsageError(
                f"cannot use --{option} with --proxmox",
                why=f"--{option} is for the definitions of libvirt",
                remedy=f"Leave out one of the two.{copies if option == 'define' else ''}",
            )
    if arguments.storage_cfg is not None and arguments.proxmox is None:
        raise UsageError(
            "cannot use --storage-cfg without --proxmox",
            remedy="Add the folder of configurations: `--proxmox /etc/pve/qemu-server`.",
        )
    if arguments.xml and arguments.connect:
        raise UsageError(
            "cannot use --connect with --xml",
            why="--connect is for definitions that libvirt provides, not for files",
            remedy="Leave out one of the two.",
        )
    if arguments.xml and (arguments.define or arguments.undo):
        option = "--define" if arguments.define else "--undo"
        instead = (
            ", or replace --define with --write FOLDER, which writes changed copies" if arguments.define else ""
        )
        raise UsageError(
            f"cannot use {option} with --xml",
            why=f"{option} changes definitions through libvirt",
            remedy=f"Leave out --xml{instead}.",
        )
    if not arguments.xml and arguments.proxmox is None and not virsh_is_installed():
        is_for_libvirt = arguments.define or arguments.undo
        others = "" if is_for_libvirt else ", or give the definitions with --xml FILE or --proxmox FOLDER"
        raise UsageError(
            "cannot read the VM definitions",
            why="virsh is not installed",
            remedy=f"Install it (Debian: libvirt-clients){others}.",
        )


def _from_files(paths: Sequence[str]) -> tuple[list[Domain], list[Pool]]:
    domains, pools = [], []
    for path in paths:
        try:
            with open(path, "rb") as file:
                document = file.read()
        except OSError as error:
            why = reason(error, Deed.READ, path)
            raise UsageError(f"cannot read {path}", why=why, remedy="Name another file.") from error
        if parse_elements(document, path).name == "pool":
            pools.append(parse_pool(document, path))
        else:
            domains.append(parse_domain(document, path))
    return domains, pools


def _write(console: Console, folder: str, changes: Sequence[DomainChange] | Sequence[VmChange]) -> int:
    """Write changed copies of definitions, except those that must not change yet."""
    for change in changes:
        if change.is_right or change.waiting:
            continue
        path = os.path.join(folder, change.file_name)
        try:
            os.makedirs(folder, exist_ok=True)
            with open(path, "xb", opener=_only_for_its_owner) as file:
                file.write(change.changed)
        except OSError as error:
            why = reason(error)
            if isinstance(error, FileExistsError):
                exists = os.path.lexists(path)
                why = ALREADY_EXISTS if exists else f"{folder} is not a folder"
            raise UsageError(f"cannot write {path}", why=why, remedy="Name another folder.") from error
        console.say(f"written: {path}")
    left_out = [change for change in changes if change.waiting and not change.is_right]
    for change in left_out:
        console.warn(f"not written yet: {printable(change.file_name)} ({printable('; '.join(change.waiting))})")
    return EXIT_SOME_GUESTS if left_out else EXIT_DONE


def _only_for_its_owner(path: str, flags: int) -> int:
    """Create a file that only its owner can read: a definition may contain passwords."""
    return os.open(path, flags, 0o600)


def _define(console: Console, definer: Definer, changes: Sequence[DomainChange]) -> int:
    failed = False
    for change in changes:
        name = printable(change.domain.name)
        try:
            if not change.is_right and definer.define(change):
                console.say(f"defined: {name}; its former definition is in {printable(definer.folder)}")
        except BatchdiffError as error:
            console.error(error)
            failed = True
    for _pool, fault in definer.refresh_pools():
        console.warn(f"warning: {printable(str(fault))}")
    return EXIT_SOME_GUESTS if failed else EXIT_DONE


def _undo(console: Console, definer: Definer, changes: Sequence[DomainChange]) -> int:
    failed = False
    for change in changes:
        name = printable(change.domain.name)
        try:
            done = definer.undo(change.domain.name)
            console.say(
                f"{name}: {'its former definition has been restored' if done else 'there is nothing to undo'}"
            )
        except BatchdiffError as error:
            console.error(error)
            failed = True
    return EXIT_SOME_GUESTS if failed else EXIT_DONE
