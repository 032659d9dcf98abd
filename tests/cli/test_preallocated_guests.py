"""Guests whose disk space was reserved in advance: refused, or converted if the manifest gives that up.

Guards planning/original_losses.py, applying/checks/overlay_losses.py.
"""

import json
import shutil

import notation
import pytest
from commands import run_here
from filesystems import mounted

TEMPLATE = "4M:A 12M:- 4M:B"


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A filesystem that reports what is reserved; that of the other tests may be any."""
    with mounted(tmp_path_factory.mktemp("preallocated"), "ext4") as point:
        yield point


@pytest.fixture(params=["raw", "qcow2"])
def folder(disk, request):
    """A template, and two guests of one content: a plain copy, and a preallocated image."""
    where = disk / request.param
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir()
    notation.write_raw(where / "template.img", TEMPLATE)
    options = ("-O", request.param, str(where / "reserved"), "-o", "preallocation=falloc")
    notation.run("qemu-img", "convert", "-f", "raw", str(where / "template.img"), *options)
    notation.run(
        "qemu-img", "convert", "-f", "raw", "-O", request.param, str(where / "template.img"), str(where / "plain")
    )
    for name in ("reserved", "plain"):
        notation.run("qemu-io", "-f", request.param, "-c", "write -P 7 1M 64k", str(where / name))
    notation.run(
        "qemu-img", "convert", "-f", request.param, "-O", "raw", str(where / "plain"), str(where / "copy")
    )
    return where


def plan(folder, allow, *, retire="keep", expect=0):
    (folder / "m.yaml").write_text(
        f"version: 1\ntemplate: {{path: template.img, format: raw}}\nretire: {retire}\nallow_loss: [{allow}]\n"
        f"guests: [{{path: reserved, format: {folder.name}}}, {{path: plain, format: {folder.name}}}]\n"
    )
    run_here("plan", folder / "m.yaml", "-j", "1", expect=expect)
    return {guest["name"]: guest for guest in json.loads((folder / "m.plan.json").read_text())["guests"]}


def test_refused_unless_allowed(folder):
    for allow in ("", "snapshots, bitmaps"):
        found = plan(folder, allow, expect=1)
        assert (found["reserved"]["verdict"], found["plain"]["verdict"]) == ("refuse", "convert")
        assert "`allow_loss: [preallocation]` accepts that" in found["reserved"]["reason"]
    found = plan(folder, "preallocation", retire="delete")
    assert {guest["verdict"] for guest in found.values()} == {"convert"}
    assert found["reserved"]["losses"]["preallocated_bytes"] >= 12 << 20
    assert "losses" not in found["plain"]
    run_here("apply", folder / "m.plan.json", "--yes")
    # What restore cannot give back is said before anything is deleted.
    said = run_here("restore", folder / "m.plan.json", "--yes")
    assert "note: if the image of reserved has to be rebuilt, it will lack" in said
    assert "it will lack what its original has: 12 MiB of preallocated space" in said
    assert "plain has to be" not in said
    for name in ("reserved", "plain"):
        notation.run(
            "qemu-img", "compare", "-f", folder.name, "-F", "raw", str(folder / name), str(folder / "copy")
        )


@pytest.mark.parametrize(
    ("preallocation", "verdict"), [("metadata", "refuse"), ("falloc", "convert"), ("full", "convert")]
)
def test_an_overlay_that_reserves_its_own_blocks_loses_nothing(folder, preallocation, verdict):
    (folder / "m.yaml").write_text(
        "version: 1\ntemplate: {path: template.img, format: raw}\nminimum_savings: none\n"
        f"guests: [{{path: reserved, format: {folder.name}, overlay: {{path: new,"
        f" extended_l2: true, preallocation: {preallocation}}}}}]\n"
    )
    run_here("plan", folder / "m.yaml", "-j", "1", expect=int(verdict == "refuse"))
    (found,) = json.loads((folder / "m.plan.json").read_text())["guests"]
    assert found["verdict"] == verdict
