"""The shipped schema of a plan is the one that its types give, and has every field that a plan is written with."""

import dataclasses

import plan_schema
from manifest_texts import schema_keys
from plans import diff_of, guest_plan, planned_image, refused_guest, savings, shared_guest, small_plan

from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.plan.document import to_dict
from batchdiff.plan.overlay_options import (
    Compat,
    Compression,
    Encryption,
    OverlayFormat,
    OverlayOptions,
    Preallocation,
)
from batchdiff.plan.plan import OriginalLosses, Similarity
from batchdiff.plan.runs import NO_RUNS

UNUSUAL = (
    OverlayOptions(format=OverlayFormat.QED),
    OverlayOptions(data_file="/srv/guest.data.raw"),
    OverlayOptions(extended_l2=True, preallocation=Preallocation.FULL, encryption=Encryption("/srv/secret")),
)
"""Options that a plan leaves out if they are not set."""


def test_the_shipped_schema_is_up_to_date():
    assert plan_schema.FILE.read_text() == plan_schema.TEXT_OF_FILE, "run `python tools/plan_schema.py`"


def keys(value: object) -> set[str]:
    """All names of members in a document, but not those that are cluster sizes."""
    if isinstance(value, list):
        return set().union(*map(keys, value))
    if not isinstance(value, dict):
        return set()
    names = {name for name in value if not name.isdecimal()}
    return names.union(*map(keys, value.values()))


def test_every_field_that_is_written_is_in_the_schema():
    image = planned_image("/srv/thin.qcow2", "qcow2")
    below = ImageSource("/srv/below.img", ImageFormat.RAW)
    more = {"secret_file": "/srv/secret", "allow_folders": ("/pool",), "other_files": ("/pool/thin.data",)}
    source = dataclasses.replace(image.source, backing=(below,), **more)
    image = dataclasses.replace(image, source=source, fingerprints=image.fingerprints * 3)
    options = OverlayOptions(compression=Compression.ZLIB, compression_level=9, refcount_bits=8)
    sizes = {"standard_l2_disk_bytes": ((65536, 1),), "extended_l2_disk_bytes": ((65536, 1),)}
    diff = diff_of(options, data=NO_RUNS, zero=NO_RUNS, savings=savings(**sizes), similarity=Similarity(1, 2))
    guest = guest_plan(
        image=image, source=source, diff=diff, options=options, alias="/srv/link", losses=OriginalLosses(1, 2, 3)
    )
    version_2 = refused_guest("old", options=OverlayOptions(compat=Compat.V2))
    written = keys(to_dict(small_plan(guest, version_2, left_out=(below,), minimum_savings=0.5)))
    written |= keys(to_dict(small_plan(shared_guest())))
    written |= keys(to_dict(small_plan(*(refused_guest(options=each) for each in UNUSUAL))))
    assert written | {"checksum"} == schema_keys(plan_schema.PLAN)
