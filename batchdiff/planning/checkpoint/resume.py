"""Find the results of an unfinished scan that are still valid, and the ranges left to scan; pure.

A guest's results are valid only if its state equals the recorded one. With a block device in its chain, a
guest has no valid results: the device's fingerprint does not cover the device's content.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache, lru_cache

from batchdiff.plan.plan import PlannedImage
from batchdiff.planning.checkpoint.records import Guests, RangeRecord, Record
from batchdiff.planning.scan.compare import UNIT
from batchdiff.planning.scan.one_range import RANGE
from batchdiff.planning.scan.results import Findings

SCAN_VERSION = 2
"""Raise this with each change after which a scan of the same images could produce different results."""


def key_of(image: PlannedImage) -> str:
    """Return the state of an image as text; empty if its fingerprints do not cover its content."""
    return json.dumps(asdict(_lasting(image)), sort_keys=True) if image.vouches_for_content else ""


def _lasting(image: PlannedImage) -> PlannedImage:
    """Return an image with device number 0 for files on filesystems with a UUID: reboots may change the number."""
    prints = tuple(replace(each, device=0) if each.filesystem else each for each in image.fingerprints)
    return replace(image, fingerprints=prints)


def binding_of(template: PlannedImage, *, sharing: bool, generator: str) -> str:
    """Return as text everything on which all results depend; empty if no result may be reused."""
    key = key_of(template)
    how = {"scan": SCAN_VERSION, "range": RANGE, "unit": UNIT, "sharing": sharing, "by": generator}
    return json.dumps(how | {"template": key}, sort_keys=True) if key else ""


def take_over(findings: Findings, records: Iterable[Record], keys: Mapping[str, str]) -> None:
    """Add to the findings the recorded results that are still valid.

    ``keys``: those of the guests to scan, by name; a guest with an empty key has no valid results.
    """
    name_of = {key: name for name, key in keys.items() if key}
    # The latest list of guests, by their present names; None for those without valid results.
    names: list[str | None] = []
    known: frozenset[str] = frozenset()
    for record in records:
        if isinstance(record, Guests):
            names = [name_of.get(key) for key in record.keys]
            known = frozenset(name for name in names if name is not None)
        elif isinstance(record, RangeRecord) and _last_guest(record) < len(names):
            # A result covers all guests of the list, even those without differences, except those left out.
            covered, of = known, names
            if record.left_out:
                of = [None if number in record.left_out else name for number, name in enumerate(names)]
                covered = frozenset(name for name in of if name is not None)
            findings.add(record.result, of)
            number = record.result.number
            findings.covered[number] = _union(findings.covered.get(number, frozenset()), covered)


def _last_guest(record: RangeRecord) -> int:
    return max([-1, *record.left_out, *record.result.differences])


@lru_cache
def _union(some: frozenset[str], others: frozenset[str]) -> frozenset[str]:
    """Return the union, cached so that thousands of ranges can share one object."""
    return some | others


def ranges_left(
    ranges: Iterable[int], covered: Mapping[int, frozenset[str]], guests: Sequence[str]
) -> dict[tuple[str, ...], list[int]]:
    """Return the ranges to scan, by the guests to scan them for."""
    found: dict[tuple[str, ...], list[int]] = {}

    @cache
    def missing(known: frozenset[str]) -> tuple[str, ...]:
        return tuple(guest for guest in guests if guest not in known)

    for number in ranges:
        left_over = missing(covered.get(number, frozenset()))
        if left_over or number not in covered:  # the template's digest is needed even if there are no guests
            found.setdefault(left_over, []).append(number)
    return found
