"""batchdiff.doctor.folder: what filesystems can do, tried on real ones."""

import ctypes
import errno
import os

import pytest
from filesystems import mounted, overlayfs, tmpfs
from notation import run

from batchdiff.doctor.fact import Ability
from batchdiff.doctor.folder import folder_facts
from batchdiff.image.in_use import lease

GOOD, LIMITED, MISSING = Ability.GOOD, Ability.LIMITED, Ability.MISSING
ALL = {"filesystem", "other hosts", "free space", "writing", "reflinks", "extent maps (FIEMAP)", "hole punching"}
ALL |= {"leases"}


def abilities(folder):
    facts = folder_facts(str(folder))
    assert {fact.subject for fact in facts} == {os.path.abspath(folder)}
    assert all(fact.effect for fact in facts if fact.ability is not GOOD)
    return {fact.name: fact.ability for fact in facts}


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_filesystems_of_this_machine(tmp_path, kind):
    with mounted(tmp_path, kind) as folder:
        before = os.listdir(folder)
        found = abilities(folder)
        assert os.listdir(folder) == before
        assert folder_facts(str(folder))[0].value.startswith(f"{kind}, /dev/loop")
    assert found.keys() == ALL
    assert {name for name, ability in found.items() if ability is LIMITED} == (
        {"reflinks"} if kind == "ext4" else set()
    )


def test_a_filesystem_without_extent_maps(tmp_path):
    with tmpfs(tmp_path) as folder:
        found = abilities(folder)
    assert found["extent maps (FIEMAP)"] is LIMITED
    assert found["leases"] is GOOD


def test_a_filesystem_that_does_not_show_who_has_a_file_open(tmp_path):
    with overlayfs(tmp_path) as folder:
        assert abilities(folder)["leases"] is LIMITED


def test_a_machine_without_leases(tmp_path, monkeypatch):
    (tmp_path / "switch").write_text("0\n")
    monkeypatch.setattr(lease, "_SWITCH", str(tmp_path / "switch"))
    with tmpfs(tmp_path) as folder:
        (fact,) = (fact for fact in folder_facts(str(folder)) if fact.name == "leases")
    assert (fact.value, fact.ability) == ("disabled on this machine", LIMITED)
    assert fact.effect.endswith("`sysctl fs.leases-enable=1` enables leases.")


def test_a_filesystem_without_unnamed_files_keeps_no_file(tmp_path, monkeypatch):
    opened = os.open

    def named_only(path, flags, *arguments, **options):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return opened(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", named_only)
    assert abilities(tmp_path)["writing"] is GOOD
    assert os.listdir(tmp_path) == []


def test_a_filesystem_without_holes(tmp_path, monkeypatch):
    def fallocate(*_arguments):
        ctypes.set_errno(errno.EOPNOTSUPP)
        return -1

    monkeypatch.setattr("batchdiff.doctor.folder._libc.fallocate", fallocate)
    assert abilities(tmp_path)["hole punching"] is LIMITED


def test_a_read_only_filesystem(tmp_path):
    with mounted(tmp_path, "ext4") as folder:
        run("mount", "-o", "remount,ro", str(folder))
        found = abilities(folder)
    assert found["writing"] is MISSING
    assert "reflinks" not in found


def test_little_space(tmp_path):
    with tmpfs(tmp_path, "size=8m") as folder:
        assert abilities(folder)["free space"] is LIMITED


@pytest.mark.parametrize("name", ["missing", "a file", "nul\0"])
def test_no_folder(tmp_path, name):
    (tmp_path / "a file").touch()
    (fact,) = folder_facts(os.path.join(tmp_path, name))
    assert (fact.name, fact.ability) == ("folder", MISSING)
    assert fact.value
    assert fact.effect


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "ceph", "gfs2", "fuse.glusterfs", "fuse", "type 0x47504653", ""])
def test_a_filesystem_of_several_hosts(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("batchdiff.doctor.folder.filesystem_of", lambda _fd: kind)
    assert abilities(tmp_path)["other hosts"] is LIMITED
