"""What of an unfinished scan may be taken over, and what is left to do; pure.

A guest's results count while the text of its state (path, declared formats, size, fingerprints of its chain)
is what it was when the interrupted scan began. A block device has none: its fingerprint says nothing of its
content.
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
"""To be raised whenever a scan of the same images could find something else than before."""


def vouches(image: PlannedImage) -> bool:
    """Whether the fingerprints would tell a change of content: not those of block devices."""
    return all(fingerprint.vouches_for_content for fingerprint in image.fingerprints)


def key_of(image: PlannedImage) -> str:
    """The exact state of an image as text; empty where there is none that vouches for its content."""
    return json.dumps(asdict(_lasting(image)), sort_keys=True) if vouches(image) else ""


def _lasting(image: PlannedImage) -> PlannedImage:
    """Without device numbers that mean nothing after a reboot, wherever the filesystem has a lasting name."""
    prints = tuple(replace(each, device=0) if each.filesystem else each for each in image.fingerprints)
    return replace(image, fingerprints=prints)


def binding_of(template: PlannedImage, *, sharing: bool, generator: str) -> str:
    """What all results of a scan rest on; empty where nothing may be taken over."""
    key = key_of(template)
    how = {"scan": SCAN_VERSION, "range": RANGE, "unit": UNIT, "sharing": sharing, "by": generator}
    return json.dumps(how | {"template": key}, sort_keys=True) if key else ""


def take_over(findings: Findings, records: Iterable[Record], keys: tuple[str, ...]) -> None:
    """Adds what the records know of the guests with those keys, which number the candidates."""
    number_of = {key: number for number, key in enumerate(keys) if key}
    numbers: dict[int, int] = {}
    count = everybody = 0
    for record in records:
        if isinstance(record, Guests):
            count = len(record.keys)
            numbers = {place: number_of[key] for place, key in enumerate(record.keys) if key in number_of}
            everybody = sum(1 << number for number in set(numbers.values()))
        elif isinstance(record, Recorded) and max([-1, *record.left_out, *record.result.differences]) < count:
            known = numbers
            if record.left_out:
                known = {place: number for place, number in numbers.items() if place not in record.left_out}
            findings.add(_of_known(record.result, known), numbers=range(len(keys)))
            bits = everybody & ~sum(1 << numbers[place] for place in record.left_out if place in numbers)
            findings.covered[record.result.number] = findings.covered.get(record.result.number, 0) | bits


def _of_known(result: RangeResult, known: dict[int, int]) -> RangeResult:
    """A result with the numbers of the candidates, without those that are no longer candidates."""
    kept = {known[place]: extents for place, extents in result.differences.items() if place in known}
    replaced = {known[place]: count for place, count in result.replaced.items() if place in known}
    return RangeResult(result.number, result.template_digest, kept, {}, result.template_units, replaced)


def left(ranges: Iterable[int], covered: dict[int, int], guests: int) -> dict[tuple[int, ...], list[int]]:
    """The ranges to scan, by the guests that they must be scanned for."""
    everybody = (1 << guests) - 1
    found: dict[int, list[int]] = {}
    for number in ranges:
        missing = everybody & ~covered.get(number, 0)
        if missing or number not in covered:  # without any guest the template's digest is wanted all the same
            found.setdefault(missing, []).append(number)
    return {_places(missing): numbers for missing, numbers in found.items()}


def _places(bits: int) -> tuple[int, ...]:
    return tuple(place for place in range(bits.bit_length()) if bits >> place & 1)
