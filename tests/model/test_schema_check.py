"""The quick yes to a document is never wrong: jsonschema has to agree, whatever the document."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from batchdiff.model.manifest_schema import manifest_schema
from batchdiff.model.schema_check import _NOTES, _RULES, conforms

WHOLE = {
    "version": 1,
    "template": {"path": "t", "format": "qcow2", "backing": [{"path": "b", "format": "raw"}]},
    "defaults": {"format": "raw", "overlay": {"cluster_size": "auto", "extended_l2": False}},
    "guests": [
        {"path": "g", "name": "n", "overlay": {"path": "o", "compression": "zstd", "backing_path": "relative"}},
        {"glob": "*.img", "format": "raw", "overlay": {"cluster_size": 65536, "lazy_refcounts": True}},
    ],
    "retire": "delete",
    "minimum_savings": 0.5,
    "protect_template": True,
    "allow_loss": ["bitmaps"],
}
VALUES = st.sampled_from(
    [None, True, False, 0, 1, 1.0, "", "raw", "x", [], {}, ["bitmaps"], [{}], {"path": "p"}]
).map(copy.deepcopy)
KEYS = st.sampled_from(["path", "glob", "format", "name", "overlay", "version", "guests", "backing", "other"])


def places(value):
    """Every dictionary and list in a document."""
    if isinstance(value, dict | list):
        yield value
        for part in value.values() if isinstance(value, dict) else value:
            yield from places(part)


@st.composite
def changed(draw):
    document = copy.deepcopy(WHOLE)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.sampled_from(list(places(document))))
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if keys and draw(st.booleans()):
            key = draw(st.sampled_from(keys))
            if draw(st.booleans()):
                del place[key]
            else:
                place[key] = draw(VALUES)
        elif isinstance(place, dict):
            place[draw(KEYS)] = draw(VALUES)
        else:
            place.append(draw(VALUES))
    return document


@given(changed())
def test_yes_means_valid(document):
    valid = jsonschema.Draft202012Validator(manifest_schema()).is_valid(document)
    assert valid or not conforms(document, manifest_schema())


@given(changed())
def test_no_means_invalid_too_but_for_numbers_that_only_look_whole(document):
    if not conforms(document, manifest_schema()) and "1.0" not in json.dumps(document):
        assert not jsonschema.Draft202012Validator(manifest_schema()).is_valid(document)


@pytest.mark.parametrize("path", sorted(Path("manifests").glob("*.yaml")), ids=lambda path: path.name)
def test_good_manifests_need_no_other_validator(path):
    assert conforms(yaml.safe_load(path.read_text()), manifest_schema())


def test_an_unknown_keyword_is_no_yes():
    assert not conforms("x", {"type": "string", "pattern": "y"})
    assert not conforms({}, {"additionalProperties": {"type": "string"}})
    assert not conforms({"path": 1}, {"if": {"properties": {"path": {"type": "string"}}}, "then": False})


def test_every_keyword_of_the_schema_is_known():
    def keywords(schema):
        for keyword, argument in schema.items() if isinstance(schema, dict) else ():
            yield keyword
            named = argument.values() if keyword in {"properties", "$defs"} else [argument]
            for part in named:
                for one in part if isinstance(part, list) else [part]:
                    if keyword in {"properties", "$defs", "items", "if", "then", "oneOf"}:
                        yield from keywords(one)

    assert set(keywords(manifest_schema())) <= _NOTES | set(_RULES)
