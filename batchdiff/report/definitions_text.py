"""What must change in VM definitions, as text with a unified diff for each."""

from __future__ import annotations

from collections.abc import Sequence

from batchdiff.definitions.guest_disks import GuestDisk
from batchdiff.definitions.libvirt_changes import DomainChange, GuestUse
from batchdiff.files.filenames import shell_word
from batchdiff.report.figures import count_of
from batchdiff.report.printable import printable
from batchdiff.report.table import paragraph
from batchdiff.units import few


def definitions_text(
    changes: Sequence[DomainChange], disks: Sequence[GuestDisk], *, width: int | None = None
) -> str:
    """Return a block for each definition, then the guests that none uses, in ``width`` cells."""
    blocks = ["\n".join(_block(change, width)) for change in changes]
    used = {use.guest for change in changes for use in change.uses}
    blocks += ["\n".join(_unused([disk for disk in disks if disk.guest not in used], width)), _summary(changes)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _block(change: DomainChange, width: int | None) -> list[str]:
    lines = [paragraph(printable(_use(change, use)), width=width, rest="  ") for use in change.uses]
    waiting = [printable(f"not yet: {why}") for why in change.waiting]
    lines += [paragraph(text, width=width, first="  ", rest="    ") for text in waiting]
    return lines if change.is_right else [*lines, *map(printable, change.diff().split("\n"))]


def _use(change: DomainChange, use: GuestUse) -> str:
    what = f"{use.guest} is disk {use.target or '(unnamed)'} of {change.domain.name} ({change.domain.where})"
    if use.is_right:
        return f"{what}, whose definition is right: {use.image.path} ({use.image.format})"
    return f"{what}, which must use {use.image.path} ({use.image.format}):"


def _unused(disks: Sequence[GuestDisk], width: int | None) -> list[str]:
    if not disks:
        return []
    names = few([printable(disk.guest) for disk in disks])
    first = disks[0]
    image = first.planned or first.now
    disk = f"path={shell_word(image.path)},driver.type={image.format}"
    example = f"`virt-xml DOMAIN --edit target=TARGET --disk {disk} --define`"
    text = (
        f"Used by no definition: {names}. If a VM uses one, change its definition by hand, for example: {example}."
    )
    return [paragraph(text, width=width, rest="  ")]


def _summary(changes: Sequence[DomainChange]) -> str:
    wrong = sum(not change.is_right for change in changes)
    return f"{count_of(len(changes), 'definition')}: {wrong} must change, {len(changes) - wrong} right."
