"""Storages of Proxmox VE. Guards definitions/proxmox_storage.py."""

import pytest

from batchdiff.definitions.guest_disks import VmImage
from batchdiff.definitions.proxmox_storage import parse_storages, path_of_volume, storage_of, volume_for
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
    ],
)
def test_volumes_of_images(image, now, volume):
    assert volume_for(image, storages(), now=now) == volume


def test_the_storage_of_an_image():
    assert storage_of("/srv/tree/vms/101/a.qcow2", storages()).name == "tree"
    assert storage_of("/srv/tree/images/101/a.qcow2", storages()) is None


def test_what_is_not_one():
    with pytest.raises(DefinitionError, match=r"is not a valid line of storage\.cfg"):
        storages(b"{json: true\n")
