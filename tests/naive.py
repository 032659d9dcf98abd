"""The differences of two contents found in the plainest way there is: what the scanner must find too."""

from __future__ import annotations

import numpy as np

from batchdiff.extents import Extents, Kind, fold, from_kinds, only
from batchdiff.units import align_up

UNIT = 4096


def differences(template: bytes, guest: bytes) -> Extents:
    """The kind of every 4 KiB unit of ``guest``; past its end ``template`` reads as zeros."""
    size = align_up(max(len(guest), len(template)), UNIT)
    ours, theirs = (_units(content, size) for content in (guest, template))
    differs = (ours != theirs).any(axis=1)
    nonzero = ours.any(axis=1)
    return from_kinds(differs.astype(np.uint8) | (nonzero.astype(np.uint8) << 1))


def _units(content: bytes, size: int) -> np.ndarray:
    return np.frombuffer(content.ljust(size, b"\0"), dtype=np.uint8).reshape(-1, UNIT)


def to_write(units: Extents, cluster_size: int) -> list[tuple[int, int, int]]:
    """What an overlay with such clusters holds: runs of DATA and ZERO. Equal for equal differences."""
    return only(fold(units, max(cluster_size // UNIT, 1)), Kind.DATA, Kind.ZERO).runs()
