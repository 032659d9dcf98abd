"""docs/new-template.md, command by command: a fleet of overlays moves, and the page's report is that of plan."""

import re

import notation
import pytest
from page_runner import PageRunner, page_fences

MAKE, APPLY, PURGE, SEARCH = page_fences("new-template", "sh")
(MANIFEST,) = page_fences("new-template", "yaml")
(REPORT,) = page_fences("new-template", "console")

OLD = "8M:A 8M:-"
WEB = "2M:A 2M:U 4M:A 1M:- 1M:V 2M:- 64k:W 3648k:- 384k:-"
GUESTS = {
    "web01": WEB,
    "web02": "2M:A 2M:U 4M:A 1M:- 1M:V 2M:- 64k:X 3648k:- 384k:-",
    "db01": "2M:A 2M:A 4M:A 4M:- 64k:Y 3648k:- 384k:-",
}


@pytest.fixture
def page(tmp_path):
    """Stands in for /images: overlays of the old template, which the VMs have updated, but for one."""
    page = PageRunner(tmp_path)
    (page.images / "vms").mkdir()
    old = notation.write_raw(page.images / "old.img", OLD)
    for name, text in GUESTS.items():
        changed = re.sub(r":A", ":-", text)
        notation.write_qcow2(page.images / "vms" / f"{name}.qcow2", changed, backing=old)
    page.write("move.yaml", MANIFEST)
    return page


def test_the_page(page):
    images = page.images
    page.run(MAKE)
    said = page.run("batchdiff plan /images/move.yaml")
    # The page shows a part of the report: the table, and what each guest gains or pays.
    assert rows(REPORT) == rows(said)
    assert note(REPORT) == note(said)
    assert "pays" in note(said)
    page.run(APPLY)
    for name, text in GUESTS.items():
        path = images / "vms" / f"{name}.qcow2"
        assert f"{images}/new.img" in notation.run("qemu-img", "info", str(path))
        assert notation.qemu_content(path, "qcow2") == notation.content(text)
    assert len(page.run(SEARCH, expect=None).split()) == 3, "the quarantine rests on the old template"
    page.run(PURGE)
    assert page.run(SEARCH, expect=None) == ""
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
