"""docs/new-template.md, command by command: a fleet of overlays moves, and the page's report is that of plan."""

import os
import re
import subprocess
import sys

import notation
import pytest
from test_docs import FENCES

DOCUMENT = "docs/new-template.md"
MAKE, APPLY, PURGE, SEARCH = (fence.text for fence in FENCES if (fence.document, fence.kind) == (DOCUMENT, "sh"))
(MANIFEST,) = (fence.text for fence in FENCES if (fence.document, fence.kind) == (DOCUMENT, "yaml"))
(REPORT,) = (fence.text for fence in FENCES if (fence.document, fence.kind) == (DOCUMENT, "console"))

OLD = "8M:A 8M:-"
WEB = "2M:A 2M:U 4M:A 1M:- 1M:V 2M:- 64k:W 3648k:- 384k:-"
GUESTS = {
    "web01": WEB,
    "web02": "2M:A 2M:U 4M:A 1M:- 1M:V 2M:- 64k:X 3648k:- 384k:-",
    "db01": "2M:A 2M:A 4M:A 4M:- 64k:Y 3648k:- 384k:-",
}


@pytest.fixture
def images(tmp_path):
    """Stands in for /images: overlays of the old template, which the VMs have updated, but for one."""
    folder = tmp_path / "images"
    (folder / "vms").mkdir(parents=True)
    old = notation.write_raw(folder / "old.img", OLD)
    for name, text in GUESTS.items():
        changed = re.sub(r":A", ":-", text)
        notation.write_qcow2(folder / "vms" / f"{name}.qcow2", changed, backing=old)
    (folder / "move.yaml").write_text(MANIFEST.replace("/images", str(folder)))
    program = tmp_path / "programs" / "batchdiff"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m batchdiff "$@"\n')
    program.chmod(0o755)
    return folder


def run(images, text):
    """What the commands of a fence print, with this folder in place of /images."""
    environment = os.environ | {"PATH": f"{images.parent}/programs:{os.environ['PATH']}"}
    text = text.replace("/images", str(images))
    done = subprocess.run(
        ["sh", "-c", text], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stderr == "" or "rror" not in done.stderr, done.stderr
    return done.stdout.replace(str(images), "/images")


def test_the_page(images):
    run(images, MAKE)
    said = run(images, "batchdiff plan /images/move.yaml")
    # The page shows a part of the report: the table, and what each guest gains or pays.
    assert rows(REPORT) == rows(said)
    assert note(REPORT) == note(said)
    assert "pays" in note(said)
    run(images, APPLY)
    for name, text in GUESTS.items():
        path = images / "vms" / f"{name}.qcow2"
        assert f"{images}/new.img" in notation.run("qemu-img", "info", str(path))
        assert notation.qemu_content(path, "qcow2") == notation.content(text)
    assert len(run(images, SEARCH).split()) == 3, "the quarantine rests on the old template"
    run(images, PURGE)
    assert run(images, SEARCH) == ""
    (images / "old.img").unlink()
    for name, text in GUESTS.items():
        assert notation.qemu_content(images / "vms" / f"{name}.qcow2", "qcow2") == notation.content(text)


def without_numbers(text):
    """What does not depend on the filesystem and on the version of QEMU that wrote the overlays."""
    return re.sub(r"[\d.]+%|[\d.]+ [KM]?i?B", "N", text).split()


def rows(report):
    return without_numbers(re.search(r"guest  .*3 of 3", report, re.DOTALL)[0])


def note(report):
    return without_numbers(
        re.search(r"^note .*?\n\n|^note .*?\n\.\.\.", report, re.DOTALL | re.MULTILINE)[0].rstrip(".")
    )
