"""The exact text of every refusal of a plan (plan/file.py, plan/recognise.py)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plans import guest_plan, shared_guest, small_plan

from batchdiff.errors import PlanError
from batchdiff.plan.file import checksum_of, encode, read_plan, write_plan

AGAIN = "Run `batchdiff plan MANIFEST` again."
APPLIED = (
    "{0}.journal exists, so guests may have been converted: restore the plan from a backup. If there is none, turn"
    " each overlay into a standalone disk with `qemu-img convert`, and plan the other guests with `batchdiff"
    " plan`."
)


def signed(**changes: object) -> str:
    """Return a plan with changes that its checksum covers."""
    document = json.loads(encode(small_plan(guest_plan()))) | changes
    return json.dumps(document | {"checksum": checksum_of(document)})


REFUSED = {
    "empty": ("", "{0} is not a plan: it is empty. " + AGAIN),
    "text": (
        "hello",
        "{0} is not a plan: it does not start like JSON. Pass the file that `batchdiff plan` wrote.",
    ),
    "binary": (
        "\0" * 600,
        "{0} is not a plan: it starts like an image or another binary file. Pass the file that `batchdiff plan`"
        " wrote.",
    ),
    "manifest": (
        "version: 1\ntemplate: {path: a}\n",
        "{0} is not a plan: it looks like a manifest. Run `batchdiff plan {0}` first; that writes the plan.",
    ),
    "report": (
        '{"report_version": "1.1"}',
        "{0} is not a plan: it is a savings report as JSON. Pass the file that `batchdiff plan` wrote.",
    ),
    "cut": (
        '{"format_version": "1.2", "generator": "x"',
        "{0} is truncated or not valid JSON: it is invalid at character 43 of line 1. " + AGAIN,
    ),
    "twice": (
        '{"format_version": "1.2", "a": 1, "a": 2}',
        "{0} is not a valid plan: an object has two members named 'a'. " + AGAIN,
    ),
    "no-version": ('{"a": 1}', "{0} is not a plan: it has no valid format_version. " + AGAIN),
    "odd-version": ('{"format_version": "one"}', "{0} is not a plan: it has no valid format_version. " + AGAIN),
    "newer": (
        '{"format_version": "2.0", "generator": "x"}',
        "cannot use {0}: its format is version 2.0; this batchdiff reads only 1.x. Use a version of batchdiff that"
        " reads it, such as the one that wrote it.",
    ),
    "edited": (
        '{"format_version": "1.2", "generator": "x", "checksum": "sha256:0"}',
        "{0} has been edited or damaged: its checksum does not match. " + AGAIN,
    ),
    "too-large": (
        '{"format_version": "1.2", "generator": "x", "a": 1e999}',
        "{0} is not a valid plan: a number is too large. " + AGAIN,
    ),
    "retire": (
        signed(retire="burn"),
        '{0} is not a valid plan: retire: \'burn\' is not "keep" or "quarantine" or "delete". ' + AGAIN,
    ),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_is_not_a_valid_plan(tmp_path, text, message):
    path = tmp_path / "fleet.plan.json"
    path.write_text(text)
    with pytest.raises(PlanError) as caught:
        read_plan(str(path))
    assert str(caught.value) == message.format(path)


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        (("extents", "data"), [[127, 2]], "guest 'web02': the extents reach past the end of the disk"),
        (("extents", "data"), [[0, 1], [1, 1]], "guest 'web02': adjacent extents are not merged"),
        (("extents", "data"), [[4, 1]], "guest 'web02': some extents overlap"),
        (("extents", "data"), [[4, 0]], "guest 'web02': extents.data has an empty run"),
        (("extents", "data"), [[1 << 61, 1]], "extents.data of guest 'web02' has a number that is too large"),
        (("sharing", "runs"), [[0, 4096]], "guest 'web02': the runs to share extend past the end of the disk"),
        (("sharing", "runs"), [[1 << 61, 1]], "sharing.runs of guest 'web02' has a number that is too large"),
        (
            ("overlay", "compression"),
            "encrypted",
            "the overlay of guest 'web02' must have both `compression: encrypted` and `encryption`, or neither",
        ),
    ],
)
def test_a_guest_that_is_not_valid(tmp_path, place, value, why):
    """Nobody would find it among hundreds by its extents."""
    guests = [guest_plan("web01"), guest_plan("web02"), guest_plan("web03")]
    if place[0] == "sharing":
        guests[1] = shared_guest("web02")
    document = json.loads(encode(small_plan(*guests)))
    document["guests"][1][place[0]][place[1]] = value
    path = tmp_path / "fleet.plan.json"
    path.write_text(json.dumps(document | {"checksum": checksum_of(document)}))
    with pytest.raises(PlanError) as caught:
        read_plan(str(path))
    assert str(caught.value) == f"{path} is not a valid plan: {why}. {AGAIN}"


@pytest.mark.parametrize(
    ("guest", "runs"), [(guest_plan("web02"), "extents.data"), (shared_guest("web02"), "sharing.runs")]
)
def test_a_zero_with_a_sign_is_not_called_too_large(tmp_path, guest, runs):
    where, name = runs.split(".")
    document = json.loads(encode(small_plan(guest)))
    document["guests"][0][where][name] = [[0, 1]]
    path = tmp_path / "fleet.plan.json"
    text = json.dumps(document | {"checksum": checksum_of(document)})
    path.write_text(text.replace(f'"{name}": [[0, 1]]', f'"{name}": [[-0, 1]]'))
    with pytest.raises(PlanError) as caught:
        read_plan(str(path))
    assert str(caught.value) == (
        f"{path} is not a valid plan: {runs} of guest 'web02' has -0 in place of 0. {AGAIN}"
    )


def test_a_damaged_plan_that_was_applied(tmp_path):
    path = tmp_path / "fleet.plan.json"
    path.write_text("")
    Path(f"{path}.journal").touch()
    with pytest.raises(PlanError) as caught:
        read_plan(str(path))
    assert str(caught.value) == f"{path} is not a plan: it is empty. {APPLIED.format(path)}"


MISSING = {
    "near": (["fleet.plan.json"], "flet.plan.json", 'Did you mean "fleet.plan.json"?'),
    "near-capital": (["Fleet.plan.json"], "Flet.plan.json", 'Did you mean "Fleet.plan.json"?'),
    "manifest": (
        ["web.yaml"],
        "web.plan.json",
        "Run `batchdiff plan {folder}/web.yaml` first; that writes the plan.",
    ),
    "nothing": ([], "fleet.plan.json", "Run `batchdiff plan MANIFEST` first; that writes the plan."),
    "folder": ([], "x/fleet.plan.json", "Its folder does not exist or cannot be listed."),
}


@pytest.mark.parametrize(("names", "name", "remedy"), MISSING.values(), ids=MISSING)
def test_a_plan_that_is_missing(tmp_path, names, name, remedy):
    for each in names:
        (tmp_path / each).touch()
    with pytest.raises(PlanError) as caught:
        read_plan(f"{tmp_path}/{name}")
    expected = f"cannot read the plan {tmp_path}/{name}: there is no such file. {remedy.format(folder=tmp_path)}"
    assert str(caught.value) == expected


def test_a_plan_without_a_name():
    """As of an empty variable in a script."""
    with pytest.raises(PlanError) as caught:
        read_plan("")
    assert str(caught.value) == "the plan: no such file. Its name is empty."


def test_a_plan_that_cannot_be_written():
    with pytest.raises(PlanError) as caught:
        write_plan(small_plan(), "/dev/null")
    assert str(caught.value) == (
        "cannot write the plan /dev/null: it is not a regular file. Choose another place with `-o`."
    )
