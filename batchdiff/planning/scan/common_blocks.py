"""Which bytes of each guest are the same blocks as the template's: asked once, by the planner, for all workers.

::

    template   asked                        asked again: has it moved meanwhile?
    guest 1          asked, matched
    guest 2                 asked, matched

The kernel answers one process at a time, so workers that ask for themselves wait for each other. Only blocks that
the template has before and after count: a guest that has one of them in between has the same bytes there, whoever
moves blocks about (defragmentation, deduplication) while they are asked for.

For images of other formats than raw the scanner asks piece by piece, along their tables.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from batchdiff.image.image import Image
from batchdiff.image.storage.shared_blocks import Runs, located, shared_by_both
from batchdiff.linux.fiemap import ExtentTable

_MOST_KEPT = 1 << 20
"""Extents of all guests that are kept for the savings, 28 bytes each; those of more guests are asked for again."""


@dataclass(slots=True)
class CommonBlocks:
    """What was found out about guests.

    ``located``: by path, where one is on its disk; ``runs``: by number, its bytes in blocks that the template has
    there too.
    """

    template: Image
    located: dict[str, ExtentTable] = field(default_factory=dict)
    runs: dict[int, Runs] = field(default_factory=dict)
    _first: ExtentTable | None = None
    _kept: int = 0

    def __post_init__(self) -> None:
        """:raises ImageError: the template's filesystem has a fault."""
        self._first = located(self.template)

    def add(self, number: int, guest: Image) -> None:
        """Looks at a guest.

        :raises ImageError: its filesystem has a fault.
        """
        table = located(guest)
        if table is None:
            return
        self._kept += len(table.length)
        if self._kept <= _MOST_KEPT:
            self.located[guest.path] = table
        if self._first is not None and _device(guest) == _device(self.template):
            self.runs[number] = shared_by_both(self._first, table)

    def confirm(self) -> None:
        """Forgets what was matched if the template is somewhere else by now.

        :raises ImageError: the template's filesystem has a fault.
        """
        if self.runs:
            now = located(self.template)
            if self._first is None or now is None or not now.equals(self._first):
                self.runs.clear()


def _device(image: Image) -> int:
    return os.fstat(image.layers[0].fd).st_dev
