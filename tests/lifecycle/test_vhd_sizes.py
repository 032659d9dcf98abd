"""Disks that a conversion to or from VHD has made longer or shorter by less than a cylinder; QEMU is the judge.

Guards foreign/vpc.py.
"""

import json
import os
import struct

import notation
import pytest
from commands import rarely, run_here

from batchdiff.foreign.vpc import largest_cylinder
from batchdiff.units import GIB, MIB

SIZE = 9_999_872
"""Bytes; QEMU makes a VHD of 10,027,008 of it."""
WHOLE = 10_027_008
VIRTUALBOX = 9_805_824
"""What QEMU shows of that size in a VHD by VirtualBox, whose cylinders have 516,096 bytes."""


def convert(source, target, form, *options):
    notation.run("qemu-img", "convert", "-f", "raw", "-O", form, *options, str(source), str(target))


def by_virtualbox(source, target):
    """A VHD with VirtualBox's name and geometry: QEMU goes by the latter."""
    convert(source, target, "vpc", "-o", "force_size=on")
    image = bytearray(target.read_bytes())
    for at in (0, len(image) - 512):
        image[at + 28 : at + 32] = b"vbox"
        image[at + 56 : at + 60] = struct.pack(">HBB", VIRTUALBOX // 516_096, 16, 63)
        image[at + 64 : at + 68] = bytes(4)
        image[at + 64 : at + 68] = struct.pack(">I", ~sum(image[at : at + 512]) & 0xFFFFFFFF)
    target.write_bytes(image)


def size_of(path, form):
    return json.loads(notation.run("qemu-img", "info", "--output=json", "-f", form, str(path)))["virtual-size"]


@pytest.fixture
def folder(tmp_path):
    """A raw template and a raw copy that has changed, also in its last sectors."""
    notation.write_raw(tmp_path / "t.raw", f"8M:A {SIZE - 8 * MIB}:B")
    last = SIZE - 9 * MIB
    notation.write_raw(tmp_path / "g.raw", f"1M:A 64k:X 960k:A 6M:A {last - 8192 + MIB}:B 4k:Y 4k:0")
    return tmp_path


def make(folder, name, kind):
    path = folder / name
    if kind == "virtualbox":
        by_virtualbox(folder / f"{name}.raw", path)
    else:
        convert(folder / f"{name}.raw", path, kind)
    return "vpc" if kind == "virtualbox" else kind


@pytest.mark.parametrize(
    ("template", "guest", "sizes"),
    [
        ("raw", "vpc", (SIZE, WHOLE)),
        ("vpc", "raw", (WHOLE, SIZE)),
        ("raw", "virtualbox", (SIZE, VIRTUALBOX)),
        *rarely(
            ("vpc", "vpc", (WHOLE, WHOLE)),
            ("vpc", "qcow2", (WHOLE, SIZE)),
            ("vpc", "virtualbox", (WHOLE, VIRTUALBOX)),
            ("virtualbox", "raw", (VIRTUALBOX, SIZE)),
            ("qcow2", "vpc", (SIZE, WHOLE)),
        ),
    ],
)
@pytest.mark.parametrize("mode", ["full", *rarely("native", "changed")])
def test_both_ways(folder, template, guest, sizes, mode):
    forms = make(folder, "t", template), make(folder, "g", guest)
    assert (size_of(folder / "t", forms[0]), size_of(folder / "g", forms[1])) == sizes
    notation.run("qemu-img", "convert", "-f", forms[1], "-O", "raw", str(folder / "g"), str(folder / "seen"))
    length = (folder / "g").stat().st_size
    (folder / "m.yaml").write_text(
        f"version: 1\ntemplate: {{path: t, format: {forms[0]}}}\nretire: quarantine\n"
        f"guests: [{{path: g, format: {forms[1]}, overlay: {{path: g.thin}}}}]\n"
    )
    said = run_here("plan", folder / "m.yaml", "-j", "1")
    assert "refuse" not in said
    run_here("apply", folder / "m.plan.json", "--verify", mode)
    thin = folder / "g.thin"
    assert size_of(thin, "qcow2") == sizes[1]
    assert thin.stat().st_size < MIB
    notation.run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(thin), str(folder / "seen"))
    # Its VM writes, so restore has to rebuild it, with the same size.
    notation.run("qemu-io", "-f", "qcow2", "-c", "write -P 5 64k 64k", str(thin))
    notation.run("qemu-io", "-f", "raw", "-c", "write -P 5 64k 64k", str(folder / "seen"))
    run_here("restore", folder / "m.plan.json", "--guest", "g")
    assert size_of(folder / "g", forms[1]) == sizes[1]
    assert forms[1] != "raw" or (folder / "g").stat().st_size == length
    notation.run("qemu-img", "compare", "-f", forms[1], "-F", "raw", str(folder / "g"), str(folder / "seen"))


def test_another_format_is_refused_with_the_command_that_mends_it(folder):
    convert(folder / "t.raw", folder / "t.vpc", "vpc")
    notation.run("qemu-img", "convert", "-f", "vpc", "-O", "raw", str(folder / "t.vpc"), str(folder / "t"))
    (folder / "m.yaml").write_text(
        "version: 1\ntemplate: {path: t, format: raw}\nguests: [{path: g.raw, format: raw}]\n"
    )
    said = run_here("plan", folder / "m.yaml", "-j", "1", expect=1)
    assert "its disk is 26.5 KiB smaller than the template's" in said
    notation.run("qemu-img", "resize", "-q", "-f", "raw", str(folder / "g.raw"), str(WHOLE))
    run_here("plan", folder / "m.yaml", "-j", "1")


def test_a_whole_cylinder_less_is_refused(folder):
    convert(folder / "t.raw", folder / "t", "vpc")
    os.truncate(folder / "g.raw", WHOLE - 516_096)
    (folder / "m.yaml").write_text(
        "version: 1\ntemplate: {path: t, format: vpc}\nguests: [{path: g.raw, format: raw}]\n"
    )
    assert "Was it copied from another template?" in run_here("plan", folder / "m.yaml", "-j", "1", expect=1)


@pytest.mark.parametrize("size", [MIB, SIZE, 100 * MIB, 700 * MIB, 10 * GIB, 40 * GIB, 100 * GIB])
def test_qemu_rounds_up_by_less(tmp_path, size):
    for wanted in (size, size + 512, size - 512):
        notation.run("qemu-img", "create", "-q", "-f", "vpc", str(tmp_path / "x"), str(wanted))
        assert 0 <= size_of(tmp_path / "x", "vpc") - wanted < largest_cylinder(wanted)
