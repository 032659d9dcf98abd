"""The JSON Schemas, and a validator that stops at the first problem with a manifest or a plan.

The validator knows only the keywords that the schemas of manifests and plans use. The package jsonschema would
accept 1.0 as an integer and take five times as long for the plan of a fleet, and its import would take longer
than the rest of startup.
"""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from batchdiff.plan.runs import Runs

Schema = dict[str, Any]

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


@cache
def schema_of(kind: str) -> Schema:
    """Return the JSON Schema (draft 2020-12) of a ``manifest``, a ``plan``, a ``report`` or ``events``."""
    found: Schema = json.loads(pkgutil.get_data("batchdiff.plan", f"schemas/{kind}.schema.json") or b"")
    return found


def first_problem(document: object, schema: Schema) -> str | None:
    """Return the first problem with a document; None if the document is valid."""
    return next(_Check(schema["$defs"]).problems(document, schema, ""), None)


class _Check:
    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions

    def problems(self, value: object, schema: Schema | bool, where: str) -> Iterator[str]:
        """Yield the problems with a value; ``where`` is empty for the whole document."""
        if isinstance(value, Runs):
            return  # the parser makes Runs only from what the schema allows
        if isinstance(schema, bool):
            if not schema:
                yield _problem(where, f"{_show(value)} is not allowed here")
            return
        names = schema.get("type")
        if names is not None and not _is(value, names):
            types = names if isinstance(names, str) else " or ".join(names)
            yield _problem(where, f"{_show(value)} is not of type {types}")
            return
        yield from self._combined(value, schema, where)
        allowed = [schema["const"]] if "const" in schema else schema.get("enum")
        if allowed is not None and not any(_equal(value, one) for one in allowed):
            yield _problem(where, f"{_show(value)} is not {' or '.join(map(json.dumps, allowed))}")
        if isinstance(value, dict):
            yield from self._of_object(value, schema, where)
        elif isinstance(value, list):
            yield from self._of_array(value, schema, where)
        elif isinstance(value, str):
            yield from _of_text(value, schema, where)
        elif isinstance(value, int):
            yield from _of_number(value, schema, where)

    def _fits(self, value: object, schema: Schema) -> bool:
        return next(self.problems(value, schema, ""), None) is None

    def _combined(self, value: object, schema: Schema, where: str) -> Iterator[str]:
        if "$ref" in schema:
            yield from self.problems(value, self._definitions[schema["$ref"].removeprefix("#/$defs/")], where)
        for part in schema.get("allOf", ()):
            yield from self.problems(value, part, where)
        found = [next(self.problems(value, part, ""), None) for part in schema.get("anyOf", ())]
        if found and None not in found:
            yield _problem(where, f"{_show(value)} has none of the allowed forms: {'; '.join(map(str, found))}")
        if "oneOf" in schema and sum(self._fits(value, part) for part in schema["oneOf"]) != 1:
            yield _problem(where, f"{_show(value)} does not have exactly one of the allowed forms")
        if "if" in schema and self._fits(value, schema["if"]):
            yield from self.problems(value, schema.get("then", True), where)

    def _of_object(self, value: dict[str, Any], schema: Schema, where: str) -> Iterator[str]:
        known = schema.get("properties", {})
        needed = [*schema.get("required", ())]
        for name, others in schema.get("dependentRequired", {}).items():
            needed += others if name in value else ()
        for name in needed:
            if name not in value:
                yield _problem(where, f"{name} is missing")
        for name, inner in known.items():
            if name in value:
                yield from self.problems(value[name], inner, f"{where}.{name}")
        for name in value.keys() - known.keys() if "additionalProperties" in schema else ():
            yield from self.problems(name, schema.get("propertyNames", True), where)
            yield from self.problems(value[name], schema["additionalProperties"], f"{where}.{name}")

    def _of_array(self, value: list[Any], schema: Schema, where: str) -> Iterator[str]:
        outside = _outside(len(value), schema.get("minItems"), schema.get("maxItems"))
        if outside:
            yield _problem(where, f"{_show(value)} has the wrong number of items: {outside}")
        if "items" in schema:
            for number, item in enumerate(value):
                yield from self.problems(item, schema["items"], f"{where}[{number}]")


def _of_text(value: str, schema: Schema, where: str) -> Iterator[str]:
    if len(value) < schema.get("minLength", 0):
        yield _problem(where, "it is empty")
    if "pattern" in schema and not _pattern(schema["pattern"]).search(value):
        yield _problem(where, f"{_show(value)} does not match {schema['pattern']}")


@cache
def _pattern(text: str) -> re.Pattern[str]:
    r"""Compile a pattern in which a final ``$``, unlike Python's, does not match before a newline at the end."""
    return re.compile(f"{text[:-1]}\\Z" if text.endswith("$") else text)


def _of_number(value: int, schema: Schema, where: str) -> Iterator[str]:
    outside = _outside(value, schema.get("minimum"), schema.get("maximum"))
    if outside:
        yield _problem(where, outside)


def _outside(value: int, least: int | None, most: int | None) -> str:
    """Return how a number violates its limits; empty if it does not."""
    if (least is None or value >= least) and (most is None or value <= most):
        return ""
    if least is None:
        return f"{_show(value)} is more than {most}"
    if most is None:
        return f"{_show(value)} is less than {least}"
    return f"{_show(value)} is not {least if least == most else f'between {least} and {most}'}"


def _is(value: object, names: str | list[str]) -> bool:
    """Return True if a value has one of these types; a subclass does not count, so that a bool is not an int."""
    return any(type(value) in _TYPES[name] for name in ([names] if isinstance(names, str) else names))


def _equal(value: object, one: object) -> bool:
    return value == one and isinstance(value, bool) == isinstance(one, bool)


def _problem(where: str, what: str) -> str:
    return f"{where.lstrip('.')}: {what}" if where else what


def _show(value: object) -> str:
    try:
        text = ascii(value)
    except RecursionError:
        return "a value nested too deeply to be shown"
    return text if len(text) <= 60 else text[:57] + "..."
