"""The schemas of plan and manifest are applied as JSON Schema says; jsonschema is the oracle."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import guest_plan, plans, refused_guest, small_plan

from batchdiff.plan.file import encode
from batchdiff.plan.json_schema import first_problem, schema_of

PLAN, MANIFEST = schema_of("plan"), schema_of("manifest")
# To JSON Schema 1.0 is an integer; to the code that uses the number it is none.
TYPES = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
VALIDATOR = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=TYPES)
ORACLE = VALIDATOR(PLAN)
DOCUMENT = json.loads(encode(small_plan(guest_plan(), refused_guest())))
EDGES = [-1, 0, 1, 512, 65536, (1 << 63) - 1, 1 << 63, 1 << 64, True, 1.0, 65536.0, None]
EDGES += ["", "auto", "raw", "/x", "keep", "convert", "sha256:" + "0" * 64, "0" * 64]
EDGES += [[], {}, [[0, 1]], [[0, -1]], [[0]], [[0, 1, 2]], {"512": 1}, {"x": 1}]


def places(value, where=()):
    """Every place of a document but the whole."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in ((*where, key), *places(item, (*where, key)))]


def agrees(document):
    problem = first_problem(document, PLAN)
    assert (problem is None) == ORACLE.is_valid(document), problem


@settings(max_examples=50)
@given(plans())
def test_plans_are_valid(plan):
    document = json.loads(encode(plan))
    assert first_problem(document, PLAN) is None
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
        (
            ("guests", 0, "verdict"),
            "keep",
            'guests[0].verdict: \'keep\' is not "convert" or "share" or "skip" or "refuse"',
        ),
        (("guests", 1, "overlay"), {}, "guests[1].overlay: path is missing"),
        (
            ("guests", 0, "overlay", "cluster_size"),
            5,
            'guests[0].overlay.cluster_size: 5 has none of the allowed forms: 5 is not "auto"; 5 is not 512 or '
            + " or ".join(str(1 << bits) for bits in range(10, 23)),
        ),
        (("totals", "skip"), -1, "totals.skip: -1 is not between 0 and 9223372036854775807"),
        (("guests", 0, "extents", "data"), [[0, 1.5]], "guests[0].extents.data[0][1]: 1.5 is not of type integer"),
    ],
)
def test_a_problem_is_said_with_its_place(where, value, said):
    document = copy.deepcopy(DOCUMENT)
    holder = document
    for step in where[:-1]:
        holder = holder[step]
    holder[where[-1]] = value
    assert first_problem(document, PLAN) == said


@pytest.mark.parametrize(
    ("limits", "value", "said"),
    [
        ({"minItems": 1}, [], "[] has the wrong number of items: 0 is less than 1"),
        ({"maxItems": 1}, [7, 8], "[7, 8] has the wrong number of items: 2 is more than 1"),
        ({"minItems": 2, "maxItems": 2}, [7], "[7] has the wrong number of items: 1 is not 2"),
        ({"minItems": 0, "maxItems": 1}, [7, 8], "[7, 8] has the wrong number of items: 2 is not between 0 and 1"),
        ({"minimum": 1}, 0, "0 is less than 1"),
        ({"maximum": 1}, 2, "2 is more than 1"),
        ({"minimum": 0, "maximum": 1}, 2, "2 is not between 0 and 1"),
        ({"minItems": 1, "maximum": 1}, [7], None),
    ],
)
def test_limits(limits, value, said):
    assert first_problem(value, {"$defs": {}, **limits}) == said


def test_a_newline_at_the_end_is_part_of_a_value():
    """jsonschema passes it over, as Python's regular expressions do."""
    document = copy.deepcopy(DOCUMENT)
    document["manifest"]["sha256"] = "0" * 64 + "\n"
    assert "does not match" in first_problem(document, PLAN)


@pytest.mark.parametrize("depth", [10, *range(900, 1000, 3), 5000])
def test_a_value_may_be_nested_however_deeply(depth):
    document, value = copy.deepcopy(DOCUMENT), []
    for _ in range(depth):
        value = [value]
    document["generator"] = value
    assert first_problem(document, PLAN).endswith("is not of type string")


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


def containers(value):
    """Every dictionary and list in a document."""
    if isinstance(value, dict | list):
        yield value
        for part in value.values() if isinstance(value, dict) else value:
            yield from containers(part)


@st.composite
def changed(draw):
    document = copy.deepcopy(WHOLE)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.sampled_from(list(containers(document))))
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


@settings(max_examples=300)
@given(changed())
def test_manifests_are_judged_as_by_the_oracle(document):
    problem = first_problem(document, MANIFEST)
    assert (problem is None) == VALIDATOR(MANIFEST).is_valid(document), problem


@given(changed())
def test_a_manifest_without_a_problem_is_valid_whatever_counts_as_an_integer(document):
    valid = jsonschema.Draft202012Validator(MANIFEST).is_valid(document)
    assert valid or first_problem(document, MANIFEST) is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "n"}, "guests[1]: path is missing"),
        ({"path": "g"}, "does not have exactly one of the allowed forms"),
        ({"other": 1}, "guests[1].other: 1 is not allowed here"),
        ({"overlay": {"path": "o"}}, "guests[1].overlay.path: 'o' is not \"same\""),
    ],
)
def test_forbidden_keys_of_a_glob_are_reported_with_their_place(change, said):
    document = copy.deepcopy(WHOLE)
    document["guests"][1] |= change
    assert said in first_problem(document, MANIFEST)
    assert not VALIDATOR(MANIFEST).is_valid(document)


@pytest.mark.parametrize("path", sorted(Path("manifests").glob("*.yaml")), ids=lambda path: path.name)
def test_good_manifests_have_none(path):
    assert first_problem(yaml.safe_load(path.read_text()), MANIFEST) is None


KEYWORDS = {"$schema", "$id", "title", "description", "default", "$defs", "$ref", "type", "properties", "required"}
KEYWORDS |= {"allOf", "anyOf", "oneOf", "if", "then", "dependentRequired", "propertyNames", "additionalProperties"}
KEYWORDS |= {"const", "enum", "pattern", "minLength", "minimum", "maximum", "items", "minItems", "maxItems"}


def schemas(value):
    """A schema and all that it is made of."""
    if isinstance(value, bool):
        return
    yield value
    for key in ("properties", "$defs"):
        for inner in value.get(key, {}).values():
            yield from schemas(inner)
    for key in ("allOf", "anyOf", "oneOf"):
        for inner in value.get(key, ()):
            yield from schemas(inner)
    for key in ("items", "propertyNames", "additionalProperties", "if", "then"):
        if key in value:
            yield from schemas(value[key])


@pytest.mark.parametrize(("schema", "least"), [(PLAN, 70), (MANIFEST, 30)], ids=["plan", "manifest"])
def test_the_schemas_have_no_keyword_that_would_be_passed_over(schema, least):
    found = list(schemas(schema))
    assert len(found) > least
    assert {keyword for schema in found for keyword in schema} <= KEYWORDS
