"""The image that each guest's VM must use now, and the one that it must use after apply."""

from __future__ import annotations

import os
from contextlib import closing
from typing import NamedTuple

from batchdiff.applying.journal.records import Goal, GuestState, History
from batchdiff.errors import ImageError
from batchdiff.frozen import frozen
from batchdiff.image.open import open_layer
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.managers.proxmox import place_of
from batchdiff.plan.overlay_options import backing_name
from batchdiff.plan.plan import GuestToConvert, Plan
from batchdiff.units import few

RESTORING = "its restore has not finished"


class BackingImage(NamedTuple):
    """An image below a VM's disk. ``format``: libvirt's name for the format."""

    path: str
    format: str


class VmImage(NamedTuple):
    """An image as a VM's definition names it.

    ``backing_name``: the backing file's name in the image's header, which for an original is presumed, not read;
    empty without a backing file. ``chain``: all images below, the topmost first; None if they are not known for
    certain.
    """

    path: str
    format: str
    backing_name: str = ""
    chain: tuple[BackingImage, ...] | None = None


@frozen
class GuestDisk:
    """The disk of a guest. ``now``: the image that the guest's VM must use.

    ``planned``: the overlay that apply will write; None once the overlay is published or a restore has started.
    ``known_as``: the resolved paths of the guest and its overlay. ``unfinished``: why the VM's definition must not
    change now. ``by_hand``: why only the operator can change it. ``is_overlay``: whether ``now`` is the overlay.
    """

    guest: str
    now: VmImage
    planned: VmImage | None
    known_as: frozenset[str]
    unfinished: str = ""
    by_hand: str = ""
    is_overlay: bool = False


def guest_disks(plan: Plan, history: History) -> list[GuestDisk]:
    """Return the disk of each guest to convert, even if it has been converted or restored."""
    back = history.given_back(plan.created)
    return [
        _disk(guest, plan, history.states.get(guest.name), is_back=guest.name in back) for guest in plan.to_convert
    ]


def _secrets(guest: GuestToConvert, plan: Plan, *, is_back: bool) -> str:
    original = encrypted_images(guest.source, "the original")
    overlay = ["its overlay"] if guest.options.encryption is not None else []
    overlay += encrypted_images(plan.template.source, "the template")
    before, after = (overlay, original) if is_back else (original, overlay)
    if after:
        are, secrets = ("is", "a secret") if len(after) == 1 else ("are", "their secrets")
        return f"{few(after)} {are} encrypted, so the VM's definition needs {secrets}"
    if before:
        what = "the restored image" if is_back else "its overlay"
        secrets = "the secret" if len(before) == 1 else "the secrets"
        return f"{what} is not encrypted, unlike {few(before)}: remove {secrets} from the VM's definition"
    return ""


def encrypted_images(source: ImageSource, what: str) -> list[str]:
    """Return the encrypted images of a chain, in words. ``what``: the words for the topmost one."""
    own = [] if source.secret_file is None else [what]
    return own + [f"the backing file {each.path}" for each in source.backing if each.secret_file is not None]


def _driver_type(image_format: ImageFormat) -> str:
    """Return libvirt's name for a format: LUKS is raw with an ``<encryption>``."""
    return ImageFormat.RAW.value if image_format is ImageFormat.LUKS else image_format.value


def _backing_name(source: ImageSource) -> str:
    below = source.backing[0].path if source.backing else ""
    own, base = place_of(source.path), place_of(below)
    # Proxmox VE writes relative names, and recognises linked clones by them; elsewhere, the name does not matter.
    return f"../{base.vmid}/{base.name}" if own and base and own.images == base.images else below


def _is_standalone(source: ImageSource) -> bool:
    """Return whether an image certainly has no backing file; one that restore has rebuilt has none."""
    try:
        with closing(open_layer(source)) as layer:
            return layer.backing is None
    except (ImageError, OSError):
        return False


def _chain_on(template: ImageSource) -> tuple[BackingImage, ...]:
    return tuple(BackingImage(each.path, _driver_type(each.format)) for each in (template, *template.backing))


def _disk(guest: GuestToConvert, plan: Plan, state: GuestState | None, *, is_back: bool) -> GuestDisk:
    names = {guest.source.path, guest.overlay_path, guest.alias} - {""}
    known_as = frozenset(os.path.realpath(name) for name in names)
    own_name = guest.alias or guest.source.path
    is_published = state is not None and state.published
    is_back = not is_published and (is_back or (state is not None and state.goal is Goal.RESTORE))
    named, chain = _backing_name(guest.source), None if guest.source.backing else ()
    if is_back and named and _is_standalone(guest.source):
        named, chain = "", ()
    original = VmImage(own_name, _driver_type(guest.source.format), named, chain)
    # If the overlay takes the guest's own path, a link to the guest leads to the overlay.
    in_place = guest.overlay_path == guest.source.path
    named = backing_name(guest.overlay_path, plan.template.source.path, guest.options.backing_path)
    overlay_name = own_name if in_place else guest.overlay_path
    overlay = VmImage(overlay_name, guest.options.format.value, named, _chain_on(plan.template.source))
    if state is None or not state.published:
        # A definition must not be changed to use an overlay that a restore has deleted or left behind.
        planned, by_hand = None if is_back else overlay, _secrets(guest, plan, is_back=is_back)
        return GuestDisk(guest.name, original, planned, known_as, by_hand=by_hand)
    unfinished = RESTORING if state.goal is Goal.RESTORE else ""
    by_hand = _secrets(guest, plan, is_back=False)
    return GuestDisk(guest.name, overlay, None, known_as, unfinished, by_hand, is_overlay=True)
