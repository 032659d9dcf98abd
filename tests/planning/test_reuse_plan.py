"""A plan that takes guests over from an older one is the plan that would have been made without it."""

import dataclasses
import os
import shutil
from pathlib import Path

import notation
import plans
import pytest
from examples import examples
from filesystems import mounted
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import source
from small_fleet import GUESTS, OTHER, TEMPLATE, checksum, fresh, manifest, write_fleet

from batchdiff.choices import Verdict
from batchdiff.errors import ImageError
from batchdiff.manifest.manifest import GuestEntry
from batchdiff.plan.overlay_options import BackingPath, Compat, Compression, OverlayOptions
from batchdiff.plan.overlay_rules import contradictions
from batchdiff.planning import reuse_plan
from batchdiff.planning.planner import GENERATOR, EarlierResults, make_plan
from batchdiff.planning.reuse_plan import reusable_overlay
from batchdiff.planning.scan import one_range
from batchdiff.units import MIB

pytestmark = pytest.mark.usefixtures("small_ranges")


def reusing(of, older, jobs=1):
    """The plan, and what was said."""
    said = []
    return make_plan(of, jobs=jobs, earlier=EarlierResults(None, older, said.append)), said


def taken(said):
    return int(said[0].removeprefix("Reusing the results of ").split()[0])


def test_nothing_is_read(folder, monkeypatch):
    older = make_plan(manifest(folder), jobs=1)
    monkeypatch.setattr(one_range.Scanner, "__init__", None)
    plan, said = reusing(manifest(folder), older)
    assert taken(said) == 3
    assert checksum(plan) == checksum(older)


@pytest.mark.parametrize("changed", GUESTS)
def test_what_changed_is_scanned(folder, changed):
    older = make_plan(manifest(folder), jobs=1)
    notation.write_raw(folder / "new", OTHER)
    os.rename(folder / "new", folder / changed)
    of = manifest(folder)
    entries = of.guests
    if changed.endswith("qcow2"):
        raw = dataclasses.replace(entries[2].image, format=entries[0].image.format)
        of = dataclasses.replace(of, guests=(*entries[:2], dataclasses.replace(entries[2], image=raw)))
    plan, said = reusing(of, older)
    assert taken(said) == 2
    assert checksum(plan) == fresh(of)


def test_guests_that_came_and_went_and_other_names(folder):
    older = make_plan(manifest(folder), jobs=1)
    notation.write_raw(folder / "new.img", OTHER)
    of = manifest(folder, ("new.img", "two.img"))
    renamed = dataclasses.replace(of.guests[1], name="renamed", overlay_path=str(folder / "elsewhere"))
    of = dataclasses.replace(of, guests=(of.guests[0], renamed), minimum_savings=0.5)
    plan, said = reusing(of, older)
    assert taken(said) == 1
    assert checksum(plan) == fresh(of)


OPTIONS = st.builds(
    OverlayOptions,
    cluster_size=st.sampled_from([None, 512, 4096, 16384, 65536, 2 * MIB]),
    extended_l2=st.sampled_from([False, True, None]),
    compression=st.sampled_from(Compression),
    backing_path=st.sampled_from(BackingPath),
    lazy_refcounts=st.booleans(),
    compression_level=st.sampled_from([None, None, 1]),
    refcount_bits=st.sampled_from([16, 16, 1, 64]),
    compat=st.sampled_from([Compat.V3, Compat.V3, Compat.V2]),
).filter(lambda chosen: not list(contradictions(chosen)))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    found = tmp_path_factory.mktemp("images")
    write_fleet(found)
    return found


@settings(max_examples=examples(6, slow=100))
@given(before=OPTIONS, after=OPTIONS, minimum=st.sampled_from([0.0, 0.3, 1.0]))
def test_whatever_the_options(images, before, after, minimum):
    older = make_plan(manifest(images, **dataclasses.asdict(before)), jobs=1)
    of = dataclasses.replace(manifest(images, **dataclasses.asdict(after)), minimum_savings=minimum)
    plan, said = reusing(of, older)
    assert checksum(plan) == fresh(of)
    if before == after:
        assert taken(said) == 3


def test_auto_is_what_it_would_have_been(images):
    """The older plan has the sizes of all clusters, so what auto means is known without asking how it was made."""
    auto = make_plan(manifest(images, cluster_size=None), jobs=1)
    chosen = {guest.options.cluster_size for guest in auto.guests}
    assert taken(reusing(manifest(images, cluster_size=None), auto)[1]) == 3
    for size in (4096, 65536):
        older = make_plan(manifest(images, cluster_size=size), jobs=1)
        of = manifest(images, cluster_size=None)
        plan, said = reusing(of, older)
        assert checksum(plan) == fresh(of)
        assert (taken(said) > 0) is (size in chosen)


SUBCLUSTERS = {"cluster_size": None, "extended_l2": None}


@pytest.mark.parametrize(
    ("before", "after", "reused"),
    [
        (SUBCLUSTERS, SUBCLUSTERS, True),
        (SUBCLUSTERS, SUBCLUSTERS | {"lazy_refcounts": True}, True),
        (SUBCLUSTERS, SUBCLUSTERS | {"refcount_bits": 8}, False),
        (SUBCLUSTERS, SUBCLUSTERS | {"compat": Compat.V2}, False),
        ({"compat": Compat.V2}, {}, False),
        ({"compression": Compression.ZSTD}, {"compression": Compression.ZSTD, "compression_level": 19}, False),
        ({}, {"extended_l2": None}, False),  # the older plan has no sizes with subclusters
        ({"extended_l2": True}, {"extended_l2": True, "cluster_size": None}, None),
        (SUBCLUSTERS, {"cluster_size": None}, None),
        (SUBCLUSTERS, {"cluster_size": None, "extended_l2": True}, None),
    ],
)
def test_options_that_change_what_is_written_or_counted(images, before, after, reused):
    """The plan is always as a fresh one; ``reused``: None if it depends on what auto chose."""
    older = make_plan(manifest(images, **before), jobs=1)
    plan, said = reusing(manifest(images, **after), older)
    assert checksum(plan) == fresh(manifest(images, **after))
    same = [
        (new.options.cluster_size, new.options.extended_l2) == (old.options.cluster_size, old.options.extended_l2)
        for new, old in zip(plan.guests, older.guests, strict=True)
    ]
    assert taken(said) == (sum(same) if reused is None else 3 * reused)


@pytest.mark.parametrize("cluster_size", [None, 65536])
def test_overlays_with_data_files_are_compared_by_disk_space(images, cluster_size):
    of = manifest(images, cluster_size=cluster_size)
    guests = [
        dataclasses.replace(
            guest, options=dataclasses.replace(guest.options, data_file=f"{guest.overlay_path}.data")
        )
        for guest in of.guests
    ]
    of = dataclasses.replace(of, guests=tuple(guests))
    older = make_plan(of, jobs=1)
    plan, said = reusing(of, older)
    assert taken(said) == 3
    assert checksum(plan) == checksum(older)
    assert all(guest.diff.savings.standard_l2_disk_bytes for guest in plan.guests)


@pytest.mark.parametrize(("data_file", "is_same"), [(None, True), ("/srv/other/a.data", False)])
def test_a_data_file_makes_the_filesystem_of_the_overlay_count(data_file, is_same):
    options = OverlayOptions(extended_l2=False, data_file=data_file)
    part = plans.guest_plan("a", overlay_path="/srv/old/a.qcow2")
    entry = GuestEntry("a", part.source, "/srv/other/a.qcow2", options)
    assert reuse_plan._same_disk_use(part, entry) is is_same


@pytest.mark.parametrize("what", ["template", "touched", "version", "other"])
def test_nothing_is_taken_over(folder, what):
    older = make_plan(manifest(folder), jobs=1)
    match what:
        case "template":
            with (folder / "template.img").open("r+b") as file:
                file.write(b"changed")
        case "touched":
            os.chmod(folder / "template.img", 0o400)
        case "version":
            older = dataclasses.replace(older, generator="batchdiff 99.0")
        case "other":
            shutil.copy(folder / "template.img", folder / "copy.img")
            older = make_plan(dataclasses.replace(manifest(folder), template=source(folder / "copy.img")), jobs=1)
    plan, said = reusing(manifest(folder), older)
    assert said[0].startswith("Nothing")
    assert (f"it was made by batchdiff 99.0, not by {GENERATOR}." in said[0]) is (what == "version")
    assert checksum(plan) == fresh(manifest(folder))


def test_a_template_whose_content_is_not_what_it_was(folder):
    """Its fingerprint holds, and yet: the digest of the part that is scanned anew finds out."""
    older = make_plan(manifest(folder, ("one.img",)), jobs=1)
    forged = dataclasses.replace(older, template_digest=older.template_digest[:-1] + "!")
    with pytest.raises(ImageError) as caught:
        reusing(manifest(folder), forged)
    assert str(caught.value) == (
        f"{folder}/template.img is not the template that the older plan was made for: its content has a different"
        " digest, although its size and mtime are unchanged. Find out what changed it, and plan again without"
        " `--reuse`."
    )


def test_refused_guests_are_looked_at_again(folder):
    notation.write_raw(folder / "small.img", "1M:A")
    of = manifest(folder, ("small.img", "one.img"))
    older = make_plan(of, jobs=1)
    assert older.guests[0].verdict is Verdict.REFUSE
    plan, said = reusing(of, older)
    assert taken(said) == 1
    assert checksum(plan) == checksum(older)


def test_block_devices_are_scanned(folder):
    loop = notation.run("losetup", "-f", "--show", str(folder / "one.img")).strip()
    try:
        entry = dataclasses.replace(manifest(folder).guests[0], image=source(Path(loop)))
        of = dataclasses.replace(manifest(folder), guests=(entry, *manifest(folder).guests[1:]))
        assert taken(reusing(of, make_plan(of, jobs=1))[1]) == 2
        of = dataclasses.replace(of, guests=of.guests[1:], template=source(Path(loop)))
        assert "block device" in reusing(of, make_plan(of, jobs=1))[1][0]
    finally:
        notation.run("losetup", "-d", loop)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_what_deleting_gives_back_is_asked_again(tmp_path, kind):
    """A reflink copy of a guest changes none of its times, but what its deletion frees."""
    with mounted(tmp_path, kind) as place:
        for name in ("template.img", "one.img", "two.img"):
            notation.write_raw(place / name, TEMPLATE if name == "template.img" else GUESTS[name])
        notation.run("sync", "-f", str(place))
        of = manifest(place, ("one.img", "two.img"))
        older = make_plan(of, jobs=1)
        notation.run("cp", "--reflink=always", str(place / "one.img"), str(place / "copy"))
        notation.run("sync", "-f", str(place))
        plan, said = reusing(of, older)
        assert taken(said) == 2
        assert plan.guests[0].diff.savings.reclaimable_bytes < older.guests[0].diff.savings.reclaimable_bytes
        assert checksum(plan) == fresh(of)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_template_that_shares_now_and_did_not_then(tmp_path, kind):
    with mounted(tmp_path, kind) as place:
        for name in ("template.img", "one.img"):
            notation.write_raw(place / name, TEMPLATE if name == "template.img" else GUESTS[name])
        notation.run("sync", "-f", str(place))
        of = manifest(place, ("one.img",))
        older = make_plan(of, jobs=1)
        assert taken(reusing(of, older)[1]) == 1
        notation.run("cp", "--reflink=always", str(place / "template.img"), str(place / "copy"))
        plan, said = reusing(of, older)
        assert said[0].startswith("Nothing")
        assert checksum(plan) == fresh(of)
        again, said = reusing(of, plan)
        assert taken(said) == 1
        assert checksum(again) == checksum(plan)


def test_a_part_that_contradicts_itself(images):
    part = make_plan(manifest(images), jobs=1).guests[0]
    assert reusable_overlay(part, part.options) is not None
    bare = dataclasses.replace(part.diff.savings, overlay_bytes_by_cluster_size=())
    part = dataclasses.replace(part, diff=dataclasses.replace(part.diff, savings=bare))
    assert reusable_overlay(part, OverlayOptions(cluster_size=None)) is None
