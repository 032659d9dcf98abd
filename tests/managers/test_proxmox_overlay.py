"""Where overlays go in a storage of Proxmox VE.

Guards managers/proxmox_overlay.py, managers/manifest_keys.py.
"""

import pytest

from batchdiff.managers.manifest_keys import applicable_defaults, disk_in, of_one_disk
from batchdiff.managers.proxmox_overlay import PlacementError, ProxmoxDisk, overlay_in_storage, template_problem

BASE = "/s/images/9000/base-9000-disk-0.raw"
FREE = ProxmoxDisk()


@pytest.mark.parametrize(
    ("guest", "chosen", "overlay"),
    [
        ("/s/images/101/vm-101-disk-0.raw", FREE, "101/vm-101-disk-0.qcow2"),
        ("/s/images/101/vm-101-disk-0.qcow2", FREE, "101/vm-101-disk-0.qcow2"),
        ("/s/images/101/vm-101-disk-0.vmdk", ProxmoxDisk(disk=1), "101/vm-101-disk-1.qcow2"),
        ("/s/images/101/vm-101-disk-2/disk.raw", FREE, "101/vm-101-disk-2.qcow2"),
        ("/s/images/101/web.raw", ProxmoxDisk(disk=0), "101/vm-101-disk-0.qcow2"),
        ("/s/images/101/vm-102-disk-0.raw", ProxmoxDisk(101, 3), "101/vm-101-disk-3.qcow2"),
        ("/imports/vm-101-disk-4.raw", FREE, "101/vm-101-disk-4.qcow2"),
        ("/dev/pve/vm-101-disk-0", FREE, "101/vm-101-disk-0.qcow2"),
        ("/imports/web.img", ProxmoxDisk(101, 0), "101/vm-101-disk-0.qcow2"),
        ("/t/images/101/vm-101-disk-0.raw", ProxmoxDisk(101, 0), "101/vm-101-disk-0.qcow2"),
        ("/s/images/101/sub/x.img", ProxmoxDisk(101, 0), "101/vm-101-disk-0.qcow2"),
    ],
)
def test_places_of_overlays(guest, chosen, overlay):
    assert overlay_in_storage(BASE, guest, chosen) == f"/s/images/{overlay}"


@pytest.mark.parametrize(
    ("guest", "chosen", "key", "why", "write"),
    [
        ("/s/images/101/vm-101-disk-0.raw", ProxmoxDisk(102), "vmid", "in the folder of VM 101", "`vmid: 101`"),
        ("/s/images/101/vm-102-disk-0.raw", FREE, "vmid", "a disk of VM 102", "`vmid: 101` and `disk: N`"),
        ("/s/images/9000/vm-9000-disk-1.raw", FREE, "path", "folder of the template's own VM", "moved it out of"),
        (
            "/s/images/9000/a.raw",
            ProxmoxDisk(9000, 1),
            "path",
            "folder of the template's own VM",
            "moved it out of",
        ),
        (
            "/s/images/9000/a.raw",
            ProxmoxDisk(101, 1),
            "path",
            "folder of the template's own VM",
            "moved it out of",
        ),
        ("/s/images/9000/vm-101-disk-1.raw", FREE, "path", "folder of the template's own VM", "moved it out of"),
        ("/s/images/101/sub/x.img", FREE, "vmid", "a folder below /s/images/101, where", "both `vmid` and `disk`"),
        ("/imports/vm-9000-disk-1.raw", FREE, "vmid", "the template's own", "another VM"),
        ("/s/images/101/web.raw", FREE, "disk", "not vm-101-disk-N", "`disk: N`"),
        ("/imports/web.raw", ProxmoxDisk(disk=0), "vmid", "neither its folder nor its name", "`vmid: VMID`"),
        ("/imports/vm-102-disk-0.raw", ProxmoxDisk(101), "disk", "not vm-101-disk-N", "`disk: N`"),
        ("/t/images/101/vm-101-disk-0.raw", FREE, "vmid", "in /t/images, not in the template's storage", "both"),
        ("/t/images/101/web.raw", ProxmoxDisk(101), "vmid", "must be in /s/images", "both `vmid` and `disk`"),
    ],
)
def test_what_has_no_place(guest, chosen, key, why, write):
    with pytest.raises(PlacementError) as caught:
        overlay_in_storage(BASE, guest, chosen)
    assert caught.value.key == key
    assert why in caught.value.why
    assert write in caught.value.write


def test_a_folder_below_that_of_a_vm_in_a_storage_with_another_folder_of_images():
    """As ``content-dirs`` can name it."""
    with pytest.raises(PlacementError, match="a folder below /s/disks/101, where"):
        overlay_in_storage("/s/disks/9000/base-9000-disk-0.raw", "/s/disks/101/old/vm-101-disk-0.raw", FREE)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (BASE, ""),
        ("/s/images/9000/vm-9000-disk-0.raw", "run `qm template 9000`"),
        ("/s/templates/base-9000-disk-0.raw", "the template is /s/templates/base-9000-disk-0.raw"),
        ("/s/images/9001/base-9000-disk-0.raw", "needs a template with a path such as"),
        ("/s/images/9000/base-9000-disk-0/disk.raw", "needs a template with a path such as"),
    ],
)
def test_templates(template, problem):
    found = template_problem(template)
    assert problem in found
    assert bool(problem) == bool(found)


def test_the_nearest_key_decides():
    """A guest's own path overrules the layout of the defaults, and the other way round."""
    layout = {"layout": "proxmox", "cluster_size": "64k"}
    assert applicable_defaults(layout, {}) == {**layout, "backing_path": "relative"}
    assert applicable_defaults(layout, {"path": "x"}) == {"cluster_size": "64k"}
    assert applicable_defaults({"path": "same"}, {"layout": "proxmox"}) == {"backing_path": "relative"}
    assert applicable_defaults({"backing_path": "absolute"}, layout)["backing_path"] == "absolute"
    assert disk_in({"layout": "proxmox", "vmid": 101}) == ProxmoxDisk(101)
    assert disk_in({"vmid": 101}) is None
    assert [key for key, _ in of_one_disk({"disk": 0, "layout": "proxmox"})] == ["disk"]
