"""The manifests that discover writes: valid as they are, whatever names the images have.

Guards discovery/manifest_text.py.
"""

import os
from contextlib import ExitStack

import notation
import pytest
from devices import attached

from batchdiff.choices import Loss
from batchdiff.discovery.discover import discover
from batchdiff.discovery.image_files import find_files
from batchdiff.discovery.manifest_text import manifest_names, manifest_text
from batchdiff.discovery.samples import SCATTERED
from batchdiff.files.filenames import longest_name
from batchdiff.manifest.file import read_manifest

BASE, COPY = "1M:A 1M:B", "64k:X 960k:A 1M:B"


def groups(folder):
    return list(discover(find_files([str(folder)]), shape=SCATTERED, jobs=1).groups)


def written(folder, group, **options):
    options = {
        "why": "it is one",
        "figures": lambda _copy: "figures",
        "exists": os.path.lexists,
        "longest": longest_name,
        "folder": str(folder),
    } | options
    path = folder / "manifest.yaml"
    path.write_text(manifest_text(group, **options), encoding="utf-8")
    return read_manifest(str(path))


def make(folder, *names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        write = notation.write_qcow2 if name.endswith("qcow2") else notation.write_raw
        write(folder / name, BASE if number == 0 else COPY.replace("X", "XYZUVW"[number % 6]))
        os.utime(folder / name, (number, number))


@pytest.mark.parametrize(
    "name",
    ["web 01.img", "a: b.img", "- x.img", "# no comment.img", "it's.img", '"q".img', "{x}.img", "für.img",
     "null.img", "*.img", "back\\slash.img", "[a], b.img", "\ufffe.img", "a\uffff b.img"],
)  # fmt: skip
def test_any_name_is_valid(tmp_path, name):
    make(tmp_path, "base.img", name, "other.img")
    (group,) = groups(tmp_path)
    manifest = written(tmp_path, group)
    assert manifest.template.path == str(tmp_path / "base.img")
    assert {guest.image.path for guest in manifest.guests} == {str(tmp_path / name), str(tmp_path / "other.img")}


def test_names_and_overlays_are_unique(tmp_path):
    make(tmp_path, "base.img", "a/vm.img", "b/vm.img", "a/vm.raw", "a/vm.qcow2")
    (group,) = groups(tmp_path)
    manifest = written(tmp_path, group)
    assert {guest.name for guest in manifest.guests} == {"a-vm.img", "b-vm.img", "a-vm.raw", "a-vm.qcow2"}
    overlays = [guest.overlay_path for guest in manifest.guests]
    assert len(set(overlays)) == 4
    assert not any(os.path.lexists(path) for path in overlays)


def test_names_are_unique_in_folders_of_one_name(tmp_path):
    """A folder and a file name can be another guest's name, too; and a name may not be blank."""
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    make(tmp_path, "base.img", "x/a/vm.img", "y/a/vm.img", "a-vm.img.raw", " .img", "x/ .raw")
    (group,) = groups(tmp_path)
    names = [guest.name for guest in written(tmp_path, group).guests]
    assert len(set(names)) == 5
    assert {"a-vm.img", "a-vm-2.img", "a-vm-3.img"} <= set(names)


@pytest.mark.parametrize("stem", ["n" * 251, "ü" * 125, "n" * 230, "n" * 229])
def test_an_overlay_is_given_a_name_that_is_short_enough(tmp_path, stem):
    """While it is restored, the name is 19 bytes longer than it is."""
    make(tmp_path, "base.img", f"{stem}.img", f"{stem}.raw")
    (group,) = groups(tmp_path)
    overlays = {os.path.basename(guest.overlay_path) for guest in written(tmp_path, group).guests}
    assert len(overlays) == 2
    assert all(name.startswith(stem[:100]) and len(name.encode()) <= 255 - 19 for name in overlays)


def test_no_overlay_takes_the_place_of_a_file(tmp_path):
    make(tmp_path, "vm.qcow2", "vm.img", "other.img")
    (tmp_path / "other.qcow2").write_text("something else")
    (group,) = groups(tmp_path)
    overlays = {guest.name: guest.overlay_path for guest in written(tmp_path, group).guests}
    assert overlays == {"vm": f"{tmp_path}/vm-2.qcow2", "other": f"{tmp_path}/other-2.qcow2"}


def test_a_name_that_is_not_utf_8_is_left_to_a_glob(tmp_path):
    make(tmp_path, "base.img", "a.img")
    notation.write_raw(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.img"), COPY)
    (group,) = groups(tmp_path)
    assert [guest.name for guest in written(tmp_path, group).guests] == ["a"]
    assert ", whose path is not UTF-8; a glob can match it" in (tmp_path / "manifest.yaml").read_text()


def test_a_format_that_only_content_shows_is_marked(tmp_path):
    """Of a VHD of fixed size, only the last bytes do."""
    make(tmp_path, "base.img", "a.img", "b.qcow2")
    os.rename(tmp_path / "b.qcow2", tmp_path / "b.img")
    vhd = ("convert", "-f", "raw", "-O", "vpc", "-o", "subformat=fixed,force_size=on")
    notation.run("qemu-img", *vhd, str(tmp_path / "a.img"), str(tmp_path / "c.img"))
    (group,) = groups(tmp_path)
    assert {guest.image.format.value for guest in written(tmp_path, group).guests} == {"raw", "qcow2", "vpc"}
    text = (tmp_path / "manifest.yaml").read_text()
    assert text.count("a guest could have written that") == 2
    assert "# Formats are those that VM definitions declare, or that the images' names and contents show." in text


def test_losses_and_exclusions_are_comments(tmp_path):
    make(tmp_path, "base.img", "a.qcow2", "b.img")
    notation.run("qemu-img", "snapshot", "-c", "one", str(tmp_path / "a.qcow2"))
    notation.write_raw(tmp_path / "odd.img", "1M:Q")
    notation.write_raw(tmp_path / "old.img", COPY)
    for name in ("old.qcow2", "new.qcow2"):
        notation.write_qcow2(tmp_path / name, "2M:-", backing=tmp_path / "base.img")
    found = discover(find_files([str(tmp_path)]), shape=SCATTERED, jobs=1)
    assert written(tmp_path, found.groups[0], left_out=found.exclusions).allow_loss == frozenset()
    text = (tmp_path / "manifest.yaml").read_text()
    assert (
        "  # It has 1 snapshot, which an overlay would lose: a plan refuses it unless `allow_loss` above" in text
    )
    (tmp_path / "allowed.yaml").write_text(text.replace("# allow_loss", "allow_loss"))
    assert read_manifest(str(tmp_path / "allowed.yaml")).allow_loss == {Loss.SNAPSHOTS}
    assert [line for line in text.splitlines() if line.startswith("# Left out")] == [
        f"# Left out: {tmp_path}/old.img: it seems to be the original of the overlay beside it, which a VM may"
        " already be using",
        "# Left out: 2 files that are already overlays on this template.",
        "# Left out: 1 file, for a reason unrelated to this template.",
    ]
    assert "# `batchdiff discover` lists every file that was left out, with the reason." in text
    assert (
        "# One guest would lose what the next line names; plans refuse it until you uncomment that line:" in text
    )


def test_manifests_have_different_names(tmp_path):
    make(tmp_path / "a", "base.img", "x.img")
    make(tmp_path / "b", "base.img", "x.img")
    for name in ("base.img", "x.img"):
        path = tmp_path / "b" / name
        path.write_bytes(bytes(byte ^ 255 for byte in path.read_bytes()))
    assert sorted(manifest_names(groups(tmp_path))) == ["base-2.yaml", "base.yaml"]


@pytest.fixture
def attach():
    """Attaches loop devices; they are detached at the end."""
    with ExitStack() as stack:
        yield lambda path, *options: stack.enter_context(attached(path, *options))


def test_the_overlay_of_a_guest_on_a_device_is_beside_the_template(tmp_path, attach):
    make(tmp_path, "base.img", "file.img", "on-device.raw")
    device = attach(tmp_path / "on-device.raw", "--read-only")
    search = find_files([str(tmp_path / "base.img"), str(tmp_path / "file.img"), device])
    (group,) = discover(search, shape=SCATTERED, jobs=1).groups
    guests = {guest.image.path: guest.overlay_path for guest in written(tmp_path, group).guests}
    assert guests == {
        str(tmp_path / "file.img"): f"{tmp_path}/file.qcow2",
        device: f"{tmp_path}/{os.path.basename(device)}.qcow2",
    }
    assert "# Its overlay cannot be in /dev" in (tmp_path / "manifest.yaml").read_text()


def test_the_overlays_of_devices_on_a_device_are_beside_the_manifest(tmp_path, attach):
    make(tmp_path, "one.raw", "two.raw")
    template, guest = (attach(tmp_path / name, "--read-only") for name in ("one.raw", "two.raw"))
    found = discover(find_files([template, guest]), shape=SCATTERED, jobs=1, templates=[template])
    (manifest,) = (written(tmp_path, group) for group in found.groups)
    assert manifest.template.path == template
    assert [each.overlay_path for each in manifest.guests] == [f"{tmp_path}/{os.path.basename(guest)}.qcow2"]


def test_a_device_that_shows_another_image_is_left_out(tmp_path, attach):
    make(tmp_path, "base.img", "vm.img")
    device = attach(tmp_path / "vm.img", "--read-only")
    found = discover(find_files([str(tmp_path), device]), shape=SCATTERED, jobs=1)
    assert [(each.path, each.reason) for each in found.exclusions] == [
        (device, f"its bytes are stored in {tmp_path}/vm.img")
    ]
    assert len(found.groups[0].copies) == 1
