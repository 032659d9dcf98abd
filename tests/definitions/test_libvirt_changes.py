"""Which domains use the guests of a plan.

Guards definitions/libvirt_changes.py, definitions/libvirt_pool.py.
"""

import os
import stat
from dataclasses import replace

import pytest

from batchdiff.definitions.guest_disks import BackingImage, GuestDisk, VmImage
from batchdiff.definitions.libvirt_changes import domain_changes
from batchdiff.definitions.libvirt_domain import parse_domain
from batchdiff.definitions.libvirt_pool import Pool, parse_pool
from batchdiff.errors import DefinitionError


def domain(name, *sources):
    disks = "".join(
        f"<disk type='file'><driver type='raw'/><source {source}/><target dev='vd{letter}'/></disk>\n"
        for letter, source in zip("abc", sources, strict=False)
    )
    return parse_domain(f"<domain><name>{name}</name><devices>{disks}</devices></domain>".encode(), f"{name}.xml")


def guest(name, unfinished=""):
    """A guest whose overlay is published."""
    overlay = VmImage(f"/i/{name}.qcow2", "qcow2")
    return GuestDisk(name, overlay, None, frozenset({overlay.path, f"/i/{name}.img"}), unfinished)


def planned(name):
    """A guest whose overlay is not written, or was restored."""
    done = guest(name)
    return replace(done, now=VmImage(f"/i/{name}.img", "raw"), planned=done.now)


def test_only_domains_with_guests_of_the_plan():
    found = list(
        domain_changes([domain("a", "file='/i/x.img'"), domain("b", "file='/i/web.img'")], [guest("web")])
    )
    assert [change.domain.name for change in found] == ["b"]
    assert not found[0].is_right


def test_several_disks_of_one_domain():
    (change,) = domain_changes(
        [domain("a", "file='/i/web.img'", "file='/i/other.img'", "file='/i/data.img'")],
        [guest("web"), guest("data")],
    )
    assert [(use.guest, use.target, use.is_right) for use in change.uses] == [
        ("web", "vda", False),
        ("data", "vdc", False),
    ]
    assert [disk.path for disk in parse_domain(change.changed, "x").disks] == [
        "/i/web.qcow2",
        "/i/other.img",
        "/i/data.qcow2",
    ]


def test_a_definition_that_is_right():
    text = domain("a", "file='/i/web.qcow2'").document.replace(b"'raw'", b"'qcow2'")
    (change,) = domain_changes([parse_domain(text, "x")], [guest("web")])
    assert change.is_right
    assert change.diff() == ""


def test_an_overlay_that_is_declared_raw_is_found():
    """The VM would write over its header."""
    (change,) = domain_changes([domain("a", "file='/i/web.qcow2'")], [guest("web")])
    assert not change.is_right


def test_a_restored_block_device_is_named_as_one(tmp_path):
    device = tmp_path / "volume"
    os.mknod(device, 0o600 | stat.S_IFBLK, os.makedev(250, 250))
    restored = GuestDisk("web", VmImage(str(device), "raw"), None, frozenset({"/i/web.qcow2"}), "")
    (change,) = domain_changes([domain("a", "file='/i/web.qcow2'")], [restored])
    assert b"<disk type='block'><driver type='raw'/>" in change.changed
    assert f"<source dev='{device}'/>".encode() in change.changed


def test_links_lead_to_their_files(tmp_path):
    (tmp_path / "web.img").write_text("")
    (tmp_path / "link").symlink_to("web.img")
    path = str(tmp_path / "web.img")
    disk = GuestDisk("web", VmImage("/i/web.qcow2", "qcow2"), None, frozenset({path}))
    assert list(domain_changes([domain("a", f"file='{tmp_path}/link'")], [disk]))


def test_volumes_are_found_by_their_pools():
    pools = [Pool("slow", "/j"), Pool("fast", "/i")]
    (change,) = domain_changes([domain("a", "pool='fast' volume='web.img'")], [guest("web")], pools)
    assert b"<source pool='fast' volume='web.qcow2'/>" in change.changed
    assert not list(domain_changes([domain("a", "pool='slow' volume='web.img'")], [guest("web")], pools))
    assert not list(domain_changes([domain("a", "pool='gone' volume='web.img'")], [guest("web")], pools))


def test_before_apply_it_is_a_preview():
    (change,) = domain_changes([domain("a", "file='/i/web.img'")], [planned("web")])
    assert change.waiting == ["web: its overlay has not been written yet"]
    assert b"<source file='/i/web.qcow2'/>" in change.changed


@pytest.mark.parametrize(
    ("plain", "spelled_out"),
    [
        (b"<target dev='vda'/>", b"<backingStore/><target dev='vda'/>"),
        (b"<target dev='vda'/>", b"\n  <backingStore/>\n  <target dev='vda'/>"),
        (b"<driver type='raw'/>", b"<driver name='qemu'/>"),
        (b"<driver type='raw'/>", b""),
    ],
)
def test_the_preview_is_of_the_overlay_however_the_disk_is_written(plain, spelled_out):
    """A live ``virsh dumpxml`` writes ``<backingStore/>``, and a definition by hand may leave the format out."""
    text = domain("a", "file='/i/web.img'").document.replace(plain, spelled_out)
    (change,) = domain_changes([parse_domain(text, "x")], [planned("web")])
    assert change.waiting == ["web: its overlay has not been written yet"]
    assert [use.image.path for use in change.uses] == ["/i/web.qcow2"]
    (disk,) = parse_domain(change.changed, "x").disks
    assert (disk.path, disk.format) == ("/i/web.qcow2", "qcow2")
    assert b"backingStore" not in change.changed


def test_a_link_to_a_guest_is_the_guest_before_apply(tmp_path):
    (tmp_path / "web.img").write_text("")
    (tmp_path / "link").symlink_to("web.img")
    path = str(tmp_path / "web.img")
    disk = replace(planned("web"), now=VmImage(path, "raw"), known_as=frozenset({path}))
    (change,) = domain_changes([domain("a", f"file='{tmp_path}/link'")], [disk])
    assert change.waiting == ["web: its overlay has not been written yet"]


def test_nothing_is_below_a_raw_image():
    """So a definition that says so is right, as after a restore."""
    text = domain("a", "file='/i/web.img'").document.replace(b"<target", b"<backingStore/><target")
    (change,) = domain_changes([parse_domain(text, "x")], [replace(planned("web"), planned=None)])
    assert change.is_right


TEMPLATE = "<format type='qcow2'/><source file='/t/new.qcow2'/>"
BASE = "<format type='raw'/><source file='/t/base.img'/>"
END = "<backingStore/>"


def stored(inside, end=""):
    return f"<backingStore type='file' index='1'>{inside}{end}</backingStore>"


WHOLE = stored(TEMPLATE, stored(BASE, END))
"""As ``virsh dumpxml`` prints the chain of a VM that has run."""


def with_chain(text, path="/i/web.qcow2", image_format="qcow2"):
    """Return the change of a domain whose overlay is on a template that has a backing file itself."""
    chain = (BackingImage("/t/new.qcow2", "qcow2"), BackingImage("/t/base.img", "raw"))
    done = replace(guest("web"), now=VmImage("/i/web.qcow2", "qcow2", chain=chain))
    before = domain("a", f"file='{path}'").document.decode().replace("'raw'", f"'{image_format}'")
    (change,) = domain_changes([parse_domain(before.replace("<target", f"{text}<target").encode(), "x")], [done])
    return change


@pytest.mark.parametrize("chain", [WHOLE, stored(TEMPLATE), stored(TEMPLATE, stored(BASE))])
def test_a_whole_chain_that_is_written_out_is_right(chain):
    """Libvirt probes what is missing at its end."""
    change = with_chain(chain)
    assert change.is_right
    assert [use.is_right for use in change.uses] == [True]


@pytest.mark.parametrize(
    "chain",
    [
        END,
        stored(TEMPLATE, END),
        stored(BASE, END),
        stored(TEMPLATE, stored(BASE, stored(BASE, END))),
        WHOLE.replace("'qcow2'", "'raw'"),
        WHOLE.replace("<format type='raw'/>", ""),
        WHOLE.replace("base.img", "other.img"),
        WHOLE.replace("file='/t/base.img'", "pool='gone' volume='base.img'"),
    ],
)
def test_a_chain_that_is_wrong_or_cut_short_goes(chain):
    change = with_chain(chain)
    assert not change.is_right
    assert b"backingStore" not in change.changed


def test_a_right_chain_stays_where_only_the_format_is_wrong():
    change = with_chain(WHOLE, image_format="raw")
    assert not change.is_right
    assert WHOLE.encode() in change.changed


def test_the_chain_is_not_known_of_every_image():
    (change,) = domain_changes([parse_domain(with_chain(END).domain.document, "x")], [guest("web")])
    assert not change.is_right


def test_after_a_restore_it_goes_back():
    text = domain("a", "file='/i/web.qcow2'").document.replace(b"'raw'", b"'qcow2'")
    (change,) = domain_changes([parse_domain(text, "x")], [planned("web")])
    assert change.changed == domain("a", "file='/i/web.img'").document
    assert change.waiting == []


def test_an_unfinished_restore_must_end_first():
    (change,) = domain_changes([domain("a", "file='/i/web.img'")], [guest("web", "its restore has not finished")])
    assert change.waiting == ["web: its restore has not finished"]


def test_the_diff_names_the_domain():
    (change,) = domain_changes([domain("a", "file='/i/web.img'")], [guest("web")])
    assert change.diff().splitlines()[:2] == ["--- a/a.xml", "+++ b/a.xml"]


def test_pools():
    text = b"<pool type='dir'><name>fast</name><target><path>/srv/images</path></target></pool>"
    assert parse_pool(text, "x") == Pool("fast", "/srv/images")
    assert parse_pool(b"<pool type='rbd'><name>ceph</name></pool>", "x") == Pool("ceph", "")
    assert Pool("fast", "/srv").volume_at("/srv/a.img") == "a.img"
    assert Pool("fast", "/srv").volume_at("/srv/b/a.img") == ""
    assert Pool("ceph", "").volume_at("/a.img") == ""
    assert Pool("ceph", "").path_of("a.img") == ""
    with pytest.raises(DefinitionError, match="not a <pool>"):
        parse_pool(b"<domain><name>a</name></domain>", "x")
