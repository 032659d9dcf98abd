"""Warnings of problems that apply would cause outside of batchdiff."""

from __future__ import annotations

from collections.abc import Iterator

from batchdiff.managers.proxmox import Unseen, is_of_proxmox, why_unseen
from batchdiff.plan.overlay_options import backing_name
from batchdiff.plan.plan import Plan
from batchdiff.units import few


def dangers(plan: Plan) -> Iterator[str]:
    """Yield the warnings about a plan, each of one or more sentences without the last full stop."""
    yield from _unseen_by_proxmox(plan)


def _unseen_by_proxmox(plan: Plan) -> Iterator[str]:
    """Warn if Proxmox VE would let the template be removed from under overlays."""
    template = plan.template.source.path
    unseen: dict[Unseen, list[str]] = {}
    for guest in plan.to_convert:
        if any(map(is_of_proxmox, (template, guest.source.path, guest.alias, guest.overlay_path))):
            named = backing_name(guest.overlay_path, template, guest.options.backing_path)
            why = why_unseen(guest.overlay_path, template, named)
            if why is not None:
                unseen.setdefault(why, []).append(guest.name)
    for why, names in unseen.items():
        one, remedy = len(names) == 1, "`overlay: {layout: proxmox}` in the manifest prevents"
        if why is Unseen.TEMPLATE:
            remedy = "A base image as the template, with `overlay: {layout: proxmox}` in the manifest, prevents"
        yield (
            f"Proxmox VE would not see that {few(names)} {'depends' if one else 'depend'} on the template, and"
            f" would let the template be removed: {_why(why, one=one)}. {remedy} that"
            " (docs/proxmox.md)"
        )


def _why(unseen: Unseen, *, one: bool) -> str:
    if unseen is Unseen.TEMPLATE:
        return "the template's path does not end in /VMID/base-NAME.FORMAT"
    if unseen is Unseen.FOLDER:
        where = "the overlay is not in the folder of a VM" if one else "the overlays are not in folders of VMs"
        names = "has a name" if one else "have names"
        return f"{where} in the template's storage, or {names} that Proxmox VE ignores"
    if unseen is Unseen.FORMAT:
        return f"the {'name of the overlay does' if one else 'names of the overlays do'} not end in .qcow2"
    return f"the backing file {'name is' if one else 'names are'} not ../VMID/base-NAME.FORMAT"
