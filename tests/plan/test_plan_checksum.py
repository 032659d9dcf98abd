"""A plan that was cut, edited or damaged, or is of another version, is refused."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import ONE_FOLDER, guest_plan, leaves, refusal, refused_guest, save, small_plan

from batchdiff.errors import PlanError
from batchdiff.plan.file import encode, read_plan


# --- the checksum
def changed_at(document, where):
    changed = copy.deepcopy(document)
    holder = changed
    for step in where[:-1]:
        holder = holder[step]
    old = holder[where[-1]]
    new = (
        (not old)
        if isinstance(old, bool)
        else old + 1
        if isinstance(old, int)
        else [[9, 9]]
        if old == []
        else old + "x"
    )
    holder[where[-1]] = new
    return changed


def test_every_edit_is_seen_but_of_the_time(path, document):
    places = [where for where in leaves(document) if where not in {("created",), ("format_version",)}]
    assert len(places) > 60
    for where in places:
        Path(path).write_text(json.dumps(changed_at(document, where)))
        assert "checksum does not match" in refusal(path), where


def test_the_time_is_not_covered(path, document):
    Path(path).write_text(json.dumps(changed_at(document, ("created",))))
    assert read_plan(path).created.endswith("x")


@pytest.mark.parametrize("key", ["checksum", "template", "guests", "totals", "protect_template"])
def test_a_field_that_was_taken_out_is_missed(path, document, key):
    del document[key]
    Path(path).write_text(json.dumps(document))
    refusal(path)


def test_layout_and_order_of_keys_do_not_matter(path, document):
    Path(path).write_text(json.dumps(dict(reversed(document.items())), indent=3))
    assert read_plan(path) == small_plan(guest_plan(), refused_guest())


@given(st.data())
@ONE_FOLDER
def test_a_cut_plan_is_refused(path, data):
    whole = encode(small_plan(guest_plan(), refused_guest())).encode()
    cut = data.draw(st.integers(0, len(whole) - 2))
    Path(path).write_bytes(whole[:cut])
    refusal(path)


@given(st.data())
@ONE_FOLDER
def test_a_damaged_byte_is_refused_or_changes_nothing(path, data):
    plan = small_plan()
    damaged = bytearray(encode(plan).encode())
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != damaged[at]))
    Path(path).write_bytes(damaged)
    try:
        found = read_plan(path)
    except PlanError:
        return
    # White space, the time, and the letters of a \u escape may differ.
    assert encode(found).splitlines()[3:] == encode(plan).splitlines()[3:]


# --- versions


def test_unknown_fields_of_a_newer_minor_version_are_ignored(path, document):
    document |= {"format_version": "1.7", "novelty": {"a": [1.5, None]}}
    for record in (document["template"], document["totals"], *document["guests"], document["manifest"]):
        record["novelty"] = ["x"]
    for record in (document["guests"][0]["overlay"], document["guests"][0]["savings"]):
        record["novelty"] = 1
    document["guests"][0]["extents"]["novelty"] = [[1, 2, 3]]
    document["guests"][0]["fingerprint"]["novelty"] = "y"
    save(document, path)
    assert read_plan(path) == small_plan(guest_plan(), refused_guest())


def test_unknown_fields_are_covered_by_the_checksum(path, document):
    document["novelty"] = 1
    save(document, path)
    Path(path).write_text(Path(path).read_text().replace('"novelty": 1', '"novelty": 2'))
    assert "checksum" in refusal(path)


@pytest.mark.parametrize("version", ["2.0", "0.9", "11.0", "9" * 5000 + ".0"])
def test_another_major_version_is_refused(path, document, version):
    document["format_version"] = version
    save(document, path)
    assert "this batchdiff reads only 1.x" in refusal(path)


@pytest.mark.parametrize("version", ["", "1", "1.", "x.0", "1.0.0", "-1.0", "1.²", "١.0", None, 1, [1, 0], True])
def test_what_is_no_version_is_refused(path, document, version):
    document["format_version"] = version
    save(document, path)
    assert "format_version" in refusal(path)
