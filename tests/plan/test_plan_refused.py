"""A plan whose checksum fits, but whose values make no sense, is refused; so is what is no plan at all.

Guards plan/extents.py.
"""

import contextlib
import json
from pathlib import Path

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import ONE_FOLDER, guest_plan, leaves, refusal, refused_guest, save, small_plan

from batchdiff.errors import PlanError
from batchdiff.extents import Kind
from batchdiff.plan.document import to_dict
from batchdiff.plan.extents import extents_of
from batchdiff.plan.file import encode, read_plan
from batchdiff.plan.overlay_options import Compression, Encryption


@pytest.mark.parametrize("where", [("template",), ("guests", 0), ("guests", 0, "overlay")])
@pytest.mark.parametrize("letter", ["\0", "\ud800"], ids=ascii)
def test_a_path_that_no_file_can_have(path, document, where, letter):
    holder = document
    for step in where:
        holder = holder[step]
    holder["path"] = f"/images/web{letter}.img"
    save(document, path)
    assert "path" in refusal(path)


# --- options of overlays


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extended_l2": "auto"}, "was compared, but extended_l2 was not chosen"),
        ({"compat": "0.10"}, "has extents of zeros, but compat 0.10 has no zero clusters"),
        (
            {"compat": "0.10", "refcount_bits": 8},
            "overlay.refcount_bits of guest 'web01': is impossible with `compat:",
        ),
        ({"compression_level": 5}, "overlay.compression_level of guest 'web01': needs `compression: zlib`"),
        ({"compression": "zlib", "compression_level": 10}, "10 is not a level of zlib; use 1 to 9"),
        ({"compression": "zstd", "compression_level": 23}, "23 is not between 1 and 22"),
        ({"refcount_bits": 3}, "overlay.refcount_bits: 3 is not 1 or 2 or 4"),
        ({"refcount_bits": True}, "overlay.refcount_bits: True is not of type integer"),
        ({"compat": 1.1}, "overlay.compat: 1.1 is not"),
        ({"compat": "v3"}, "overlay.compat: 'v3' is not"),
        ({"extended_l2": "yes"}, "overlay.extended_l2: 'yes' is not true or false or"),
        ({"extended_l2": 1}, "overlay.extended_l2: 1 is not true or false or"),
    ],
)
def test_options_that_no_overlay_can_have(path, document, options, message):
    document["guests"][0]["overlay"] |= options
    save(document, path)
    assert message in refusal(path)


ENCRYPTION = {"format": "luks", **Encryption("/srv/secret")._asdict()}


@pytest.mark.parametrize("options", [{"encryption": ENCRYPTION}, {"compression": "encrypted"}])
def test_encryption_that_a_reader_of_earlier_plans_would_leave_out_or_not_find(path, document, options):
    document["guests"][0]["overlay"] |= options
    save(document, path)
    assert "`compression: encrypted`" in refusal(path)


def test_an_encrypted_overlay_has_a_compression_that_readers_of_earlier_plans_refuse(path, document):
    document["guests"][0]["overlay"] |= {"encryption": ENCRYPTION, "compression": "encrypted"}
    save(document, path)
    plan = read_plan(path)
    options = plan.guests[0].options
    assert (options.encryption, options.compression) == (Encryption("/srv/secret"), Compression.NONE)
    assert to_dict(plan)["guests"][0]["overlay"]["compression"] not in set(Compression)


def test_options_that_fit_are_accepted(path, document):
    document["guests"][0]["overlay"] |= {"compression": "zstd", "compression_level": 22, "refcount_bits": 1}
    save(document, path)
    guest = read_plan(path).guests[0]
    assert (guest.options.compression_level, guest.options.refcount_bits) == (22, 1)
    assert guest.diff.geometry.refcount_bits == 1


# --- extents


INVALID_RUNS = {
    "unsorted": [[7, 3], [0, 1]],
    "overlapping": [[0, 4], [3, 2]],
    "twice": [[3, 1], [3, 1]],
    "unmerged": [[0, 1], [1, 1]],
    "past-the-end": [[127, 2]],
    "far-past-the-end": [[1 << 61, 1]],
    "negative-first": [[-1, 2]],
    "negative-count": [[1, -1]],
    "no-units": [[1, 0]],
    "float": [[0, 1.0]],
    "floats": [[0.0, 1.0]],
    "bool": [[True, 1]],
    "bools": [[False, True]],
    "bool-among-numbers": [[0, 1], [2, True]],
    "string": [["0", 1]],
    "null": [[None, 1]],
    "flat": [0, 1],
    "one-number": [[1]],
    "three-numbers": [[1, 2, 3]],
    "ragged": [[0, 1], [2]],
    "empty-run": [[]],
    "empty-and-full": [[], [0, 1]],
    "nested": [[[0, 1]]],
    "deep": [[[[[[0, 1]]]]]],
    "object": [{"0": 1, "1": 2}],
    "objects": [[{}, {}]],
    "word": ["ab"],
    "63-bits": [[1 << 63, 1]],
    "64-bits": [[0, (1 << 64) - 1]],
    "sum-overflows": [[(1 << 63) - 1, (1 << 63) - 1]],
    "80-bits": [[0, 1 << 80]],
    "not-a-list": {"0": 1},
    "nothing": None,
    "text": "[[0, 1]]",
    "number": 5,
}


@pytest.mark.parametrize("name", ["data", "zero"])
@pytest.mark.parametrize("runs", INVALID_RUNS.values(), ids=INVALID_RUNS.keys())
def test_invalid_runs_are_refused(path, document, runs, name):
    document["guests"][0]["extents"] |= {"data": [], "zero": []} | {name: runs}
    save(document, path)
    refusal(path)


@pytest.mark.parametrize(
    ("data", "zero"),
    [
        ([[0, 4]], [[3, 2]]),
        ([[3, 2]], [[0, 4]]),
        ([[0, 9]], [[2, 1]]),
        ([[2, 1]], [[2, 1]]),
        ([[0, 1], [5, 5]], [[6, 1]]),
    ],
)
def test_data_and_zero_that_overlap_are_refused(path, document, data, zero):
    document["guests"][0]["extents"] |= {"data": data, "zero": zero}
    save(document, path)
    assert "overlap" in refusal(path)


def test_data_may_touch_zero(path, document):
    document["guests"][0]["extents"] |= {"data": [[0, 4], [9, 1]], "zero": [[4, 5]]}
    save(document, path)
    assert extents_of(read_plan(path).guests[0].diff).runs() == [
        (0, 4, Kind.DATA),
        (4, 5, Kind.ZERO),
        (9, 1, Kind.DATA),
    ]


def test_the_last_unit_may_reach_past_the_end(path, document):
    document["guests"][0] |= {"virtual_size": 65536 + 512}
    document["guests"][0]["extents"] |= {"data": [[1, 1]], "zero": []}
    save(document, path)
    assert extents_of(read_plan(path).guests[0].diff).runs() == [(1, 1, Kind.DATA)]
    document["guests"][0]["extents"] |= {"data": [[1, 2]]}
    save(document, path)
    assert "past the end" in refusal(path)


# --- values that fit the checksum, and nothing else


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("guests",), {}),
        (("guests",), ""),
        (("guests",), None),
        (("guests",), [[]]),
        (("guests", 0), "web01"),
        (("guests", 0, "verdict"), "keep"),
        (("guests", 0, "name"), ""),
        (("guests", 0, "virtual_size"), 8388608.0),
        (("guests", 0, "virtual_size"), True),
        (("guests", 0, "virtual_size"), -1),
        (("guests", 0, "virtual_size"), 1 << 63),
        (("guests", 0, "path"), "clones/web01.img"),
        (("guests", 0, "format"), "auto"),
        (("guests", 0, "fingerprint"), {}),
        (("guests", 0, "fingerprint", "inode"), 1.0),
        (("guests", 0, "extents", "unit"), 65536.0),
        (("guests", 0, "extents", "unit"), 4096),  # the overlay's clusters are larger
        (("guests", 0, "extents", "unit"), []),
        (("guests", 0, "overlay", "cluster_size"), 65536.0),
        (("guests", 0, "overlay", "cluster_size"), "auto"),
        (("guests", 0, "overlay", "cluster_size"), 1000),
        (("guests", 0, "overlay", "extended_l2"), 1),
        (("guests", 0, "overlay", "extended_l2"), True),  # then the units are subclusters
        (("guests", 0, "overlay", "path"), "web01.qcow2"),
        (("guests", 0, "savings", "overlay_bytes"), 1.5),
        (("guests", 0, "savings", "overlay_bytes_by_cluster_size"), {"x": 1}),
        (("guests", 1, "verdict"), "convert"),  # it was not compared
        (("guests", 1, "extents", "data"), [[0, 1]]),
        (("template", "fingerprint"), None),
        (("template", "backing"), [{"path": "/srv/below.img", "format": "raw"}]),  # without its fingerprint
        (("totals", "peak_extra_bytes"), 1.0),
        (("retire",), "remove"),
        (("protect_template",), "yes"),
        (("manifest", "sha256"), "5e"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else repr(value),
)
def test_invalid_values_are_refused(path, document, where, value):
    holder = document
    for step in where[:-1]:
        holder = holder[step]
    holder[where[-1]] = value
    save(document, path)
    assert len(refusal(path)) < 1000


@settings(ONE_FOLDER, max_examples=examples(60, slow=1000))
@given(st.data())
def test_no_value_anywhere_crashes_the_reader(path, data):
    document = json.loads(encode(small_plan(guest_plan(), refused_guest())))
    document |= {"format_version": "1.0"}
    where = data.draw(st.sampled_from(leaves(document)))
    where = where[: data.draw(st.integers(1, len(where)))]
    if where == ("format_version",):
        return
    holder = document
    for step in where[:-1]:
        holder = holder[step]
    scalars = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=5)
    )
    nested = st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    )
    holder[where[-1]] = data.draw(nested)
    save(document, path)
    with contextlib.suppress(PlanError):
        read_plan(path)


# --- what is no plan at all


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"version: 1\ntemplate: {path: t.img}\n",
        b"[]",
        b"[1, 2]",
        b'"plan"',
        b"null",
        b"7",
        b"{}",
        b"{" + b'"a":[' * 500,
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"format_version": "1.0", "a": ' + b'{"a":' * 50_000,
        b'{"format_version": "1.0", "a": ' + b"9" * 10_000 + b"}",
        b'{"format_version": "1.0"}',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b"\0" * 4096,
        b"QFI\xfb\0\0\0\3",
        b"{} {}",
    ],
    ids=lambda content: repr(content[:20]),
)
def test_what_is_no_plan_is_refused(path, content):
    Path(path).write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("depth", [10, 300, 480, 900, 985, 993, 996, 998, 2000])
def test_no_depth_crashes_the_reader(path, document, depth):
    inner = '{"a":' * depth + "1" + "}" * depth
    Path(path).write_text(json.dumps(document)[:-1] + f', "novelty": {inner}}}')
    refusal(path)


def test_a_file_too_large_for_a_plan_is_not_read(path):
    with open(path, "wb") as file:
        file.write(b"{" + b" " * 4095)
        file.truncate((1 << 30) + 1)
    assert "it is larger than" in refusal(path)


def test_a_folder_is_no_plan(tmp_path):
    assert "is a folder" in refusal(str(tmp_path))


def test_a_missing_plan_is_said_to_be_missing(path):
    assert "there is no such file. Run `batchdiff plan MANIFEST` first" in refusal(path)


@pytest.mark.parametrize("what", ["name", "overlay path"])
def test_two_guests_with_one_name_or_overlay_are_refused(path, what):
    names = ("web01", "web01" if what == "name" else "web02")
    document = json.loads(encode(small_plan(*(guest_plan(name=name) for name in names))))
    document["guests"][1]["overlay"]["path"] = document["guests"][0]["overlay"]["path"] + (
        "" if what != "name" else "2"
    )
    save(document, path)
    assert f"two guests have the {what}" in refusal(path)
