"""Which names of block devices last, which one an image is recorded by, and what better one there is."""

from __future__ import annotations

import os

import notation
import pytest
from devices import attached

from batchdiff.linux import device_names
from batchdiff.linux.device_names import device_number, fleeting, image_path, is_among_devices, lasting_alias


def words(text: str) -> list[str]:
    """A table of names."""
    return text.split()


KERNELS = words("""
sda sda1 sdab12 hdb vda vdb3 xvda1 dasda dasdb1 nvme0n1 nvme10n2p15 nvme0c1n1 loop0 loop7p1 dm-0 dm-12
nbd3 nbd3p1 rbd0 rbd0p2 md0 md127p1 md_d0 md_d0p1 zd16 zd16p1 mmcblk0 mmcblk0p2 mmcblk1boot0 pmem0 bcache0
ublkb1 nullb0 sr0 zram1 ram0 block/253:3 disk/by-diskseq/14 disk/by-loop-inode/254:0-1234
""")
LASTING = words("""
vg/lv vg0/sda mapper/vg-lv mapper/mpatha disk/by-id/wwn-0x5000 disk/by-id/dm-uuid-LVM-x disk/by-path/pci-0
zvol/pool/vol rbd/pool/image drbd0 drbd/by-res/r0/0 md/root loop/x dm-crypt sdcard loopback disk/by-loop-ref/t
""")
COPIED = ["disk/by-uuid/1234", "disk/by-label/root", "disk/by-partuuid/1-02", "disk/by-partlabel/EFI"]


@pytest.mark.parametrize("name", KERNELS)
def test_the_kernels_names_do_not_last(name):
    assert fleeting(f"/dev/{name}") == "is numbered by the kernel and can refer to another disk after a reboot"


@pytest.mark.parametrize("name", LASTING)
def test_names_that_last(name):
    assert fleeting(f"/dev/{name}") == ""


@pytest.mark.parametrize("name", COPIED)
def test_names_by_content_are_those_of_every_copy(name):
    """Guests are copies of their template, so they have its UUIDs and labels."""
    assert "copies of the disk share" in fleeting(f"/dev/{name}")


@pytest.mark.parametrize(
    ("path", "among"),
    [("/dev/vg/lv", True), ("/dev/x", True), ("/dev/shm/x", False), ("/devices/x", False), ("/srv/dev/x", False)],
)
def test_files_in_dev_are_gone_after_a_reboot(path, among):
    assert is_among_devices(path) is among


def test_a_link_outside_of_dev_lasts_as_long_as_the_name_that_it_says(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "lasting").symlink_to("/dev/vg/lv")
    (tmp_path / "sub" / "indirect").symlink_to("../numbered")
    (tmp_path / "numbered").symlink_to("/dev/./loop7")
    (tmp_path / "circle").symlink_to("circle")
    assert fleeting(str(tmp_path / "lasting")) == ""
    for name in ("numbered", "sub/indirect"):
        assert fleeting(str(tmp_path / name)).startswith(
            "is a link to /dev/loop7, which is numbered by the kernel"
        )
    assert "outside /dev" in fleeting(str(tmp_path / "circle"))  # it ends


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """A loop device."""
    with attached(notation.write_raw(tmp_path_factory.mktemp("device") / "disk.img", "1M:A")) as path:
        yield path


def test_an_image_is_recorded_where_it_really_is(tmp_path):
    path = notation.write_raw(tmp_path / "a.img", "64k:A")
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "folder").symlink_to(".")
    assert image_path(f"{tmp_path}/folder/link") == str(path)
    assert image_path(f"{tmp_path}/folder/missing") == f"{tmp_path}/missing"


def test_a_block_device_is_recorded_as_it_is_named(tmp_path, device):
    (tmp_path / "vg").mkdir()
    (tmp_path / "vg" / "lv").symlink_to(device)
    (tmp_path / "folder").symlink_to("vg")
    assert image_path(device) == device
    assert image_path(f"{tmp_path}/folder/../folder/lv") == f"{tmp_path}/vg/lv"


def test_a_name_that_lasts_as_long_as_a_process_is_not_recorded(tmp_path, device):
    fd = os.open(device, os.O_RDONLY)
    try:
        (tmp_path / "link").symlink_to(f"/proc/self/fd/{fd}")
        for name in (f"/dev/fd/{fd}", f"/proc/self/fd/{fd}", f"/proc/{os.getpid()}/fd/{fd}", f"{tmp_path}/link"):
            assert image_path(name) == device
    finally:
        os.close(fd)


def test_numbers_are_those_of_block_devices_only(tmp_path, device):
    assert device_number(device) == os.stat(device).st_rdev
    for other in ("/dev/null", str(tmp_path), str(tmp_path / "missing"), "a\0b"):
        assert device_number(other) is None


@pytest.mark.parametrize(
    ("names", "best"),
    [
        (["sdb", "disk/by-id/wwn-1", "disk/by-path/pci-1", "disk/by-uuid/0"], "disk/by-id/wwn-1"),
        (["dm-3", "mapper/vg-lv", "disk/by-id/dm-name-vg-lv", "vg/lv", "block/253:3"], "vg/lv"),
        (["dm-3", "mapper/crypt", "disk/by-id/dm-uuid-CRYPT"], "mapper/crypt"),
        (["zd16", "zvol/pool/vol"], "zvol/pool/vol"),
        (["sdb", "disk/by-uuid/0", "disk/by-diskseq/3", "char/x", "shm/x"], None),
        ([], None),
    ],
)
def test_the_best_of_a_devices_names(tmp_path, monkeypatch, names, best):
    folder = tmp_path / "dev"
    monkeypatch.setattr(device_names, "_DEV", str(folder))
    number, other = os.makedev(250, 7), os.makedev(250, 8)
    for name in ["vg/another", *names]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mknod(path, 0o60600, other if name == "vg/another" else number)
    (folder / "mapper").mkdir(exist_ok=True)
    os.mknod(folder / "mapper" / "control", 0o20600, number)  # a character device of the same number
    (folder / "dangling").symlink_to("nowhere")
    assert lasting_alias(number) == (None if best is None else str(folder / best))


@pytest.mark.parametrize(("path", "is_fleeting"), [("loop0p1", True), ("nbd3p2", True), ("vg-lv", False)])
def test_a_partition_that_kpartx_named_after_a_numbered_device(path, is_fleeting):
    assert ("numbered by the kernel" in device_names.fleeting(f"/dev/mapper/{path}")) is is_fleeting
