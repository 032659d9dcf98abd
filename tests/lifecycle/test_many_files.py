"""Guests and templates of several files, from plan to purge and restore, with QEMU as the judge.

Guards applying/swap/other_files.py and planning/owners.py.
"""

import json
import os
import shutil
import stat
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import encrypted
import many_files
import notation
import pytest
from commands import batchdiff

from batchdiff.applying.journal.file import Journal
from batchdiff.applying.journal.records import Step

TEMPLATE = "2M:A 1M:- 2M:B 1M:-"
CHANGED = "2M:A 1M:- 1M:B 100k:X 924k:B 1M:-"
QUARANTINE = ".batchdiff-original"
ENCRYPTED = "encryption: {format: luks, secret_file: secret, iter_time: 10}"


def some(*usual):
    """All kinds, of which only these are tried by a short run."""
    return [kind if kind in usual else pytest.param(kind, marks=pytest.mark.long) for kind in many_files.KINDS]


def path_of(kind):
    return f"{kind}.vmdk" if kind in many_files.VMDKS else f"{kind}.img"


def make_fleet(folder, kinds=many_files.KINDS, *, template="raw", more="", options=""):
    """A template, and a guest of each kind; return the files of each guest, its own first."""
    content = notation.content(TEMPLATE)
    if template == "raw":
        notation.write_raw(folder / "template.img", TEMPLATE)
    else:
        many_files.write(folder / "template.img", template, content)
    form = "raw" if template == "raw" else many_files.form_of(template)
    lines = ["version: 1", f"template: {{path: template.img, format: {form}}}", *more.splitlines(), "guests:"]
    files = {}
    for kind in kinds:
        own = folder / path_of(kind)
        files[kind] = [own, *many_files.write(own, kind, notation.content(CHANGED))]
        option = options or f", overlay: {{path: {kind}.overlay}}"
        lines.append(f"  - {{path: {own.name}, name: {kind}, format: {many_files.form_of(kind)}{option}}}")
    (folder / "fleet.yaml").write_text("\n".join(lines))
    return files


def plan_of(folder):
    return json.loads((folder / "fleet.plan.json").read_text())


def allocated(files):
    return sum(file.stat().st_blocks * 512 for file in files)


def assert_overlays(folder, kinds, text=CHANGED):
    for kind in kinds:
        assert notation.qemu_content(folder / f"{kind}.overlay", "qcow2") == notation.content(text)


def said(done):
    return " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize("retire", [pytest.param("keep", marks=pytest.mark.long), "quarantine", "delete"])
def test_every_kind_in_one_apply(tmp_path, retire):
    files = make_fleet(tmp_path)
    before = {kind: allocated(each) for kind, each in files.items()}
    batchdiff("plan", "fleet.yaml", cwd=tmp_path)
    for guest in plan_of(tmp_path)["guests"]:
        own, *others = map(str, files[guest["name"]])
        assert (guest["path"], guest["other_files"]) == (own, others)
        assert guest["savings"]["allocated_bytes"] == before[guest["name"]]
        assert guest["savings"]["reclaimable_bytes"] == before[guest["name"]]
    batchdiff("apply", "fleet.plan.json", "--retire", retire, "--yes", cwd=tmp_path)
    assert_overlays(tmp_path, files)
    own = [each[0] for each in files.values()]
    others = [file for each in files.values() for file in each[1:]]
    assert [file.exists() for file in own] == [retire == "keep"] * len(own)
    assert [file.exists() for file in others] == [retire != "delete"] * len(others)
    assert not list(tmp_path.glob("*.batchdiff-deleting"))
    batchdiff("verify", "fleet.plan.json", cwd=tmp_path)
    batchdiff("apply", "fleet.plan.json", "--retire", retire, "--yes", cwd=tmp_path)
    assert_overlays(tmp_path, files)


def test_the_rest_of_an_original_that_an_interrupted_apply_has_left(tmp_path):
    """To delete it is a change, which frees space."""
    (own, *others), path = make_fleet(tmp_path, [many_files.FLAT])[many_files.FLAT], tmp_path / "fleet.plan.json"
    batchdiff("plan", "fleet.yaml", cwd=tmp_path)
    batchdiff("apply", "fleet.plan.json", cwd=tmp_path)
    with closing(Journal(str(path), plan_of(tmp_path)["checksum"])) as journal:
        known = journal.history.states[many_files.FLAT]
        journal.record(many_files.FLAT, replace(known, step=Step.RETIRING, moved=True, deleting=True))
    own.unlink()
    done = batchdiff("apply", "fleet.plan.json", "--retire", "delete", "--yes", "--json", cwd=tmp_path)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    (guest,) = [event for event in events if event["event"] == "guest"]
    assert (guest["status"], guest["original"]) == ("retired", "deleted")
    assert "space" in [event["event"] for event in events]
    assert not any(file.exists() for file in others)


def test_restored_from_quarantine(tmp_path):
    files = make_fleet(tmp_path)
    before = {file: file.read_bytes() for each in files.values() for file in each}
    batchdiff("plan", "fleet.yaml", cwd=tmp_path)
    batchdiff("apply", "fleet.plan.json", "--retire", "quarantine", cwd=tmp_path)
    batchdiff("restore", "fleet.plan.json", cwd=tmp_path)
    assert {file: file.read_bytes() for file in before} == before
    assert not list(tmp_path.glob("*.overlay"))


def test_purged(tmp_path):
    files = make_fleet(tmp_path)
    batchdiff("plan", "fleet.yaml", cwd=tmp_path)
    batchdiff("apply", "fleet.plan.json", "--retire", "quarantine", cwd=tmp_path)
    batchdiff("purge", "fleet.plan.json", "--yes", cwd=tmp_path)
    assert not [file for each in files.values() for file in each if file.exists()]
    assert not list(tmp_path.glob(f"*{QUARANTINE}"))
    assert_overlays(tmp_path, files)


def test_rebuilt_in_one_file(tmp_path):
    files = make_fleet(tmp_path)
    batchdiff("plan", "fleet.yaml", cwd=tmp_path)
    batchdiff("apply", "fleet.plan.json", "--retire", "delete", "--yes", cwd=tmp_path)
    for kind in files:
        notation.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 9 3M 8k", str(tmp_path / f"{kind}.overlay"))
    expected = bytearray(notation.content(CHANGED))
    expected[3 << 20 : (3 << 20) + 8192] = b"\x09" * 8192
    words = said(batchdiff("restore", "fleet.plan.json", cwd=tmp_path))
    assert "it will be one file (monolithicSparse)" in words
    assert "no external data file" in words
    for kind, (own, *others) in files.items():
        assert notation.qemu_content(own, many_files.form_of(kind)) == expected
        assert not [file for file in others if file.exists()]
    batchdiff("plan", "fleet.yaml", "-o", "again.json", cwd=tmp_path)


@pytest.mark.parametrize("kind", some(many_files.SPARSE, many_files.DATA_FILE))
def test_a_template(tmp_path, kind):
    files = make_fleet(tmp_path, [many_files.FLAT], template=kind)
    parts = list(tmp_path.glob("template*"))
    batchdiff("plan", "fleet.yaml", cwd=tmp_path)
    batchdiff("apply", "fleet.plan.json", "--retire", "delete", "--yes", cwd=tmp_path)
    assert_overlays(tmp_path, files)
    assert [stat.S_IMODE(each.stat().st_mode) & 0o222 for each in parts] == [0] * len(parts)
    batchdiff("verify", "fleet.plan.json", cwd=tmp_path)
    data = max(parts, key=lambda each: each.stat().st_blocks)
    with data.open("r+b") as file:
        file.seek(data.stat().st_size // 2)
        file.write(b"changed!" * 512)
    words = said(batchdiff("verify", "fleet.plan.json", cwd=tmp_path, expect=None))
    assert "damaged" in words
    assert data.name in words


@pytest.mark.long
@pytest.mark.parametrize("retire", ["keep", "quarantine", "delete"])
@pytest.mark.parametrize("kind", many_files.KINDS)
def test_back_from_an_overlay_on_a_template(tmp_path, kind, retire):
    files = make_fleet(tmp_path, [many_files.FLAT], template=kind)
    batchdiff("plan", "fleet.yaml", cwd=tmp_path)
    batchdiff("apply", "fleet.plan.json", "--retire", retire, "--yes", cwd=tmp_path)
    assert_overlays(tmp_path, files)
    batchdiff("restore", "fleet.plan.json", cwd=tmp_path)
    assert notation.qemu_content(files[many_files.FLAT][0], "vmdk") == notation.content(CHANGED)
    assert not list(tmp_path.glob("*.overlay"))


@pytest.mark.parametrize("kind", some(many_files.FLAT, many_files.RAW_DATA_FILE))
def test_a_change_in_any_file_makes_the_plan_stale(tmp_path, kind):
    files = make_fleet(tmp_path, [kind])
    batchdiff("plan", "fleet.yaml", cwd=tmp_path)
    data = files[kind][-1]
    with data.open("r+b") as file:
        file.seek(data.stat().st_size - 4096)
        file.write(b"\x07" * 4096)
    words = said(batchdiff("apply", "fleet.plan.json", "--retire", "delete", "--yes", cwd=tmp_path, expect=5))
    assert "the plan is stale" in words
    assert str(data) in words
    assert all(file.exists() for file in files[kind])


def test_a_changed_extent_in_quarantine_is_not_thrown_away(tmp_path):
    files = make_fleet(tmp_path, [many_files.FLAT])
    batchdiff("plan", "fleet.yaml", cwd=tmp_path)
    batchdiff("apply", "fleet.plan.json", "--retire", "quarantine", cwd=tmp_path)
    with files[many_files.FLAT][1].open("r+b") as file:
        file.write(b"used by another VM")
    words = said(batchdiff("purge", "fleet.plan.json", "--used", "--yes", cwd=tmp_path, expect=None))
    assert "it has changed since it was planned" in words
    assert all(file.exists() for file in files[many_files.FLAT][1:])
    assert "has changed since the conversion" in said(batchdiff("status", "fleet.plan.json", cwd=tmp_path))
    words = said(batchdiff("verify", "fleet.plan.json", cwd=tmp_path))
    assert "which is in quarantine, has changed since the overlay was made" in words
    assert f"{files[many_files.FLAT][1]}: its modification time changed (mtime)" in words
    files[many_files.FLAT][1].unlink()
    words = said(batchdiff("verify", "fleet.plan.json", cwd=tmp_path, expect=None))
    assert f"its extent {files[many_files.FLAT][1]} is missing" in words
    words = said(batchdiff("restore", "fleet.plan.json", "--discard-changes", "--yes", cwd=tmp_path, expect=None))
    assert f"{files[many_files.FLAT][1]} is missing" in words or "has changed since it was planned" in words
    assert notation.qemu_content(tmp_path / f"{many_files.FLAT}.overlay", "qcow2") == notation.content(CHANGED)


@pytest.mark.parametrize("retire", ["quarantine", "delete"])
def test_in_place(tmp_path, retire):
    """The overlay takes the name of the descriptor; the extents keep theirs until they go."""
    kinds = [many_files.FLAT, many_files.SPARSE, many_files.DATA_FILE]
    files = make_fleet(tmp_path, kinds, more=f"retire: {retire}", options=", overlay: {path: same}")
    before = {file: file.read_bytes() for each in files.values() for file in each}
    batchdiff("plan", "fleet.yaml", cwd=tmp_path)
    batchdiff("apply", "fleet.plan.json", "--yes", cwd=tmp_path)
    for own, *others in files.values():
        assert notation.qemu_content(own, "qcow2") == notation.content(CHANGED)
        assert [file.exists() for file in others] == [retire == "quarantine"] * len(others)
    assert "2 skipped" not in said(batchdiff("plan", "fleet.yaml", "-o", "again.json", cwd=tmp_path, expect=None))
    batchdiff("restore", "fleet.plan.json", cwd=tmp_path)
    if retire == "quarantine":
        assert {file: file.read_bytes() for file in before} == before
    for kind, (own, *_) in files.items():
        assert notation.qemu_content(own, many_files.form_of(kind)) == notation.content(CHANGED)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("format: qed", id="qed"),
        pytest.param("extended_l2: true, preallocation: full", marks=pytest.mark.long, id="full"),
        pytest.param(ENCRYPTED, marks=pytest.mark.long, id="luks"),
    ],
)
def test_unusual_overlays(tmp_path, how):
    """They are written from the files of the guests, on a template of several files; QEMU encrypts some itself."""
    encrypted.secret_file(tmp_path / "secret")
    kinds = [many_files.SPARSE, many_files.FLAT, many_files.DATA_FILE]
    files = make_fleet(
        tmp_path,
        kinds,
        template=many_files.FLAT,
        more="retire: delete\nminimum_savings: none",
        options=f", overlay: {{{how}}}",
    )
    batchdiff("plan", "fleet.yaml", cwd=tmp_path)
    batchdiff("apply", "fleet.plan.json", "--yes", cwd=tmp_path)
    assert not [file for each in files.values() for file in each if file.exists()]
    assert batchdiff("verify", "fleet.plan.json", cwd=tmp_path).stdout.count("no error found") == len(kinds)
    for guest in plan_of(tmp_path)["guests"]:
        overlay = Path(guest["overlay"]["path"])
        if how == ENCRYPTED:
            found = encrypted.content(overlay, "qcow2", tmp_path / "secret", tmp_path / "copy")
        else:
            found = notation.qemu_content(overlay, "qed" if "qed" in how else "qcow2")
        assert found == notation.content(CHANGED)
    batchdiff("restore", "fleet.plan.json", cwd=tmp_path)
    for kind, (own, *_) in files.items():
        assert notation.qemu_content(own, many_files.form_of(kind)) == notation.content(CHANGED)


def test_files_with_two_owners(tmp_path):
    files = make_fleet(tmp_path, [many_files.FLAT, many_files.ONE_FLAT])
    shutil.copy(tmp_path / path_of(many_files.FLAT), tmp_path / "copy.vmdk")
    flat = files[many_files.ONE_FLAT][1]
    with (tmp_path / "fleet.yaml").open("a") as file:
        file.write("\n  - {path: copy.vmdk, format: vmdk, overlay: {path: copy.overlay}}")
        file.write(f"\n  - {{path: {flat.name}, format: raw, overlay: {{path: flat.overlay}}}}")
    words = said(batchdiff("plan", "fleet.yaml", cwd=tmp_path, expect=1))
    assert {guest["verdict"] for guest in plan_of(tmp_path)["guests"]} == {"refuse"}
    assert f"its file {files[many_files.FLAT][1]} is also a part of the guest copy" in words
    assert "is also the guest" in words


def test_an_extent_that_another_image_needs(tmp_path):
    files = make_fleet(tmp_path, [many_files.ONE_FLAT])
    flat, clone = files[many_files.ONE_FLAT][1], tmp_path / "clone"
    notation.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(flat), str(clone))
    words = said(batchdiff("plan", "fleet.yaml", cwd=tmp_path, expect=1))
    assert f"it is needed by {clone}" in words
    clone.rename(tmp_path.parent / "clone")
    batchdiff("plan", "fleet.yaml", cwd=tmp_path)
    (tmp_path.parent / "clone").rename(clone)
    words = said(batchdiff("apply", "fleet.plan.json", "--retire", "delete", "--yes", cwd=tmp_path, expect=1))
    assert f"{clone} cannot be read without it" in words
    assert all(file.exists() for file in files[many_files.ONE_FLAT])


def test_an_extent_of_the_template_is_no_guest(tmp_path):
    files = make_fleet(tmp_path, [many_files.FLAT], template=many_files.ONE_FLAT)
    with (tmp_path / "fleet.yaml").open("a") as file:
        file.write("\n  - {path: template-f001.vmdk, format: raw}")
    words = said(batchdiff("plan", "fleet.yaml", cwd=tmp_path, expect=1))
    assert "the template is stored inside this guest" in words
    assert [guest["verdict"] for guest in plan_of(tmp_path)["guests"]] == ["convert", "refuse"]
    assert files


def test_a_hard_link_of_an_extent(tmp_path):
    files = make_fleet(tmp_path, [many_files.FLAT])
    batchdiff("plan", "fleet.yaml", cwd=tmp_path)
    os.link(files[many_files.FLAT][2], tmp_path / "second")
    batchdiff("plan", "fleet.yaml", cwd=tmp_path)
    words = said(batchdiff("apply", "fleet.plan.json", "--retire", "delete", "--yes", cwd=tmp_path, expect=1))
    assert f"{files[many_files.FLAT][2]} has 2 hard links" in words
    assert all(file.exists() for file in files[many_files.FLAT])


def test_an_extent_in_use(tmp_path):
    files = make_fleet(tmp_path, [many_files.FLAT])
    with files[many_files.FLAT][2].open("r+b"):
        words = said(batchdiff("plan", "fleet.yaml", cwd=tmp_path, expect=1))
        assert f"{files[many_files.FLAT][2]} is in use" in words
    batchdiff("plan", "fleet.yaml", cwd=tmp_path)
    with files[many_files.FLAT][2].open("rb"):
        words = said(batchdiff("apply", "fleet.plan.json", "--retire", "delete", "--yes", cwd=tmp_path, expect=1))
    assert "has it open" in words
    assert all(file.exists() for file in files[many_files.FLAT])


@pytest.mark.parametrize(("extents", "overlay"), [((0o644, 0o640, 0o444), 0o640), ((0o600, 0o666, 0o666), 0o600)])
def test_an_overlay_is_open_to_nobody_who_could_not_read_every_extent(tmp_path, extents, overlay):
    files = make_fleet(tmp_path, [many_files.FLAT])[many_files.FLAT]
    for file, mode in zip(files, (0o644, *extents), strict=True):
        file.chmod(mode)
    batchdiff("plan", "fleet.yaml", cwd=tmp_path)
    batchdiff("apply", "fleet.plan.json", cwd=tmp_path)
    assert stat.S_IMODE((tmp_path / f"{many_files.FLAT}.overlay").stat().st_mode) == overlay


def test_an_extent_of_another_owner_closes_the_overlay(tmp_path):
    files = make_fleet(tmp_path, [many_files.FLAT])[many_files.FLAT]
    os.chown(files[2], 65534, 65534)
    batchdiff("plan", "fleet.yaml", cwd=tmp_path)
    batchdiff("apply", "fleet.plan.json", cwd=tmp_path)
    assert stat.S_IMODE((tmp_path / f"{many_files.FLAT}.overlay").stat().st_mode) == 0o600


def test_a_glob_takes_no_extents(tmp_path):
    kinds = [many_files.FLAT, many_files.SPARSE]
    make_fleet(tmp_path, kinds)
    notation.run("qemu-img", "create", "-q", "-f", "vmdk", str(tmp_path / "alone.vmdk"), "6M")
    lines = (tmp_path / "fleet.yaml").read_text().split("\n")
    (tmp_path / "fleet.yaml").write_text("\n".join([*lines[:2], "guests:", "  - {glob: '*.vmdk', format: vmdk}"]))
    batchdiff("plan", "fleet.yaml", cwd=tmp_path, expect=None)
    assert [guest["name"] for guest in plan_of(tmp_path)["guests"]] == ["alone", *sorted(kinds)]


def move_extents(folder, kind, pool):
    """Move the extents of a guest to another folder, and correct its descriptor."""
    pool.mkdir()
    descriptor = folder / path_of(kind)
    text = descriptor.read_text()
    for file in folder.glob(f"{kind}-*.vmdk"):
        file.rename(pool / file.name)
        text = text.replace(f'"{file.name}"', f'"../{pool.name}/{file.name}"')
    descriptor.write_text(text)


@pytest.mark.parametrize("where", ["guest", pytest.param("defaults", marks=pytest.mark.long)])
def test_folders_that_the_manifest_allows(tmp_path, where):
    images, kind = tmp_path / "images", many_files.SPARSE
    images.mkdir()
    make_fleet(images, [kind])
    move_extents(images, kind, tmp_path / "pool")
    assert "allow_folders" in said(batchdiff("plan", "fleet.yaml", cwd=images, expect=1))
    text = (images / "fleet.yaml").read_text()
    if where == "guest":
        text = text.replace("format: vmdk", "format: vmdk, allow_folders: [../pool]")
    else:
        text = text.replace("guests:", "defaults: {allow_folders: [../pool]}\nguests:")
    (images / "fleet.yaml").write_text(text)
    batchdiff("plan", "fleet.yaml", cwd=images)
    (guest,) = plan_of(images)["guests"]
    assert guest["allow_folders"] == [str(tmp_path / "pool")]
    batchdiff("apply", "fleet.plan.json", "--retire", "delete", "--yes", cwd=images)
    assert_overlays(images, [kind])
    assert not list((tmp_path / "pool").iterdir())


def test_a_moved_pool(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    kinds = [many_files.FLAT, many_files.SPARSE]
    make_fleet(old, kinds)
    before = {file.name: file.read_bytes() for file in old.glob("*.vmdk")}
    batchdiff("plan", "fleet.yaml", cwd=old)
    batchdiff("apply", "fleet.plan.json", "--retire", "quarantine", cwd=old)
    old.rename(new)
    for kind in kinds:
        base, overlay = str(new / "template.img"), str(new / f"{kind}.overlay")
        notation.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", base, overlay)
    batchdiff("restore", "fleet.plan.json", "--map", f"{old}={new}", cwd=new)
    assert {file.name: file.read_bytes() for file in new.glob("*.vmdk")} == before
