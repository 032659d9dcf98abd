"""Fingerprints: which two are of one file, and what has changed between them."""

from dataclasses import replace

import pytest

from batchdiff.files.fingerprint import Fingerprint, fingerprint_at

FILE = Fingerprint(device=1, inode=7, size=10, mtime_ns=20, ctime_ns=30, filesystem="uuid:a")
UNNAMED = replace(FILE, filesystem="")
DEVICE = Fingerprint(device=1, inode=0, size=10, mtime_ns=0, ctime_ns=0)

SAME = {
    "itself": (FILE, FILE, True),
    "written": (FILE, replace(FILE, size=11, mtime_ns=21), True),
    "another-inode": (FILE, replace(FILE, inode=8), False),
    "after-a-reboot": (FILE, replace(FILE, device=2), True),
    "another-filesystem": (FILE, replace(FILE, filesystem="uuid:b"), False),
    "no-identifier-then": (UNNAMED, replace(FILE, size=11), True),
    "no-identifier-after-a-reboot": (UNNAMED, replace(UNNAMED, device=2, ctime_ns=31), True),
    "block-device": (DEVICE, replace(DEVICE, device=2), True),
    "block-device-of-another-size": (DEVICE, replace(DEVICE, size=11), False),
}


@pytest.mark.parametrize(("before", "now", "is_same"), SAME.values(), ids=SAME)
def test_one_file(before, now, is_same):
    assert before.is_same_file(now) is is_same
    assert now.is_same_file(before) is is_same
    changes = before.changes(now)
    assert ("another" in changes) is not is_same
    if before is not DEVICE:
        assert (changes == "another file is in its place") is not is_same


@pytest.mark.parametrize("now", [UNNAMED, FILE])
def test_what_was_written_to_after_a_reboot_may_be_another_file(now):
    """Without a lasting identifier of the filesystem, as on NFS, whose device number then is another one."""
    before, now = UNNAMED, replace(now, device=2, mtime_ns=21, ctime_ns=31)
    assert not before.is_same_file(now)
    perhaps = "it was written to, or another file is in its place"
    assert before.changes(now) == now.changes(before) == perhaps
    assert before.changes(replace(now, inode=8)) == "another file is in its place"


def test_equal_ones_have_one_hash():
    rebooted = replace(FILE, device=2)
    assert rebooted == FILE
    assert hash(rebooted) == hash(FILE)
    assert replace(FILE, ctime_ns=31) != FILE
    assert FILE != "x"


def test_what_was_written_to():
    assert FILE.was_written_to(replace(FILE, mtime_ns=21))
    assert FILE.was_written_to(replace(FILE, size=11))
    assert not FILE.was_written_to(replace(FILE, inode=8, ctime_ns=31))
    assert FILE.is_unwritten(replace(FILE, ctime_ns=31))
    assert not FILE.is_unwritten(replace(FILE, mtime_ns=21))


def test_changes_are_listed():
    assert FILE.changes(replace(FILE, size=11, mtime_ns=21, ctime_ns=31)) == (
        "its size in bytes changed from 10 to 11 and its modification time changed (mtime)"
    )


def test_no_file_is_not_another_one():
    assert FILE.changes(None) == DEVICE.changes(None) == "it is gone, or cannot be examined"


def test_a_block_device_of_another_size():
    """It cannot be told from one that took over its name, as /dev/sdb may after a reboot."""
    assert DEVICE.changes(replace(DEVICE, size=11)) == (
        "its size in bytes changed from 10 to 11, so it was resized, or another block device has its name"
    )
    assert DEVICE.changes(replace(DEVICE, device=2)) == ""
    assert DEVICE.changes(FILE) == FILE.changes(DEVICE) == "another file is in its place"


def test_links_are_not_followed_to_files(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    found = fingerprint_at(str(tmp_path / "link"))
    assert found is not None
    assert found.inode == (tmp_path / "link").lstat().st_ino
    assert fingerprint_at(str(tmp_path / "missing")) is None
    assert fingerprint_at("\0") is None
