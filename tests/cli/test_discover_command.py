"""``batchdiff discover`` as users run it: from a folder of images to manifests that plan accepts.

Guards cli/verbs/discover.py, report/discovery/discovery_text.py,
report/discovery/discovery_events.py.
"""

import json
import os
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import notation
import pytest
from commands import batchdiff, events, run_here
from devices import attached
from filesystems import mounted

from batchdiff.cli.verbs import discover as verb
from batchdiff.discovery import discover as discovery
from batchdiff.discovery.image_files import find_files
from batchdiff.discovery.samples import SCATTERED
from batchdiff.image.storage.exactness import Exactness
from batchdiff.manifest.file import read_manifest
from batchdiff.progress import Meter
from batchdiff.report.discovery.discovery_events import copy_event, template_event
from batchdiff.report.discovery.discovery_text import discovery_text
from batchdiff.throttle.options import CacheUse
from batchdiff.units import MIB

FIRST, SECOND = "2M:A 2M:- 2M:B", "2M:A 1M:E 1M:- 1M:F 1M:B"
LETTERS = "CDGHIJKLMNOPQRSTUVWXYZ"


def write_images(folder, first=4, second=4):
    """Two templates, the second one derived from the first, with copies of both, and two other images."""
    made = {"debian.img": FIRST, "debian-docker.img": SECOND}
    for number in range(first):
        made[f"web{number}.img"] = f"128k:{LETTERS[number]}{FIRST.removeprefix('2M:A').join([' 1920k:A', ''])}"
    for number in range(second):
        made[f"db{number}.qcow2"] = f"128k:{LETTERS[number]}{SECOND.removeprefix('2M:A').join([' 1920k:A', ''])}"
    made |= {"other0.img": "6M:Z", "other1.qcow2": "6M:Y"}
    for moment, (name, text) in enumerate(made.items()):
        (notation.write_qcow2 if name.endswith("qcow2") else notation.write_raw)(folder / name, text)
        os.utime(folder / name, (moment, moment))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_images(folder)
    return folder


def discover(images, *arguments, expect=0):
    return run_here("discover", images, *arguments, "-j", 1, expect=expect)


def test_a_folder_becomes_manifests_that_plan_accepts(images, tmp_path):
    done = batchdiff("discover", images, "-o", tmp_path / "manifests", "-j", 1, cwd=tmp_path)
    assert "8 copies of 2 templates in" in done.stdout
    assert "left out  other0.img, other1.qcow2: too little of the data of each is in the" in done.stdout
    groups = discovery.discover(find_files([str(images)]), shape=SCATTERED, jobs=1).groups
    saved = {os.path.basename(group.template.path): group.saved for group in groups}
    for name, guests in (("debian", "web"), ("debian-docker", "db")):
        path = tmp_path / "manifests" / f"{name}.yaml"
        manifest = read_manifest(str(path))
        assert manifest.template.path == str(images / f"{name}.img")
        assert sorted(guest.name for guest in manifest.guests) == [f"{guests}{number}" for number in range(4)]
        assert f"Next: batchdiff plan {path}" in done.stderr
        run_here("plan", path, "-q", "-o", tmp_path / f"{name}.json", "-j", 1)
        plan = json.loads((tmp_path / f"{name}.json").read_text())
        assert plan["totals"]["convert"] == 4
        # All data was read, so only the blocks of the overlays' tables are uncertain.
        of = saved[f"{name}.img"]
        assert of.low <= plan["totals"]["saved_bytes"] <= of.high


def test_the_table_has_every_copy(images):
    text = discover(images)
    assert "image template similar 95% interval saves" in text
    assert "web0.img debian.img 96.9% exact ~" in text
    assert "db3.qcow2 debian-docker.img" in text
    assert "Read at most 512 samples of 64 KiB from each image" in text
    assert "the same command with `-o FOLDER` writes a manifest for each template" in text


def test_events_have_all_of_it(images, tmp_path):
    done = batchdiff("discover", images, "-o", tmp_path / "m", "--json", "-j", 1, cwd=tmp_path)
    found = events(done)
    copies = {os.path.basename(each["path"]): each for each in found if each["event"] == "copy"}
    assert len(copies) == 8
    assert copies["web1.img"]["template"] == str(images / "debian.img")
    assert copies["web1.img"]["similarity"] == dict.fromkeys(("estimate", "low", "high"), 62 / 64)
    assert [each["copies"] for each in found if each["event"] == "template"] == [4, 4]
    assert {each["cause"] for each in found if each["event"] == "left_out"} == {"unlike"}
    assert {os.path.basename(each["path"]) for each in found if each["event"] == "manifest"} == {
        "debian.yaml",
        "debian-docker.yaml",
    }


def test_one_manifest_holds_one_template(images, tmp_path):
    text = discover(images, "-o", tmp_path / "fleet.yaml", expect=2)
    assert "cannot write 2 manifests" in text
    assert "Name a folder, as in `-o manifests/`, or choose one template with `--template IMAGE`." in text
    assert not (tmp_path / "fleet.yaml").exists()
    text = discover(images, "-o", tmp_path / "fleet.yaml", "--template", images / "debian.img")
    assert "named with --template" in text
    names = {guest.name for guest in read_manifest(str(tmp_path / "fleet.yaml")).guests}
    assert names >= {"web0", "db0", "debian-docker"}


def test_a_template_from_elsewhere(images, tmp_path):
    notation.write_raw(tmp_path / "golden.img", FIRST)
    text = run_here("discover", images / "web0.img", images / "web1.img", "--template", tmp_path / "golden.img")
    assert "2 copies of 1 template" in text
    text = run_here("discover", images, "--template", tmp_path, expect=2)
    assert "is a folder. Name the image that is the template." in text


def test_a_template_with_two_names_is_known_by_the_given_one(images, tmp_path):
    for name in ("debian.img", "web0.img"):
        shutil.copy(images / name, tmp_path / name)
    os.link(tmp_path / "debian.img", tmp_path / "another-name.img")
    text = discover(tmp_path, "--template", tmp_path / "debian.img", "-o", f"{tmp_path}/manifests/")
    assert "another-name.img: it is " in text
    assert read_manifest(str(tmp_path / "manifests" / "debian.yaml")).template.path == str(tmp_path / "debian.img")


def test_a_template_whose_name_is_not_utf_8_gets_no_manifest(tmp_path):
    (tmp_path / "images").mkdir()
    for name, text in ((b"t\xff.img", FIRST), (b"a.img", f"128k:X 1920k:A{FIRST.removeprefix('2M:A')}")):
        notation.write_raw(Path(os.fsdecode(os.fsencode(tmp_path / "images") + b"/" + name)), text)
    template = os.fsdecode(os.fsencode(tmp_path / "images") + b"/t\xff.img")
    text = discover(tmp_path / "images", "--template", template, "-o", f"{tmp_path}/manifests/")
    assert "no manifest was written for the template" in text
    assert list(tmp_path.glob("manifests/*")) == []


def test_a_folder_whose_name_is_not_utf_8_is_not_called_a_file(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    for name in ("base.img", "vm.img"):
        notation.write_raw(folder / name, FIRST)
    text = discover(folder, "-o", f"{tmp_path}/manifests/")
    assert ": its path is not valid UTF-8, which YAML requires; rename the file or the folder" in text
    shutil.move(folder / "base.img", tmp_path / "base.img")
    given = ("--template", tmp_path / "base.img", "-o", f"{tmp_path}/manifests/")
    text = discover(folder, *given)
    assert "the path of its copy is not valid UTF-8, which YAML requires; rename the copy or its folder" in text
    shutil.copy(folder / "vm.img", folder / "vm2.img")
    text = discover(folder, *given)
    assert "the paths of its copies are not valid UTF-8, which YAML requires; rename the copies or their" in text


def test_events_have_what_the_text_has(tmp_path):
    """Shared blocks, losses, originals of overlays, and what was read."""
    for name in ("base", "vm", "kept", "old"):
        notation.write_qcow2(tmp_path / f"{name}.img", FIRST)
    os.utime(tmp_path / "base.img", (1, 1))
    notation.run("qemu-img", "snapshot", "-c", "one", str(tmp_path / "kept.img"))
    notation.write_qcow2(tmp_path / "old.qcow2", "6M:-", backing=tmp_path / "base.img", backing_format="qcow2")
    (tmp_path / "notes.txt").write_text("x")
    found = events(batchdiff("discover", tmp_path, "--json", "-j", 1, cwd=tmp_path))
    copies = {os.path.basename(each["path"]): each for each in found if each["event"] == "copy"}
    assert {name: (each["snapshots"], each["bitmaps"], each["shared_bytes"]) for name, each in copies.items()} == {
        "vm.img": (0, 0, 0),
        "kept.img": (1, 0, 0),
    }
    left = {os.path.basename(each["path"]): each["template"] for each in found if each["event"] == "left_out"}
    assert left == dict.fromkeys(("old.img", "old.qcow2"), str(tmp_path / "base.img"))
    (whole,) = (each for each in found if each["event"] == "discovery")
    assert (whole["images"], whole["ignored"], whole["can_share"]) == (3, 1, False)
    assert whole["read_bytes"] > 0 < whole["reads"]


def test_a_block_device_becomes_a_guest(images, tmp_path):
    """Its overlay is beside the template, and the figures are those of a plan."""
    for name in ("debian.img", "web0.img"):
        shutil.copy(images / name, tmp_path / name)
    with attached(tmp_path / "web0.img", "--read-only") as device:
        named = (tmp_path / "debian.img", device)
        given = ("--template", tmp_path / "debian.img")
        text = run_here("discover", *named, *given, "-o", tmp_path / "m.yaml", "-j", 1)
        run_here("plan", tmp_path / "m.yaml", "-q", "-o", tmp_path / "p.json", "-j", 1)
        search = find_files(map(str, named))
        (group,) = discovery.discover(search, shape=SCATTERED, jobs=1, templates=[str(named[0])]).groups
    (guest,) = json.loads((tmp_path / "p.json").read_text())["guests"]
    assert guest["verdict"] == "convert"
    assert guest["overlay"]["path"] == f"{tmp_path}/{os.path.basename(device)}.qcow2"
    assert group.saved.low <= guest["savings"]["saved_bytes"] <= group.saved.high
    # A thin device returns only what it has allocated.
    assert guest["savings"]["exactness"] == "at_most"
    assert len(re.findall(r"(?:exact|total) at most ~[\d.]+ MiB", text)) == 2
    assert re.search(r", saves at most ~[\d.]+ MiB\n", (tmp_path / "m.yaml").read_text())
    assert {copy_event(group, *group.copies)["exactness"], template_event(group, "")["exactness"]} == {"at_most"}


@pytest.mark.parametrize(
    ("exactness", "cell", "sum_"),
    [
        (Exactness.EXACT, r"exact ~[\d.]+ MiB", r"saving ([\d.]+ MiB to|~[\d.]+ MiB)"),
        (Exactness.AT_LEAST, r"exact at least ~[\d.]+ MiB", r"saving at least [\d.]+ MiB:"),
        (Exactness.UNKNOWN, "exact unknown", "saving an unknown amount of space:"),
    ],
)
def test_savings_are_as_certain_as_in_a_plan(images, exactness, cell, sum_):
    def with_exactness(copy):
        return replace(copy, image=replace(copy.image, exactness=exactness))

    found = discovery.discover(find_files([str(images)]), shape=SCATTERED, jobs=1)
    groups = tuple(
        replace(group, copies=tuple(with_exactness(copy) for copy in group.copies)) for group in found.groups
    )
    text = " ".join(discovery_text(replace(found, groups=groups), SCATTERED).split())
    assert len(re.findall(cell, text)) == sum(len(group.copies) for group in groups)
    assert len(re.findall(sum_, text)) == len(groups)
    assert re.search(cell.replace("exact", "total", 1), text)


def test_names_that_no_manifest_can_have(tmp_path):
    """Only one template's manifest is written: the others' names are too long, or their copies' not UTF-8."""
    long = "n" * 240
    for name, text in (
        ("a/base.img", FIRST), ("a/vm.img", FIRST), ("b/odd.img", "6M:O"), (b"b/caf\xe9.img", "6M:O"),
        (f"c/{long}.img", "6M:L"), ("c/vm.img", "6M:L"), ("d\nd/vm.img", FIRST),
    ):  # fmt: skip
        path = Path(os.fsdecode(os.fsencode(tmp_path / "images") + b"/" + os.fsencode(name)))
        path.parent.mkdir(parents=True, exist_ok=True)
        notation.write_raw(path, text)
        moment = 1 if path.name in {"base.img", "odd.img", f"{long}.img"} else 2
        os.utime(path, (moment, moment))
    (tmp_path / "images" / "in.img").symlink_to(tmp_path / "images" / "d\nd" / "vm.img")
    text = discover(tmp_path / "images", "-o", f"{tmp_path}/m/", expect=1)
    assert "odd.img: the path of its copy is not valid UTF-8, which YAML requires; rename the copy or its" in text
    assert f"{long}.img: the file that lists its overlays would have too long a name; shorten" in text
    assert "in.img: the path of each contains a line break (\\n); rename the files or their folders" in text
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["base.yaml"]


def test_no_file_is_ever_replaced(images, tmp_path):
    (tmp_path / "fleet.yaml").write_text("mine")
    assert "it already exists, and files are never replaced" in discover(
        images, "-o", tmp_path / "fleet.yaml", expect=2
    )
    (tmp_path / "debian-docker.yaml").write_text("mine")
    assert "debian-docker.yaml: it already exists" in discover(images, "-o", tmp_path, expect=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["debian-docker.yaml", "fleet.yaml"]
    assert "there is no folder" in discover(images, "-o", tmp_path / "no" / "m.yaml", expect=2)
    assert "must end in .yaml or .yml, not in .txt. Name a file such as" in discover(
        images, "-o", tmp_path / "m.txt", expect=2
    )
    assert not (tmp_path / "m.txt").exists()
    (tmp_path / "new").mkdir()
    discover(images, "-o", f"{tmp_path}/new/m.txt/")
    assert (tmp_path / "new" / "m.txt" / "debian.yaml").exists()


def test_sequential_reads_are_few(images):
    assert "Read at most 64 stretches of 2 MiB from each image" in discover(images, "--sequential")


@pytest.mark.parametrize("options", [(), ("--sequential",)])
def test_progress_counts_the_bytes_of_the_images(tmp_path, options):
    for name in "abc":
        notation.write_raw(tmp_path / f"{name}.img", "4M:A")
    done = batchdiff("discover", tmp_path, "--json", *options, cwd=tmp_path)
    last = [event for event in map(json.loads, done.stdout.splitlines()) if event["event"] == "progress"][-1]
    assert last["bytes_done"] == last["bytes_total"] == 12 * MIB


def test_only_bytes_that_were_read_count_for_the_rate(tmp_path):
    """Of an overlay, no samples are taken."""
    for name in "ab":
        notation.write_raw(tmp_path / f"{name}.img", "4M:A")
    notation.write_qcow2(tmp_path / "c.qcow2", "1M:C 3M:-", backing=tmp_path / "a.img")
    readings = []
    meter = Meter(readings.append, clock=lambda: float(bool(readings)))  # one second for all of it
    console = SimpleNamespace(metering=lambda: nullcontext(meter), detail=None)
    arguments = SimpleNamespace(cache=CacheUse.KEEP, limit_rate=None, idle=False, jobs=1)
    verb._discovered(console, arguments, find_files([str(tmp_path)]), [], SCATTERED)
    meter.end()
    assert readings[-1].run.per_second == 8 * MIB
    assert readings[-1].run.done == readings[-1].run.total > 9 * MIB


def test_bad_input_is_explained(tmp_path):
    assert "no images are given. Name folders or images" in run_here("discover", "-q", expect=2)
    assert "cannot use --connect without --libvirt" in run_here("discover", ".", "--connect", "test:///", expect=2)
    (tmp_path / "notes.txt").write_text("x")
    text = run_here("discover", tmp_path, expect=2)
    assert "no image was found in" in text
    assert "(ignored: 1 file that does not look like an image)" in text
    assert "there is no file" in run_here("discover", tmp_path / "gone.img", expect=2)
    (tmp_path / "bad.qcow2").write_bytes(b"QFI\xfb" + bytes(600))
    assert "no image can be read" in run_here("discover", tmp_path, expect=4)
    notation.write_raw(tmp_path / "only.img", "1M:A")
    text = run_here("discover", tmp_path, "-o", tmp_path / "m.yaml", expect=1)
    assert text.startswith(f"No copies were found. left out {tmp_path}/bad.qcow2: ")
    assert f"left out {tmp_path}/only.img: there is no other image to compare it with" in text
    assert " 1 read, 1 MiB in all" in run_here("discover", tmp_path / "only.img", "--sequential")
    assert "no manifest was written, because no copies were found" in text


NAMED = "Name the images themselves if their names have no suffix such as .img or .qcow2."
DEFINED = "With `--connect`, give the libvirt connection on which the VMs are defined, such as qemu:///system."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((".",), f"no image was found in . (ignored: 1 file that does not look like an image). {NAMED}"),
        (("--libvirt",), f"no image was found in the definitions in libvirt. {DEFINED}"),
        (
            (".", "*.txt", "--libvirt"),
            "no image was found in ., *.txt or the definitions in libvirt (ignored: 2 files that do not look like"
            f" images). {NAMED} {DEFINED}",
        ),
    ],
)
def test_where_no_image_was_found(tmp_path, monkeypatch, options, message):
    monkeypatch.setattr(verb, "_of_libvirt", lambda *_: [])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    assert run_here("discover", *options, expect=2) == f"batchdiff: {message}"


def test_a_terminal_of_80_columns_is_enough(images):
    found = discovery.discover(find_files([str(images)]), shape=SCATTERED, jobs=1)
    text = discovery_text(found, SCATTERED, width=80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "debian-docker.img" in text


def test_a_guest_that_a_plan_refuses_is_marked(tmp_path):
    for name in ("base", "vm", "kept"):
        notation.write_qcow2(tmp_path / f"{name}.qcow2", FIRST)
    os.utime(tmp_path / "base.qcow2", (1, 1))
    notation.run("qemu-img", "snapshot", "-c", "one", str(tmp_path / "kept.qcow2"))
    text = discover(tmp_path, "-o", tmp_path / "m.yaml")
    assert re.search(r"kept.qcow2 base.qcow2 100.0% exact \(~([\d.]+ MiB)\)", text)
    (saved,) = re.findall(r" vm.qcow2 base.qcow2 100.0% exact ~([\d.]+ MiB)", text)
    assert f" total ~{saved} " in text
    assert "note kept.qcow2 has 1 snapshot, which an overlay would lose: the sums leave this image out" in text
    comments = (tmp_path / "m.yaml").read_text()
    assert "# 100.0% similar (exact), saves ~" in comments
    assert "# allow_loss: [snapshots]\n" in comments


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_sharing_is_mentioned_where_it_is_possible(tmp_path, kind):
    with mounted(tmp_path, kind) as point:
        for name in ("base", "vm", "vm2"):
            notation.write_raw(point / f"{name}.img", "4M:A" if name == "base" else "2M:X 2M:A")
        # A copy that cannot share is the first in the table, because it saves most.
        notation.run("qemu-img", "convert", "-O", "vmdk", str(point / "base.img"), str(point / "vm3.vmdk"))
        os.utime(point / "base.img", (1, 1))
        assert discover(point).count("`strategy: share` in a manifest is an alternative") == (kind == "xfs")


def test_sharing_is_mentioned_if_only_some_copies_are_where_it_is_possible(tmp_path):
    """The copy on another filesystem comes first, because it saves most."""
    with mounted(tmp_path, "xfs") as point:
        base = notation.write_raw(point / "base.img", "4M:A")
        notation.write_raw(point / "vm.img", "2M:X 2M:A")
        far = tmp_path / "elsewhere"
        far.mkdir()
        notation.write_raw(far / "far.img", "4M:A")
        os.utime(base, (1, 1))
        said = discover(point, far, "--template", base)
        assert "On this filesystem" not in said
        assert (
            "For images on the same filesystem as their template, if files there can share blocks, `strategy: sha"
            in said
        )


@pytest.mark.long
def test_forty_mixed_images(tmp_path):
    (tmp_path / "images").mkdir()
    write_images(tmp_path / "images", 18, 18)
    batchdiff("discover", tmp_path / "images", "-o", tmp_path / "m", cwd=tmp_path)
    for name, stem in (("debian", "web"), ("debian-docker", "db")):
        manifest = read_manifest(str(tmp_path / "m" / f"{name}.yaml"))
        assert sorted(guest.name for guest in manifest.guests) == sorted(f"{stem}{n}" for n in range(18))
