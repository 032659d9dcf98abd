"""Guards cli/rebuilt_images.py: notes on what an image that is rebuilt from an overlay would lack."""

import dataclasses

from plans import guest_plan

from batchdiff.cli.console import Console
from batchdiff.cli.rebuilt_images import warn_of_rebuilding
from batchdiff.image_source import ImageFormat
from batchdiff.plan.plan import OriginalLosses


def notes(capsys, *guests):
    warn_of_rebuilding(Console(), guests)
    return capsys.readouterr().err.splitlines()


def test_a_raw_original_can_be_rebuilt_as_it_was(capsys):
    assert notes(capsys, guest_plan("web01"), guest_plan("web02")) == []


def test_each_format_is_named_once(capsys):
    guest = guest_plan("web01")
    of_vmdk = [
        dataclasses.replace(guest, name=name, source=dataclasses.replace(guest.source, format=ImageFormat.VMDK))
        for name in ("web01", "web02")
    ]
    (note,) = notes(capsys, *of_vmdk)
    assert "note: if an image of a vmdk guest has to be rebuilt, it will be " in note


def test_what_only_the_originals_have_is_named_with_their_guests(capsys):
    losses = OriginalLosses(snapshots=2)
    assert notes(capsys, guest_plan("web01", losses=losses), guest_plan("web02")) == [
        "batchdiff: note: if the image of web01 has to be rebuilt, it will lack what its original has:"
        " 2 internal snapshots"
    ]
    assert notes(capsys, guest_plan("web01", losses=losses), guest_plan("web02", losses=losses)) == [
        "batchdiff: note: if the images of web01 and web02 have to be rebuilt, each will lack what its original"
        " has: 2 internal snapshots"
    ]
