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


def changes(*configs, disk=CONVERTED, run_folder="/nowhere", storages=STORAGES):
    return list(vm_changes(configs, [disk], storages, run_folder=run_folder))


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


@pytest.mark.parametrize(
    "value", [RAW.path, f"file={RAW.path},format=raw", f"/s/images/../images{RAW.path[9:]},size=1G"]
)
def test_a_path_in_a_storage_is_the_image_as_well(value):
    """Nothing has to change before apply or after a restore, although a volume has another name."""
    (change,) = changes(config(f"scsi0: {value}\n"), disk=GuestDisk("web", RAW, THIN, BOTH))
    assert change.waiting == ["web: its overlay has not been written yet"]
    assert CLONE in change.changed.decode()
    (change,) = changes(config(f"scsi0: {value}\n"), disk=GuestDisk("web", RAW, None, BOTH))
    assert change.is_right
    (change,) = changes(config(f"scsi0: {THIN.path},format=qcow2\n"))
    assert change.is_right


@pytest.mark.parametrize("options", ["", ",format=raw"])
def test_an_overlay_that_a_drive_uses_as_raw(options):
    """Its VM would destroy it."""
    (change,) = changes(config(f"scsi0: {THIN.path}{options}\n"))
    assert CLONE in change.commands[0]


def test_a_guest_that_the_manifest_names_by_a_link(tmp_path):
    (tmp_path / "images" / "101").mkdir(parents=True)
    (tmp_path / "web.raw").symlink_to("images/101/vm-101-disk-0.raw")
    own = str(tmp_path / "images/101/vm-101-disk-0.raw")
    original = VmImage(str(tmp_path / "web.raw"), "raw")
    overlay = VmImage(own.replace(".raw", ".qcow2"), "qcow2", BASE)
    disk = GuestDisk("web", original, overlay, frozenset({own, overlay.path}))
    storages = [Storage("local", "dir", f"{tmp_path}/images", allows_images=True)]
    (change,) = changes(config(LINE), disk=disk, storages=storages)
    assert (change.changed.decode(), len(change.waiting)) == (NEW_LINE, 1)
    restored = GuestDisk("web", original, None, disk.known_as)
    assert changes(config(NEW_LINE), disk=restored, storages=storages)[0].changed.decode() == LINE


def test_a_raw_image_on_btrfs():
    original = VmImage("/b/images/101/vm-101-disk-0/disk.raw", "raw")
    overlay = VmImage("/b/images/101/vm-101-disk-0.qcow2", "qcow2", BASE)
    disk = GuestDisk("web", original, overlay, frozenset({original.path, overlay.path}))
    storages = [Storage("local", "btrfs", "/b/images", allows_images=True)]
    (change,) = changes(config(LINE), disk=disk, storages=storages)
    assert (change.changed.decode(), len(change.waiting)) == (NEW_LINE, 1)
    restored = GuestDisk("web", original, None, disk.known_as)
    (change,) = changes(config(NEW_LINE), disk=restored, storages=storages)
    assert change.changed.decode() == LINE


def test_an_overlay_in_the_place_of_a_raw_guest():
    """Proxmox VE uses a volume in the format that its name ends in: the VM would destroy the overlay."""
    overlay = VmImage(RAW.path, "qcow2", "/t.qcow2")
    disk = GuestDisk("web", overlay, None, frozenset({RAW.path}))
    (change,) = changes(config(LINE), disk=disk)
    assert change.commands == (f"qm set 101 --scsi0 {RAW.path},discard=on,size=32G,format=qcow2",)
    assert "leave that entry alone" in change.notes[0]
    done = config(change.changed.decode() + "unused0: local:101/vm-101-disk-0.raw\n")
    assert changes(done, disk=disk)[0].is_right
    (change,) = changes(done, disk=GuestDisk("web", RAW, None, disk.known_as))
    assert change.commands == ("qm set 101 --scsi0 local:101/vm-101-disk-0.raw,discard=on,size=32G,format=raw",)
    assert change.notes == ()  # Proxmox VE lists no path as unused
    (unused,) = changes(config("unused0: local:101/vm-101-disk-0.raw\n"), disk=disk)
    assert "remove the line of unused0 from /etc/pve/qemu-server/101.conf by hand" in unused.waiting[0]


@pytest.mark.parametrize("path", ["/thin/a,b.qcow2", "/s/images/101/a=b.qcow2", "/thin/a.qcow2 "])
def test_an_overlay_whose_name_cannot_be_written(path):
    disk = GuestDisk("web", VmImage(path, "qcow2"), None, frozenset({RAW.path, path}))
    (change,) = changes(config(LINE), disk=disk)
    assert "plan again with another path for the overlay" in change.waiting[0]


def test_an_overlay_outside_all_storages():
    """Proxmox VE accepts a path: its own test simple-disk-passthrough.conf has scsi1: /mnt/file.raw."""
    disk = GuestDisk("web", VmImage("/thin/a.qcow2", "qcow2"), None, frozenset({RAW.path, "/thin/a.qcow2"}))
    (change,) = changes(config(LINE), disk=disk)
    assert change.commands == ("qm set 101 --scsi0 /thin/a.qcow2,discard=on,size=32G,format=qcow2",)
    assert change.waiting == []


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
        (
            f"{LINE}[one]\n{LINE}",
            CONVERTED,
            "Delete the snapshot with `qm delsnapshot 101 one`; if the former image is gone, that needs `--force`",
        ),
        (f"{LINE}[PENDING]\n{LINE}", CONVERTED, "`qm set 101 --revert scsi0`"),
        (f"{LINE}[PENDING]\nscsi1: {RAW.path}\n", CONVERTED, "`qm set 101 --revert scsi1`"),
        (f"{LINE}[PENDING]\nscsi0: none\nscsi1: {RAW.path}\n", CONVERTED, "`qm set 101 --revert scsi0,scsi1`"),
        (
            f"{LINE}[PENDING]\nscsi0: local:101/other.raw\n",
            CONVERTED,
            "remove scsi0 from the section [PENDING] of",
        ),
        (f"{LINE}[PENDING]\ndelete: scsi0\n", CONVERTED, "a pending change ([PENDING]) affects web"),
        (f"{LINE}[PENDING]\ndelete: cores,!scsi0\n", CONVERTED, "`qm set 101 --revert scsi0`"),
        (f"{LINE}{LINE}", CONVERTED, "several lines of /etc/pve/qemu-server/101.conf set scsi0 to web: keep only"),
        (f"{LINE}scsi1: {RAW.path}\n", CONVERTED, "web is also scsi1 of VM 101"),
        (LINE.replace("scsi0", "tpmstate0"), CONVERTED, "which must be raw"),
        (LINE, GuestDisk("web", THIN, None, BOTH, RESTORING), RESTORING),
    ],
)
def test_why_it_must_not_change_yet(text, disk, why):
    change = changes(config(text), disk=disk)[0]
    assert any(why in reason for reason in change.waiting)


def test_a_pending_change_to_the_right_image_or_of_another_drive_prevents_nothing():
    pending = f"{NEW_LINE}scsi1: local:101/vm-101-disk-5.raw\ndelete: !scsi2"
    assert changes(config(f"{LINE}[PENDING]\n{pending}\n"))[0].waiting == []


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
        # A disk that is not attached is written to by no VM.
        ([config("unused0: local:9000/base-9000-disk-0.qcow2\n", 9000)], None),
        ([config("cores: 1\n", 9000)], None),
    ],
)
def test_doubts_about_the_template(configs, why):
    host = ProxmoxHost(configs, STORAGES, frozenset())
    found = list(doubts("/s/images/9000/base-9000-disk-0.qcow2", [CONVERTED], host))
    assert len(found) == (why is not None)
    assert why is None or why in found[0]
    assert list(doubts("/images/template.img", [CONVERTED], host)) == []


def test_a_number_that_is_taken_is_given_to_no_new_vm():
    template = "/s/images/9000/base-9000-disk-0.qcow2"
    unread = ProxmoxHost([config(LINE)], STORAGES, frozenset(), {9000: "cannot read 9000.conf"})
    assert list(doubts(template, [], unread)) == ["cannot read 9000.conf"]
    assert list(doubts(template, [], ProxmoxHost([config(LINE)], STORAGES, frozenset({9000})))) == []


def test_doubts_about_the_storage():
    storages = [Storage("local", "dir", "/s/images", allows_images=False)]
    host = ProxmoxHost([], storages, frozenset())
    for disk in (CONVERTED, GuestDisk("web", RAW, None, BOTH)):
        assert list(doubts("/t.img", [disk], host)) == [
            "the storage local does not allow disk images, so Proxmox VE does not list the guests' images: add"
            " `images` to the content types of the storage"
        ]


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
    assert found.endswith(". Whether VM 102 uses a guest is not known")


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
