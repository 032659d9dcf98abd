"""Storages of Proxmox VE. Guards definitions/proxmox_storage.py."""

import pytest

from batchdiff.definitions.guest_disks import VmImage
from batchdiff.definitions.proxmox_storage import (
    is_volume_of,
    parse_storages,
    path_of_volume,
    place_in,
    volume_for,
)
from batchdiff.errors import DefinitionError

STORAGES = b"""\
# of a cluster
dir: fast
\tpath /srv/fast
\tcontent images,rootdir
\tprune-backups keep-all=1

dir: twin
\tpath /srv/fast
\tcontent iso

nfs: nas
\tserver 10.0.0.1
\texport /export
\tcontent images

btrfs: tree
\tpath /srv/tree
\tcontent-dirs images=vms

lvmthin: local-lvm
\tthinpool data
\tvgname pve
\tdisable
"""


def storages(document=STORAGES):
    return parse_storages(document, "storage.cfg")


def test_those_that_are_folders():
    found = {storage.name: (storage.images, storage.allows_images) for storage in storages()}
    assert found == {
        "fast": ("/srv/fast/images", True),
        "twin": ("/srv/fast/images", False),
        "nas": ("/mnt/pve/nas/images", True),
        "tree": ("/srv/tree/vms", True),
        "local": ("/var/lib/vz/images", True),
    }
    (local,) = storages(b"dir: local\n\tcontent iso\n")
    assert (local.images, local.allows_images) == ("/var/lib/vz/images", False)


@pytest.mark.parametrize(
    ("volume", "path"),
    [
        ("fast:101/vm-101-disk-0.raw", "/srv/fast/images/101/vm-101-disk-0.raw"),
        ("nas:9000/base-9000-disk-0.qcow2/101/vm-101-disk-0.qcow2", "/mnt/pve/nas/images/101/vm-101-disk-0.qcow2"),
        ("tree:101/vm-101-disk-0.raw", "/srv/tree/vms/101/vm-101-disk-0/disk.raw"),
        ("tree:101/vm-101-disk-0.qcow2", "/srv/tree/vms/101/vm-101-disk-0.qcow2"),
        ("/dev/pve/../pve/a", "/dev/pve/a"),
        ("local-lvm:vm-101-disk-0", ""),
        ("gone:101/vm-101-disk-0.raw", ""),
        ("fast:../101/x.raw", ""),
    ],
)
def test_paths_of_volumes(volume, path):
    assert path_of_volume(volume, storages()) == path


@pytest.mark.parametrize(
    ("image", "now", "volume"),
    [
        (VmImage("/srv/fast/images/101/a.raw", "raw"), "", "fast:101/a.raw"),
        (VmImage("/srv/fast/images/101/a.raw", "raw"), "twin:101/b.raw", "twin:101/a.raw"),
        (
            VmImage("/srv/fast/images/101/a.qcow2", "qcow2", "../9000/base-9000-disk-0.raw"),
            "",
            "fast:9000/base-9000-disk-0.raw/101/a.qcow2",
        ),
        (VmImage("/srv/fast/images/101/a.qcow2", "qcow2", "/srv/t.raw"), "", "fast:101/a.qcow2"),
        (VmImage("/srv/thin/a.qcow2", "qcow2"), "", "/srv/thin/a.qcow2"),
        # On btrfs, a raw image is in a folder, and a file with that name is none.
        (VmImage("/srv/tree/vms/101/a/disk.raw", "raw"), "", "tree:101/a.raw"),
        (VmImage("/srv/tree/vms/101/a.raw", "raw"), "", "/srv/tree/vms/101/a.raw"),
        (VmImage("/srv/fast/images/101/a/disk.raw", "raw"), "", "/srv/fast/images/101/a/disk.raw"),
        # Proxmox VE would use a volume with this name as raw, and the VM would destroy it.
        (VmImage("/srv/fast/images/101/a.raw", "qcow2"), "fast:101/a.raw", "/srv/fast/images/101/a.raw"),
    ],
)
def test_volumes_of_images(image, now, volume):
    assert volume_for(image, storages(), now=now) == volume


def test_the_storage_of_an_image():
    storage, place = place_in("/srv/tree/vms/101/a/disk.raw", storages())
    assert (storage.name, place.vmid, place.name) == ("tree", 101, "a.raw")
    assert place_in("/srv/tree/images/101/a.qcow2", storages()) is None


def test_an_image_that_is_named_by_a_link(tmp_path):
    (tmp_path / "images" / "101").mkdir(parents=True)
    (tmp_path / "web.raw").symlink_to("images/101/a.raw")
    here = storages(f"dir: here\n\tpath {tmp_path}\n".encode())
    image = VmImage(str(tmp_path / "web.raw"), "raw")
    assert volume_for(image, here) == "here:101/a.raw"
    # A drive can be attached to another path than its storage's own.
    there = image._replace(path=str(tmp_path / "web.raw"), format="qcow2")
    assert volume_for(there, here) == f"{tmp_path}/images/101/a.raw"


CLONE = VmImage("/srv/fast/images/101/a.qcow2", "qcow2", "../9000/base-9000-disk-0.raw")


@pytest.mark.parametrize(
    ("volume", "is_one"),
    [
        ("fast:9000/base-9000-disk-0.raw/101/a.qcow2", True),
        ("twin:9000/base-9000-disk-0.raw/101/a.qcow2", True),
        ("/srv/./fast/images/101/a.qcow2", True),
        ("fast:101/a.qcow2", False),
        ("fast:9001/base-9001-disk-0.raw/101/a.qcow2", False),
        ("fast:9000/base-9000-disk-0.raw/102/a.qcow2", False),
        ("gone:9000/base-9000-disk-0.raw/101/a.qcow2", False),
    ],
)
def test_names_of_a_linked_clone(volume, is_one):
    assert is_volume_of(volume, CLONE, storages()) == is_one


def test_what_is_not_one():
    with pytest.raises(DefinitionError, match=r"is not a valid line of storage\.cfg"):
        storages(b"{json: true\n")
