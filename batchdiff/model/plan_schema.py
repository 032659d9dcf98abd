"""Whether a plan's document is as ``schemas/plan.schema.json`` says, up to the first thing that is not.

It knows the keywords that the schema has, and no others: jsonschema takes five times as long for a fleet, and
its import longer than all the rest of showing a small plan. Unlike there, 1.0 is no integer.
"""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from batchdiff.model.plan_runs import Runs

Schema = dict[str, Any]

_TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}


def first_problem(document: object) -> str | None:
    """What is wrong with a document, and where in it; None where nothing is."""
    return next(_problems(document, _schema(), ""), None)


@cache
def _schema() -> Schema:
    found: Schema = json.loads(pkgutil.get_data("batchdiff.model", "schemas/plan.schema.json") or b"")
    return found


def _problems(value: object, schema: Schema, where: str) -> Iterator[str]:
    if isinstance(value, Runs):
        return  # their grammar allows nothing that the schema does not
    if "type" in schema and not _is(value, schema["type"]):
        yield _said(where, f"{_shown(value)} is no {schema['type']}")
        return
    yield from _problems_of_parts(value, schema, where)
    allowed = [schema["const"]] if "const" in schema else schema.get("enum")
    if allowed is not None and value not in allowed:
        yield _said(where, f"{_shown(value)} is not {' or '.join(map(json.dumps, allowed))}")
    if isinstance(value, dict):
        yield from _object_problems(value, schema, where)
    elif isinstance(value, list):
        yield from _array_problems(value, schema, where)
    elif isinstance(value, str):
        yield from _text_problems(value, schema, where)
    elif isinstance(value, int):
        yield from _number_problems(value, schema, where)


def _problems_of_parts(value: object, schema: Schema, where: str) -> Iterator[str]:
    """What other schemas say that this one is made of."""
    if "$ref" in schema:
        yield from _problems(value, _schema()["$defs"][schema["$ref"].removeprefix("#/$defs/")], where)
    for part in schema.get("allOf", ()):
        yield from _problems(value, part, where)
    found = [next(_problems(value, part, where), None) for part in schema.get("anyOf", ())]
    if found and None not in found:
        yield "; ".join(map(str, found))


def _object_problems(value: dict[str, Any], schema: Schema, where: str) -> Iterator[str]:
    known = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield _said(where, f"{name} is missing")
    for name, inner in known.items():
        if name in value:
            yield from _problems(value[name], inner, f"{where}.{name}")
    for name in value.keys() - known.keys() if "additionalProperties" in schema else ():
        yield from _problems(name, schema.get("propertyNames", {}), where)
        yield from _problems(value[name], schema["additionalProperties"], f"{where}.{name}")


def _array_problems(value: list[Any], schema: Schema, where: str) -> Iterator[str]:
    least, most = schema.get("minItems", 0), schema.get("maxItems", len(value))
    if not least <= len(value) <= most:
        yield _said(where, f"{_shown(value)} has {len(value)} items, not {least} to {most}")
    if "items" in schema:
        for number, item in enumerate(value):
            yield from _problems(item, schema["items"], f"{where}[{number}]")


def _text_problems(value: str, schema: Schema, where: str) -> Iterator[str]:
    if len(value) < schema.get("minLength", 0):
        yield _said(where, "it is empty")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield _said(where, f"{_shown(value)} does not match {schema['pattern']}")


def _number_problems(value: int, schema: Schema, where: str) -> Iterator[str]:
    if value < schema.get("minimum", value) or value > schema.get("maximum", value):
        yield _said(where, f"{_shown(value)} is not from {schema.get('minimum')} to {schema.get('maximum')}")


def _is(value: object, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and (name != "integer" or not isinstance(value, bool))


def _said(where: str, what: str) -> str:
    return f"{where.lstrip('.')}: {what}" if where else what


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
