"""Options that affect the layout of a new qcow2 file."""

from __future__ import annotations

from typing import NamedTuple


class LayoutOptions(NamedTuple):
    """Options of a new file.

    ``luks_bytes``: the length of the LUKS header, or 0. ``preallocated``: every cluster of the disk is allocated.
    ``outside``: the data clusters are in another file.
    """

    luks_bytes: int = 0
    preallocated: bool = False
    outside: bool = False


PLAIN_LAYOUT = LayoutOptions()
