"""VM configurations of Proxmox VE. Guards definitions/proxmox_config.py."""

import pytest

from batchdiff.definitions.proxmox_config import (
    MAIN,
    PENDING,
    can_be_in_value,
    parse_config,
    with_value,
    with_volume,
)
from batchdiff.errors import DefinitionError

CONFIG = b"""\
#A web server%3A number 1\xff
#scsi9: local:101/vm-101-disk-9.raw
boot: order=scsi0;net0
cores: 2
ide2: local:iso/debian.iso,media=cdrom,size=600M
lock: backup
net0: virtio=BC:24:11:00:00:01,bridge=vmbr0
parent: before-update
scsi0: local:101/vm-101-disk-0.raw,discard=on,iothread=1,size=32G
scsi1: /dev/disk/by-id/one,size=1G
sata0: none,media=cdrom
efidisk0: efitype=4m,file=local:101/vm-101-disk-1.qcow2,size=528K
unused0: local:101/vm-101-disk-2.raw

[pending]
delete: scsi1,net0
scsi0: local:101/vm-101-disk-0.raw,size=32G

[before-update]
scsi0: local:101/vm-101-disk-0.raw,size=32G
snaptime: 1700000000
"""


def config(document=CONFIG):
    return parse_config(document, "/etc/pve/qemu-server/101.conf")


def first(text):
    return config(text).drives[0]


def test_what_it_has():
    found = config()
    assert (found.vmid, found.is_template, found.lock) == (101, False, "backup")
    assert found.pending == {"scsi0", "scsi1", "net0"}
    assert {drive.key: drive.volume for drive in found.drives_in(MAIN)} == {
        "scsi0": "local:101/vm-101-disk-0.raw",
        "scsi1": "/dev/disk/by-id/one",
        "efidisk0": "local:101/vm-101-disk-1.qcow2",
        "unused0": "local:101/vm-101-disk-2.raw",
    }
    assert [drive.key for drive in found.drives_in(PENDING)] == ["scsi0"]
    assert [drive.key for drive in found.drives_in("before-update")] == ["scsi0"]
    assert config(b"template: 1\n").is_template
    assert not config(b"cores: 1\n[one]\ntemplate: 1\n").is_template


@pytest.mark.parametrize("text", [b"delete: cores;!scsi0, net0", b"delete: cores\nnet0: virtio\nscsi0: none"])
def test_the_settings_that_pending_changes_concern(text):
    """With an exclamation mark, an image is deleted when its drive is removed."""
    assert config(b"scsi0: s:1/a.raw\n[PENDING]\n" + text).pending == {"cores", "scsi0", "net0"}
    assert config(b"scsi0: s:1/a.raw\n[one]\n" + text).pending == frozenset()


@pytest.mark.parametrize(
    ("line", "image_format"),
    [
        (b"scsi0: /images/a.qcow2", "raw"),
        (b"scsi0: /images/a.qcow2,format=qcow2,size=1G", "qcow2"),
        (b"scsi0: s:1/a.qcow2,size=1G", "qcow2"),
        (b"scsi0: s:9/b.qcow2/1/a.raw,format=raw", "raw"),
        (b"scsi0: s:1/a.raw,format=qcow2", ""),
    ],
)
def test_the_format_in_which_an_image_is_used(line, image_format):
    assert first(line).format == image_format


@pytest.mark.parametrize(
    ("volume", "can_be"),
    [
        ("s:9/b.qcow2/1/a.raw", True),
        ("/images/a b:c;d.raw", True),
        ("/images/a,b.raw", False),
        ("s:1/a=b.raw", False),
        ("/images/a\nb.raw", False),
        ("/images/a.raw ", False),
    ],
)
def test_names_that_a_value_cannot_contain(volume, can_be):
    assert can_be_in_value(volume) == can_be
    if can_be:
        assert first(f"scsi0: {volume},size=1G".encode()).volume == volume


@pytest.mark.parametrize(
    ("line", "volume", "value"),
    [
        (b"scsi0: s:1/a.raw,discard=on,size=1G", "s:9/b/1/a.qcow2", "s:9/b/1/a.qcow2,discard=on,size=1G"),
        (b"scsi0: cache=none,file=s:1/a.raw", "s:1/b.qcow2", "cache=none,file=s:1/b.qcow2"),
        (b"scsi0: volume=s:1/a.raw,format=raw", "s:1/b.qcow2", "volume=s:1/b.qcow2,format=qcow2"),
        (b"scsi0: /images/a.raw,size=1G", "/images/b.qcow2", "/images/b.qcow2,size=1G,format=qcow2"),
        (b"unused3: s:1/a.raw", "s:1/b.qcow2", "s:1/b.qcow2"),
    ],
)
def test_another_volume_and_all_other_options(line, volume, value):
    assert with_volume(first(line), volume, "qcow2") == value


def test_only_its_line_changes():
    found = config()
    drive = found.drives[0]
    changed = with_value(found.document, drive, with_volume(drive, "local:101/x.qcow2", "qcow2"))
    before, after = CONFIG.split(b"\n"), changed.split(b"\n")
    assert [new for old, new in zip(before, after, strict=True) if old != new] == [
        b"scsi0: local:101/x.qcow2,discard=on,iothread=1,size=32G"
    ]


@pytest.mark.parametrize(
    ("document", "where", "why"),
    [
        (b"<domain/>\n", "101.conf", "lines of the form KEY: VALUE"),
        (b"cores: 1\0", "101.conf", "lines of the form KEY: VALUE"),
        (b"cores: 1\n", "web.conf", "its name must have the form VMID.conf"),
    ],
)
def test_what_is_not_one(document, where, why):
    with pytest.raises(DefinitionError, match=why):
        parse_config(document, where)


def test_an_empty_one_is_valid():
    assert config(b"").drives == config(b"#nothing\n").drives == ()
