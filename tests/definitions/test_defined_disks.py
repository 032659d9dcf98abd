"""The disks of all domains of a libvirt connection, for discover. Guards definitions/defined_disks.py."""

import notation
from commands import batchdiff

from batchdiff.definitions.defined_disks import DefinedDisk, defined_disks
from batchdiff.definitions.libvirt_domain import parse_domain
from batchdiff.definitions.libvirt_pool import Pool
from batchdiff.image_source import ImageFormat

DOMAIN = b"""<domain><name>web</name><devices>
<disk type='file'><driver type='qcow2'/><source file='/i/web.qcow2'/><target dev='vda'/></disk>
<disk type='block'><source dev='/dev/vg/web'/><target dev='vdb'/></disk>
<disk type='volume'><driver type='raw'/><source pool='images' volume='data.img'/><target dev='vdc'/></disk>
<disk type='network'><source protocol='rbd' name='pool/web'/><target dev='vdd'/></disk>
<disk type='file'><driver type='bochs'/><source file='/i/old.bochs'/><target dev='vde'/></disk>
<disk device='cdrom'><source file='/i/cd.iso'/></disk>
</devices></domain>"""


class OneDomain:
    """A libvirt with one domain, which runs."""

    def domains(self):
        return [parse_domain(DOMAIN, "the domain web")]

    def pools(self):
        return [Pool("images", "/volumes")]

    def active(self):
        return ["web"]

    def saved(self):
        return []

    def state(self, _domain):
        return "running"

    def present_xml(self, _domain):
        return DOMAIN


def test_every_disk_is_found_with_its_declared_format():
    found = defined_disks(OneDomain())
    user = "the domain web is running"
    assert found.disks == (
        DefinedDisk("/i/web.qcow2", ImageFormat.QCOW2, user),
        DefinedDisk("/dev/vg/web", ImageFormat.RAW, user),
        DefinedDisk("/volumes/data.img", ImageFormat.RAW, user),
    )
    assert found.unusable == (
        "disk vdd of the domain web is left out: it is not a file or device on this host",
        "disk vde of the domain web is left out: batchdiff does not support its format, bochs",
    )


def test_the_verb_takes_them(tmp_path):
    """With libvirt's test driver, whose one domain has a disk that does not exist."""
    notation.write_raw(tmp_path / "a.img", "1M:A")
    notation.write_raw(tmp_path / "b.img", "1M:A")
    options = ("--libvirt", "--connect", "test:///default")
    done = batchdiff("discover", tmp_path, *options, cwd=tmp_path, expect=1)
    assert f"1 copy of 1 template in {tmp_path}, 1 left out" in done.stdout
    assert "left out  /guest/diskimage1: " in done.stdout
