"""The files below images: what may be opened, and what a descriptor and a fingerprint tell."""

from __future__ import annotations

import errno
import os
import pickle
import socket
from contextlib import closing

import notation
import pytest
from clocks import wait_for_another_ctime
from devices import attached, turn
from oracle import guest_bytes, source, within

from batchdiff.errors import ImageError
from batchdiff.image import files
from batchdiff.image.open import inspect, open_image
from batchdiff.image_source import ImageFormat, ImageSource

FORMATS = [ImageFormat.RAW, ImageFormat.QCOW2]


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def a_folder_in_a_file(path):
    path.write_bytes(bytes(512))
    return path / "a"


def a_file_below_a_loop(path):
    path.symlink_to(path)
    return path / "a"


def link_to(path, make):
    make(f"{path}.to")
    path.symlink_to(f"{path}.to")


THINGS = {
    "missing": (lambda path: None, "No such file"),
    "fifo": (os.mkfifo, "neither a regular file nor a block device"),
    "folder": (os.mkdir, "neither a regular file nor a block device"),
    "socket": (a_socket, "No such device"),
    "character-device": (lambda path: os.mknod(path, 0o20600, os.makedev(1, 5)), "neither a regular file"),
    "symbolic-link": (lambda path: path.symlink_to(notation.write_raw(f"{path}.to", "1M:A")), "symbolic link"),
    "dangling-link": (lambda path: path.symlink_to("nowhere"), "link whose target does not exist.*activate"),
    "link-to-a-fifo": (lambda path: link_to(path, os.mkfifo), "symbolic link"),
    "link-to-a-folder": (lambda path: link_to(path, os.mkdir), "symbolic link"),
    "link-to-a-character-device": (lambda path: path.symlink_to("/dev/zero"), "symbolic link"),
    "link-to-itself": (lambda path: path.symlink_to(path), "symbolic link"),
    "below-a-loop": (a_file_below_a_loop, r"a/a: symbolic links in its path .*\. Correct the links"),
    "below-a-file": (a_folder_in_a_file, "Not a directory"),
    "empty": (lambda path: path.touch(), "is empty|not a qcow2 image"),
    "nul-in-the-name": (lambda path: path.parent / "a\0b", "it contains a null byte"),
    "name-too-long": (lambda path: path.parent / ("a" * 300), "too long"),
}


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize(("make", "match"), THINGS.values(), ids=THINGS)
def test_what_is_no_image_file_is_refused(tmp_path, image_format, make, match):
    path = make(tmp_path / "a") or tmp_path / "a"
    before = os.listdir("/proc/self/fd")
    with within(5), pytest.raises(ImageError, match=match):
        open_image(ImageSource(str(path), image_format))
    assert os.listdir("/proc/self/fd") == before


@pytest.fixture
def device(tmp_path):
    """A loop device."""
    with attached(notation.write_raw(tmp_path / "disk.img", "64k:A")) as path:
        yield path


def test_a_link_to_a_block_device_is_followed(tmp_path, device):
    (tmp_path / "lv").symlink_to("dm-0")
    (tmp_path / "dm-0").symlink_to(device)
    before = os.listdir("/proc/self/fd")
    with open_image(ImageSource(f"{tmp_path}/lv", ImageFormat.RAW)) as image:
        assert image.path == f"{tmp_path}/lv"
        assert guest_bytes(image, 0, image.virtual_size) == notation.content("64k:A")
        fd = image.layers[0].fd
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(fd, b"A", 0)
        assert not os.get_inheritable(fd)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("other", ["/dev/zero", "disk.img"])
def test_nothing_behind_a_link_is_opened_unless_it_is_a_block_device(tmp_path, monkeypatch, other):
    """Opening alone has effects on some devices: it moves tapes and starts watchdogs."""
    notation.write_raw(tmp_path / "disk.img", "64k:A")
    (tmp_path / "link").symlink_to(other)
    real = os.open

    def harmless(path, flags, *rest):
        assert flags & (os.O_PATH | os.O_NOFOLLOW), f"{path} was opened"
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", harmless)
    with pytest.raises(ImageError, match="symbolic link"):
        files.open_image_file(f"{tmp_path}/link")


@pytest.mark.parametrize("turned_after", [1, 2])
def test_a_link_that_is_turned_meanwhile_opens_no_other_file(tmp_path, monkeypatch, device, turned_after):
    """Whatever the link says by then: a block device that it led to, or nothing."""
    link, real, calls = tmp_path / "link", os.open, []
    notation.write_raw(tmp_path / "secret.img", "64k:S")
    link.symlink_to(device)

    def turning(path, flags, *rest):
        calls.append(path)
        try:
            return real(path, flags, *rest)
        finally:
            if len(calls) == turned_after:
                turn(link, "secret.img")

    monkeypatch.setattr(os, "open", turning)
    try:
        fd = files.open_image_file(str(link))
    except ImageError:
        assert turned_after == 1
    else:
        assert turned_after == 2
        assert os.fstat(fd).st_rdev == os.stat(device).st_rdev
        os.close(fd)


def test_a_raw_image_is_no_qcow2_image_and_the_other_way_round(tmp_path):
    raw = notation.write_raw(tmp_path / "a", "64k:A")
    with pytest.raises(ImageError, match="magic number"):
        open_image(ImageSource(str(raw), ImageFormat.QCOW2))
    qcow2 = notation.write_qcow2(tmp_path / "b", "64k:A")
    with open_image(ImageSource(str(qcow2), ImageFormat.RAW)) as image:
        assert guest_bytes(image, 0, image.virtual_size) == qcow2.read_bytes()


@pytest.mark.parametrize("write", [notation.write_raw, notation.write_qcow2])
def test_images_are_opened_read_only_and_closed(tmp_path, write):
    path = source(write(tmp_path / f"a.{write.__name__[6:]}", "64k:A"))
    before = os.listdir("/proc/self/fd")
    with open_image(path) as image:
        fd = image.layers[0].fd
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(fd, b"A", 0)
        assert not os.get_inheritable(fd)
    assert os.listdir("/proc/self/fd") == before


def test_a_missing_end_of_the_file_is_an_error(tmp_path):
    path = notation.write_raw(tmp_path / "a", "1000:A")
    with closing(files.ImageFile(str(path))) as file:
        assert file.read_exactly(1000, 0) == notation.content("1000:A")
        with pytest.raises(ImageError, match="ends before byte 1001"):
            file.read_exactly(1001, 0)


@pytest.mark.parametrize("write", [notation.write_raw, notation.write_qcow2])
def test_a_fault_of_the_disk_is_an_image_error(tmp_path, monkeypatch, write):
    def broken(fd, buffers, offset):
        raise OSError(errno.EIO, "Input/output error")

    path = write(tmp_path / f"a.{write.__name__[6:]}", "64k:A")
    with open_image(source(path)) as image:
        monkeypatch.setattr(os, "preadv", broken)
        with pytest.raises(ImageError, match="Input/output error") as caught:
            guest_bytes(image, 0, 512)
    assert "kernel log" in caught.value.remedy


def test_a_filesystem_that_cannot_seek_is_an_image_error(tmp_path, monkeypatch):
    def broken(fd, offset, whence):
        raise OSError(errno.EIO, "Input/output error")

    with open_image(source(notation.write_raw(tmp_path / "a.raw", "64k:A"))) as image:
        monkeypatch.setattr(os, "lseek", broken)
        with pytest.raises(ImageError, match="Input/output error"):
            guest_bytes(image, 0, 512)


def test_a_raw_image_cut_off_while_it_is_read_is_an_error(tmp_path):
    path = notation.write_raw(tmp_path / "a.raw", "64k:A 1:B")
    with open_image(source(path)) as image:
        segments = image.segments(0, image.virtual_size)
        os.truncate(path, 65535)
        with pytest.raises(ImageError, match="changed while it was being read"):
            image.fill(memoryview(bytearray(image.virtual_size)), 0, segments)


def in_two_gulps(fd, buffers, offset, *, real=os.preadv):
    return real(fd, [buffers[0][: max(len(buffers[0]) // 2, 1)]], offset)


@pytest.mark.parametrize("write", [notation.write_raw, notation.write_qcow2])
def test_short_reads_are_continued(tmp_path, monkeypatch, write):
    path = write(tmp_path / f"a.{write.__name__[6:]}", "64k:A 64k:- 64k:B")
    monkeypatch.setattr(os, "preadv", in_two_gulps)
    with open_image(source(path)) as image:
        inspect(image)
        assert guest_bytes(image, 0, image.virtual_size) == notation.content("64k:A 64k:- 64k:B")


def replace(path):
    other = notation.write_raw(f"{path}.new", "64k:A")
    os.replace(other, path)


CHANGES = {
    "nothing": (lambda path: None, ""),
    "written": (lambda path: os.utime(path, ns=(1, 1)), "its modification time changed (mtime)"),
    "grown": (lambda path: os.truncate(path, 65537), "its size in bytes changed from 65536 to 65537"),
    "mode": (lambda path: os.chmod(path, 0o400), "it changed, perhaps only in its mode or name (ctime)"),
    "replaced": (replace, "another file is in its place"),
}


@pytest.mark.parametrize(("change", "said"), CHANGES.values(), ids=CHANGES)
def test_fingerprints_say_what_changed(tmp_path, change, said):
    path = notation.write_raw(tmp_path / "a.raw", "64k:A")
    os.utime(path, ns=(2, 2))
    with open_image(source(path)) as image:
        before = image.fingerprints()[0]
    wait_for_another_ctime(tmp_path)
    change(path)
    with open_image(source(path)) as image:
        found = before.changes(image.fingerprints()[0])
    assert found.startswith(said)
    assert bool(found) == bool(said)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EMFILE, "`ulimit -n`, `LimitNOFILE="),
        (errno.ENFILE, "fs.file-max"),
        (errno.ENOMEM, "memory"),
    ],
)
def test_what_helps_against_a_limit(monkeypatch, number, advice):
    """Also in the words of a worker, which the planner hears."""

    def refused(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(ImageError, match=os.strerror(number)) as caught:
        files.open_image_file("/images/a.img")
    heard = pickle.loads(pickle.dumps(caught.value))
    for error in (caught.value, heard):
        assert advice in error.remedy
        assert advice in str(error)
        assert ("permissions" in str(error)) is (number == errno.EACCES)


def test_the_end_of_a_long_run_of_data_is_looked_for_once(tmp_path, monkeypatch):
    """In preallocated blocks each search goes through all pages up to the end of the data."""
    path = notation.write_raw(tmp_path / "image", "1M:A 1M:- 1M:B")
    searches = []
    real = os.lseek

    def lseek(fd, offset, how):
        searches.append(how)
        return real(fd, offset, how)

    with closing(files.ImageFile(str(path))) as file:
        monkeypatch.setattr(os, "lseek", lseek)
        pieces = [list(file.data_runs(at, at + 4096)) for at in range(0, 3 << 20, 4096)]
    ends = [end for piece in pieces for _, end in piece]
    assert ends == [1 << 20] * 256 + [3 << 20] * 256
    assert searches.count(os.SEEK_HOLE) == 2
