"""Why apply leaves restored guests alone. Guards given_back.py."""

import pytest
from stage import Stage

from batchdiff.applying.guests.given_back import why_not_again


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch)


def test_an_original_is_converted_by_its_name(stage):
    (guest,) = stage.plan.to_convert
    way = f"`batchdiff apply PLAN --guest {guest.name}` converts it again"
    assert why_not_again([guest]) == {guest.name: f"restored earlier; {way}"}


def test_a_rebuilt_image_needs_a_new_plan(stage):
    (guest,) = stage.plan.to_convert
    content = stage.original().read_bytes()
    stage.original().rename(stage.original().with_name("older"))
    stage.original().write_bytes(content)
    way = "to convert an image that was rebuilt, replaced or written to, make a new plan"
    assert why_not_again([guest]) == {guest.name: f"restored earlier; {way}"}


def test_an_original_that_its_vm_has_used_needs_a_new_plan(stage):
    (guest,) = stage.plan.to_convert
    with stage.original().open("r+b") as file:
        file.write(b"written")
    assert why_not_again([guest])[guest.name].endswith("rebuilt, replaced or written to, make a new plan")
