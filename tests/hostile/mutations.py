"""Seeded mutations of documents: one value becomes another, of another type, or is gone; or bytes change."""

from __future__ import annotations

import copy
import json
import random

VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    1 << 31,
    1 << 63,
    1 << 64,
    -(1 << 63),
    10**400,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\0",
    "\ud800",
    "\x1b[31m",
    "/",
    "/etc/passwd",
    "/dev/zero",
    "../template.img",
    "x" * 5000,
    "raw",
    "qcow2",
    "luks",
    "64KiB",
    [],
    {},
    [[]],
    [0, 0],
    [[0, -1]],
    [[1 << 62, 1 << 62]],
    [[1, 1], [0, 1]],
    {"": {}},
]


def ways(value, way=()):
    """The ways to all values of a document, also to its lists and mappings."""
    yield way
    if isinstance(value, dict):
        for key in value:
            yield from ways(value[key], (*way, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value[:20]):
            yield from ways(inner, (*way, number))


def mutated(document, chosen: random.Random):
    """A copy of a document with one to three changes, and what they are."""
    made, done = copy.deepcopy(document), []
    for _ in range(chosen.choice([1, 1, 1, 2, 3])):
        *above, key = chosen.choice([way for way in ways(made) if way])
        place = made
        for step in above:
            place = place[step]
        done.append(f"{'.'.join(map(str, (*above, key)))}: {change(place, key, made, chosen)}")
    return made, "; ".join(done)


def change(place, key, document, chosen):
    match chosen.randrange(6):
        case 0:
            del place[key]
            return "gone"
        case 1 if isinstance(place, dict):
            place[f"{key}2"] = place.pop(key)
            return "renamed"
        case 1 | 2 if isinstance(place[key], list) and place[key]:
            place[key] = place[key] * chosen.choice([2, 3])
            return "repeated"
        case 3 if type(place[key]) is int:
            place[key] = chosen.choice([-1, 1]) * (place[key] ^ 1 << chosen.randrange(70))
            return f"{place[key]}"
        case 4:
            other = document
            for step in chosen.choice([way for way in ways(document) if way]):
                other = other[step]
            place[key] = copy.deepcopy(other)
            return "another of its values"
    place[key] = chosen.choice(VALUES)
    return f"{place[key]!r}"[:80]


def mutated_bytes(data: bytes, chosen: random.Random) -> bytes:
    """Bytes with a few of them changed, removed, repeated or added."""
    made = bytearray(data)
    for _ in range(chosen.choice([1, 1, 2, 5])):
        at, length = chosen.randrange(len(made) + 1), chosen.choice([1, 1, 2, 8, 100])
        match chosen.randrange(5):
            case 0:
                del made[at : at + length]
            case 1:
                made[at:at] = made[at : at + length]
            case 2:
                made[at:at] = chosen.choice(
                    [b'"', b"{", b"]", b",", b"\0", b"\xff", b"9", b"- ", b"\n", b": ", b"*a"]
                )
            case 3:
                made[at : at + 1] = chosen.randbytes(1)
            case 4:
                del made[at:]
                made += b" "
    return bytes(made)


def as_text(document) -> str:
    """JSON that may hold what JSON cannot, such as NaN."""
    return json.dumps(document)
