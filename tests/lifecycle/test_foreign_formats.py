"""Guests and templates in the formats that QEMU reads for batchdiff, from plan to purge and restore.

Guards applying/writer/standalone.py.
"""

import json
import os
import shutil

import notation
import pytest
from commands import batchdiff

from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.qemu import qemu_img

FORMATS = ["vdi", "vpc", "parallels", "qed", "vmdk", "vhdx", "stream"]
KINDS = {"stream": ("vmdk", ("-o", "subformat=streamOptimized"))}
"""Kinds that are not the usual ones of their formats, with options of QEMU."""
TEMPLATE = "2M:A 1M:- 2M:B 3M:-"
CHANGED = "2M:A 1M:- 1M:B 100k:X 924k:B 1M:- 70k:Y 1978k:-"
RETIRE = [
    pytest.param("keep", marks=pytest.mark.long),
    pytest.param("quarantine", marks=pytest.mark.long),
    "delete",
]


def format_of(kind):
    return KINDS.get(kind, (kind, ()))[0]


def convert(source, target, kind, source_format="raw"):
    image_format, options = KINDS.get(kind, (kind, ()))
    notation.run(
        "qemu-img", "convert", "-f", source_format, "-O", image_format, *options, str(source), str(target)
    )


def info(path, image_format):
    return json.loads(notation.run("qemu-img", "info", "--output=json", "-f", image_format, str(path)))


def make_fleet(folder, template_format, guest_formats):
    """A template and a guest in each format, all of one content, which is kept as ``FORMAT.copy``."""
    form = format_of(template_format)
    convert(notation.write_raw(folder / "t.raw", TEMPLATE), folder / "template.img", template_format)
    size = info(folder / "template.img", form)["virtual-size"]
    notation.write_raw(folder / "g.raw", CHANGED)
    os.truncate(folder / "g.raw", size)  # QEMU rounds a VHD up to its geometry, so copies of one are larger
    lines = ["version: 1", f"template: {{path: template.img, format: {form}}}", "guests:"]
    for name in guest_formats:
        convert(folder / "g.raw", folder / f"{name}.img", name)
        convert(folder / f"{name}.img", folder / f"{name}.copy", "raw", format_of(name))
        lines.append(f"  - {{path: {name}.img, format: {format_of(name)}}}")
    (folder / "fleet.yaml").write_text("\n".join(lines))


def apply(folder, retire):
    batchdiff("plan", "fleet.yaml", cwd=folder)
    batchdiff("apply", "fleet.plan.json", "--retire", retire, "--yes", cwd=folder)


def assert_converted(folder, names, template_format="raw"):
    for name in names:
        overlay = folder / f"{name}.qcow2"
        assert overlay.stat().st_size < 1 << 20
        assert info(overlay, "qcow2")["backing-filename-format"] == template_format
        notation.run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(overlay), str(folder / f"{name}.copy"))


@pytest.mark.parametrize("retire", RETIRE)
@pytest.mark.parametrize("template_format", FORMATS)
def test_a_template(tmp_path, template_format, retire):
    make_fleet(tmp_path, template_format, ["raw", "vmdk"])
    apply(tmp_path, retire)
    assert_converted(tmp_path, ["raw", "vmdk"], format_of(template_format))
    assert (tmp_path / "raw.img").exists() == (retire == "keep")
    batchdiff("verify", "fleet.plan.json", cwd=tmp_path)
    if retire == "keep":
        return
    batchdiff("restore", "fleet.plan.json", cwd=tmp_path)
    for name in ("raw", "vmdk"):
        restored, copy = str(tmp_path / f"{name}.img"), str(tmp_path / f"{name}.copy")
        notation.run("qemu-img", "compare", "-f", format_of(name), "-F", "raw", restored, copy)
    assert not list(tmp_path.glob("*.qcow2"))


@pytest.mark.parametrize("retire", RETIRE)
def test_all_formats_of_one_content_in_one_apply(tmp_path, retire):
    names = [*FORMATS, "raw", "qcow2"]
    make_fleet(tmp_path, "raw", names)
    apply(tmp_path, retire)
    assert_converted(tmp_path, names)


def test_restored_from_quarantine(tmp_path):
    make_fleet(tmp_path, "raw", FORMATS)
    before = {name: (tmp_path / f"{name}.img").read_bytes() for name in FORMATS}
    apply(tmp_path, "quarantine")
    batchdiff("restore", "fleet.plan.json", cwd=tmp_path)
    assert {name: (tmp_path / f"{name}.img").read_bytes() for name in FORMATS} == before
    assert not list(tmp_path.glob("*.qcow2"))


def test_rebuilt_in_the_formats_of_the_originals(tmp_path):
    make_fleet(tmp_path, "raw", FORMATS)
    apply(tmp_path, "delete")
    for name in FORMATS:
        notation.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 9 3M 8k", str(tmp_path / f"{name}.qcow2"))
        notation.run("qemu-io", "-f", "raw", "-c", "write -q -P 9 3M 8k", str(tmp_path / f"{name}.copy"))
    batchdiff("restore", "fleet.plan.json", cwd=tmp_path)
    for name in FORMATS:
        restored, copy = str(tmp_path / f"{name}.img"), str(tmp_path / f"{name}.copy")
        notation.run("qemu-img", "compare", "-f", format_of(name), "-F", "raw", restored, copy)
        assert info(restored, format_of(name))["virtual-size"] == os.path.getsize(copy)
    assert not list(tmp_path.glob("*.qcow2"))


@pytest.mark.parametrize(("name", "options"), [("vpc", "force_size=on"), ("vpc", "subformat=fixed,force_size=on")])
def test_rebuilt_in_its_exact_size(tmp_path, name, options):
    """Of 5 MiB, which is no whole number of cylinders; then the VM's disk grows."""
    make_fleet(tmp_path, "raw", [name])
    raw, guest, overlay = tmp_path / "g.raw", tmp_path / "vpc.img", tmp_path / "vpc.qcow2"
    notation.run("qemu-img", "convert", "-f", "raw", "-O", name, "-o", options, str(raw), str(guest))
    apply(tmp_path, "delete")
    notation.run("qemu-img", "resize", "-q", "-f", "qcow2", str(overlay), "+1536")
    batchdiff("restore", "fleet.plan.json", cwd=tmp_path)
    assert info(guest, name)["virtual-size"] == raw.stat().st_size + 1536
    os.truncate(raw, raw.stat().st_size + 1536)
    notation.run("qemu-img", "compare", "-f", "raw", "-F", name, str(raw), str(guest))


def test_what_a_rebuilt_image_does_not_give_back_is_said(tmp_path):
    make_fleet(tmp_path, "raw", ["vdi", "vpc", "vhdx", "stream"])
    apply(tmp_path, "delete")
    said = batchdiff("restore", "fleet.plan.json", cwd=tmp_path).stderr
    assert "an image of a vdi guest has to be rebuilt, it will be dynamic" in said
    assert "an image of a vhdx guest has to be rebuilt, it will be dynamic with blocks of 1 MiB" in said
    assert "an image of a vmdk guest has to be rebuilt, it will be one file (monolithicSparse)" in said
    assert "qcow2" not in said


def test_a_rebuilt_vmdk_names_its_own_file(tmp_path):
    make_fleet(tmp_path, "raw", ["vmdk"])
    apply(tmp_path, "delete")
    batchdiff("restore", "fleet.plan.json", cwd=tmp_path)
    assert b' SPARSE "vmdk.img"\n' in (tmp_path / "vmdk.img").read_bytes()[:2048]


@pytest.mark.parametrize("image_format", sorted(set(FORMATS) - set(KINDS)))
def test_qemu_writes_to_the_open_file_whatever_stands_at_its_path(tmp_path, image_format):
    raw, victim, path = notation.write_raw(tmp_path / "t.raw", TEMPLATE), tmp_path / "victim", tmp_path / "new"
    victim.write_text("precious")
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        path.rename(tmp_path / "taken")
        path.symlink_to(victim)
        source, new = ImageSource(str(raw), ImageFormat.RAW), ImageSource(str(path), ImageFormat(image_format))
        qemu_img.convert(source, fd, new, raw.stat().st_size)
    finally:
        os.close(fd)
    assert victim.read_text() == "precious"
    notation.run("qemu-img", "compare", "-f", "raw", "-F", image_format, str(raw), str(tmp_path / "taken"))


@pytest.mark.parametrize("retire", ["quarantine", "delete"])
def test_a_vmdk_in_place_of_which_a_copy_bears_its_name(tmp_path, retire):
    """The copy, the original in quarantine and the rebuilt image all name it in their descriptors."""
    make_fleet(tmp_path, "raw", ["vmdk"])
    manifest = (tmp_path / "fleet.yaml").read_text().replace("vmdk}", "vmdk, overlay: {path: same}}")
    (tmp_path / "fleet.yaml").write_text(f"retire: {retire}\n{manifest}")
    shutil.copy(tmp_path / "vmdk.img", tmp_path / "other.vmdk")
    batchdiff("plan", "fleet.yaml", cwd=tmp_path)
    batchdiff("apply", "fleet.plan.json", "--yes", cwd=tmp_path)
    batchdiff("restore", "fleet.plan.json", cwd=tmp_path)
    notation.run("qemu-img", "compare", str(tmp_path / "vmdk.img"), "-f", "vmdk", str(tmp_path / "other.vmdk"))


def test_a_difference_of_virtualbox_to_a_guest(tmp_path):
    """It names its parent by UUID only, and lies in a folder beside it."""
    make_fleet(tmp_path, "raw", ["vdi"])
    child = bytearray((tmp_path / "vdi.img").read_bytes())
    child[0x1A8:0x1B8] = child[0x188:0x198]
    child[0x188] ^= 1
    (tmp_path / "Snapshots").mkdir()
    snapshot = tmp_path / "Snapshots" / "{0}.vdi"
    snapshot.write_bytes(child)
    said = batchdiff("plan", "fleet.yaml", cwd=tmp_path, expect=1).stdout
    assert f"needed by {snapshot}" in " ".join(said.split())
    snapshot.rename(tmp_path / "away")
    (tmp_path / "Snapshots").rename(tmp_path / "later")
    (tmp_path / "away").rename(tmp_path / "later" / "{0}.vdi")
    batchdiff("plan", "fleet.yaml", cwd=tmp_path)
    (tmp_path / "later").rename(tmp_path / "Snapshots")
    said = batchdiff("apply", "fleet.plan.json", "--retire", "delete", "--yes", cwd=tmp_path, expect=1).stdout
    assert "was left alone" in " ".join(said.split())
    assert (tmp_path / "vdi.img").exists()


def test_purged(tmp_path):
    make_fleet(tmp_path, "raw", FORMATS)
    apply(tmp_path, "quarantine")
    batchdiff("purge", "fleet.plan.json", "--yes", cwd=tmp_path)
    assert not list(tmp_path.glob("*.batchdiff-original"))
    assert_converted(tmp_path, FORMATS)


def test_without_qemu_only_these_guests_are_refused(tmp_path):
    make_fleet(tmp_path, "raw", ["raw", "vdi"])
    done = batchdiff("plan", "fleet.yaml", cwd=tmp_path, expect=1, path=str(tmp_path))
    assert "1 of 2" in done.stdout
    assert "qemu-utils" in done.stdout
