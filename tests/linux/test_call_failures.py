"""What is said of a failed call is true of the files, and its advice works: each is followed by hand here.

Real attributes, mounts, projects and limits; only what this kernel cannot be made to do is a plain errno.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import subprocess

import pytest
from filesystems import mounted, tmpfs
from notation import run

from batchdiff.linux.call_failures import AGAIN, explain, naming, obstacle, reason
from batchdiff.linux.permissions import Deed
from batchdiff.linux.rename import rename_without_replacing


def fault_of(act):
    """What is said of the error that a call ends with."""
    with pytest.raises(OSError) as caught:  # noqa: PT011  # which one is what the test is about
        act()
    return explain(caught.value)


def follow(remedy):
    """Run the command that a remedy gives, and return it."""
    command = re.findall(r"`([a-z]+ [^`]*)`", remedy)[-1]
    run("sh", "-c", command)
    return command.split()[0]


@pytest.fixture
def place(tmp_path):
    """A folder with a file in it; whatever locks them is taken off in the end."""
    folder = tmp_path / "images of a guest"
    folder.mkdir()
    (folder / "vm.img").write_bytes(b"disk")
    yield folder
    subprocess.run(["chattr", "-R", "-i", "-a", str(folder)], check=False, capture_output=True, timeout=60)


def rename(folder):
    source = str(folder / "vm.img")
    rename_without_replacing(source, f"{source}.aside")


def unlink(folder):
    os.unlink(folder / "vm.img")


def create(folder):
    os.close(os.open(folder / "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY))


@pytest.mark.parametrize(
    ("attribute", "target", "act"),
    [
        ("i", "vm.img", rename),
        ("i", "vm.img", unlink),
        ("a", "vm.img", rename),
        ("i", ".", rename),
        ("i", ".", create),
        ("a", ".", unlink),
    ],
)
def test_attributes(place, attribute, target, act):
    run("chattr", f"+{attribute}", str(place / target))
    fault = fault_of(lambda: act(place))
    word = {"i": "immutable", "a": "append-only"}[attribute]
    assert f"{place / target} is {word}".replace("/.", "") in fault.why
    assert fault.remedy.endswith(AGAIN)
    assert follow(fault.remedy) == "chattr"
    act(place)


@pytest.mark.parametrize(("attribute", "target"), [("i", "vm.img"), ("a", "vm.img"), ("i", "."), ("a", ".")])
def test_attributes_show_beforehand(place, attribute, target):
    assert obstacle(Deed.RENAME, str(place / "vm.img")) is None
    run("chattr", f"+{attribute}", str(place / target))
    assert obstacle(Deed.RENAME, str(place / "vm.img")) == fault_of(lambda: rename(place))


def test_files_may_be_made_in_an_append_only_folder(place):
    run("chattr", "+a", str(place))
    assert obstacle(Deed.CREATE, str(place / "new")) is None
    create(place)


def test_a_file_that_is_mounted_by_itself(place):
    """As a container has it; the kernel says no more than that it is busy."""
    path = str(place / "vm.img")
    run("mount", "--bind", path, path)
    try:
        fault = fault_of(lambda: rename(place))
        assert f"{path} is a mount point" in fault.why
        assert obstacle(Deed.RENAME, path) == fault
    finally:
        run("umount", path)
    assert obstacle(Deed.RENAME, path) is None


@pytest.mark.parametrize("act", [rename, unlink, create])
def test_a_filesystem_that_is_read_only(tmp_path, act):
    with tmpfs(tmp_path) as point:
        (point / "vm.img").touch()
        run("mount", "-o", "remount,ro", str(point))
        fault = fault_of(lambda: act(point))
        assert f"{point} (tmpfs) is mounted read-only" in fault.why
        assert follow(fault.remedy) == "mount"
        act(point)


def test_a_read_only_snapshot_on_a_filesystem_that_can_be_written_to(tmp_path):
    with mounted(tmp_path, "btrfs") as point:
        run("btrfs", "subvolume", "create", str(point / "sub"))
        (point / "sub/vm.img").touch()
        run("btrfs", "property", "set", "-ts", str(point / "sub"), "ro", "true")
        fault = fault_of(lambda: rename(point / "sub"))
    assert fault.why == (
        f"the part of {point} (btrfs) that contains {point}/sub/vm.img is read-only, as a snapshot can be"
    )
    assert fault.remedy == f"Make that part writable, {AGAIN}"


def test_a_view_that_is_read_only(tmp_path):
    """Not the filesystem, only this mount of it."""
    with tmpfs(tmp_path) as point:
        (point / "vm.img").touch()
        run("mount", "--bind", str(point), str(point))
        run("mount", "-o", "remount,bind,ro", str(point))
        try:
            assert follow(fault_of(lambda: rename(point)).remedy) == "mount"
            rename(point)
        finally:
            run("umount", str(point))


def test_a_name_that_is_taken(place):
    (place / "vm.img.aside").touch()
    fault = fault_of(lambda: rename(place))
    assert f"another file already has the name {place / 'vm.img.aside'}" in fault.why
    (place / "vm.img.aside").rename(place / "away")
    rename(place)


def test_another_quota_project(tmp_path):
    """The kernel calls it a cross-device link, though all is on one filesystem."""
    with mounted(tmp_path, "xfs") as point:
        (point / "vm.img").touch()
        run("chattr", "-p", "7", "+P", str(point))
        fault = fault_of(lambda: rename(point))
        assert "belongs to quota project 0, but its folder accepts only files of project 7" in fault.why
        assert obstacle(Deed.RENAME, str(point / "vm.img")) == fault
        assert follow(fault.remedy) == "chattr"
        rename(point)


def test_two_filesystems(tmp_path):
    with tmpfs(tmp_path) as point:
        (point / "a").touch()
        fault = fault_of(lambda: os.link(point / "a", tmp_path / "b"))
        assert fault.why == f"{point / 'a'} and {tmp_path / 'b'} are on different filesystems"


def test_a_disk_that_is_full(tmp_path):
    with tmpfs(tmp_path) as point:
        path = str(point / "fill")
        with open(path, "wb", buffering=0) as file:

            def fill():
                with naming(path):
                    os.posix_fallocate(file.fileno(), 0, 1 << 30)

            fault = fault_of(fill)
    assert fault == (f"the filesystem of {point} has no space left", f"Make room, {AGAIN}")


def test_no_inodes_left(tmp_path):
    with tmpfs(tmp_path) as point:
        run("mount", "-o", "remount,nr_inodes=2", str(point))
        (point / "one").touch()
        assert fault_of(lambda: create(point)).why == f"the filesystem of {point} has no inodes left"


def test_a_limit_on_the_size_of_files(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open(tmp_path / "file", "wb", buffering=0) as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            fault = fault_of(lambda: os.ftruncate(file.fileno(), 8192))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert "ulimit -f" not in explain(OSError(errno.EFBIG, "File too large")).remedy
    assert "this process may not write files larger than 4096 bytes" in fault.why
    assert "ulimit -f unlimited" in fault.remedy


def test_a_quota_of_btrfs(tmp_path):
    """It has commands of its own."""
    with mounted(tmp_path, "btrfs") as point:
        run("btrfs", "quota", "enable", str(point))
        run("btrfs", "subvolume", "create", str(point / "vms"))
        run("btrfs", "qgroup", "limit", "1M", str(point / "vms"))
        image = point / "vms" / "vm.img"
        with pytest.raises(OSError) as caught:  # noqa: PT011  # its number follows
            image.write_bytes(bytes(2 << 20))
        assert caught.value.errno == errno.EDQUOT
        fault = explain(OSError(errno.EDQUOT, "", str(image)))
        assert fault.why == f"the disk quota on the filesystem of {point / 'vms'} is used up"
        assert follow(fault.remedy) == "btrfs"


def test_what_does_not_exist(place):
    """It may never have existed."""
    error = OSError(errno.ENOENT, "", str(place / "folder/vm.img"))
    assert f"{place / 'folder/vm.img'}, or a folder above it, does not exist" in reason(error)
    assert "Correct the path, or put back what is missing" in explain(error).remedy


def test_links_that_lead_in_a_circle(place):
    """Not only a link of the file's own name gives ELOOP."""
    (place / "loop").symlink_to("loop")
    fault = fault_of((place / "loop" / "vm.img").stat)
    assert "links among its folders lead in a circle" in fault.why


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.EIO, "dmesg"),
        (errno.ESTALE, "mount the filesystem again"),
        (errno.ENOTCONN, "mount the filesystem again"),
        (errno.EDQUOT, "repquota"),
        (errno.ETXTBSY, "swapoff"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENAMETOOLONG, "shorter names"),
        (errno.EBUSY, "fuser -v /no/such"),
        (errno.EACCES, "audit log"),
        (errno.EPERM, "audit log"),
        (errno.ELOOP, "move away what is there"),
        (errno.ENOSYS, "dmesg"),
    ],
)
def test_each_has_its_own_advice(code, said):
    fault = explain(OSError(code, os.strerror(code), "/no/such"))
    assert said in fault.remedy
    assert not re.search(r"apply|restore|purge|verify", fault.remedy)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_owners_and_modes_allow_it_only_if_they_were_looked_at(tmp_path, code):
    said = "though owners and modes allow it"
    (tmp_path / "vm.img").touch()
    assert said in explain(OSError(code, os.strerror(code), str(tmp_path / "vm.img"))).why
    fault = explain(OSError(code, os.strerror(code)))
    assert said not in fault.why
    assert fault.why.startswith(
        f"{os.strerror(code)}: the owner or mode of a file, a security module (AppArmor, SELinux) or"
    )
    assert fault.remedy.startswith("See `dmesg` and the audit log for what was denied, and allow it, ")


@pytest.mark.parametrize("code", sorted(errno.errorcode))
def test_every_error_is_explained_with_or_without_a_file(code):
    for error in (OSError(code, os.strerror(code)), OSError(code, os.strerror(code), b"/no/such", None, "/x")):
        fault = explain(error)
        assert fault.why
        assert fault.remedy.endswith(".")


@pytest.mark.parametrize(
    ("code", "why", "remedy"),
    [
        (errno.EBUSY, "Device or resource busy", f"Find out what is using it. Stop that, {AGAIN}"),
        (errno.EEXIST, "another file already has that name", f"Find out what it is and move it away, {AGAIN}"),
        (
            errno.EXDEV,
            "the file and its new name are on different filesystems",
            f"Put both on one filesystem, {AGAIN}",
        ),
    ],
)
def test_what_is_said_without_a_path(code, why, remedy):
    assert explain(OSError(code, os.strerror(code))) == (why, remedy)


@pytest.mark.parametrize("code", sorted(errno.errorcode))
def test_no_empty_word_stands_for_a_path(code):
    for text in explain(OSError(code, os.strerror(code))):
        assert not re.search(r"''|  |^ | $", text)


def test_a_file_is_named_only_if_the_error_has_none():
    with pytest.raises(OSError, match="/named") as caught, naming("/named"):
        raise OSError(errno.EIO, "Input/output error")
    assert caught.value.filename == "/named"
    with pytest.raises(OSError, match="/first"), naming("/second"):
        raise OSError(errno.EIO, "Input/output error", "/first")
