"""Domains of libvirt, and disks that get another image. Guards definitions/libvirt_domain.py."""

import pytest

from batchdiff.definitions.libvirt_domain import parse_domain, with_image
from batchdiff.definitions.libvirt_pool import Pool
from batchdiff.errors import DefinitionError

HEAD = "<domain type='kvm'>\n  <name>web01</name>\n  <devices>\n"
TAIL = "  </devices>\n</domain>\n"
POOL = Pool("fast", "/pool")


def domain(*disks):
    return parse_domain((HEAD + "".join(disks) + TAIL).encode(), "web01.xml")


def changed(disk, path="/i/web01.qcow2", image_format="qcow2", pools=()):
    """The disk's own text, after the change; everything around it must be as it was."""
    whole = domain(disk)
    text = with_image(whole, whole.disks[0], path, image_format, pools).decode()
    assert text.startswith(HEAD)
    assert text.endswith(TAIL)
    return text[len(HEAD) : -len(TAIL)]


FILE = """\
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache="none" discard='unmap'/>
      <source file='/i/web01.img'>
        <seclabel model='dac' relabel='no'/>
      </source>
      <backingStore/>
      <target dev='vda' bus='virtio'/>
    </disk>
"""


def test_a_file():
    assert changed(FILE) == FILE.replace("'raw'", "'qcow2'").replace(".img", ".qcow2").replace(
        "      <backingStore/>\n", ""
    )


def test_a_chain_that_is_written_out_goes_as_a_whole():
    chain = "<backingStore type='file'>\n        <format type='raw'/>\n <source file='/t'/>\n      </backingStore>"
    assert changed(FILE.replace("<backingStore/>", chain)) == changed(FILE)


def test_in_place_only_the_format_changes():
    assert changed(FILE, path="/i/web01.img") == FILE.replace("'raw'", "'qcow2'").replace(
        "      <backingStore/>\n", ""
    )


def test_what_is_right_stays_byte_for_byte():
    right = changed(FILE)
    assert changed(right) == right


def test_a_block_device_becomes_a_file():
    block = "    <disk type='block'>\n  <driver type='raw'/>\n  <source dev='/dev/vg/w'/>\n    </disk>\n"
    assert changed(block) == (
        "    <disk type='file'>\n  <driver type='qcow2'/>\n  <source file='/i/web01.qcow2'/>\n    </disk>\n"
    )


def test_a_file_becomes_a_block_device_again():
    """QEMU 6.0 and later refuse a device that is named as a file."""
    file = "    <disk type='file'>\n  <driver type='qcow2'/>\n  <source file='/i/w.qcow2'/>\n    </disk>\n"
    (disk,) = (whole := domain(file)).disks
    text = with_image(whole, disk, "/dev/vg/w", "raw", is_device=True).decode()
    assert "    <disk type='block'>\n  <driver type='raw'/>\n  <source dev='/dev/vg/w'/>\n    </disk>\n" in text


def test_a_missing_driver_is_added_because_libvirt_would_take_raw():
    bare = "    <disk>\n      <source file='/i/web01.img'/>\n    </disk>\n"
    assert changed(bare) == (
        "    <disk type='file'>\n      <driver name='qemu' type='qcow2'/>\n"
        "      <source file='/i/web01.qcow2'/>\n    </disk>\n"
    )


def test_a_driver_without_a_type_gets_one():
    plain = "    <disk type='file'><driver name='qemu' /><source file='/i/web01.img'/></disk>\n"
    assert "<driver name='qemu' type='qcow2'/>" in changed(plain)


VOLUME = "    <disk type='volume'>\n      <source pool='fast' volume='w.img' mode='host'/>\n    </disk>\n"


def test_a_volume_of_the_same_pool_stays_a_volume():
    assert "<disk type='volume'>" in changed(VOLUME, "/pool/w.qcow2", pools=[POOL])
    assert "<source pool='fast' volume='w.qcow2' mode='host'/>" in changed(VOLUME, "/pool/w.qcow2", pools=[POOL])


@pytest.mark.parametrize("pools", [[POOL], []])
def test_another_volume_becomes_a_file(pools):
    text = changed(VOLUME, "/elsewhere/w.qcow2", pools=pools)
    assert "<disk type='file'>" in text
    assert "<source file='/elsewhere/w.qcow2'/>" in text


def test_paths_with_quotes_and_signs():
    text = changed(FILE, '/i/it\'s <1> & "2".qcow2')
    assert "file='/i/it&apos;s &lt;1&gt; &amp; \"2\".qcow2'" in text
    (disk,) = domain(text).disks
    assert disk.path == '/i/it\'s <1> & "2".qcow2'


def test_disks_that_can_be_guests():
    disks = domain(
        FILE,
        VOLUME,
        "<disk type='file' device='cdrom'><source file='/i/web01.img'/></disk>",
        "<disk type='file' device='floppy'><source file='/i/web01.img'/></disk>",
        "<disk type='file' device='disk'><target dev='vdz'/></disk>",
        "<disk type='block' device='lun'><source dev='/dev/x'/></disk>",
        "<disk type='network'><source protocol='rbd' name='p/i'/></disk>",
    ).disks
    assert [(disk.target, disk.path, disk.pool, disk.volume, disk.format) for disk in disks] == [
        ("vda", "/i/web01.img", "", "", "raw"),
        ("", "", "fast", "w.img", ""),
        ("", "/dev/x", "", "", ""),
        ("", "", "", "", ""),
    ]


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (b"<network/>", "it is a <network>, not a <domain>"),
        (b"<domain/>", "the domain has no name"),
    ],
)
def test_what_is_not_a_domain(document, why):
    with pytest.raises(DefinitionError, match=why):
        parse_domain(document, "x.xml")


def test_a_domain_without_devices():
    assert parse_domain(b"<domain><name>a&amp;b</name></domain>", "x").disks == ()
    assert parse_domain(b"<domain><name>a&amp;b</name></domain>", "x").name == "a&b"
