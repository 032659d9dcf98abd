"""The check of a manifest against its JSON Schema, with the validator's findings in plain words."""

from __future__ import annotations

import glob
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from batchdiff.manifest.paths import missing_format
from batchdiff.manifest.text.problems import Problems, YamlPath
from batchdiff.plan.json_schema import first_problem, schema_of
from batchdiff.quoting import show, suggestion, yaml_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchdiff.manifest.text.yaml_lines import PlainData

_KINDS = {
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
}


_LISTS_OF_IMAGES = ("guests", "backing")


class _Finding(NamedTuple):
    """A finding of the validator."""

    rule: str
    argument: Any
    schema: Any
    value: Any
    where: YamlPath
    raw: str


_INDICATORS = tuple("*&!%@`|>#")
"""Characters with a special meaning at the beginning of a YAML value."""

_NUMBER = re.compile(r"[0-9]+\.[0-9]+")


VERSION = 1


def version_problem(data: dict[str, PlainData]) -> tuple[YamlPath, str] | None:
    """Return the place and description of a problem with a manifest's version, if any."""
    if "version" not in data:
        return (), "version is missing; begin the manifest with `version: 1`"
    found = data["version"]
    if type(found) is not int or found != VERSION:
        return ("version",), f"expected {VERSION}, found {describe(found)}; only version {VERSION} can be read"
    return None


def is_readable(data: dict[str, PlainData]) -> bool:
    """Return True if a manifest can be checked further although its version is missing or not an integer.

    A file with neither ``template`` nor ``guests`` is not a manifest.
    """
    return type(data.get("version")) is not int and not data.keys().isdisjoint({"template", "guests"})


def check_schema(data: PlainData, folder: str, problems: Problems) -> None:
    """Report violations of the schema.

    The message for a missing format depends on the image's content; relative paths are resolved from ``folder``.
    """
    schema = schema_of("manifest")
    if first_problem(data, schema) is None:
        return
    # Importing jsonschema takes longer than running ``batchdiff --help``.
    from jsonschema import Draft202012Validator  # noqa: PLC0415

    for error in Draft202012Validator(schema).iter_errors(data):
        finding = _Finding(
            rule=str(error.validator),
            argument=error.validator_value,
            schema=error.schema,
            value=error.instance,
            where=tuple(error.absolute_path),
            raw=error.message,
        )
        if finding.value is None and problems.touches(finding.where):
            # It has already been reported that the value could not be read from the YAML.
            continue
        for where, message in _messages(finding, folder):
            problems.add(where, message)


def describe(value: object) -> str:
    """Return a value or its type in a few words, such as ``the text "x"``."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {show(value)}"
        case list():
            return "a list"
        case _:
            return "a mapping"


def _messages(finding: _Finding, folder: str) -> list[tuple[YamlPath, str]]:
    if finding.rule == "additionalProperties":
        return _unknown_keys(finding)
    if finding.rule == "required":
        # The validator reports each missing key separately, and names it only in its message.
        absent = [key for key in finding.argument if finding.raw.startswith(f"{key!r} ")]
        return [(finding.where, _missing(key, finding.value, folder)) for key in absent]
    if finding.rule == "oneOf" and not isinstance(finding.value, dict):
        # Another finding reports that the value is not a mapping.
        return []
    if finding.rule == "const" and not isinstance(finding.value, str):
        # Another finding reports the wrong type.
        return []
    words = _WORDS.get(finding.rule)
    return [(finding.where, words(finding) if words else finding.raw)]


def _unknown_keys(finding: _Finding) -> list[tuple[YamlPath, str]]:
    known = list(finding.schema["properties"])
    return [
        ((*finding.where, key), f"unknown key{_advice_on_key(key, known)}")
        for key in finding.value
        if key not in finding.schema["properties"]
    ]


def _advice_on_key(key: str, known: list[str]) -> str:
    before, colon, after = key.partition(":")
    if colon and before in known:
        value = yaml_text(after) if after.startswith(_INDICATORS) else after
        return f"; write a space after the colon: `{before}: {value}`"
    if place := _place_of(key):
        return f"; it belongs {place}"
    near = suggestion(key, known)
    if near:
        return near
    return f"; the keys allowed here are {', '.join(known)}"


def _place_of(key: str) -> str:
    schema = schema_of("manifest")
    guest, top = schema["$defs"]["guest"]["properties"], schema["properties"]
    if key in guest["overlay"]["properties"] and key not in guest:
        is_default = key in top["defaults"]["properties"]["overlay"]["properties"]
        return f"in `overlay: {{{key}: ...}}` of a guest{' or of `defaults`' if is_default else ''}"
    if key in top:
        return "at the top level of the manifest, beside `version` and `guests`"
    template, defaults = top["template"]["properties"], top["defaults"]["properties"]
    owners = {"`template`": template, "an item of `guests`": guest, "`defaults`": defaults}
    places = [name for name, keys in owners.items() if key in keys]
    if len(places) > 2:
        return f"in {', '.join(places[:-1])}, or {places[-1]}"
    return f"in {' or '.join(places)}" if places else ""


def _missing(key: str, value: dict[str, object], folder: str) -> str:
    if key == "secret_file":
        return "secret_file is missing; write the path of the file that contains the secret"
    return missing_format(folder, value.get("path")) if key == "format" else f"{key} is missing"


def _type(finding: _Finding) -> str:
    kinds = finding.argument
    kinds = [kinds] if isinstance(kinds, str) else kinds
    expected = " or ".join(_KINDS[kind] for kind in kinds)
    quote = "; put it in quotes" if "string" in kinds and isinstance(finding.value, bool | int | float) else ""
    if kinds == ["object"] and isinstance(finding.value, str) and _names_an_image(finding.where):
        text = _as_image(finding.value, finding.where[-2:-1])
        quote = f"; write `{text}`" if finding.value.isprintable() else ""
    if kinds == ["array"]:
        quote = _as_list(finding)
    return f"expected {expected}, found {describe(finding.value)}{quote}"


def _as_list(finding: _Finding) -> str:
    key = finding.where[-1] if finding.where else ""
    if isinstance(finding.value, dict):
        return f"; write a list, such as `{key}: [{{path: ...}}]`" if key in _LISTS_OF_IMAGES else ""
    if not isinstance(finding.value, str) or not finding.value.isprintable():
        return ""
    text = _as_image(finding.value, (key,)) if key in _LISTS_OF_IMAGES else yaml_text(finding.value)
    return f"; write `{key}: [{text}]`"


def _as_image(text: str, key: YamlPath) -> str:
    """Return an image's entry in YAML; ``key`` is empty for the template."""
    kind = "glob" if key == ("guests",) and glob.has_magic(text) else "path"
    return f"{{{kind}: {yaml_text(text)}, format: ...}}"


def _names_an_image(where: YamlPath) -> bool:
    return where == ("template",) or (len(where) > 1 and where[-2] in {"guests", "backing"})


def _enum(finding: _Finding) -> str:
    value, known = finding.value, [_as_yaml(word) for word in finding.argument]
    near = suggestion(value, known) if isinstance(value, str) else _advice_on_quotes(value, finding.argument)
    allowed = known[0] if len(known) == 1 else f"one of {', '.join(known)}"
    return f"expected {allowed}, found {describe(value)}{near}"


def _as_yaml(word: object) -> str:
    return word if isinstance(word, str) else json.dumps(word)


def _advice_on_quotes(value: object, known: list[object]) -> str:
    """Return advice on a number that needs quotes, such as 0.10, which YAML reads as 0.1."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    words = [word for word in known if isinstance(word, str) and _NUMBER.fullmatch(word)]
    return next((f'; put it in quotes: "{word}"' for word in words if float(word) == value), "")


def _one_of(finding: _Finding) -> str:
    if "path" in finding.value:
        return "path and glob are mutually exclusive; write two entries"
    return "a guest needs a path or a glob"


def _overlay_of_several(finding: _Finding) -> str:
    which = "a guest's own entry" if finding.where[0] == "defaults" else "an entry with a path, not a glob,"
    return (
        f"only {which} can name a file, because each guest needs its own overlay; "
        "the only value allowed here is `same`, which stands for each guest's own path"
    )


_WORDS: dict[str, Callable[[_Finding], str]] = {
    "type": _type,
    "enum": _enum,
    "const": _overlay_of_several,
    "oneOf": _one_of,
    "dependentRequired": lambda _: (
        "name is allowed with path, not with glob, because each guest needs its own name"
    ),
    "minItems": lambda _: "at least one guest is needed",
    "maxItems": lambda finding: (
        f"at most {finding.argument} backing files are allowed; merge some of them into one image with"
        " `qemu-img convert`"
    ),
    "minLength": lambda _: "must not be empty",
    "minimum": lambda finding: f"{finding.value} is below {finding.argument}; use {finding.argument} or more",
    "maximum": lambda finding: f"{finding.value} is above {finding.argument}; use {finding.argument} or less",
}
