"""The changes that VM configurations of Proxmox VE need."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence

from batchdiff.definitions.guest_disks import GuestDisk, VmImage
from batchdiff.definitions.proxmox_config import (
    MAIN,
    PENDING,
    ConfigDrive,
    VmConfig,
    can_be_in_value,
    with_value,
    with_volume,
)
from batchdiff.definitions.proxmox_state import process_of
from batchdiff.definitions.proxmox_storage import Storage, is_volume_of, path_of_volume, volume_for
from batchdiff.definitions.uses import NOT_WRITTEN, GuestUse
from batchdiff.files.filenames import shell_line
from batchdiff.frozen import frozen
from batchdiff.image_source import ImageFormat
from batchdiff.units import few

_RUN_FOLDER = "/var/run/qemu-server"


@frozen
class VmChange:
    """A VM with guests of the plan, and its configuration, changed to use their images.

    ``commands`` change the drives, except unused ones; ``notes`` are about the commands. ``obstacles``: why the
    configuration must not change now, besides the ``waiting`` of ``uses``.
    """

    config: VmConfig
    changed: bytes
    uses: tuple[GuestUse, ...]
    commands: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The number of the VM."""
        return str(self.config.vmid)

    @property
    def where(self) -> str:
        """The path of the configuration file."""
        return self.config.where

    @property
    def file_name(self) -> str:
        """The name of a changed copy of the file."""
        return f"{self.config.vmid}.conf"

    @property
    def is_right(self) -> bool:
        """True if batchdiff would leave the file as it is."""
        return self.changed == self.config.document

    @property
    def waiting(self) -> list[str]:
        """The reasons why the configuration must not change now."""
        return [*(f"{use.guest}: {use.waiting}" for use in self.uses if use.waiting), *self.obstacles]

    @property
    def by_hand(self) -> list[str]:
        """The reasons why the operator must edit the configuration, each with its guest."""
        return [f"{use.guest}: {use.by_hand}" for use in self.uses if use.by_hand]

    def diff(self) -> str:
        """Return the change as a unified diff."""
        before, after = (
            text.decode("utf-8", "surrogateescape").splitlines() for text in (self.config.document, self.changed)
        )
        names = f"a/{self.file_name}", f"b/{self.file_name}"
        return "\n".join(difflib.unified_diff(before, after, *names, lineterm=""))


def vm_changes(
    configs: Sequence[VmConfig],
    disks: Sequence[GuestDisk],
    storages: Sequence[Storage],
    *,
    run_folder: str = _RUN_FOLDER,
) -> Iterator[VmChange]:
    """Yield the change for each VM that has a guest as a drive, even if the VM's file stays as it is.

    Unused drives count only for guests that are attached to no VM.
    """
    by_path = {path: disk for disk in disks for path in disk.known_as}
    found = [(config, list(_guests(config, by_path, storages))) for config in configs]
    attached = {guest.guest for _, guests in found for drive, guest in guests if not drive.is_unused}
    users: dict[str, list[str]] = {}
    for config, guests in found:
        # `qm set` lists the former volume as unused, which does not matter if a VM uses the guest.
        guests[:] = [each for each in guests if not (each[0].is_unused and each[1].guest in attached)]
        for drive, guest in guests:
            users.setdefault(guest.guest, []).append(f"{drive.key} of VM {config.vmid}")
    for config, guests in found:
        if guests:
            yield _change(config, guests, storages, users, run_folder)


def _guests(
    config: VmConfig, by_path: Mapping[str, GuestDisk], storages: Sequence[Storage]
) -> Iterator[tuple[ConfigDrive, GuestDisk]]:
    for drive in config.drives_in(MAIN):
        guest = by_path.get(path_of_volume(drive.volume, storages))
        if guest is not None:
            yield drive, guest


def _change(
    config: VmConfig,
    guests: Sequence[tuple[ConfigDrive, GuestDisk]],
    storages: Sequence[Storage],
    users: dict[str, list[str]],
    run_folder: str,
) -> VmChange:
    document, uses = config.document, []
    commands: list[str] = []
    obstacles: list[str] = []
    notes: list[str] = []
    for drive, guest in guests:
        use = _use(drive, guest, storages)
        uses.append(use)
        if use.is_right:
            continue
        volume = volume_for(use.image, storages, now=drive.volume)
        value = with_volume(drive, volume, use.image.format)
        document = with_value(document, drive, value)
        if not drive.is_unused:
            commands.append(shell_line(["qm", "set", str(config.vmid), f"--{drive.key}", value]))
            notes += _notes(drive, use.image, storages)
        obstacles += _of_users(config, drive, users[guest.guest], use)
        obstacles += _of_name(config, drive, use, volume)
        obstacles += _of_sections(config, drive, guest, use.image, storages)
    if document != config.document:
        obstacles[:0] = _of_vm(config, run_folder)
    return VmChange(config, document, tuple(uses), tuple(commands), tuple(obstacles), tuple(notes))


def _use(drive: ConfigDrive, guest: GuestDisk, storages: Sequence[Storage]) -> GuestUse:
    image, waiting = guest.now, guest.unfinished
    # Compare images rather than texts: a drive may name its image by a path or by a link.
    has_path = path_of_volume(drive.volume, storages) == os.path.realpath(image.path)
    if has_path and drive.format == image.format and guest.planned is not None:
        image, waiting = guest.planned, NOT_WRITTEN
    if _has_image(drive, image, storages):
        # If the overlay will have the original's name, the configuration needs nothing before apply; afterwards,
        # a secret may be missing, or no longer be needed.
        by_hand = "" if image is guest.planned else guest.by_hand
        return GuestUse(guest.guest, drive.key, image, is_right=True, by_hand=by_hand)
    return GuestUse(guest.guest, drive.key, image, is_right=False, waiting=waiting, by_hand=guest.by_hand)


def _has_image(drive: ConfigDrive, image: VmImage, storages: Sequence[Storage]) -> bool:
    return drive.format == image.format and is_volume_of(drive.volume, image, storages)


def _notes(drive: ConfigDrive, image: VmImage, storages: Sequence[Storage]) -> Iterator[str]:
    is_volume = not drive.volume.startswith("/")  # Proxmox VE lists nothing else as unused
    if is_volume and path_of_volume(drive.volume, storages) == os.path.realpath(image.path):
        yield (
            f"`qm set` will list {drive.volume}, the former name of the drive's image, as unused: leave that entry"
            " alone. To avoid that entry, edit the drive's line in the configuration file instead"
        )


def _of_vm(config: VmConfig, run_folder: str) -> Iterator[str]:
    vmid = config.vmid
    if (process := process_of(vmid, run_folder)) is not None:
        yield f"VM {vmid} is running (process {process}): shut it down with `qm shutdown {vmid}`"
    if config.lock:
        yield (
            f"VM {vmid} is locked (lock: {config.lock}): wait until the task that locked it has ended; if no task"
            f" is running, unlock it with `qm unlock {vmid}`"
        )


def _of_users(config: VmConfig, drive: ConfigDrive, users: Sequence[str], use: GuestUse) -> Iterator[str]:
    if len(users) > 1:
        others = dict.fromkeys(user for user in users if user != f"{drive.key} of VM {config.vmid}")
        if others:
            yield f"{use.guest} is also {few(list(others))}: keep it in only one of these places"
        else:
            yield f"several lines of {config.where} set {drive.key} to {use.guest}: keep only one of them"
    if drive.key.startswith("tpmstate") and use.image.format != ImageFormat.RAW:
        yield (
            f"{use.guest} is a TPM state disk, which must be raw: leave it out of the manifest, or restore it if"
            " it has been converted"
        )


def _of_name(config: VmConfig, drive: ConfigDrive, use: GuestUse, volume: str) -> Iterator[str]:
    if not can_be_in_value(volume):
        yield (
            f"{use.guest} would use {volume}, but Proxmox VE cannot store a name that contains a comma, an equals"
            " sign or a line break, or ends in a space: if the guest has been converted, first restore it; then"
            " plan again with another path for the overlay, for example with `overlay: {layout: proxmox}`"
        )
    elif drive.is_unused and volume.startswith("/"):
        yield (
            f"{drive.key} can only name a volume of a storage, and the name of a volume ends in its format;"
            f" {volume} ({use.image.format}) is not such a volume: remove the line of {drive.key} from"
            f" {config.where} by hand (`qm set --delete` would also delete the image)"
        )


def _of_sections(
    config: VmConfig, drive: ConfigDrive, guest: GuestDisk, image: VmImage, storages: Sequence[Storage]
) -> Iterator[str]:
    right = {each.key for each in config.drives_in(PENDING) if _has_image(each, image, storages)}
    named = [
        each
        for each in config.drives
        if each.section != MAIN
        and path_of_volume(each.volume, storages) in guest.known_as
        and not _has_image(each, image, storages)
    ]
    keys = {each.key for each in named if each.section == PENDING} | ({drive.key} & (config.pending - right))
    if keys:
        yield (
            f"a pending change ([PENDING]) affects {guest.guest} or {drive.key}: revert it with `qm set"
            f" {config.vmid} --revert {','.join(sorted(keys))}` or, if Proxmox VE refuses that because the former"
            f" image is gone, remove {few(sorted(keys))} from the section [PENDING] of {config.where} by hand"
        )
    if snapshots := list(dict.fromkeys(each.section for each in named if each.section != PENDING)):
        is_one = len(snapshots) == 1
        which = f"the snapshot {snapshots[0]} refers" if is_one else f"snapshots ({few(snapshots)}) refer"
        those = "that snapshot" if is_one else "those snapshots"
        delete = "the snapshot with" if is_one else "each of these snapshots, for example with"
        yield (
            f"{which} to the former image of {guest.guest}, and the new image does not contain {those}: a rollback"
            " would fail, or bring back the former image. Delete"
            f" {delete} `qm delsnapshot {config.vmid} {snapshots[0]}`; if the former image is gone, that"
            " needs `--force`"
        )
