"""The changes that VM definitions need, as text."""

from __future__ import annotations

import re
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
"""A VM's definition as it is and as it must be."""


_SPECIAL = re.compile(r"""[,'"\\]""")
"""Special characters in an option of virt-xml. Source: virt-manager, ``parse_optstr_tuples``."""


def definitions_text(  # noqa: PLR0913  # options by keyword
    changes: Sequence[DefinitionChange],
    disks: Sequence[GuestDisk],
    *,
    width: int | None = None,
    doubts: Sequence[str] = (),
    manages: str = "libvirt",
    others: int = 0,
    is_complete: bool = True,
) -> str:
    """Return the changes, the unused guests, the doubts and a summary.

    ``width``: the terminal's, in cells; None: no terminal. Diffs and commands may be wider. ``manages``:
    ``libvirt``, ``Proxmox``, or ``files`` if the definitions of libvirt were read from files. ``others``: how many
    definitions use no guest. ``is_complete``: False if a use of a guest may have been missed.
    """
    blocks = ["\n".join(_block(change, width)) for change in changes]
    used = {use.guest for change in changes for use in change.uses}
    unused = [disk for disk in disks if disk.guest not in used]
    blocks += [
        "\n".join(_unused(unused, width, manages, with_hint=is_complete)),
        "\n".join(paragraph(printable(f"warning: {text}."), width=width, rest="  ") for text in doubts),
        _summary(changes, others),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _block(change: DefinitionChange, width: int | None) -> list[str]:
    lines = [paragraph(printable(_use(change, use)), width=width, rest="  ") for use in change.uses]
    by_hand = "by hand, unless that is done already" if change.is_right else "by hand"
    reasons = [f"not yet: {why}" for why in change.waiting] + [f"{by_hand}: {why}" for why in change.by_hand]
    lines += [paragraph(printable(text), width=width, first="  ", rest="    ") for text in reasons]
    if change.is_right:
        return lines
    lines += map(printable, change.diff().split("\n"))
    if change.waiting and isinstance(change, VmChange):
        # Operators run the commands that they see, and `qm set` would break the VM now.
        again = "Run `batchdiff definitions` again after that: it then prints the `qm set` commands, if any."
        return [*lines, paragraph(again, width=width, first="  ", rest="    ")]
    # Commands are not broken into lines, so that they can be copied.
    lines += [f"  $ {printable(command)}" for command in change.commands]
    notes = [printable(f"note: {text}.") for text in change.notes]
    return [*lines, *(paragraph(text, width=width, first="  ", rest="    ") for text in notes)]


def _use(change: DefinitionChange, use: GuestUse) -> str:
    vm = f"VM {change.name}" if isinstance(change, VmChange) else change.name
    what = f"{use.guest} is disk {use.target or '(unnamed)'} of {vm} ({change.where})"
    if use.is_right:
        return f"{what}, which already uses the right image: {use.image.path} ({use.image.format})"
    return f"{what}, which must use {use.image.path} ({use.image.format}):"


_DONE = {"`batchdiff apply`": "has written the overlay", "`batchdiff restore`": "has finished"}


def _virt_xml(disks: Sequence[GuestDisk]) -> str:
    them = _one_of(disks)
    ready = [disk.now for disk in disks if disk.planned is None and not disk.unfinished]
    waits = any(disk.planned is not None for disk in disks), any(disk.unfinished for disk in disks)
    verbs = [verb for verb, is_due in zip(_DONE, waits, strict=True) if is_due]
    if not ready:
        done = " or ".join(f"{verb} {_DONE[verb]}" for verb in verbs)
        return f"If a VM that is not defined here uses {them}, that VM's definition must change once {done}."
    # virt-xml splits the value at commas, and like a shell it removes quotes and backslashes from the parts.
    path = _SPECIAL.sub(r"\\\g<0>", ready[0].path)
    what = shell_word(f"path={path},driver.type={ready[0].format}")
    example = f"`virt-xml DOMAIN --edit target=TARGET --disk {what} --define`"
    other = f"If a VM that is not defined here uses {them}"
    text = f"{other}, change that VM's definition by hand, for example: {example}."
    return (
        f"{text} If the guest that it uses is still waiting for {' or '.join(verbs)}, change it only after that."
        if verbs
        else text
    )


def _elsewhere(disks: Sequence[GuestDisk]) -> str:
    folder = "/etc/pve/nodes/NODE/qemu-server"
    return (
        f"If a VM on another host of the cluster uses {_one_of(disks)}, run the same command for that host, with"
        f" `--proxmox {folder} --storage-cfg /etc/pve/storage.cfg`."
    )


def _one_of(disks: Sequence[GuestDisk]) -> str:
    return "it" if len(disks) == 1 else "one of them"


_HINTS: dict[str, tuple[str, Callable[[Sequence[GuestDisk]], str]]] = {
    "libvirt": ("Used by no definition", _virt_xml),
    "files": ("Used by none of the given definitions", _virt_xml),
    "Proxmox": ("Used by no definition", _elsewhere),
}
"""The words before the names of unused guests, and the advice, by ``manages``."""


def _unused(disks: Sequence[GuestDisk], width: int | None, manages: str, *, with_hint: bool) -> list[str]:
    if not disks:
        return []
    names = few([printable(disk.guest) for disk in disks])
    unused, hint = _HINTS[manages]
    text = f"{unused}: {names}."
    return [paragraph(f"{text} {hint(disks)}" if with_hint else text, width=width, rest="  ")]


def _summary(changes: Sequence[DefinitionChange], others: int) -> str:
    wrong = sum(not change.is_right for change in changes)
    use = "uses" if others == 1 else "use"
    rest = f", {others} {use} no guest of the plan" if others else ""
    found = count_of(len(changes) + others, "definition")
    right = len(changes) - wrong
    return f"{found}: {wrong} must change, {right} {'is' if right == 1 else 'are'} right{rest}."
