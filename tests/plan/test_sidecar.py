"""Where the sidecar of a template is."""

from __future__ import annotations

import os

import notation
import pytest
from devices import attached

from batchdiff.plan.sidecar import sidecar_path

END = ".batchdiff-template.json"


@pytest.fixture
def device(tmp_path):
    """A loop device."""
    with attached(notation.write_raw(tmp_path / "disk.img", "64k:A")) as path:
        yield path


def named(path: str) -> str:
    """The name of a device's sidecar."""
    return path.strip("/").replace("-", "%2D").replace("/", "-") + END


def test_it_is_beside_a_template_that_is_a_file(tmp_path):
    path = notation.write_raw(tmp_path / "t.img", "64k:A")
    assert sidecar_path(str(path), "/thin/web01.qcow2") == f"{path}{END}"
    assert sidecar_path("/images/missing.img", "/thin/web01.qcow2") == f"/images/missing.img{END}"


def test_of_a_block_device_it_is_beside_the_overlay(tmp_path, device):
    assert sidecar_path(device, "/thin/web01.qcow2") == f"/thin/{named(device)}"
    assert named("/dev/loop7") == f"dev-loop7{END}"


def test_a_link_to_a_block_device_counts_by_its_own_name(tmp_path, device):
    """The device behind it has another number after a reboot, and the sidecar must be found again then."""
    (tmp_path / "base").symlink_to(device)
    path = f"{tmp_path}/base"
    assert sidecar_path(path, f"{tmp_path}/thin/web01.qcow2") == f"{tmp_path}/thin/{named(path)}"


def test_it_is_found_while_the_device_is_not_there(tmp_path):
    """A volume that is not active yet: its link leads nowhere, or is not there at all."""
    (tmp_path / "base").symlink_to("/dev/not-there")
    for path in (f"{tmp_path}/base", "/dev/not-there/lv", "/dev/mapper/not-there"):
        assert sidecar_path(path, "/thin/web01.qcow2") == f"/thin/{named(path)}"


def test_it_is_never_in_dev(device):
    for path in (device, "/dev/not-there/lv", "/dev/disk/by-id/not-there"):
        assert not sidecar_path(path, "/thin/web01.qcow2").startswith("/dev/")


def test_no_two_devices_share_one():
    paths = [
        "/dev/a/b-c",
        "/dev/a-b/c",
        "/dev/a/b/c",
        "/dev/a-b-c",
        "/dev/a/b%2Dc",
        "/dev/a%2Db/c",
        "/dev/a%252Db/c",
    ]
    assert len({sidecar_path(path, "/thin/web01.qcow2") for path in paths}) == len(paths)


def test_each_folder_of_overlays_has_its_own(device):
    one, other = sidecar_path(device, "/thin/web01.qcow2"), sidecar_path(device, "/more/web01.qcow2")
    assert os.path.basename(one) == os.path.basename(other)
    assert (os.path.dirname(one), os.path.dirname(other)) == ("/thin", "/more")
