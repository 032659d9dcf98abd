"""Guests and templates in the formats that QEMU maps, from plan to purge and restore, with QEMU as the judge.

Guards applying/writer/standalone.py.
"""

import json
import os

import notation
import pytest
from commands import batchdiff

FORMATS = ["vdi", "vpc", "parallels", "qed", "vmdk"]
TEMPLATE = "2M:A 1M:- 2M:B 3M:-"
CHANGED = "2M:A 1M:- 1M:B 100k:X 924k:B 1M:- 70k:Y 1978k:-"
RETIRE = [
    pytest.param("keep", marks=pytest.mark.long),
    pytest.param("quarantine", marks=pytest.mark.long),
    "delete",
]


def convert(source, target, image_format, source_format="raw"):
    notation.run("qemu-img", "convert", "-f", source_format, "-O", image_format, str(source), str(target))


def info(path, image_format):
    return json.loads(notation.run("qemu-img", "info", "--output=json", "-f", image_format, str(path)))


def make_fleet(folder, template_format, guest_formats):
    """A template and a guest in each format, all of one content, which is kept as ``FORMAT.copy``."""
    convert(notation.write_raw(folder / "t.raw", TEMPLATE), folder / "template.img", template_format)
    size = info(folder / "template.img", template_format)["virtual-size"]
    notation.write_raw(folder / "g.raw", CHANGED)
    os.truncate(folder / "g.raw", size)  # QEMU rounds a VHD up to its geometry, so copies of one are larger
    lines = ["version: 1", f"template: {{path: template.img, format: {template_format}}}", "guests:"]
    for name in guest_formats:
        convert(folder / "g.raw", folder / f"{name}.img", name)
        convert(folder / f"{name}.img", folder / f"{name}.copy", "raw", name)
        lines.append(f"  - {{path: {name}.img, format: {name}}}")
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
    assert_converted(tmp_path, ["raw", "vmdk"], template_format)
    assert (tmp_path / "raw.img").exists() == (retire == "keep")
    batchdiff("verify", "fleet.plan.json", cwd=tmp_path)


@pytest.mark.parametrize("retire", RETIRE)
def test_seven_formats_of_one_content_in_one_apply(tmp_path, retire):
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
        notation.run("qemu-img", "compare", "-f", name, "-F", "raw", restored, copy)
        assert info(restored, name)["virtual-size"] == os.path.getsize(copy)
    assert not list(tmp_path.glob("*.qcow2"))


def restored_alone(folder, image_format):
    """Restore one guest whose original was deleted; return what was printed."""
    done = batchdiff("restore", "fleet.plan.json", cwd=folder)
    notation.run(
        *("qemu-img", "compare", "-f", image_format, "-F", "raw"),
        *(str(folder / f"{image_format}.img"), str(folder / "seen.raw")),
    )
    return done.stderr


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_disk_of_any_size_is_rebuilt(tmp_path, image_format):
    """It was resized to a size that has no geometry: QEMU would round a VHD of it up."""
    make_fleet(tmp_path, "raw", [image_format])
    apply(tmp_path, "delete")
    overlay, size = tmp_path / f"{image_format}.qcow2", 11 * 1024 * 1024 + 512 * 7
    notation.run("qemu-img", "resize", "-f", "qcow2", str(overlay), str(size))
    convert(overlay, tmp_path / "seen.raw", "raw", "qcow2")
    said = restored_alone(tmp_path, image_format)
    assert info(tmp_path / f"{image_format}.img", image_format)["virtual-size"] == size
    assert f"of a {image_format} guest has to be rebuilt, it will be what `qemu-img convert" in said
    assert "qcow2 version" not in said


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
