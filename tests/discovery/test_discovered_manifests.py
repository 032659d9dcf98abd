"""The manifests that discover writes: valid as they are, whatever names the images have.

Guards discovery/manifest_text.py.
"""

import os

import notation
import pytest

from batchdiff.choices import Loss
from batchdiff.discovery.discover import discover
from batchdiff.discovery.image_files import find_files
from batchdiff.discovery.manifest_text import manifest_names, manifest_text
from batchdiff.discovery.samples import SCATTERED
from batchdiff.manifest.file import read_manifest

BASE, COPY = "1M:A 1M:B", "64k:X 960k:A 1M:B"


def groups(folder):
    return list(discover(find_files([str(folder)]), shape=SCATTERED, jobs=1).groups)


def written(folder, group, **options):
    options = {"why": "it is one", "figures": lambda _copy: "figures", "exists": os.path.lexists} | options
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
    assert "# Not listed, because its name is not UTF-8" in (tmp_path / "manifest.yaml").read_text()


def test_a_format_that_only_first_bytes_show_is_marked(tmp_path):
    make(tmp_path, "base.img", "a.img", "b.qcow2")
    os.rename(tmp_path / "b.qcow2", tmp_path / "b.img")
    (group,) = groups(tmp_path)
    assert {guest.image.format.value for guest in written(tmp_path, group).guests} == {"raw", "qcow2"}
    text = (tmp_path / "manifest.yaml").read_text()
    assert text.count("a guest could have written them") == 1


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
        " use by now",
        "# Left out: 2 files that are overlays on this template already.",
        "# Left out: 1 file, for a reason unrelated to this template; `batchdiff discover` lists all,"
        " with the reasons.",
    ]


def test_manifests_have_different_names(tmp_path):
    make(tmp_path / "a", "base.img", "x.img")
    make(tmp_path / "b", "base.img", "x.img")
    for name in ("base.img", "x.img"):
        path = tmp_path / "b" / name
        path.write_bytes(bytes(byte ^ 255 for byte in path.read_bytes()))
    assert sorted(manifest_names(groups(tmp_path))) == ["base-2.yaml", "base.yaml"]
