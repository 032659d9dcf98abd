"""Which images libvirt's domains use, on whatever host. Guards definitions/domain_state.py."""

import os

from batchdiff.definitions.domain_state import images_of_active_domains
from batchdiff.definitions.libvirt_pool import Pool

RUNNING = b"""<domain><name>web</name><devices>
<disk><source file='/i/snapshot.qcow2'/><backingStore><source file='/i/web.qcow2'/><backingStore/></backingStore>
 <mirror><source file='/i/copy.qcow2'/></mirror></disk>
<disk type='block'><source dev='/dev/vg/web'/></disk>
<disk type='volume'><source pool='images' volume='data.img'/></disk>
<disk type='network'><source protocol='rbd' name='pool/web'/></disk>
<disk device='cdrom'><target dev='sda'/></disk>
</devices></domain>"""
SAVED = b"<domain><name>db</name><devices><disk><source file='/i/db.img'/></disk></devices></domain>"


class OtherHost:
    """A libvirt with a domain that is paused, and one whose memory is saved."""

    def active(self):
        return ["web"]

    def saved(self):
        return ["db"]

    def pools(self):
        return [Pool("images", "/volumes"), Pool("ceph", "")]

    def state(self, _domain):
        return "paused"

    def present_xml(self, _domain):
        return RUNNING

    def saved_xml(self, _domain):
        return SAVED


class Idle(OtherHost):
    """One in which every domain is shut off."""

    def active(self):
        return []

    saved = active


def test_every_image_of_a_chain_counts():
    found = images_of_active_domains(OtherHost())
    paths = ["/i/snapshot.qcow2", "/i/web.qcow2", "/i/copy.qcow2", "/dev/vg/web", "/volumes/data.img"]
    web = dict.fromkeys(map(os.path.realpath, paths), "the domain web is paused")
    db = "the domain db will continue from its saved memory (managed save)"
    assert found == web | {"/i/db.img": db}


def test_a_domain_that_is_shut_off_uses_nothing():
    assert images_of_active_domains(Idle()) == {}
