"""Images in use by real programs: who is in the way of what, and what cannot be known."""

import contextlib
import errno
import os
from contextlib import ExitStack
from pathlib import Path

import notation
import pytest
import real_holders
from commands import rarely
from filesystems import among_own_mounts, mounted, tmpfs
from oracle import source

from batchdiff.errors import GuestError, ImageError
from batchdiff.image.in_use.check import Purpose, Usage, check_usage, other_writer, require_unused, users
from batchdiff.image.in_use.qemu_locks import OthersLocks
from batchdiff.image.open import open_image

NOBODY = 65534


def require(path, purpose):
    with open_image(source(path)) as image:
        require_unused(image, purpose)


def usage(path, purpose, *, user=0):
    fd = os.open(path, os.O_RDONLY)
    os.seteuid(user)
    try:
        return check_usage(fd, purpose)
    finally:
        os.seteuid(0)
        os.close(fd)


@pytest.mark.parametrize("purpose", [Purpose.GUEST, *rarely(Purpose.TEMPLATE)])
@pytest.mark.parametrize("holding", real_holders.WRITERS.values(), ids=real_holders.WRITERS)
def test_no_other_process_may_write(path, purpose, holding):
    require(path, purpose)
    with holding(path) as name, pytest.raises(real_holders.REFUSED[purpose], match="is in use") as caught:
        require(path, purpose)
    assert str(path) in caught.value.what
    assert f"{name} has it open for writing" in caught.value.why
    assert caught.value.remedy
    require(path, purpose)


@pytest.mark.parametrize("holding", real_holders.READERS.values(), ids=real_holders.READERS)
def test_qemu_may_read_a_template_but_no_guest(path, holding):
    with holding(path) as name:
        require(path, Purpose.TEMPLATE)
        with pytest.raises(GuestError) as caught:
            require(path, Purpose.GUEST)
        assert "(pid " in caught.value.why
        assert name.split(" ")[0] in caught.value.why


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("holding", real_holders.HARMLESS.values(), ids=real_holders.HARMLESS)
def test_others_may_read(raw, purpose, holding):
    with holding(raw):
        require(raw, purpose)
        with real_holders.writer(raw) as name, pytest.raises(real_holders.REFUSED[purpose]) as caught:
            require(raw, purpose)
        assert name in caught.value.why


LOCKERS = {
    "first byte": lambda path: real_holders.locker(path, 1),
    "all": real_holders.locker,
    "all, to read": real_holders.shared_locker,  # QEMU would not open it either
}


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("holding", LOCKERS.values(), ids=LOCKERS)
def test_a_lock_that_is_not_qemus(raw, purpose, holding):
    """Others that have the file open may hold no lock, and who holds one may not write."""
    with real_holders.reader(raw) as other, holding(raw) as name:
        found = usage(raw, purpose).objection
    assert found.startswith("it is locked, and ")
    assert found.endswith(" have it open")
    assert name in found
    assert other in found


def test_a_lock_against_readers(raw):
    with real_holders.shared_locker(raw, 1, 200) as name:
        found = usage(raw, Purpose.TEMPLATE).objection
    assert found.startswith("it is locked against readers, and ")
    assert found.endswith(f"{name} has it open")


@contextlib.contextmanager
def vm_under_virtlockd(path):
    with real_holders.vm(path) as name, real_holders.locker(path, 1):
        yield name


QEMUS = {name: real_holders.WRITERS[name] for name in ("vm", "vm-without-locks", "qemu-nbd")} | {
    "vm-under-virtlockd": vm_under_virtlockd,
    "no one": lambda _: contextlib.nullcontext(""),
}
OTHER_WRITERS = {name: real_holders.WRITERS[name] for name in ("loop-device", "writer", "appender")} | LOCKERS


@pytest.mark.parametrize("holding", QEMUS.values(), ids=QEMUS)
def test_qemu_is_no_other_writer(raw, holding):
    with raw.open("rb") as file, holding(raw):
        assert other_writer(file.fileno()) == ""


@pytest.mark.parametrize("has_locks", [True, False])
@pytest.mark.parametrize("holding", OTHER_WRITERS.values(), ids=OTHER_WRITERS)
def test_other_writers(raw, holding, has_locks, monkeypatch):
    """Also where the filesystem shows no locks."""
    if not has_locks:
        monkeypatch.setattr(
            "batchdiff.image.in_use.check.others_locks", lambda _: OthersLocks(unknown="none here")
        )
    with raw.open("rb") as file, holding(raw) as name:
        is_reader = holding is real_holders.shared_locker
        assert (name in other_writer(file.fileno())) is (has_locks or not is_reader)


def test_without_a_free_descriptor_absence_is_not_claimed(raw, full, monkeypatch):
    with real_holders.vm(raw), raw.open("rb") as file:
        with full(), pytest.raises(ImageError, match="Too many open files"):
            users(str(raw))
        with full(), pytest.raises(OSError, match="Too many open files"):
            other_writer(file.fileno())
        with full(), pytest.raises(OSError, match="Too many open files"):
            check_usage(file.fileno(), Purpose.GUEST)

        def limited(_fd):
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr("batchdiff.image.in_use.check.holders_of", limited)
        with pytest.raises(OSError, match="Too many open files"):
            users(str(raw))


def test_looking_leaves_nothing(raw):
    with open_image(source(raw)) as image:
        require_unused(image, Purpose.GUEST)
        os.close(os.open(raw, os.O_RDWR | os.O_NONBLOCK))
        with real_holders.vm(raw) as name:
            with pytest.raises(GuestError) as caught:
                require_unused(image, Purpose.GUEST)
            assert name in caught.value.why
        with real_holders.vm(raw):
            pass


def test_each_file_of_a_chain_counts(folder, raw):
    guest = folder / "thin.qcow2"
    notation.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(raw), "-F", "raw", str(guest))
    with open_image(source(guest, raw)) as image:
        require_unused(image, Purpose.GUEST)
        with real_holders.vm_on_overlay(raw):
            require_unused(image, Purpose.GUEST)
        with real_holders.writer(raw) as name, pytest.raises(ImageError) as caught:
            require_unused(image, Purpose.GUEST)
    assert str(raw) in caught.value.what
    assert name in caught.value.why


def test_without_the_right_to_ask(raw):
    unknown = "only its owner or root can check who has it open"
    assert usage(raw, Purpose.GUEST, user=NOBODY) == Usage(unknown=unknown)


def test_locks_are_seen_without_the_right_to_ask(raw):
    with real_holders.vm(raw):
        found = usage(raw, Purpose.GUEST, user=NOBODY)
    assert "an unknown process (run as root" in found.objection


def test_without_leases_processes_are_examined(raw, monkeypatch):
    monkeypatch.setattr("batchdiff.image.in_use.lease.filesystem_of", lambda _: "fuse.sshfs")
    unknown = "its filesystem (fuse.sshfs) cannot show who has it open"
    assert usage(raw, Purpose.GUEST) == Usage(unknown=unknown, leased=True)
    with real_holders.vm_waiting_for_migration(raw) as name:
        assert name in usage(raw, Purpose.GUEST).objection
        assert usage(raw, Purpose.TEMPLATE).objection == ""
    with real_holders.vm_without_locks(raw) as name:
        assert name in usage(raw, Purpose.TEMPLATE).objection


def test_without_locks_on_a_filesystem(raw, monkeypatch):
    unknown = "its filesystem does not support locks (No locks available)"
    monkeypatch.setattr("batchdiff.image.in_use.check.others_locks", lambda _: OthersLocks(unknown=unknown))
    assert usage(raw, Purpose.GUEST).unknown == unknown
    with real_holders.vm(raw) as name:
        assert name in usage(raw, Purpose.GUEST).objection


class TestBlockDevices:
    @pytest.fixture
    def device(self, raw):
        with real_holders.loop_device(raw) as name:
            yield Path(name.split()[-1])

    def test_idle(self, device):
        assert usage(device, Purpose.GUEST).objection == usage(device, Purpose.TEMPLATE).objection == ""
        assert "a block device" in usage(device, Purpose.GUEST).unknown

    @pytest.mark.parametrize("name", ["vm", "vm-without-locks", "writer"])
    def test_writers(self, device, name):
        with real_holders.WRITERS[name](device) as who:
            for purpose in Purpose:
                assert f"{who} has it open for writing" in usage(device, purpose).objection

    def test_mounted(self, tmp_path):
        with mounted(tmp_path, "ext4") as point, ExitStack() as stack:
            device = notation.run("findmnt", "--noheadings", "--output", "SOURCE", str(point)).strip()
            for purpose in Purpose:
                assert usage(device, purpose).objection == f"it is mounted at {point}"
            notation.run("mount", "-o", "remount,ro", str(point))
            stack.callback(notation.run, "mount", "-o", "remount,rw", str(point))
            assert usage(device, Purpose.GUEST).objection == f"it is mounted at {point}"
            assert usage(device, Purpose.TEMPLATE).objection == ""

    def test_mounted_out_of_sight(self, tmp_path):
        """That it is read-only is not known, so a template is refused, too."""
        notation.write_raw(tmp_path / "disk", "8M:-")
        notation.run("mkfs.ext4", "-q", str(tmp_path / "disk"))
        mount = 'mount -o ro "$1" "$0" && echo ready && read -r _'
        with real_holders.loop_device(tmp_path / "disk") as name, tmpfs(tmp_path) as point:
            device = name.split()[-1]
            with real_holders.running(among_own_mounts(point, mount, device), b"ready"):
                for purpose in Purpose:
                    assert "it is mounted where batchdiff cannot see" in usage(device, purpose).objection

    def test_claimed(self, device):
        fd = os.open(device, os.O_RDONLY | os.O_EXCL)
        for purpose in Purpose:
            assert "something has claimed it" in usage(device, purpose).objection
        os.close(fd)
