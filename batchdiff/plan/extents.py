"""Conversion of a guest's extents from numbers to the text that a plan keeps, and back, in bulk.

::

    Extents  --- runs_of ------->  data "[[0,1],[7,3]]", zero "[[4,2]]"
             <-- extents_of ----   checked: sorted, disjoint, merged, within the disk
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from batchdiff.extents import Extents, Kind, from_pairs
from batchdiff.plan.plan import GuestPlan
from batchdiff.plan.runs import Runs
from batchdiff.units import ceil_div


def runs_of(extents: Extents) -> tuple[Runs, Runs]:
    """Return the runs of data and those of zeros."""
    return _text(extents.pairs(Kind.DATA)), _text(extents.pairs(Kind.ZERO))


def _text(table: npt.NDArray[np.int64]) -> Runs:
    """Return the text of an array of shape (runs, 2)."""
    # One format string for all runs: lists and strings of single runs take three times as long.
    runs = "[%d,%d]," * len(table) % tuple(table.ravel().tolist())
    return Runs(f"[{runs[:-1]}]")


def extents_of(guest: GuestPlan) -> Extents:
    """Return the extents that apply writes for a guest, in units of its ``unit``.

    :raises ValueError: the runs are not sorted, disjoint and merged, or not within the disk.
    """
    data, zero = _table(guest.data, "data"), _table(guest.zero, "zero")
    found = from_pairs(data, zero)
    if len(found) != len(data) + len(zero):
        raise ValueError("extents are not merged")
    if len(found) == 0:
        return found
    if (found.first[1:] < found.end[:-1]).any():
        raise ValueError("extents overlap")
    virtual_size = 0 if guest.image is None else guest.image.virtual_size
    if int(found.end[-1]) > ceil_div(virtual_size, guest.unit):
        raise ValueError("extents reach past the end of the disk")
    return found


def _table(runs: Runs, name: str) -> npt.NDArray[np.int64]:
    """Return the numbers as an array of shape (runs, 2)."""
    # numpy's reader warns about an empty text.
    numbers = np.fromstring(flat, dtype=np.int64, sep=",") if (flat := runs.flat) else np.zeros(0, dtype=np.int64)
    table = numbers.reshape(-1, 2)
    first, count = table[:, 0], table[:, 1]
    if (count < 1).any():
        raise ValueError(f"extents.{name} has a run of no units")
    if (first[1:] < (first + count)[:-1]).any():
        raise ValueError(f"extents.{name} is not sorted")
    return table
