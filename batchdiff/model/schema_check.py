"""Whether a document surely keeps to a JSON Schema: a quick yes, without the whole of JSON Schema; pure.

Importing jsonschema takes longer than the rest of a start, and finds nothing in nearly every document. So a yes
here is final, and all else is a perhaps, about which jsonschema has the last word, and the words for people.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}
_NOTES = {"$schema", "$id", "$defs", "title", "description", "default", "then"}
"""Keywords that constrain nothing by themselves."""


def conforms(value: object, schema: Schema) -> bool:
    """True: the value is valid. False: it is not, or it is not easy to tell."""
    return _conforms(value, schema, schema)


def _conforms(value: object, schema: Schema | bool, root: Schema) -> bool:
    if isinstance(schema, bool):
        return schema
    for keyword, argument in schema.items():
        if keyword in _NOTES:
            continue
        rule = _RULES.get(keyword)
        if rule is None or not rule(value, argument, schema, root):
            return False
    return True


Rule = Callable[[object, Any, Schema, Schema], bool]


def _type(value: object, argument: str | list[str], _schema: Schema, _root: Schema) -> bool:
    # Exact: to Python a truth is a number.
    names = [argument] if isinstance(argument, str) else argument
    return any(type(value) in _TYPES.get(name, ()) for name in names)


def _one_of_these(value: object, allowed: list[Any], _schema: Schema, _root: Schema) -> bool:
    return any(type(value) is type(one) and value == one for one in allowed)


def _properties(value: object, known: Schema, schema: Schema, root: Schema) -> bool:
    if not isinstance(value, dict):
        return True
    if schema.get("additionalProperties") is False and not value.keys() <= known.keys():
        return False
    return all(_conforms(value[key], known[key], root) for key in value if key in known)


def _if(value: object, condition: Schema, schema: Schema, root: Schema) -> bool:
    # A condition that is no sure yes is a sure no only if it merely asks for a key.
    if _conforms(value, condition, root):
        return _conforms(value, schema.get("then", {}), root)
    return set(condition) == {"required"}


def _one_of(value: object, parts: list[Schema], _schema: Schema, root: Schema) -> bool:
    simple = all(set(part) == {"required"} for part in parts)
    return simple and sum(_conforms(value, part, root) for part in parts) == 1


def _dependent(value: object, argument: dict[str, list[str]], _schema: Schema, _root: Schema) -> bool:
    return isinstance(value, dict) and all(
        set(needed) <= value.keys() for key, needed in argument.items() if key in value
    )


_RULES: dict[str, Rule] = {
    "type": _type,
    "const": lambda value, argument, schema, root: _one_of_these(value, [argument], schema, root),
    "enum": _one_of_these,
    "properties": _properties,
    "additionalProperties": lambda _value, argument, schema, _root: argument is False and "properties" in schema,
    "required": lambda value, keys, _schema, _root: isinstance(value, dict) and set(keys) <= value.keys(),
    "dependentRequired": _dependent,
    "items": lambda value, part, _schema, root: (
        isinstance(value, list) and all(_conforms(item, part, root) for item in value)
    ),
    "minItems": lambda value, least, _schema, _root: isinstance(value, list) and len(value) >= least,
    "maxItems": lambda value, most, _schema, _root: isinstance(value, list) and len(value) <= most,
    "minLength": lambda value, least, _schema, _root: isinstance(value, str) and len(value) >= least,
    "oneOf": _one_of,
    "if": _if,
    "$ref": lambda value, name, _schema, root: _conforms(
        value, root["$defs"][name.removeprefix("#/$defs/")], root
    ),
}
