"""Why apply leaves restored guests alone. Guards given_back.py."""

import dataclasses

import pytest
from stage import Stage

from batchdiff.applying.guests.given_back import why_not_again
from batchdiff.files.fingerprint import fingerprint_at

NEW_PLAN = "to convert an image that was rebuilt, replaced or written to, make a new plan"


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch)


def way(stage, guest):
    """What follows "restored earlier" in the reason for one guest."""
    reason = why_not_again([guest], stage.plan.template)[guest.name]
    return reason.removeprefix("restored earlier; ")


def of_two_files(stage, place):
    """The stage's guest as an image with another file, which is its data file or below it, and that file."""
    (guest,) = stage.plan.to_convert
    other = stage.folder / "other"
    other.write_bytes(b"other")
    source = guest.image.source
    if place == "below":
        source = dataclasses.replace(source, backing=(dataclasses.replace(source, path=str(other)),))
    else:
        source = dataclasses.replace(source, other_files=(str(other),))
    prints = (*guest.image.fingerprints, fingerprint_at(str(other)))
    image = dataclasses.replace(guest.image, source=source, fingerprints=prints)
    return dataclasses.replace(guest, image=image), other


def test_an_original_is_converted_by_its_name(stage):
    (guest,) = stage.plan.to_convert
    assert way(stage, guest) == f"`batchdiff apply PLAN --guest {guest.name}` converts it again"


def test_a_rebuilt_image_needs_a_new_plan(stage):
    (guest,) = stage.plan.to_convert
    content = stage.original().read_bytes()
    stage.original().rename(stage.original().with_name("older"))
    stage.original().write_bytes(content)
    assert way(stage, guest) == NEW_PLAN


def test_an_original_that_its_vm_has_used_needs_a_new_plan(stage):
    (guest,) = stage.plan.to_convert
    with stage.original().open("r+b") as file:
        file.write(b"written")
    assert way(stage, guest) == NEW_PLAN


@pytest.mark.parametrize("place", ["data file", "below"])
def test_an_original_whose_other_file_was_written_to_needs_a_new_plan(stage, place):
    guest, other = of_two_files(stage, place)
    assert way(stage, guest).endswith("converts it again")
    other.write_bytes(b"written")
    assert way(stage, guest) == NEW_PLAN


def test_a_template_that_came_back_from_a_backup_needs_no_new_plan(stage):
    """It has an entry of its own in the plan, and apply accepts it by its content."""
    (guest,) = stage.plan.to_convert
    source = dataclasses.replace(guest.image.source, backing=(stage.plan.template.source,))
    prints = (*guest.image.fingerprints, *stage.plan.template.fingerprints)
    image = dataclasses.replace(guest.image, source=source, fingerprints=prints)
    content = stage.template.read_bytes()
    stage.template.rename(stage.folder / "former")
    stage.template.write_bytes(content)
    assert way(stage, dataclasses.replace(guest, image=image)).endswith("converts it again")


def test_a_missing_file_must_come_back(stage):
    (guest,) = stage.plan.to_convert
    stage.original().unlink()
    assert way(stage, guest) == f"{stage.original()} is missing: bring that file back first"


def test_a_missing_data_file_must_come_back(stage):
    guest, other = of_two_files(stage, "data file")
    other.unlink()
    assert way(stage, guest).startswith(f"{other} is missing: bring that file back")
