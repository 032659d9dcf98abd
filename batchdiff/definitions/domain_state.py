"""The state of a domain, and libvirt's records of its disks besides the definition.

::

    state          running, paused, in migration ...     the domain has its images open, on this host or another
    managed save   memory, to continue with              belongs to the disks as they were when it was saved
    snapshots      metadata, images, parts of images     name the disks as they were
    checkpoints    metadata, and bitmaps in the images   an overlay written by batchdiff does not have the bitmaps
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from batchdiff.definitions.libvirt_pool import Pool
from batchdiff.definitions.virsh import Libvirt
from batchdiff.definitions.xml_elements import Element, parse_elements
from batchdiff.frozen import frozen

OFF = "shut off"


@frozen
class Contradiction:
    """Records of one kind that libvirt keeps, and that would contradict a domain's changed definition.

    ``commands`` remove them, in this order. ``advice``: without the final full stop.
    """

    what: str
    commands: tuple[str, ...]
    advice: str


def contradictions_of(libvirt: Libvirt, name: str) -> list[Contradiction]:
    """Return the records that would contradict a change of a domain's disks.

    :raises ProgramError: libvirt cannot be queried.
    """
    found = []
    if name in libvirt.saved():
        remove = libvirt.command("managedsave-remove", "--domain", name)
        advice = (
            "To keep that memory, first put the disks back as they were then, start the VM, and shut it down. To"
            f" discard the memory instead, first run `{remove}`"
        )
        what = "the domain's saved memory belongs to its disks as they were when the memory was saved"
        found.append(Contradiction(what, (remove,), advice))
    for names, kind, verb, option in (
        (libvirt.snapshots(name), "snapshot", "snapshot-delete", "--snapshotname"),
        (libvirt.checkpoints(name), "checkpoint", "checkpoint-delete", "--checkpointname"),
    ):
        if names:
            commands = tuple(libvirt.command(verb, "--metadata", "--domain", name, option, each) for each in names)
            number = len(names)
            count, it, its = (f"1 {kind}", "it", "its") if number == 1 else (f"{number} {kind}s", "them", "their")
            what = f"the domain has {count}, with metadata that refers to an earlier state of its disks"
            advice = f"If you do not need {it}, first remove {its} metadata with `{'; '.join(commands)}`"
            found.append(Contradiction(what, commands, advice))
    return found


def images_of_active_domains(libvirt: Libvirt) -> dict[str, str]:
    """Return, by resolved path, how a domain uses each image, such as ``the domain web is paused``.

    Domains with saved memory, and images below a disk, count as well.

    :raises DefinitionError: libvirt's output cannot be parsed.
    :raises ProgramError: libvirt cannot be queried.
    """
    active, saved = libvirt.active(), libvirt.saved()
    pools: Sequence[Pool] = libvirt.pools() if active or saved else ()
    found: dict[str, str] = {}
    for name in active:
        paths = _paths(libvirt.present_xml(name), f"the domain {name}", pools)
        found |= dict.fromkeys(paths, f"the domain {name} is {libvirt.state(name)}")
    for name in saved:
        paths = _paths(libvirt.saved_xml(name), f"the saved domain {name}", pools)
        found |= dict.fromkeys(paths, f"the domain {name} will continue from its saved memory (managed save)")
    return found


def _paths(document: bytes, where: str, pools: Sequence[Pool]) -> Iterator[str]:
    """Yield resolved paths, including those of images below a disk and of copies being made."""
    devices = parse_elements(document, where).first("devices")
    for disk in devices.all("disk") if devices else ():
        for source in _sources(disk):
            given = source.attributes
            if path := given.get("file") or given.get("dev"):
                yield os.path.realpath(path)
            for pool in pools:
                if pool.name == given.get("pool") and (path := pool.path_of(given.get("volume", ""))):
                    yield path


def _sources(element: Element) -> Iterator[Element]:
    for child in element.children:
        if child.name == "source":
            yield child
        yield from _sources(child)
