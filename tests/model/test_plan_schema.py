"""The plan's schema is applied as JSON Schema says; jsonschema is the oracle."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import guest_plan, plans, refused_guest, small_plan

import batchdiff
from batchdiff.model.plan_file import encode
from batchdiff.model.plan_schema import first_problem

SCHEMA = json.loads((Path(batchdiff.__file__).parent / "model/schemas/plan.schema.json").read_text())
# To JSON Schema 1.0 is an integer; to the code that uses the number it is none.
TYPES = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
ORACLE = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=TYPES)(SCHEMA)
DOCUMENT = json.loads(encode(small_plan(guest_plan(), refused_guest())))
EDGES = [-1, 0, 1, 512, 65536, (1 << 63) - 1, 1 << 63, 1 << 64, True, 1.0, 65536.0, None]
EDGES += ["", "auto", "raw", "/x", "keep", "convert", "sha256:" + "0" * 64, "0" * 64]
EDGES += [[], {}, [[0, 1]], [[0, -1]], [[0]], [[0, 1, 2]], {"512": 1}, {"x": 1}]


def places(value, where=()):
    """Every place of a document but the whole."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in ((*where, key), *places(item, (*where, key)))]


def agrees(document):
    problem = first_problem(document)
    assert (problem is None) == ORACLE.is_valid(document), problem


@settings(max_examples=50, deadline=None)
@given(plans())
def test_plans_are_valid(plan):
    document = json.loads(encode(plan))
    assert first_problem(document) is None
    agrees(document)


@pytest.mark.parametrize("value", EDGES, ids=repr)
def test_a_wrong_value_anywhere_is_found_where_the_oracle_finds_one(value):
    for where in places(DOCUMENT):
        changed = copy.deepcopy(DOCUMENT)
        holder = changed
        for step in where[:-1]:
            holder = holder[step]
        holder[where[-1]] = value
        agrees(changed)


def test_a_missing_member_anywhere_is_found_where_the_oracle_finds_one():
    for where in places(DOCUMENT):
        changed = copy.deepcopy(DOCUMENT)
        holder = changed
        for step in where[:-1]:
            holder = holder[step]
        del holder[where[-1]]
        agrees(changed)


@pytest.mark.parametrize("document", [None, [], 1, "x", {}, True])
def test_what_is_no_plan(document):
    agrees(document)


@given(st.integers(0, 210))
def test_the_number_of_backing_images_is_limited(count):
    document = copy.deepcopy(DOCUMENT)
    document["template"]["backing"] = [{"path": "/below", "format": "raw"}] * count
    agrees(document)


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("guests", 0, "verdict"), "keep", 'guests[0].verdict: \'keep\' is not "convert" or "skip" or "refuse"'),
        (("guests", 1, "overlay"), {}, "guests[1].overlay: path is missing"),
        (("totals", "skip"), -1, "totals.skip: -1 is not from 0 to 9223372036854775807"),
        (("guests", 0, "extents", "data"), [[0, 1.5]], "guests[0].extents.data[0][1]: 1.5 is no integer"),
    ],
)
def test_a_problem_is_said_with_its_place(where, value, said):
    document = copy.deepcopy(DOCUMENT)
    holder = document
    for step in where[:-1]:
        holder = holder[step]
    holder[where[-1]] = value
    assert first_problem(document) == said


KEYWORDS = {"$schema", "title", "description", "$defs", "$ref", "type", "properties", "required", "allOf", "anyOf"}
KEYWORDS |= {"const", "enum", "pattern", "minLength", "minimum", "maximum", "items", "minItems", "maxItems"}
KEYWORDS |= {"propertyNames", "additionalProperties"}


def schemas(value):
    """A schema and all that it is made of."""
    yield value
    for key in ("properties", "$defs"):
        for inner in value.get(key, {}).values():
            yield from schemas(inner)
    for inner in [*value.get("allOf", ()), *value.get("anyOf", ())]:
        yield from schemas(inner)
    for key in ("items", "propertyNames", "additionalProperties"):
        if key in value:
            yield from schemas(value[key])


def test_the_schema_has_no_keyword_that_would_be_passed_over():
    found = list(schemas(SCHEMA))
    assert len(found) > 70
    assert {keyword for schema in found for keyword in schema} <= KEYWORDS
