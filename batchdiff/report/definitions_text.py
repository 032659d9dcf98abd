"""What must change in VM definitions, as text with a unified diff for each, and the commands for Proxmox VE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from batchdiff.definitions.guest_disks import GuestDisk
from batchdiff.definitions.libvirt_changes import DomainChange
from batchdiff.definitions.proxmox_changes import VmChange
from batchdiff.definitions.uses import GuestUse
from batchdiff.files.filenames import shell_word
from batchdiff.report.figures import count_of
from batchdiff.report.printable import printable
from batchdiff.report.table import paragraph
from batchdiff.units import few

DefinitionChange: TypeAlias = DomainChange | VmChange
"""What must change in the definition of a VM, whatever manages it."""


def definitions_text(  # noqa: PLR0913  # options by keyword
    changes: Sequence[DefinitionChange],
    disks: Sequence[GuestDisk],
    *,
    width: int | None = None,
    doubts: Sequence[str] = (),
    manages: str = "libvirt",
    missed: Sequence[str] = (),
) -> str:
    """Return a block for each definition, then the guests that none uses, in ``width`` cells.

    ``doubts``: what is wrong apart from the definitions; ``manages``: the manager of the VMs, libvirt or Proxmox.
    ``missed``: why guests may have been missed; if there is a reason, no change by hand is proposed.
    """
    blocks = ["\n".join(_block(change, width)) for change in changes]
    used = {use.guest for change in changes for use in change.uses}
    unused = [disk for disk in disks if disk.guest not in used]
    blocks += [
        "\n".join(_unused(unused, width, _no_hint if missed else _HINTS[manages])),
        "\n".join(paragraph(printable(f"warning: {text}."), width=width, rest="  ") for text in doubts),
        _summary(changes),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _block(change: DefinitionChange, width: int | None) -> list[str]:
    lines = [paragraph(printable(_use(change, use)), width=width, rest="  ") for use in change.uses]
    reasons = [f"not yet: {why}" for why in change.waiting] + [f"by hand: {why}" for why in change.by_hand]
    lines += [paragraph(printable(text), width=width, first="  ", rest="    ") for text in reasons]
    if change.is_right:
        return lines
    lines += map(printable, change.diff().split("\n"))
    # Not broken into lines, so that they can be copied.
    lines += [f"  $ {printable(command)}" for command in change.commands]
    notes = [printable(f"note: {text}.") for text in change.notes]
    return [*lines, *(paragraph(text, width=width, first="  ", rest="    ") for text in notes)]


def _use(change: DefinitionChange, use: GuestUse) -> str:
    vm = f"VM {change.name}" if isinstance(change, VmChange) else change.name
    what = f"{use.guest} is disk {use.target or '(unnamed)'} of {vm} ({change.where})"
    if use.is_right:
        return f"{what}, whose definition is right: {use.image.path} ({use.image.format})"
    return f"{what}, which must use {use.image.path} ({use.image.format}):"


def _virt_xml(disk: GuestDisk) -> str:
    image = disk.planned or disk.now
    what = f"path={shell_word(image.path)},driver.type={image.format}"
    example = f"`virt-xml DOMAIN --edit target=TARGET --disk {what} --define`"
    return f"If a VM uses one, change its definition by hand, for example: {example}."


def _elsewhere(_disk: GuestDisk) -> str:
    folder = "/etc/pve/nodes/NODE/qemu-server"
    return f"If a VM on another host of the cluster uses one, name the folder of that host, {folder}."


def _no_hint(_disk: GuestDisk) -> str:
    return ""


_HINTS: dict[str, Callable[[GuestDisk], str]] = {"libvirt": _virt_xml, "Proxmox": _elsewhere}
"""What to do about guests that no definition uses, by the manager of the VMs; one of them as the example."""


def _unused(disks: Sequence[GuestDisk], width: int | None, hint: Callable[[GuestDisk], str]) -> list[str]:
    if not disks:
        return []
    names = few([printable(disk.guest) for disk in disks])
    return [paragraph(f"Used by no definition: {names}. {hint(disks[0])}".rstrip(), width=width, rest="  ")]


def _summary(changes: Sequence[DefinitionChange]) -> str:
    wrong = sum(not change.is_right for change in changes)
    return f"{count_of(len(changes), 'definition')}: {wrong} must change, {len(changes) - wrong} right."
