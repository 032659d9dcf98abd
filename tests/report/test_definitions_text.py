"""What must change in VM definitions, as text. Guards report/definitions_text.py."""

import shlex

import pytest

from batchdiff.definitions.guest_disks import RESTORING, GuestDisk, VmImage
from batchdiff.definitions.libvirt_changes import domain_changes
from batchdiff.definitions.libvirt_domain import parse_domain
from batchdiff.definitions.proxmox_changes import vm_changes
from batchdiff.definitions.proxmox_config import parse_config
from batchdiff.definitions.proxmox_storage import Storage
from batchdiff.report.definitions_text import definitions_text
from batchdiff.report.events import definition_event

RAW, THIN = VmImage("/i/images/101/web.raw", "raw"), VmImage("/i/images/101/web.qcow2", "qcow2")
SECRETS = "the template is encrypted, so the VM's definition needs a secret"
BOTH = frozenset({RAW.path, THIN.path})
SOURCE = f"<source file='{RAW.path}'/>"
XML = f"<domain><name>web</name><devices><disk><driver type='raw'/>{SOURCE}</disk></devices></domain>"
DOMAIN = parse_domain(XML.encode(), "web.xml")
STORAGES = [Storage("local", "dir", "/i/images", allows_images=True)]
CONFIG = parse_config(b"scsi0: local:101/web.raw,discard=on,iothread=1\n", "101.conf")


def test_a_guest_that_no_definition_uses():
    converted = definitions_text([], [GuestDisk("web", THIN, None, BOTH)], width=200)
    assert f"path={THIN.path},driver.type=qcow2" in converted
    preview = definitions_text([], [GuestDisk("web", RAW, THIN, BOTH)], width=200)
    # No command for an overlay that does not exist: its VM would not start.
    assert "virt-xml" not in preview
    assert "once `batchdiff apply` has written the overlay" in preview
    both = [GuestDisk("db", VmImage("/i/db.raw", "raw"), THIN, BOTH), GuestDisk("web", THIN, None, BOTH)]
    mixed = definitions_text([], both, width=200)
    assert f"path={THIN.path},driver.type=qcow2" in mixed
    later = "If the guest that it uses is still waiting for `batchdiff apply`, change it only after that."
    assert later in " ".join(mixed.split())
    # After a restore the overlay is gone.
    restored = definitions_text([], [GuestDisk("web", RAW, None, BOTH)], width=200)
    assert f"path={RAW.path},driver.type=raw" in restored
    assert THIN.path not in restored
    unfinished = GuestDisk("web", THIN, None, BOTH, unfinished=RESTORING)
    text = definitions_text([], [unfinished], width=200)
    assert "that VM's definition must change once `batchdiff restore` has finished." in text
    assert "virt-xml" not in text
    elsewhere = definitions_text([], [GuestDisk("web", RAW, None, BOTH)], manages="Proxmox", width=200)
    assert "/etc/pve/nodes/NODE/qemu-server" in elsewhere
    assert "virt-xml" not in elsewhere


@pytest.mark.parametrize("name", ["a.qcow2", "a b.qcow2", "a,b=c.qcow2", "it's.qcow2", 'a"b\\,.qcow2', "#a.qcow2"])
def test_virt_xml_reads_the_very_path(name):
    """It reads its option as parse_optstr_tuples in virtinst/cli.py does, after a shell has read the command."""
    text = definitions_text([], [GuestDisk("web", VmImage(f"/i/{name}", "qcow2"), None, BOTH)])
    command = shlex.split(text.partition("`")[2].partition("`")[0])
    option = shlex.shlex(command[command.index("--disk") + 1], posix=True)
    option.commenters, option.whitespace, option.whitespace_split = "", ",", True
    assert list(option) == [f"path=/i/{name}", "driver.type=qcow2"]


def test_what_only_the_operator_can_do():
    disk = GuestDisk("web", RAW, THIN, BOTH, by_hand=SECRETS)
    (change,) = domain_changes([DOMAIN], [disk])
    text = definitions_text([change], [disk], width=200)
    assert f"by hand: web: {SECRETS}" in text
    assert "not yet: web: its overlay has not been written yet" in text
    event = definition_event(change)
    assert (event["by_hand"], event["commands"]) == ([f"web: {SECRETS}"], [])


@pytest.mark.parametrize(("now", "planned", "is_told"), [(THIN, None, True), (RAW, RAW, False)])
def test_what_only_the_operator_can_do_to_a_definition_with_the_right_image(now, planned, is_told):
    """It may be done already. Before apply, it must not be done yet."""
    document = XML.replace(RAW.path, now.path).replace("'raw'", f"'{now.format}'")
    disk = GuestDisk("web", now, planned, BOTH, by_hand=SECRETS)
    (change,) = domain_changes([parse_domain(document.encode(), "web.xml")], [disk])
    assert change.is_right
    text = definitions_text([change], [disk], width=200)
    assert (f"  by hand, unless that is done already: web: {SECRETS}\n" in text) is is_told
    assert definition_event(change)["by_hand"] == [f"web: {SECRETS}"] * is_told


def test_definitions_that_use_no_guest_are_counted():
    (change,) = domain_changes([DOMAIN], [GuestDisk("web", THIN, None, BOTH)])
    text = definitions_text([change], [], others=2, manages="files")
    assert text.endswith("3 definitions: 1 must change, 0 are right, 2 use no guest of the plan.\n")
    text = definitions_text([], [GuestDisk("db", THIN, None, BOTH)], others=1, manages="files", width=200)
    assert text.startswith(
        "Used by none of the given definitions: db. If a VM that is not defined here uses it, change that VM's "
    )
    assert text.endswith("1 definition: 0 must change, 0 are right, 1 uses no guest of the plan.\n")


def test_no_command_for_proxmox_before_its_time():
    disk = GuestDisk("web", RAW, THIN, BOTH)
    changes = list(vm_changes([CONFIG], [disk], STORAGES, run_folder="/nowhere"))
    text = definitions_text(changes, [disk], manages="Proxmox", width=200)
    assert "not yet: web: its overlay has not been written yet" in text
    assert "+scsi0: local:101/web.qcow2" in text
    assert "$ " not in text
    assert "Run `batchdiff definitions` again after that: it then prints the `qm set` commands, if any." in text


def test_a_command_stays_on_one_line():
    disk = GuestDisk("web", THIN, None, BOTH)
    changes = list(vm_changes([CONFIG], [disk], STORAGES, run_folder="/nowhere"))
    command = "qm set 101 --scsi0 local:101/web.qcow2,discard=on,iothread=1"
    text = definitions_text(changes, [disk], width=40, doubts=["the template is not one"], manages="Proxmox")
    assert f"  $ {command}\n" in text
    assert "warning: the template is not one.\n" in text
    assert definition_event(changes[0])["commands"] == [command]
    assert definition_event(changes[0])["domain"] == "101"
