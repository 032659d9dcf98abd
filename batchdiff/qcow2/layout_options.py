"""Options that affect the layout of a new qcow2 file."""

from __future__ import annotations

from typing import NamedTuple


class LayoutOptions(NamedTuple):
    """The options on which a layout depends.

    ``luks_bytes``: the length of the LUKS header, or 0. ``preallocated``: whether every cluster of the disk is
    allocated, even without data. ``outside``: whether the data clusters are in another file.
    """

    luks_bytes: int = 0
    preallocated: bool = False
    outside: bool = False


PLAIN_LAYOUT = LayoutOptions()
"""The options of an image that is neither encrypted nor preallocated, and consists of one file."""
