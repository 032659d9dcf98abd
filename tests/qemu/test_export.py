"""batchdiff.qemu.export: one image for one process and its workers, and nothing of it left behind.

Guards qemu/background.py.
"""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import notation
import pytest

from batchdiff.errors import ImageError, ProgramError
from batchdiff.qemu import background
from batchdiff.qemu.export import BlockDevice, Export


@pytest.fixture
def path(tmp_path):
    raw, image = notation.write_raw(tmp_path / "raw", "1M:A 1M:-"), tmp_path / "image"
    notation.run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", str(raw), str(image))
    return image


@pytest.fixture
def fd(path):
    found = os.open(path, os.O_RDONLY)
    yield found
    os.close(found)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files, whose name is longer than that of a socket can be."""
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid):
    deadline = time.monotonic() + 60
    while is_running(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def head(export):
    connection = export.connect()
    buffer = memoryview(bytearray(4096))
    connection.read(0, buffer)
    connection.close()
    return bytes(buffer)


def test_a_disk_is_served_and_nothing_is_left(path, fd, temporary):
    before = sorted(os.listdir("/proc/self/fd"))
    export = Export(str(path), fd, BlockDevice("vmdk"))
    assert list(temporary.iterdir()) == []
    assert export.size == 2 << 20
    assert head(export) == head(export) == notation.content("4k:A")
    pid = export._program._process.pid
    export.close()
    assert not is_running(pid)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_the_options_and_objects_of_a_device(path, fd, tmp_path):
    (tmp_path / "se,cret").write_text("abc")
    device = BlockDevice(
        "raw",
        (("size", "1048576"),),
        (f"secret,id=s,file={tmp_path}/se,,cret",),
        (str(tmp_path / "se,cret"),),
    )
    export = Export(str(path), fd, device)
    assert export.size == 1 << 20
    assert head(export) == path.read_bytes()[:4096]
    export.close()


def test_the_server_reads_no_other_file(tmp_path):
    """A descriptor file with another extent: the inspection of headers would refuse it before."""
    (tmp_path / "secret").write_bytes(b"s" * 65536)
    text = '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n\n' + (
        f'RW 128 FLAT "{tmp_path}/secret" 0\n'
    )
    path = tmp_path / "x.vmdk"
    path.write_text(text)
    assert notation.run("qemu-img", "info", "-f", "vmdk", str(path))  # it could, unconfined
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(ImageError, match="Permission denied"):
        Export(str(path), fd, BlockDevice("vmdk"))
    os.close(fd)


def test_a_vm_can_start_on_the_image_meanwhile(path, fd):
    """Whoever reads the image holds it as far as needed; a scan does not."""
    export = Export(str(path), fd, BlockDevice("vmdk"))
    assert head(export) == notation.content("4k:A")
    notation.run("qemu-io", "-f", "vmdk", "-c", "write -q 0 64k", str(path))
    export.close()


def test_a_qemu_nbd_that_prints_without_end(fd, path, tmp_path, monkeypatch):
    program = tmp_path / "bin" / "qemu-nbd"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexec yes\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with pytest.raises(ImageError, match=r"QEMU cannot open .*image.*y; y|SIGXFSZ") as caught:
        Export(str(path), fd, BlockDevice("vmdk"))
    assert caught.value.remedy.startswith("If QEMU lacks what the image needs")


def test_missing(fd, path, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramError, match=r"cannot run qemu-nbd.*Install it \(Debian: qemu-utils\)"):
        Export(str(path), fd, BlockDevice("vmdk"))


def test_no_folder_for_the_socket(fd, path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    with pytest.raises(ProgramError) as caught:
        Export(str(path), fd, BlockDevice("vmdk"))
    why = "no socket can be created in the folder for temporary files (No such file or directory)"
    assert (caught.value.what, caught.value.why) == ("cannot run qemu-nbd", why)
    assert caught.value.remedy.startswith("Set TMPDIR to a folder")


@pytest.mark.parametrize(
    ("number", "why", "remedy"),
    [
        (errno.EIO, "Input/output error", "kernel log"),
        (errno.ENOSPC, "has no space left", "Make room"),
        (errno.EDQUOT, "disk quota", "raise the quota"),
    ],
)
def test_a_folder_for_the_socket_with_a_fault(fd, path, temporary, monkeypatch, number, why, remedy):
    """The advice is about the fault: the folder is the right one."""

    def failing(name, *_):
        raise OSError(number, os.strerror(number), name)

    monkeypatch.setattr(os, "mkdir", failing)
    with pytest.raises(ProgramError) as caught:
        Export(str(path), fd, BlockDevice("vmdk"))
    assert caught.value.what == "cannot run qemu-nbd"
    assert "no socket can be created in the folder for temporary files (" in caught.value.why
    assert why in caught.value.why
    assert remedy in caught.value.remedy
    assert "TMPDIR" not in caught.value.remedy


def test_what_a_server_prints_is_described_in_one_line(fd, path):
    """Also while it runs, and in a worker, which cannot know whether it has ended."""
    export = Export(str(path), fd, BlockDevice("vmdk"))
    os.pwrite(export._program._output, b"one.\ntwo\n", 0)
    for ended in (True, False):
        assert export._program.described(ended=ended).endswith("`: one; two")
    export.close()


_SERVE = """
import os, sys, time
from batchdiff.qemu import export, background
{before}
fd = os.open(sys.argv[1], os.O_RDONLY)
found = export.Export(sys.argv[1], fd, export.BlockDevice("vmdk"))
{after}
os.write(1, b"%d %d\\n" % (found._program._process.pid, os.getpgid(found._program._process.pid)))
time.sleep(600)
"""


def killed(path, *, before="", after="", expected=2):
    """Kill a process that has an export; return the processes of the export, after any that it prints itself."""
    argv = [sys.executable, "-c", _SERVE.format(before=before, after=after), str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == expected
        assert all(is_running(pid) for pid in pids)
        process.send_signal(signal.SIGKILL)
    return pids


def test_it_ends_with_a_process_that_is_killed(path, temporary):
    assert all(ends(pid) for pid in killed(path))
    assert list(temporary.iterdir()) == []


def test_it_ends_with_a_process_that_is_killed_though_a_worker_lives(path):
    after = "worker = os.fork()\nif not worker: time.sleep(600)\nos.write(1, b'%d ' % worker)"
    worker, *pids = killed(path, after=after, expected=3)
    try:
        assert all(ends(pid) for pid in pids)
        assert is_running(worker)
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_stopped_server_ends_with_a_process_that_is_killed(path):
    after = "os.kill(found._program._process.pid, 19)"
    assert all(ends(pid) for pid in killed(path, after=after))


def test_a_server_that_nobody_has_reached_ends_with_a_process_that_is_killed(path):
    """It has no connection whose end it could notice."""
    before = (
        "def late(self, *_):\n"
        "    p = self._program._process.pid\n"
        "    os.write(1, b'%d %d\\n' % (p, os.getpgid(p))); time.sleep(600)\n"
        "export.Export._connection = late"
    )
    assert all(ends(pid) for pid in killed(path, before=before))


def test_the_watcher_outlives_nothing(path, fd):
    export = Export(str(path), fd, BlockDevice("vmdk"))
    group = os.getpgid(export._program._process.pid)
    assert group not in {os.getpgid(0), export._program._process.pid}
    assert os.getsid(group) == os.getsid(0)
    export.close()
    assert not is_running(group)
    assert background.programs.running == set()
