"""Which files can share blocks, found without changing any.

Guards linux/reflinks.py, linux/dedupe_range.py.
"""

import os

import pytest
from filesystems import MAKE, mounted, opened
from notation import run

from batchdiff.linux.dedupe_range import dedupe, explain_refusal, is_supported
from batchdiff.linux.reflinks import NoSharing, why_not_shared
from batchdiff.units import KIB


def pair(folder, other=None):
    paths = folder / "template.img", (other or folder) / "guest.img"
    for path in paths:
        path.write_bytes(bytes(64 * KIB))
    return paths


def reason(one, other):
    with opened(one) as source, opened(other) as target:
        return why_not_shared(source, target)


@pytest.mark.parametrize(("kind", "expected"), [("ext4", NoSharing.NOT_SUPPORTED), ("xfs", None), ("btrfs", None)])
def test_by_filesystem(place, kind, expected):
    one, other = pair(place(kind))
    before = other.stat()
    assert reason(one, other) is expected
    with opened(one) as source, opened(other) as target:
        assert is_supported(source, target) is (expected is None)
    assert other.stat() == before


def test_xfs_without_reflinks(tmp_path, monkeypatch):
    monkeypatch.setitem(MAKE, "xfs", ("mkfs.xfs", "-q", "-m", "reflink=0"))
    with mounted(tmp_path, "xfs") as point:
        assert reason(*pair(point)) is NoSharing.NOT_SUPPORTED


def test_two_filesystems(place):
    assert reason(*pair(place("xfs"), place("btrfs"))) is NoSharing.TWO_FILESYSTEMS
    with opened(pair(place("xfs"))[0]) as source, opened(pair(place("btrfs"))[1]) as target:
        with pytest.raises(OSError, match="cross-device") as caught:
            dedupe(source, 0, target, 0, 64 * KIB)
        assert "another filesystem" in explain_refusal(caught.value, source, "guest").why


def test_subvolumes_of_one_btrfs(place):
    folder = place("btrfs")
    run("btrfs", "subvolume", "create", str(folder / "sub"))
    one, other = pair(folder, folder / "sub")
    assert one.stat().st_dev != other.stat().st_dev
    assert reason(one, other) is None
    with opened(one) as source, opened(other) as target:
        assert dedupe(source, 0, target, 0, 64 * KIB) == 64 * KIB


def test_checksums_on_one_side_only(place):
    one, other = pair(place("btrfs"))
    other.unlink()
    other.touch()
    run("chattr", "+C", str(other))
    other.write_bytes(bytes(64 * KIB))
    assert reason(one, other) is NoSharing.CHECKSUMS
    with opened(one) as source, opened(other) as target:
        with pytest.raises(OSError, match="Invalid argument") as caught:
            dedupe(source, 0, target, 0, 64 * KIB)
        assert "checksums" in explain_refusal(caught.value, source, str(other)).why


def test_a_block_device(place):
    one, other = pair(place("xfs"))
    device = run("losetup", "--find", "--show", str(other)).strip()
    try:
        assert reason(one, device) is NoSharing.BLOCK_DEVICE
    finally:
        run("losetup", "--detach", device)


def test_a_user_who_may_not_try_gets_no_refusal(place):
    """Whoever applies may have more rights than whoever plans."""
    one, other = pair(place("xfs"))
    with opened(one) as source, opened(other) as target:
        os.seteuid(65534)
        try:
            assert is_supported(source, target) is None
            assert why_not_shared(source, target) is None
        finally:
            os.seteuid(0)


def test_bytes_that_differ_are_not_shared(place):
    one, other = pair(place("xfs"))
    other.write_bytes(bytes(60 * KIB) + b"x" * 4 * KIB)
    with opened(one) as source, opened(other) as target:
        assert dedupe(source, 0, target, 0, 64 * KIB) == 0
        assert dedupe(source, 0, target, 0, 60 * KIB) == 60 * KIB
