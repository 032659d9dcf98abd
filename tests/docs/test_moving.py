"""docs/moving.md, command by command, on a pool of its own: nothing is lost by any of the ways to move one."""

import contextlib
import os
import subprocess

import notation
import pytest
from commands import batchdiff
from oracle import assert_same
from page_runner import PageRunner, page_fences

TEMPLATE = "2M:A 1M:- 1M:B"
GUESTS = {
    "web01": "64k:X 1984k:A 1M:- 1M:B",
    "web02": "2M:A 64k:Y 960k:- 1M:B",
    "web03": "2M:A 512k:Z 512k:- 1M:B",
}
BEFORE, RENAME, REMOUNT, COPY, CORRECT, VERIFY, AFTER = page_fences("moving", "sh")
WAYS = {"rename": RENAME, "remount": REMOUNT, "copy": COPY}


class Pool(PageRunner):
    """Stands in for /images and /fast of the page."""

    def __init__(self, folder):
        super().__init__(folder, "/fast", "/dev/vg")
        self.at = folder

    def fill(self):
        images = self.folder / "images"
        notation.write_raw(images / "debian-12.img", TEMPLATE)
        for name, text in GUESTS.items():
            notation.write_raw(images / f"{name}.img", text)
        guests = "".join(f"  - {{path: {name}.img, format: raw}}\n" for name in GUESTS)
        (images / "manifest.yaml").write_text(
            f"version: 1\ntemplate: {{path: debian-12.img, format: raw}}\nretire: quarantine\nguests:\n{guests}"
        )
        batchdiff("plan", "manifest.yaml", "-q", cwd=images)
        batchdiff("apply", "manifest.plan.json", "-q", cwd=images)


@pytest.fixture(params=WAYS)
def moved(tmp_path, request):
    """A pool that was moved in one of the ways; the page does not say that a folder for the mount was there."""
    pool = Pool(tmp_path)
    (tmp_path / "fast").mkdir()
    with contextlib.ExitStack() as stack:
        if request.param == "remount":
            (tmp_path / "dev" / "vg").mkdir(parents=True)
            volume = tmp_path / "dev" / "vg" / "images"
            with volume.open("wb") as file:
                file.truncate(64 << 20)
            notation.run("mkfs.ext4", "-q", str(volume))
            notation.run("mount", "-o", "loop", str(volume), str(tmp_path / "images"))
            stack.callback(unmounted, tmp_path / "images", tmp_path / "fast" / "images")
        pool.fill()
        assert "quarantine" in pool.run(BEFORE)
        pool.run(WAYS[request.param])
        yield pool


def unmounted(*points):
    for point in points:
        if os.path.ismount(point):
            subprocess.run(["umount", str(point)], check=True, timeout=60)


def test_overlays_are_whole_after_the_move(moved):
    now = moved.folder / "fast" / "images"
    moved.run(CORRECT)
    for name, text in GUESTS.items():
        assert_same(notation.qemu_content(now / f"{name}.qcow2", "qcow2"), notation.content(text))


def test_every_command_of_the_page(moved):
    now = moved.folder / "fast" / "images"
    moved.run(CORRECT)
    said = moved.run(VERIFY)
    assert "damaged" not in said
    after = AFTER.splitlines()
    assert [line.split()[1] for line in after] == ["status", "purge", "restore"]
    moved.run("\n".join(after[::2]))
    assert_same((now / "web01.img").read_bytes(), notation.content(GUESTS["web01"]))
    assert not (now / "web01.qcow2").exists()


def test_images_that_are_not_overlays_of_the_template_are_not_corrected(moved):
    now = moved.folder / "fast" / "images"
    notation.write_qcow2(now / "whole.qcow2", "2M:Q")
    other = notation.write_raw(now / "other.img", "2M:R")
    notation.write_qcow2(now / "other.qcow2", "2M:-", backing=other)
    (now / "raw.qcow2").write_bytes(b"raw")
    before = {name: (now / name).read_bytes() for name in ("whole.qcow2", "other.qcow2", "raw.qcow2")}
    moved.run(CORRECT)
    assert {name: (now / name).read_bytes() for name in before} == before
