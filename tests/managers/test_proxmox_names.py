"""The names of Proxmox VE's volumes.

Guards managers/proxmox.py.
"""

import pytest

from batchdiff.managers.proxmox import (
    Unseen,
    VolumePlace,
    base_of,
    disk_of,
    is_of_proxmox,
    place_of,
    volume_name,
    why_unseen,
)

BASE, CLONE = "/s/images/9000/base-9000-disk-0.qcow2", "/s/images/101/vm-101-disk-0.qcow2"
NAMED = "../9000/base-9000-disk-0.qcow2"


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (BASE, VolumePlace("/s/images", 9000, "base-9000-disk-0.qcow2")),
        ("/s/vms/101/web.vmdk", VolumePlace("/s/vms", 101, "web.vmdk")),
        ("/s/images/99/vm-99-disk-0.raw", None),
        ("/s/images/0101/vm-101-disk-0.raw", None),
        ("/s/images/101/vm-101-disk-0.qed", None),
        ("/s/images/101/vm-101 disk-0.raw", None),
        ("/s/images/101/snap-one-vm-101-disk-0.qcow2", None),
        ("/101/vm-101-disk-0.raw", None),
        ("vm-101-disk-0.raw", None),
    ],
)
def test_places(path, place):
    assert place_of(path) == place
    assert place is None or place.path == path


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("vm-101-disk-0.raw", (101, 0)),
        ("base-9000-disk-12.qcow2", (9000, 12)),
        ("vm-101-disk-3", (101, 3)),
        ("vm-101-cloudinit.qcow2", None),
        ("vm-101-disk-0.raw.batchdiff-original", None),
        ("web01.raw", None),
    ],
)
def test_numbers_in_names(name, numbers):
    assert disk_of(name) == numbers


def test_volumes():
    base, clone = place_of(BASE), place_of(CLONE)
    assert volume_name(base) == "9000/base-9000-disk-0.qcow2"
    assert base_of(clone, NAMED) == base
    assert volume_name(clone, base) == "9000/base-9000-disk-0.qcow2/101/vm-101-disk-0.qcow2"
    assert base_of(clone, BASE) is None
    assert base_of(clone, "") is None
    assert (base.is_base, clone.is_base) == (True, False)


@pytest.mark.parametrize(
    ("overlay", "template", "name", "why"),
    [
        (CLONE, BASE, NAMED, None),
        ("/s/images/101/web.qcow2", BASE, NAMED, None),
        (CLONE, BASE, BASE, Unseen.NAME),
        ("/s/images/101/vm-101-disk-0.raw", BASE, NAMED, Unseen.FORMAT),
        (CLONE, "/s/images/9000/vm-9000-disk-0.qcow2", "../9000/vm-9000-disk-0.qcow2", Unseen.TEMPLATE),
        (CLONE, "/s/templates/base-9000-disk-0.qcow2", "../../templates/base-9000-disk-0.qcow2", Unseen.TEMPLATE),
        ("/t/images/101/vm-101-disk-0.qcow2", BASE, f"../../../s/images{NAMED[2:]}", Unseen.FOLDER),
        ("/s/thin/web.qcow2", BASE, "../images/9000/base-9000-disk-0.qcow2", Unseen.FOLDER),
    ],
)
def test_what_it_sees(overlay, template, name, why):
    assert why_unseen(overlay, template, name) == why


@pytest.mark.parametrize(
    ("path", "is_one"),
    [(BASE, True), (CLONE, True), ("/s/images/101/web.qcow2", False), ("/s/vms/101/vm-101-disk-0.raw", False)],
)
def test_what_looks_like_its_own(path, is_one):
    assert is_of_proxmox(path) == is_one
