"""The JSON of plans in bulk is what Python's json makes of the same values, byte for byte.

Guards plan/json_reader.py.
"""

import hashlib
import json

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import guest_plan, guest_plans, plans, refused_guest, small_plan

from batchdiff.errors import PlanError
from batchdiff.extents import Kind
from batchdiff.plan.document import to_dict
from batchdiff.plan.extents import extents_of, runs_of
from batchdiff.plan.file import checksum_of, encode, read_plan
from batchdiff.plan.json_reader import canonical, parse_json
from batchdiff.plan.runs import Runs, match

PAIRS = st.lists(st.tuples(st.integers(0, 10**18 - 1), st.integers(0, 10**18 - 1)), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
NAMES = st.sampled_from(["guests", "extents", "data", "zero", "a", "ü"])
LIKE_PLANS = st.recursive(
    SCALARS | PAIRS.map(lambda pairs: [list(pair) for pair in pairs]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


def as_lists(value):
    """The document with its runs as the lists that they stand for."""
    if isinstance(value, Runs):
        return json.loads(value.text)
    if isinstance(value, dict):
        return {key: as_lists(inner) for key, inner in value.items()}
    return [as_lists(inner) for inner in value] if isinstance(value, list) else value


def distinct(pairs):
    if len(dict(pairs)) != len(pairs):
        raise ValueError
    return dict(pairs)


def outcome(read):
    """What is read, or that it is refused."""
    try:
        return read()
    except ValueError:
        return "refused"


def checksum_by_the_document(text):
    """As docs/plan-format.md has it."""
    covered = {key: value for key, value in json.loads(text).items() if key not in {"created", "checksum"}}
    text = json.dumps(covered, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest()


@settings(max_examples=examples(30, slow=300))
@given(plans())
def test_the_checksum_is_the_documented_one(plan):
    text = encode(plan)
    assert json.loads(text)["checksum"] == checksum_by_the_document(text) == checksum_of(to_dict(plan))
    assert checksum_of(json.loads(text)) == checksum_of(parse_json(text)) == checksum_by_the_document(text)


@given(guest_plans())
def test_runs_are_the_json_of_their_numbers(guest):
    extents = extents_of(guest.diff)
    for kind, runs in ((Kind.DATA, guest.diff.data), (Kind.ZERO, guest.diff.zero)):
        assert runs.text == json.dumps(extents.pairs(kind).tolist(), separators=(",", ":"))
        assert runs.units == extents.units(kind)
    assert runs_of(extents) == (guest.diff.data, guest.diff.zero)


@given(PAIRS, st.sampled_from([None, 0, 1, 3]), st.sampled_from([",", ", ", " ,\t", "\n,\r\n"]))
def test_runs_are_found_in_any_layout(pairs, indent, comma):
    text = json.dumps(pairs, indent=indent, separators=(comma, ":"))
    runs, end = match(f"x{text}]", 1)
    assert (runs.text, end) == (json.dumps(pairs, separators=(",", ":")), 1 + len(text))


def are_pairs(value):
    pairs = value if isinstance(value, list) else [value]
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        return False
    return all(type(number) is int and number >= 0 for pair in pairs for number in pair)


@settings(max_examples=examples(100, slow=2000))
@given(
    st.text(alphabet="[],0123 -.e\n", max_size=12)
    | st.from_regex(r"\[(\[[0-9 ]{0,3},[0-9 ]{0,3}\],? ?){0,3}\]", fullmatch=True)
)
def test_what_is_taken_for_runs_is_json_of_pairs(text):
    found = match(text, 0)
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except ValueError:
        assert found is None
        return
    is_pairs = isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(type(n) is int and n >= 0 for n in pair)
        for pair in value
    )
    if found is None:
        assert not is_pairs or "-0" in text
    else:
        assert (json.loads(found[0].text), found[1]) == (value, end)


@settings(max_examples=examples(60, slow=1000))
@given(LIKE_PLANS, st.sampled_from([None, 2]), st.booleans())
def test_a_document_is_what_json_reads(document, indent, ascii_only):
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only)
    assert as_lists(parse_json(f" {text}\n")) == document


@settings(max_examples=examples(60, slow=1000))
@given(st.dictionaries(NAMES | st.text(), LIKE_PLANS, max_size=4))
def test_the_canonical_text_is_that_of_json(document):
    expected = json.dumps(document, sort_keys=True, separators=(",", ":"))
    assert "".join(canonical(document)) == expected
    assert "".join(canonical(parse_json(json.dumps(document, indent=1)))) == expected


@settings(max_examples=examples(60, slow=1000))
@given(LIKE_PLANS, st.data())
def test_text_is_refused_where_json_refuses_it(document, data):
    text = json.dumps(document)
    at = data.draw(st.integers(0, len(text)))
    inserted = data.draw(st.text(alphabet='[]{},:"0 x\\', max_size=2))
    text = text[:at] + inserted + text[at + data.draw(st.integers(0, 2)) :]
    assert outcome(lambda: as_lists(parse_json(text))) == outcome(
        lambda: json.loads(text, object_pairs_hook=distinct)
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"retire": "keep"', '"retire": "delete", "retire": "keep"', "two members named '"),
        ('"name": "web01"', '"name": "web01", "name": "web01"', "two members named '"),
        ('"unit": 65536', '"unit": 4096, "unit": 65536', "two members named '"),
        ('"inode": ', '"inode": 1, "inode": ', "two members named '"),
        ('"retire": "keep"', '"retire": "keep", "novelty": NaN', "NaN is not a JSON number"),
        ('"name": "web01"', '"name": "web01", "novelty": [-Infinity]', "-Infinity is not a JSON number"),
        ('"retire": "keep"', '"retire": "keep", "novelty": 1e999', "a number is too large"),
        (
            '"retire": "keep"',
            '"retire": "keep", "novelty": ' + "9" * 5000,
            "a number with more digits than",
        ),
        ('"data": [[0,1]', '"data": [[01,1]', "not valid JSON: it is invalid at character "),
        ('"data": [[0,1]', '"data": [[0 0,1]', "not valid JSON"),
        ('"data": [[0,1]', '"data": [[0,1],,', "not valid JSON"),
        ('"data": [[0,1]', '"data": [[0,1', "not valid JSON"),
        ('"data": [[0,1]', '"data": [[0,9999999999999999999]', "checksum"),
    ],
)
def test_what_readers_might_take_in_two_ways_is_refused(tmp_path, old, new, said):
    path = tmp_path / "fleet.plan.json"
    text = encode(small_plan(guest_plan(), refused_guest()))
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(PlanError, match=said) as caught:
        read_plan(str(path))
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("indent", [None, 0, 4])
def test_a_plan_of_any_layout_is_read(tmp_path, indent):
    path = tmp_path / "fleet.plan.json"
    plan = small_plan(guest_plan(path="/srv/café/web01.img"), refused_guest())
    path.write_text(json.dumps(json.loads(encode(plan)), indent=indent, ensure_ascii=False), encoding="utf-8")
    assert read_plan(str(path)) == plan
