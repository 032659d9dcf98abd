"""The changes that make domains use the images of a plan."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace

from batchdiff.definitions.guest_disks import GuestDisk, VmImage
from batchdiff.definitions.libvirt_domain import Domain, DomainDisk, parse_domain, with_image, written_chain
from batchdiff.definitions.libvirt_pool import Pool
from batchdiff.definitions.uses import NOT_WRITTEN, GuestUse
from batchdiff.files.filenames import shell_word
from batchdiff.frozen import frozen

_DEFAULT_FORMAT = "raw"
"""The format of a disk if its definition declares none. Source: formatdomain.html, "driver"."""


@frozen
class DomainChange:
    """A domain with guests of the plan, and its definition, changed to use their images.

    ``commands`` remove what contradicts the change; ``notes`` explain them.
    """

    domain: Domain
    changed: bytes
    uses: tuple[GuestUse, ...]
    commands: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The domain's name."""
        return self.domain.name

    @property
    def where(self) -> str:
        """As in :class:`Domain`."""
        return self.domain.where

    @property
    def file_name(self) -> str:
        """The file name of a changed copy of the definition."""
        return self.domain.name.replace("/", "_") + ".xml"

    @property
    def is_right(self) -> bool:
        """True if batchdiff would leave the XML as it is."""
        return self.changed == self.domain.document

    @property
    def waiting(self) -> list[str]:
        """The reasons why the definition must not change now, each with its guest."""
        return [f"{use.guest}: {use.waiting}" for use in self.uses if use.waiting]

    @property
    def by_hand(self) -> list[str]:
        """The reasons why the operator must edit the definition, each with its guest."""
        return [f"{use.guest}: {use.by_hand}" for use in self.uses if use.by_hand]

    def diff(self) -> str:
        """Return the change as a unified diff."""
        before, after = (text.decode("utf-8").splitlines() for text in (self.domain.document, self.changed))
        name = f"{self.domain.name}.xml"
        return "\n".join(difflib.unified_diff(before, after, f"a/{name}", f"b/{name}", lineterm=""))


def domain_changes(
    domains: Sequence[Domain], disks: Sequence[GuestDisk], pools: Sequence[Pool] = ()
) -> Iterator[DomainChange]:
    """Yield the change for each domain that uses a guest, even if its XML stays as it is.

    :raises DefinitionError: a changed definition is not valid, which is a bug.
    """
    by_path = {path: disk for disk in disks for path in disk.known_as}
    for domain in domains:
        document, uses = domain.document, []
        for number, disk in enumerate(domain.disks):
            guest = by_path.get(path_of(disk, pools))
            if guest is None:
                continue
            document, use = _with_right_image(replace(domain, document=document), number, guest, pools)
            uses.append(use)
        if uses:
            yield DomainChange(domain, document, tuple(uses))


def without_guests(
    domains: Sequence[Domain], changes: Sequence[DomainChange], pools: Sequence[Pool] = ()
) -> Iterator[str]:
    """Yield a sentence about each domain that certainly uses no guest.

    Also yield one about each unknown pool, whose volumes may be guests.
    """
    found = [change.domain for change in changes]
    for domain in domains:
        who = f"{domain.name} ({domain.where})"
        known = {pool.name for pool in pools}
        unknown = dict.fromkeys(disk.pool for disk in domain.disks if disk.pool and disk.pool not in known)
        if not any(domain is each for each in found) and not unknown:
            yield f"{who}: none of its disks is a guest of this plan"
        for pool in unknown:
            name = shell_word(pool)
            command = f"virsh pool-dumpxml {name} > {shell_word(pool + '.xml')}"
            yield (
                f"{who}: the folder of the pool {pool} is not known; save the pool's definition with `{command}`,"
                " and add that file to `--xml`"
            )


def _with_right_image(
    domain: Domain, number: int, guest: GuestDisk, pools: Sequence[Pool]
) -> tuple[bytes, GuestUse]:
    # Each change shifts the offsets of the disks after it.
    domain = parse_domain(domain.document, domain.where)
    disk = domain.disks[number]
    image, waiting = guest.now, guest.unfinished
    changed = _with_image(domain, disk, image, pools)
    # Compare images rather than texts: a text may name the image by a link, or spell out that nothing is below it.
    same_path = path_of(disk, pools) == os.path.realpath(image.path)
    is_now = same_path and (disk.format or _DEFAULT_FORMAT) == image.format
    if is_now and guest.planned is not None:
        image, waiting = guest.planned, NOT_WRITTEN
        changed = _with_image(domain, disk, image, pools)
    if changed == domain.document:
        by_hand = "" if image is guest.planned else guest.by_hand
        return changed, GuestUse(guest.guest, disk.target, image, is_right=True, by_hand=by_hand)
    return changed, GuestUse(
        guest.guest, disk.target, image, is_right=False, waiting=waiting, by_hand=guest.by_hand
    )


def _with_image(domain: Domain, disk: DomainDisk, image: VmImage, pools: Sequence[Pool]) -> bytes:
    keeps_chain = _has_chain_of(image, disk, pools)
    is_device = os.path.exists(image.path) and stat.S_ISBLK(os.stat(image.path).st_mode)
    return with_image(domain, disk, image.path, image.format, pools, keeps_chain=keeps_chain, is_device=is_device)


def _has_chain_of(image: VmImage, disk: DomainDisk, pools: Sequence[Pool]) -> bool:
    written = written_chain(disk)
    if written is None or image.chain is None:
        return False
    found = [(path_of(each, pools), each.format) for each in written.images]
    there = [(os.path.realpath(each.path), each.format) for each in image.chain]
    return found == (there if written.is_ended else there[: len(found)])


def path_of(disk: DomainDisk, pools: Sequence[Pool]) -> str:
    """Return the resolved path of a disk's image; empty if it is not known."""
    if disk.path:
        return os.path.realpath(disk.path)
    return next((pool.path_of(disk.volume) for pool in pools if pool.name == disk.pool and disk.volume), "")
