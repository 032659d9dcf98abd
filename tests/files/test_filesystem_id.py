"""Identifiers of filesystems: they outlast a mount, and each btrfs subvolume has its own."""

import os
import subprocess

import pytest
from filesystems import mounted, opened, tmpfs
from notation import run

from batchdiff.files import filesystem_id as module
from batchdiff.files.filesystem_id import filesystem_id, filesystem_id_at


def id_of(path):
    with opened(path) as fd:
        return filesystem_id(fd)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_it_is_the_uuid_that_blkid_shows(tmp_path, kind):
    with mounted(tmp_path, kind) as point:
        uuid = run("blkid", "-p", "-s", "UUID", "-o", "value", str(tmp_path / f"{kind}.filesystem")).strip()
        found = id_of(point)
        device = os.stat(point).st_dev
        assert filesystem_id_at(str(point), device) == found
        assert filesystem_id_at(str(point), device + 1) == ""
    assert found in {f"uuid:{uuid.replace('-', '')}", ""}  # empty before Linux 6.9 if no udev is running


def test_each_subvolume_has_its_own(tmp_path, monkeypatch):
    # As on a kernel on which btrfs reports the UUID of the whole filesystem.
    monkeypatch.setattr(module, "_filesystem_uuid", lambda _fd: "uuid:01")
    with mounted(tmp_path, "btrfs") as point:
        for name in ("one", "two"):
            subprocess.run(["btrfs", "subvolume", "create", str(point / name)], check=True, capture_output=True)
        found = {id_of(point / name) for name in ("one", "two")}
        assert len(found) == 2
        (point / "one" / "folder").mkdir()
        assert id_of(point / "one" / "folder") in found


def test_a_missing_folder_has_none(tmp_path):
    assert filesystem_id_at(str(tmp_path / "missing"), 1) == ""


def test_what_udev_lists(tmp_path, monkeypatch):
    with tmpfs(tmp_path) as point:
        monkeypatch.setattr(module, "_BY_UUID", str(point))
        number = os.makedev(7, 99)
        os.mknod(point / "12AB-34cd", 0o60600, number)
        (point / "00-dangling").symlink_to("nowhere")
        module._udev_uuid.cache_clear()
        try:
            assert module._udev_uuid(number) == "uuid:12ab34cd"
            assert module._udev_uuid(number + 1) == ""
        finally:
            module._udev_uuid.cache_clear()
