"""Which results of an unfinished scan are still valid, and which ranges are left to scan; pure.

A guest's results are valid as long as the text of its state (path, declared formats, size, fingerprints of its
chain) is the same as when the interrupted scan started. A block device has no such text, because its fingerprint
does not cover its content.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace

from batchdiff.plan.plan import PlannedImage
from batchdiff.planning.checkpoint.records import Guests, Record, Recorded
from batchdiff.planning.scan.compare import UNIT
from batchdiff.planning.scan.one_range import RANGE, RangeResult
from batchdiff.planning.scan.results import Findings

SCAN_VERSION = 2
"""Raise this whenever a scan of the same images could have other results than before."""


def vouches(image: PlannedImage) -> bool:
    """Return True if a change of content would change the fingerprints; those of block devices stay the same."""
    return all(fingerprint.vouches_for_content for fingerprint in image.fingerprints)


def key_of(image: PlannedImage) -> str:
    """Return the exact state of an image as text; empty if its fingerprints do not cover its content."""
    return json.dumps(asdict(_lasting(image)), sort_keys=True) if vouches(image) else ""


def _lasting(image: PlannedImage) -> PlannedImage:
    """Clear device numbers, which may change at a reboot, if the filesystem has a UUID."""
    prints = tuple(replace(each, device=0) if each.filesystem else each for each in image.fingerprints)
    return replace(image, fingerprints=prints)


def binding_of(template: PlannedImage, *, sharing: bool, generator: str) -> str:
    """Return a text of everything that all results depend on; empty if no result may be taken over."""
    key = key_of(template)
    how = {"scan": SCAN_VERSION, "range": RANGE, "unit": UNIT, "sharing": sharing, "by": generator}
    return json.dumps(how | {"template": key}, sort_keys=True) if key else ""


def take_over(findings: Findings, records: Iterable[Record], keys: tuple[str, ...]) -> None:
    """Add the recorded results to the findings. ``keys``: the keys of today's candidates, in their order."""
    number_of = {key: number for number, key in enumerate(keys) if key}
    # Position of a guest in the latest list of guests -> number of the candidate, for guests that did not change.
    numbers: dict[int, int] = {}
    count = everyone = 0
    for record in records:
        if isinstance(record, Guests):
            count = len(record.keys)
            numbers = {place: number_of[key] for place, key in enumerate(record.keys) if key in number_of}
            everyone = sum(1 << number for number in set(numbers.values()))
        elif isinstance(record, Recorded) and max([-1, *record.left_out, *record.result.differences]) < count:
            # A result covers all guests of the list but those left out, including guests without differences.
            known = numbers
            if record.left_out:
                known = {place: number for place, number in numbers.items() if place not in record.left_out}
            findings.add(_of_known(record.result, known), numbers=range(len(keys)))
            bits = everyone & ~sum(1 << numbers[place] for place in record.left_out if place in numbers)
            findings.covered[record.result.number] = findings.covered.get(record.result.number, 0) | bits


def _of_known(result: RangeResult, known: dict[int, int]) -> RangeResult:
    """Return a result renumbered for today's candidates, without guests that are no longer candidates."""
    kept = {known[place]: extents for place, extents in result.differences.items() if place in known}
    replaced = {known[place]: count for place, count in result.replaced.items() if place in known}
    return RangeResult(result.number, result.template_digest, kept, {}, result.template_units, replaced)


def left(ranges: Iterable[int], covered: dict[int, int], guests: int) -> dict[tuple[int, ...], list[int]]:
    """Return the ranges to scan, by the guests that they must be scanned for."""
    everyone = (1 << guests) - 1
    found: dict[int, list[int]] = {}
    for number in ranges:
        missing = everyone & ~covered.get(number, 0)
        if missing or number not in covered:  # the template's digest is needed even if there are no guests
            found.setdefault(missing, []).append(number)
    return {_places(missing): numbers for missing, numbers in found.items()}


def _places(bits: int) -> tuple[int, ...]:
    return tuple(place for place in range(bits.bit_length()) if bits >> place & 1)
