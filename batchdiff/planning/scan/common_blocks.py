"""The bytes of raw guests in blocks shared with a raw template, found by the planner for its workers.

::

    template   mapped                         mapped again: have its blocks moved?
    guest 1          mapped, matched
    guest 2                 mapped, matched

The kernel maps the blocks of files for only one process at a time, so workers would wait for each other. Matches
count only if both maps of the template are equal: then a guest that was mapped in between, and had one of the
template's blocks, has the same bytes there, even if the guest's blocks are moved meanwhile.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from batchdiff.image.image import Image
from batchdiff.image.storage.shared_blocks import BlockRuns, raw_extents, shared_by_both
from batchdiff.linux.fiemap import ExtentTable

_MOST_KEPT = 1 << 20
"""The maximum number of extents, of 28 bytes each, kept to find the savings; guests beyond it are mapped again."""


@dataclass(slots=True)
class CommonBlocks:
    """The block maps of guests.

    ``located``: by path, the extents kept; ``runs``: by guest, the bytes in blocks that the template has at the
    same offset, reliable only after :meth:`confirm`.
    """

    template: Image
    located: dict[str, ExtentTable] = field(default_factory=dict)
    runs: dict[str, BlockRuns] = field(default_factory=dict)
    _first: ExtentTable | None = None
    _kept: int = 0

    def __post_init__(self) -> None:
        """Map the template.

        :raises ImageError: its filesystem reports an error.
        """
        self._first = raw_extents(self.template)

    def add(self, name: str, guest: Image) -> None:
        """Map a guest, and match it with the template.

        :raises ImageError: its filesystem reports an error.
        """
        table = raw_extents(guest)
        if table is None:
            return
        self._kept += len(table.length)
        if self._kept <= _MOST_KEPT:
            self.located[guest.path] = table
        if self._first is not None and _device(guest) == _device(self.template):
            self.runs[name] = shared_by_both(self._first, table)

    def confirm(self) -> None:
        """Discard all matches if the template's blocks have moved since it was first mapped.

        :raises ImageError: the template's filesystem reports an error.
        """
        if self.runs:
            now = raw_extents(self.template)
            if self._first is None or now is None or not now.equals(self._first):
                self.runs.clear()


def _device(image: Image) -> int:
    return os.fstat(image.layers[0].fd).st_dev
