"""Which image each guest of a plan must use now, judging by the plan's journal, and which one after apply."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple

from batchdiff.applying.journal.records import Goal, GuestState, History
from batchdiff.image_source import ImageFormat
from batchdiff.plan.plan import GuestToConvert, Plan

RESTORING = "its restore has not finished"
SECRETS = "it, its overlay or its template is encrypted, so its definition needs a secret: change it yourself"


class VmImage(NamedTuple):
    """An image as a VM's definition names it."""

    path: str
    format: str


@dataclass(frozen=True, slots=True)
class GuestDisk:
    """The disk of a guest: ``now`` is the image that its VM must use.

    ``planned`` is the overlay that apply will write; None if it is published. ``known_as``: the resolved paths of
    the guest's images, by which a definition may name it. ``unfinished``: why its definition must not change now.
    """

    guest: str
    now: VmImage
    planned: VmImage | None
    known_as: frozenset[str]
    unfinished: str = ""


def guest_disks(plan: Plan, history: History) -> list[GuestDisk]:
    """Return the disk of each guest that the plan converts, or has converted."""
    return [_disk(guest, history.states.get(guest.name), _secrets(guest, plan)) for guest in plan.to_convert]


def _secrets(guest: GuestToConvert, plan: Plan) -> str:
    """Return why the definition of a guest is not changed whose VM needs a secret; empty if it needs none."""
    files = (guest.source, *guest.source.backing, plan.template.source, *plan.template.source.backing)
    encrypted = guest.options.encryption is not None or any(each.secret_file is not None for each in files)
    return SECRETS if encrypted else ""


def _driver_type(image_format: ImageFormat) -> str:
    """Return libvirt's name of a format: LUKS is raw to it, with an ``<encryption>`` of its own."""
    return ImageFormat.RAW.value if image_format is ImageFormat.LUKS else image_format.value


def _disk(guest: GuestToConvert, state: GuestState | None, secrets: str) -> GuestDisk:
    names = {guest.source.path, guest.overlay_path, guest.alias} - {""}
    known_as = frozenset(os.path.realpath(name) for name in names)
    original = VmImage(guest.alias or guest.source.path, _driver_type(guest.source.format))
    # An overlay with the guest's own name has that of a link to it, too.
    in_place = guest.overlay_path == guest.source.path
    overlay = VmImage(original.path if in_place else guest.overlay_path, guest.options.format.value)
    if state is None or not state.published:
        return GuestDisk(guest.name, original, overlay, known_as, secrets)
    unfinished = RESTORING if state.goal is Goal.RESTORE else secrets
    return GuestDisk(guest.name, overlay, None, known_as, unfinished)
