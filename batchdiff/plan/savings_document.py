"""The diff and the sharing of a guest as fields of a plan's JSON.

::

    Diff      <-> "extents", "savings", "similarity"      the overlay
    Sharing   <-> "sharing"                               blocks shared in place
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from batchdiff.frozen import field_names
from batchdiff.image.storage.exactness import Exactness
from batchdiff.plan.overlay_options import OverlayOptions, geometry_of
from batchdiff.plan.plan import Diff, Savings, Sharing, Similarity
from batchdiff.plan.runs import MOST_DIGITS, NO_RUNS, Runs

_BY_SIZE = ("overlay_bytes_by_cluster_size", "standard_l2_disk_bytes", "extended_l2_disk_bytes")
_OPTIONAL_BY_SIZE = _BY_SIZE[1:]


def diff_fields(diff: Diff) -> dict[str, Any]:
    """Return the fields of a guest's record that hold its diff."""
    found: dict[str, Any] = {"extents": {"unit": diff.unit, "data": diff.data, "zero": diff.zero}}
    savings = asdict(diff.savings)
    for name in _BY_SIZE:
        savings[name] = {str(size): count for size, count in savings[name]}
    found["savings"] = {name: value for name, value in savings.items() if value or name not in _OPTIONAL_BY_SIZE}
    if diff.similarity is not None:
        found["similarity"] = asdict(diff.similarity)
    return found


def diff_in(record: dict[str, Any], options: OverlayOptions) -> Diff | None:
    """Return the diff in a guest's record; None if there is none.

    :raises KeyError, TypeError, ValueError: a value is invalid.
    """
    data, zero = _runs(record, "extents", "data"), _runs(record, "extents", "zero")
    if "savings" in record:
        return _diff(record, options, data, zero)
    if (data, zero) != (NO_RUNS, NO_RUNS):
        raise ValueError(f"guest {record['name']!r} has extents, but was not compared")
    return None


def sharing_fields(sharing: Sharing | None) -> dict[str, Any]:
    """Return the fields of a guest's record that hold its sharing; empty if there is none."""
    if sharing is None:
        return {}
    found = asdict(sharing) | {"runs": sharing.runs}
    if sharing.runs == NO_RUNS:
        del found["unit"], found["runs"]
    return {"sharing": found}


def sharing_in(record: dict[str, Any]) -> Sharing | None:
    """Return the sharing in a guest's record; None if there is none.

    :raises KeyError, TypeError, ValueError: a value is invalid.
    """
    if "sharing" not in record:
        return None
    found = record["sharing"]
    runs = {"runs": _runs(record, "sharing", "runs")} if "runs" in found else {}
    return Sharing(**fields_in(found, field_names(Sharing)) | runs)


def _diff(record: dict[str, Any], options: OverlayOptions, data: Runs, zero: Runs) -> Diff:
    if options.cluster_size is None:
        raise ValueError(f"guest {record['name']!r} was compared, but its overlay has no cluster size")
    if options.extended_l2 is None:
        raise ValueError(f"guest {record['name']!r} was compared, but extended_l2 was not chosen")
    geometry = geometry_of(options, options.cluster_size)
    if record["extents"]["unit"] != geometry.granule:
        raise ValueError(f"the extents of guest {record['name']!r} are not in units of its overlay")
    if zero != NO_RUNS and not geometry.zero_flag:
        raise ValueError(f"guest {record['name']!r} has extents of zeros, but compat 0.10 has no zero clusters")
    return Diff(
        geometry=geometry,
        data=data,
        zero=zero,
        savings=_savings(record["savings"]),
        similarity=_similarity(record["similarity"]) if "similarity" in record else None,
    )


def _similarity(record: dict[str, Any]) -> Similarity:
    return Similarity(record["equal_bytes"], record["nonzero_bytes"])


def _savings(record: dict[str, Any]) -> Savings:
    by_size = {
        name: tuple(sorted((int(size), count) for size, count in record[name].items()))
        for name in _BY_SIZE
        if name in record
    }
    return Savings(**fields_in(record, field_names(Savings)) | by_size)


def fields_in(record: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return those of the named fields that a record has; plans of older versions lack some.

    :raises ValueError: the record has an unknown ``exactness``.
    """
    found = {name: record[name] for name in names if name in record}
    return found | ({"exactness": Exactness(found["exactness"])} if "exactness" in found else {})


def _runs(guest: dict[str, Any], where: str, name: str) -> Runs:
    found = guest[where][name]
    if not isinstance(found, Runs):  # the schema allows numbers that runs do not
        is_large = any(len(str(number)) > MOST_DIGITS for run in found for number in run)
        what = "a number that is too large" if is_large else "-0 in place of 0"
        raise ValueError(f"{where}.{name} of guest {guest['name']!r} has {what}")  # noqa: TRY004  # like all else
    return found
