"""Conversion of a guest's extents to the runs that a plan keeps as text, and back.

::

    Extents  --- runs_of ------->  data "[[0,1],[7,3]]", zero "[[4,2]]"
             <-- extents_of ----   checked: sorted, disjoint, merged

Numbers are not kept between the check of a plan and their use: they would take more memory than the text, and
parsing it again is fast.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from batchdiff.extents import Extents, Kind, from_pairs
from batchdiff.plan.plan import Diff, GuestPlan, GuestToShare
from batchdiff.plan.runs import Runs
from batchdiff.units import ceil_div


def runs_of(extents: Extents) -> tuple[Runs, Runs]:
    """Return the runs of data and those of zeros."""
    return _text(extents.pairs(Kind.DATA)), _text(extents.pairs(Kind.ZERO))


def _text(table: npt.NDArray[np.int64]) -> Runs:
    # One format string for all runs; a string for each run would take three times as long.
    runs = "[%d,%d]," * len(table) % tuple(table.ravel().tolist())
    return Runs(f"[{runs[:-1]}]")


def extents_of(diff: Diff) -> Extents:
    """Return the extents of a guest's overlay, in granules of the overlay.

    :raises ValueError: the runs are invalid.
    """
    data, zero = _table(diff.data, "extents.data"), _table(diff.zero, "extents.zero")
    found = from_pairs(data, zero)
    if len(found) != len(data) + len(zero):
        raise ValueError("adjacent extents are not merged")
    if (found.first[1:] < found.end[:-1]).any():
        raise ValueError("some extents overlap")
    return found


def check_extents(guest: GuestPlan) -> None:
    """Check the extents of a guest and its runs to share, if the plan has them.

    :raises ValueError: the runs are invalid or not within the disk.
    """
    virtual_size = 0 if guest.image is None else guest.image.virtual_size
    if guest.sharing is not None:
        table = _table(guest.sharing.runs, "sharing.runs")
        if len(table) and int(table[-1].sum()) > ceil_div(virtual_size, guest.sharing.unit):
            raise ValueError("the runs to share extend past the end of the disk")
    if guest.diff is None:
        return
    found = extents_of(guest.diff)
    if len(found) and int(found.end[-1]) > ceil_div(virtual_size, guest.diff.unit):
        raise ValueError("the extents reach past the end of the disk")


def ranges_to_share(guest: GuestToShare) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the starts and exclusive ends, in bytes, of the parts of a guest's disk to share with the template.

    :raises ValueError: the runs are invalid.
    """
    table, size = _table(guest.sharing.runs, "sharing.runs") * guest.sharing.unit, guest.image.virtual_size
    return table[:, 0], np.minimum(table[:, 0] + table[:, 1], size)


def _table(runs: Runs, name: str) -> npt.NDArray[np.int64]:
    """Return runs as an array of shape (runs, 2); refuse empty, overlapping or unsorted ones."""
    # numpy's reader warns about an empty string.
    numbers = np.fromstring(flat, dtype=np.int64, sep=",") if (flat := runs.flat) else np.zeros(0, dtype=np.int64)
    table = numbers.reshape(-1, 2)
    first, count = table[:, 0], table[:, 1]
    if (count < 1).any():
        raise ValueError(f"{name} has an empty run")
    if (first[1:] < (first + count)[:-1]).any():
        raise ValueError(f"{name} has runs that overlap or are not sorted")
    return table
