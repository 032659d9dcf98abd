"""What must change in VMs of Proxmox VE.

Guards definitions/proxmox_changes.py, definitions/proxmox_state.py, definitions/proxmox_folder.py.
"""

import subprocess
import sys

import pytest

from batchdiff.definitions.guest_disks import RESTORING, GuestDisk, VmImage
from batchdiff.definitions.proxmox_changes import vm_changes
from batchdiff.definitions.proxmox_config import parse_config
from batchdiff.definitions.proxmox_folder import ProxmoxHost, read_host
from batchdiff.definitions.proxmox_state import doubts
from batchdiff.definitions.proxmox_storage import Storage
from batchdiff.errors import UsageError

SECRETS = "the template is encrypted, so the VM's definition needs a secret"
STORAGES = [Storage("local", "dir", "/s/images", allows_images=True)]
BASE = "../9000/base-9000-disk-0.qcow2"
RAW = VmImage("/s/images/101/vm-101-disk-0.raw", "raw")
THIN = VmImage("/s/images/101/vm-101-disk-0.qcow2", "qcow2", BASE)
BOTH = frozenset({RAW.path, THIN.path})
CLONE = "local:9000/base-9000-disk-0.qcow2/101/vm-101-disk-0.qcow2"
LINE = "scsi0: local:101/vm-101-disk-0.raw,discard=on,size=32G\n"
NEW_LINE = f"scsi0: {CLONE},discard=on,size=32G\n"

CONVERTED = GuestDisk("web", THIN, None, BOTH)


def config(text, vmid=101):
    return parse_config(text.encode(), f"/etc/pve/qemu-server/{vmid}.conf")


def changes(*configs, disk=CONVERTED, run_folder="/nowhere"):
    return list(vm_changes(configs, [disk], STORAGES, run_folder=run_folder))


def test_converted():
    (change,) = changes(config(f"cores: 2\n{LINE}"))
    assert change.changed.decode() == f"cores: 2\n{NEW_LINE}"
    assert change.diff().splitlines()[3:] == [" cores: 2", f"-{LINE[:-1]}", f"+{NEW_LINE[:-1]}"]
    assert change.commands == (f"qm set 101 --scsi0 {CLONE},discard=on,size=32G",)
    assert (change.waiting, change.by_hand, change.notes) == ([], [], ())
    assert change.file_name == "101.conf"


def test_before_apply_it_is_a_preview():
    (change,) = changes(config(LINE), disk=GuestDisk("web", RAW, THIN, BOTH))
    assert change.changed.decode() == NEW_LINE
    assert change.waiting == ["web: its overlay has not been written yet"]


def test_after_a_restore_it_goes_back():
    (change,) = changes(config(NEW_LINE), disk=GuestDisk("web", RAW, None, BOTH))
    assert change.changed.decode() == LINE
    assert change.commands == ("qm set 101 --scsi0 local:101/vm-101-disk-0.raw,discard=on,size=32G",)


def test_a_tpm_state_disk_goes_back_to_its_raw_original():
    (change,) = changes(config(NEW_LINE.replace("scsi0", "tpmstate0")), disk=GuestDisk("web", RAW, None, BOTH))
    assert change.waiting == []


def test_a_snapshot_of_the_original_does_not_prevent_a_restore():
    (change,) = changes(config(f"{NEW_LINE}[one]\n{LINE}"), disk=GuestDisk("web", RAW, None, BOTH))
    assert change.waiting == []


def test_a_disk_that_is_right_prevents_nothing():
    other = VmImage("/s/images/101/vm-101-disk-1.raw", "raw")
    right = GuestDisk("data", other, VmImage(other.path, "raw"), frozenset({other.path}))
    text = f"{LINE}scsi1: local:101/vm-101-disk-1.raw\n[one]\nscsi1: {other.path}\n"
    (change,) = vm_changes([config(text)], [CONVERTED, right], STORAGES, run_folder="/nowhere")
    assert [use.is_right for use in change.uses] == [False, True]
    assert change.waiting == []


def test_what_is_right_stays():
    (change,) = changes(config(f"lock: backup\n{NEW_LINE}\n[one]\n{LINE}"))
    assert change.is_right
    assert (change.waiting, change.commands) == ([], ())


def test_in_its_guests_place():
    """The volume's name changes, because it has the base in it; the file is the same."""
    thick = VmImage(THIN.path, "qcow2")
    disk = GuestDisk("web", THIN, None, frozenset({THIN.path}))
    (change,) = changes(config("scsi0: local:101/vm-101-disk-0.qcow2,size=1G\n"), disk=disk)
    assert change.commands == (f"qm set 101 --scsi0 {CLONE},size=1G",)
    assert "leave that entry alone" in change.notes[0]
    back = GuestDisk("web", thick, None, disk.known_as)
    (change,) = changes(config(f"scsi0: {CLONE},size=1G\n"), disk=back)
    assert change.changed == b"scsi0: local:101/vm-101-disk-0.qcow2,size=1G\n"


@pytest.mark.parametrize(
    ("text", "disk", "why"),
    [
        (f"lock: backup\n{LINE}", CONVERTED, "VM 101 is locked (lock: backup)"),
        (f"{LINE}[one]\n{LINE}[two]\n{LINE}", CONVERTED, "(one and two)"),
        (f"{LINE}[one]\n{LINE}", CONVERTED, "the snapshot one refers to the former image of web, and"),
        (f"{LINE}[one]\n{LINE}", CONVERTED, "Delete the snapshot with `qm delsnapshot 101 one`"),
        (f"{LINE}[PENDING]\n{LINE}", CONVERTED, "`qm set 101 --revert scsi0`"),
        (f"{LINE}[PENDING]\ndelete: scsi0\n", CONVERTED, "a pending change ([PENDING]) affects web"),
        (f"{LINE}scsi1: {RAW.path}\n", CONVERTED, "web is also scsi1 of VM 101"),
        (LINE.replace("scsi0", "tpmstate0"), CONVERTED, "which must be raw"),
        (LINE, GuestDisk("web", THIN, None, BOTH, RESTORING), RESTORING),
    ],
)
def test_why_it_must_not_change_yet(text, disk, why):
    change = changes(config(text), disk=disk)[0]
    assert any(why in reason for reason in change.waiting)


def test_a_disk_of_two_vms():
    first, second = changes(config(LINE), config(LINE.replace("scsi0", "sata3"), 102))
    assert first.waiting == ["web is also sata3 of VM 102: keep it in only one of these places"]
    assert "scsi0 of VM 101" in second.waiting[0]


def test_secrets_are_for_the_operator():
    (change,) = changes(config(LINE), disk=GuestDisk("web", THIN, None, BOTH, by_hand=SECRETS))
    assert (change.waiting, change.by_hand) == ([], [f"web: {SECRETS}"])
    (change,) = changes(config(NEW_LINE), disk=GuestDisk("web", THIN, None, BOTH, by_hand=SECRETS))
    assert (change.is_right, change.by_hand) == (True, [f"web: {SECRETS}"])


def test_an_unused_disk_does_not_matter_if_a_vm_uses_the_guest():
    """`qm set` leaves it behind."""
    (change,) = changes(config(f"{NEW_LINE}unused0: local:101/vm-101-disk-0.raw\n"))
    assert (change.is_right, len(change.uses)) == (True, 1)
    both = config(f"{NEW_LINE}unused0: local:101/vm-101-disk-0.raw\n")
    (change,) = changes(both, disk=GuestDisk("web", RAW, None, BOTH))
    assert change.changed.decode() == f"{LINE}unused0: local:101/vm-101-disk-0.raw\n"
    assert change.waiting == []


def test_an_unused_disk_changes_too():
    (change,) = changes(config("unused0: local:101/vm-101-disk-0.raw\n"))
    assert (change.changed.decode(), change.commands) == (f"unused0: {CLONE}\n", ())


def test_a_vm_that_runs(tmp_path):
    pid_file = tmp_path / "101.pid"
    sleep = "print(flush=True); import time; time.sleep(60)"
    command = [sys.executable, "-S", "-c", sleep, "-pidfile", str(pid_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as vm:
        vm.stdout.readline()
        pid_file.write_text(f"{vm.pid}\n")
        (running,) = changes(config(LINE), run_folder=str(tmp_path))
        # The number of a VM that has ended may be that of another process.
        (tmp_path / "102.pid").write_text(f"{vm.pid}\n")
        (ended,) = changes(config(LINE, 102), run_folder=str(tmp_path))
        vm.kill()
    assert running.waiting == [f"VM 101 is running (process {vm.pid}): shut it down with `qm shutdown 101`"]
    assert ended.waiting == []
    assert changes(config(LINE), run_folder=str(tmp_path))[0].waiting == []


@pytest.mark.parametrize(
    ("configs", "why"),
    [
        ([config("template: 1\nscsi0: local:9000/base-9000-disk-0.qcow2\n", 9000)], None),
        ([config("scsi0: local:9000/base-9000-disk-0.qcow2\n", 9000)], "`qm set 9000 --template 1`"),
        ([config(LINE)], "unless VM 9000 is on another host"),
    ],
)
def test_doubts_about_the_template(configs, why):
    host = ProxmoxHost(configs, STORAGES, frozenset())
    found = list(doubts("/s/images/9000/base-9000-disk-0.qcow2", [CONVERTED], host))
    assert len(found) == (why is not None)
    assert why is None or why in found[0]
    assert list(doubts("/images/template.img", [CONVERTED], host)) == []


def test_doubts_about_the_storage():
    storages = [Storage("local", "dir", "/s/images", allows_images=False)]
    host = ProxmoxHost([], storages, frozenset())
    assert "the storage local does not allow disk images" in next(doubts("/t.img", [CONVERTED], host))


@pytest.mark.parametrize(("number", "is_one"), [(101, True), (102, False)])
def test_a_volume_of_a_container(number, is_one):
    found = list(doubts("/t.img", [CONVERTED], ProxmoxHost([], STORAGES, frozenset({number}))))
    assert [text.partition(",")[0] for text in found] == ["web is a volume of container 101"] * is_one


@pytest.mark.parametrize("content", [b"\0" * 40, b"<domain/>", None])
def test_a_configuration_that_cannot_be_read(tmp_path, content):
    """The other VMs are shown all the same."""
    folder = tmp_path / "qemu-server"
    folder.mkdir()
    (folder / "storage.cfg").write_text("")
    (folder / "101.conf").write_text(LINE)
    (folder / "103.conf").write_text(LINE)
    if content is None:
        (folder / "102.conf").mkdir()
    else:
        (folder / "102.conf").write_bytes(content)
    host = read_host(str(folder), None)
    assert [each.vmid for each in host.configs] == [101, 103]
    (found,) = doubts("/t.img", [], host)
    cause = "it is not a VM configuration" if content else f"{folder}/102.conf is a folder"
    assert found.startswith(f"cannot {'use' if content else 'read'} {folder}/102.conf: {cause}")
    assert found.endswith(". Whether that VM uses a guest is not known")


def test_the_files_of_a_host(tmp_path):
    folder = tmp_path / "nodes" / "qemu-server"
    folder.mkdir(parents=True)
    with pytest.raises(UsageError, match="it contains no VM configuration"):
        read_host(str(folder), None)
    for vmid in (1000, 101):
        (folder / f"{vmid}.conf").write_text(LINE)
    (folder / "notes.txt").write_text("{")
    with pytest.raises(UsageError, match=r"cannot find storage\.cfg") as caught:
        read_host(str(folder), None)
    assert "--storage-cfg" in caught.value.remedy
    (tmp_path / "nodes" / "lxc").mkdir()
    (tmp_path / "nodes" / "lxc" / "105.conf").write_text("arch: amd64\n")
    (tmp_path / "nodes" / "storage.cfg").write_text("dir: fast\n\tpath /fast\n")
    (tmp_path / "link").symlink_to(folder)
    found = read_host(str(folder), None)
    assert [each.vmid for each in found.configs] == [101, 1000]
    assert found.containers == {105}
    assert [each.name for each in found.storages] == ["fast", "local"]
    (tmp_path / "storage.cfg").write_text("")
    assert [each.name for each in read_host(str(tmp_path / "link"), None).storages] == ["local"], "beside the link"
    other = str(tmp_path / "nodes" / "storage.cfg")
    assert len(read_host(str(tmp_path / "link"), other).storages) == 2
    assert read_host(str(tmp_path / "link"), other).containers == frozenset()
    with pytest.raises(UsageError, match="cannot read"):
        read_host(str(tmp_path / "gone"), None)
