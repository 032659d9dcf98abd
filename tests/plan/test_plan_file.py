"""plan.json comes back as it was written, and is written at once or not at all.

Guards plan/document.py, plan/plan.py.
"""

import json
import os
import re
import stat
from pathlib import Path

import jsonschema
import pytest
from examples import examples
from hypothesis import HealthCheck, given, settings
from plans import fingerprint, guest_plan, leaves, plans, refused_guest, save, savings, shared_guest, small_plan

from batchdiff.errors import PlanError
from batchdiff.image.storage.exactness import Exactness
from batchdiff.plan import file as plan_file
from batchdiff.plan.document import to_dict
from batchdiff.plan.extents import extents_of
from batchdiff.plan.file import checksum_of, encode, read_plan, read_regular, write_plan
from batchdiff.plan.overlay_options import Compat, Compression, OverlayOptions
from batchdiff.plan.runs import NO_RUNS
from batchdiff.qcow2.geometry import Geometry
from batchdiff.qcow2.layout import layout_for

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "batchdiff/plan/schemas/plan.schema.json").read_text())
one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "fleet.plan.json")


@settings(one_folder, max_examples=examples(30, slow=500))
@given(plans())
def test_a_plan_comes_back_as_it_was_written(path, plan):
    write_plan(plan, path)
    assert read_plan(path) == plan


@settings(max_examples=examples(15, slow=200))
@given(plans())
def test_what_is_written_is_as_the_schema_says(plan):
    document, validator = json.loads(encode(plan)), jsonschema.Draft202012Validator(SCHEMA)
    validator.validate(document)
    assert not validator.is_valid(document | {"format_version": 1})


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_a_path_that_is_no_utf8_survives(path):
    name = os.fsdecode(b"/srv/caf\xe9\x80.img")
    plan = small_plan(guest_plan(path=name))
    write_plan(plan, path)
    found = read_plan(path).guests[0].source.path
    assert os.fsencode(found) == b"/srv/caf\xe9\x80.img"
    assert Path(path).read_bytes().isascii()


def test_numbers_of_64_bits_survive(path):
    image = guest_plan().image
    large = fingerprint(device=2**64 - 1, inode=2**64 - 1, mtime_ns=-5)
    changed = type(image)(image.source, image.virtual_size, (large,))
    plan = small_plan(guest_plan(image=changed))
    write_plan(plan, path)
    assert read_plan(path) == plan


def test_the_file_has_one_guest_a_line():
    guests = [guest_plan("web01"), guest_plan("web02"), refused_guest("web03", "a\nb")]
    lines = encode(small_plan(*guests)).splitlines()
    for guest in guests:
        line = next(line for line in lines if f'"name": "{guest.name}"' in line)
        assert json.loads(line.strip().rstrip(",").removesuffix("]}") + ("]}" if line.endswith("]}]}") else ""))
    assert encode(small_plan(*guests)).endswith("}\n")


def test_two_plans_differ_in_the_lines_of_what_changed():
    one = encode(small_plan(guest_plan("a"), guest_plan("b"), guest_plan("c"))).splitlines()
    two = encode(small_plan(guest_plan("a"), guest_plan("b", reason="!"), guest_plan("c"))).splitlines()
    changed = [left for left, right in zip(one, two, strict=True) if left != right]
    assert len(changed) == 2  # the checksum and the guest


def test_a_plan_without_guests_comes_back(path):
    plan = small_plan(guests=())
    write_plan(plan, path)
    assert read_plan(path) == plan


# --- writing


def test_writing_replaces_the_old_plan_and_leaves_nothing_else(path, tmp_path):
    write_plan(small_plan(), path)
    write_plan(small_plan(guest_plan("other")), path)
    assert os.listdir(tmp_path) == ["fleet.plan.json"]
    assert read_plan(path).guests[0].name == "other"


def test_the_mode_follows_the_umask(path):
    before = os.umask(0o027)
    try:
        write_plan(small_plan(), path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640


def test_who_could_read_a_plan_can_read_the_one_that_replaces_it(path):
    write_plan(small_plan(), path)
    os.chown(path, 1234, 5678)
    os.chmod(path, 0o440)
    write_plan(small_plan(), path)
    info = os.stat(path)
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (1234, 5678, 0o440)


def test_a_damaged_plan_that_was_applied_is_not_to_be_planned_again(path):
    """A new plan could not undo what the damaged one has converted."""
    Path(path).write_text("{")
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    assert caught.value.remedy == "Run `batchdiff plan MANIFEST` again."
    Path(f"{path}.journal").touch()
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    assert caught.value.remedy.startswith(
        f"{path}.journal exists, so guests may have been converted: restore the plan from a backup."
    )


@pytest.mark.parametrize("name", ["missing/p.json", "file/p.json", "folder", "x" * 300, "null", "pipe"])
def test_a_place_that_takes_no_plan_is_left_as_it_was(tmp_path, name):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "null").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(PlanError, match="Choose another place with `-o`"):
        write_plan(small_plan(), str(tmp_path / name))
    assert sorted(os.listdir(tmp_path)) == before
    assert os.listdir(tmp_path / "folder") == []


def test_a_plan_behind_a_symbolic_link_is_replaced_there(tmp_path):
    (tmp_path / "there").mkdir()
    link, target = tmp_path / "here.json", tmp_path / "there" / "plan.json"
    link.symlink_to(target)
    write_plan(small_plan(), str(link))
    write_plan(small_plan(), str(link))
    assert link.is_symlink()
    assert target.is_file()
    assert os.listdir(tmp_path / "there") == ["plan.json"]


@pytest.mark.parametrize("step", ["fsync", "rename"])
@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"]
)
def test_a_failure_on_the_way_leaves_the_old_plan(path, tmp_path, monkeypatch, step, failure):
    write_plan(small_plan(), path)

    def fail(*_):
        raise failure

    monkeypatch.setattr(plan_file.os, step, fail)
    expected = PlanError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_plan(small_plan(guest_plan("new")), path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["fleet.plan.json"]
    assert read_plan(path) == small_plan()


def test_leftovers_of_a_killed_run_do_not_hinder(path, tmp_path, monkeypatch):
    leftover = f"{path}.{os.getpid()}.batchdiff-tmp"
    Path(leftover).write_text("half a plan")
    write_plan(small_plan(), path)
    assert read_plan(path) == small_plan()


def test_plans_that_do_not_say_how_exact_they_are(path):
    """Versions 1.0 and 1.1: everything counted as exact, in units of 4 KiB."""
    document = json.loads(encode(small_plan()))
    for part, new in (
        (document["guests"][0]["savings"], ("allocation_unit", "exactness", "note")),
        (document["totals"], ("template_copy_bytes", "exactness", "note")),
    ):
        for key in new:
            del part[key]
    document["format_version"] = "1.1"
    document["checksum"] = checksum_of(document)
    Path(path).write_text(json.dumps(document))
    assert read_plan(path) == small_plan()


@pytest.mark.parametrize("exactness", list(Exactness))
def test_how_exact_it_is_comes_back(path, exactness):
    guest = guest_plan(savings=savings(exactness=exactness, note="why", allocation_unit=65536))
    write_plan(small_plan(guest), path)
    assert read_plan(path) == small_plan(guest)
    Path(path).write_text(Path(path).read_text().replace(f'"{exactness}"', '"roughly"'))
    with pytest.raises(PlanError):
        read_plan(path)


def test_a_plan_without_the_options_of_1_3_comes_back(path):
    """As any plan from before, and any that uses none of them."""
    plan = small_plan()
    write_plan(plan, path)
    document = json.loads(Path(path).read_text())
    guest = document["guests"][0]
    assert set(guest["overlay"]) == {
        "path",
        "cluster_size",
        "extended_l2",
        "compression",
        "backing_path",
        "lazy_refcounts",
    }
    assert not [field for field in guest["savings"] if field.endswith("_l2_disk_bytes")]
    save(document | {"format_version": "1.2"}, path)
    assert read_plan(path) == plan


# --- docs/plan-format.md


def documented():
    text = (ROOT / "docs/plan-format.md").read_text()
    return text.split("```json\n", 1)[1].split("```", 1)[0], text


def test_the_documented_example_is_a_plan(path):
    example, _ = documented()
    Path(path).write_text(example)
    plan = read_plan(path)
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(example))
    guest = plan.guests[0]
    layout = layout_for(extents_of(guest.diff), guest.image.virtual_size, Geometry(guest.diff.unit))
    assert layout.file_size == guest.diff.savings.overlay_bytes
    assert (guest.diff.unit, guest.diff.savings.overlay_bytes) in guest.diff.savings.overlay_bytes_by_cluster_size


def test_every_field_is_documented():
    _, text = documented()
    below = text.split("## Fields", 1)[1]
    options = OverlayOptions(compression=Compression.ZLIB, compression_level=9, refcount_bits=8)
    sizes = {"standard_l2_disk_bytes": ((65536, 1),), "extended_l2_disk_bytes": ((65536, 1),)}
    version_2 = guest_plan("old", options=OverlayOptions(compat=Compat.V2), zero=NO_RUNS)
    plan = small_plan(
        guest_plan(options=options, savings=savings(**sizes)), version_2, refused_guest(), shared_guest()
    )
    fields = {
        key for where in leaves(to_dict(plan)) for key in where if isinstance(key, str) and not key.isdecimal()
    }
    for field in fields:
        assert re.search(rf"[`.]{field}[`.]", below), f"docs/plan-format.md does not explain {field}"


def test_a_folder_that_is_read_leaves_no_descriptor_open(tmp_path):
    before = os.listdir("/proc/self/fd")
    with pytest.raises(IsADirectoryError):
        read_regular(str(tmp_path), 10)
    assert os.listdir("/proc/self/fd") == before
