"""The offsets at which images are sampled; pure.

::

    probes   0 1 2 3 4 5 6 7 ...      level 0: all of them
             0     3   5 6            level 1: one of every two
                   3   5              level 2: one of every four, which is one of level 1's

In every cell of 2**level probes, a hash chooses one, so no regular pattern of a disk can hide between the chosen
probes. All lower levels have that probe, too, so two images can be compared at the higher of their levels.

Source: S. Vigna, splitmix64.c (2015), for the hash.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from batchdiff.units import KIB

SampleNumbers: TypeAlias = npt.NDArray[np.int64]

SAMPLE = 64 * KIB
"""The bytes of a sample, and of an overlay's default cluster."""

HIGHEST_LEVEL = 40
"""A cell of this level covers at least 64 PiB, more than the data of any image."""

_SEED = 0x5BA7C4D1FF15A3E7
"""Fixed, so that all runs choose the same offsets."""

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


def chosen_probes(cells: SampleNumbers, level: int) -> SampleNumbers:
    """Return the number of the probe that is chosen in each cell."""
    at = cells
    for each in range(level, 0, -1):
        at = 2 * at + _second_child(at, each)
    return at


def levels_of(probes: SampleNumbers) -> SampleNumbers:
    """Return the highest level at which each probe is chosen."""
    found = np.zeros(len(probes), dtype=np.int64)
    still = np.ones(len(probes), dtype=bool)
    for level in range(1, HIGHEST_LEVEL + 1):
        still &= _second_child(probes >> level, level) == (probes >> (level - 1)) & 1
        if not still.any():
            break
        found[still] = level
    return found


def _second_child(cells: SampleNumbers, level: int) -> SampleNumbers:
    """Return 1 for each cell whose chosen probe is in its second half, otherwise 0."""
    mixed = cells.astype(np.uint64) + np.uint64((_SEED + level * _GOLDEN) & _WORD)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed >> np.uint64(63)).astype(np.int64)
