"""The JSON of a plan, with runs kept as :class:`Runs`.

::

    {"guests": [{"extents": {"data": RUNS, "zero": RUNS, ...}, "sharing": {"runs": RUNS, ...}, ...}, ...], ...}

Python's json module reads all other values.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from batchdiff.plan.runs import Runs, match

Reader = Callable[[str, int], tuple[Any, int]]
"""Returns the value at an index of a text, and the index after the value."""

CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
READABLE = json.JSONEncoder(allow_nan=False)

_SPACE = re.compile(r"[ \t\n\r]*")


class AmbiguityError(ValueError):
    """Text that JSON readers interpret differently."""


def why_not_json(error: ValueError | RecursionError) -> str:
    """Return why bytes cannot be read as JSON; Python's own messages differ between versions."""
    match error:
        case AmbiguityError():
            return str(error)
        case json.JSONDecodeError():
            return f"it is invalid at character {error.colno} of line {error.lineno}"
        case UnicodeDecodeError():
            return f"it is not valid UTF-8 at byte {error.start}"
        case RecursionError():
            return "it is nested too deeply"
    return "it has a number with more digits than Python can read"


def parse_json(text: str) -> object:
    """Return the document in a JSON text.

    :raises ValueError: the text is invalid or ambiguous, or has a number with too many digits.
    :raises RecursionError: the text is nested too deeply.
    """
    document, end = _DOCUMENT(text, _after_space(text, 0))
    if _after_space(text, end) != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return document


def encode_json(value: object, encoder: json.JSONEncoder) -> str:
    """Return the JSON of a value in the encoder's form; runs always have the canonical form.

    Lists in the value must not contain runs.

    :raises ValueError: a number cannot be encoded.
    :raises RecursionError: the value is nested too deeply.
    """
    if isinstance(value, Runs):
        return value.text
    if not isinstance(value, dict) or not any(isinstance(inner, dict | Runs) for inner in value.values()):
        return encoder.encode(value)
    items = sorted(value.items()) if encoder.sort_keys else value.items()
    members = [encoder.encode(key) + encoder.key_separator + encode_json(inner, encoder) for key, inner in items]
    return "{" + encoder.item_separator.join(members) + "}"


def canonical(document: dict[str, Any]) -> Iterator[str]:
    """Yield, in pieces, the canonical JSON of a document: keys sorted, no white space, ASCII only.

    :raises ValueError: a number cannot be encoded.
    :raises RecursionError: the document is nested too deeply.
    """
    for number, key in enumerate(sorted(document)):
        yield f"{',' if number else '{'}{CANONICAL.encode(key)}:"
        value = document[key]
        if isinstance(value, list) and value:
            for place, item in enumerate(value):
                yield f"{',' if place else '['}{encode_json(item, CANONICAL)}"
            yield "]"
        else:
            yield encode_json(value, CANONICAL)
    yield "}" if document else "{}"


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _after(text: str, at: int, sign: str) -> int:
    """Skip a punctuation mark, which must be next, and the white space around it."""
    at = _after_space(text, at)
    if not text.startswith(sign, at):
        raise json.JSONDecodeError(f"Expecting {sign!r}", text, at)
    return _after_space(text, at + 1)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse two members with one name, because readers do not agree on which one counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise AmbiguityError(f"an object has two members named {twice!a}")
    return found


def _no_constant(name: str) -> None:
    raise AmbiguityError(f"{name} is not a JSON number")


_any_value: Reader = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_no_constant).raw_decode


def _runs(text: str, at: int) -> tuple[Any, int]:
    return match(text, at) or _any_value(text, at)


def _list_of(read: Reader) -> Reader:
    def list_at(text: str, at: int) -> tuple[Any, int]:
        if not text.startswith("[", at):
            return _any_value(text, at)
        items: list[Any] = []
        at = _after_space(text, at + 1)
        while not text.startswith("]", at):
            at = _after(text, at, ",") if items else at
            item, at = read(text, at)
            items.append(item)
            at = _after_space(text, at)
        return items, at + 1

    return list_at


def _object_of(**readers: Reader) -> Reader:
    def object_at(text: str, at: int) -> tuple[Any, int]:
        if not text.startswith("{", at):
            return _any_value(text, at)
        pairs: list[tuple[str, Any]] = []
        at = _after_space(text, at + 1)
        while not text.startswith("}", at):
            at = _after(text, at, ",") if pairs else at
            key, at = _key(text, at)
            value, at = readers.get(key, _any_value)(text, _after(text, at, ":"))
            pairs.append((key, value))
            at = _after_space(text, at)
        return _distinct(pairs), at + 1

    return object_at


def _key(text: str, at: int) -> tuple[str, int]:
    if not text.startswith('"', at):
        raise json.JSONDecodeError("Expecting property name enclosed in double quotes", text, at)
    key, end = _any_value(text, at)
    return str(key), end


_EXTENTS, _SHARING = _object_of(data=_runs, zero=_runs), _object_of(runs=_runs)
_DOCUMENT = _object_of(guests=_list_of(_object_of(extents=_EXTENTS, sharing=_SHARING)))
