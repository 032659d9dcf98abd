"""A storage pool of libvirt, and the folder of its volumes."""

from __future__ import annotations

import os

from batchdiff.definitions.xml_elements import Element, parse_elements
from batchdiff.errors import DefinitionError
from batchdiff.frozen import frozen


@frozen
class Pool:
    """A storage pool. ``folder``: that of its volumes; empty if there is none."""

    name: str
    folder: str

    def path_of(self, volume: str) -> str:
        """Return the resolved path of a volume; empty if the pool has no folder."""
        return os.path.realpath(os.path.join(self.folder, volume)) if self.folder else ""

    def volume_at(self, path: str) -> str:
        """Return a volume's name by its path; empty if the path is not directly in the pool's folder."""
        folder, name = os.path.split(path)
        return name if self.folder and os.path.realpath(folder) == os.path.realpath(self.folder) else ""


def parse_pool(document: bytes, where: str) -> Pool:
    """Parse a pool's XML, as ``virsh pool-dumpxml`` prints it.

    :raises DefinitionError: the document is not the XML of a pool with a name.
    """
    root = parse_elements(document, where)
    name = root.first("name")
    if root.name != "pool" or name is None:
        raise DefinitionError(f"cannot use {where}", why="it is not a <pool> with a name")
    return Pool(name.text.strip(), _folder(root))


def _folder(root: Element) -> str:
    target = root.first("target")
    path = target.first("path") if target else None
    folder = path.text.strip() if path else ""
    # A logical pool has a folder, too: its volumes are devices in a folder below /dev. A path that is not absolute
    # names no folder.
    return folder if folder.startswith("/") else ""
