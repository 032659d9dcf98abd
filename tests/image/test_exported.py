"""batchdiff.image.exported: images that QEMU reads for us, shared by workers, and errors if it ends or hangs.

Guards qemu/shared_export.py.
"""

import contextlib
import gc
import itertools
import os
import resource
import signal
import threading
from pathlib import Path

import notation
import pytest
from oracle import guest_bytes

from batchdiff.errors import ImageError
from batchdiff.image import exported
from batchdiff.image.exported import ExportedLayer
from batchdiff.image.image import Image
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.qcow2.entries import Origin
from batchdiff.qemu import background, export, programs, shared_export

CONTENT = "100k:A 1M:- 64k:0 1M:B 9M:- 70k:C 900k:- 512:D"


def accept(_read, _size):
    """Inspect nothing: these images are our own."""


@pytest.fixture(autouse=True)
def forget_runs(monkeypatch):
    monkeypatch.setattr(exported, "_kept", {})


@pytest.fixture
def source(tmp_path):
    raw, path = notation.write_raw(tmp_path / "raw", CONTENT), tmp_path / "image.vmdk"
    notation.run(
        "qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", str(raw), str(path)
    )
    return ImageSource(str(path), ImageFormat.VMDK)


@pytest.fixture
def layer(source):
    found = ExportedLayer(source, None, accept)
    found.start()
    yield found
    found.close()


@pytest.fixture
def started(monkeypatch):
    """The exports that are started."""
    found = []
    real = shared_export.Export
    monkeypatch.setattr(shared_export, "Export", lambda *given: found.append(given[0]) or real(*given))
    return found


def read(layer, start=0, end=None):
    image = Image(ImageSource(layer.path, ImageFormat.VMDK), [layer])
    return guest_bytes(image, start, (image.virtual_size if end is None else end) - start)


def servers():
    """The processes that this one has started, and that still run, apart from the fork server of other tests."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        started = [int(word) for word in file.read().split()]
    return [pid for pid in started if b"fork_server" not in Path(f"/proc/{pid}/cmdline").read_bytes()]


def server():
    """The process of the only qemu-nbd."""
    found = [pid for pid in servers() if Path(f"/proc/{pid}/comm").read_text() == "qemu-nbd\n"]
    assert len(found) == 1
    return found[0]


def test_reads_as_qemu_reads_it(layer):
    expected = notation.content(CONTENT)
    assert read(layer)[: len(expected)] == expected
    for start, length in [
        (0, 1),
        (511, 2),
        (99 << 10, 5000),
        ((1 << 20) - 7, 3 << 20),
        (layer.virtual_size - 1, 1),
    ]:
        assert read(layer, start, start + length) == (expected + bytes(1 << 20))[start : start + length]


def test_segments_are_gapless_and_holes_are_found(layer):
    size = layer.virtual_size
    for start, end in [(0, size), (512, 1024), (99 << 10, 101 << 10), (size - 512, size), (4096, 3 << 20)]:
        segments = layer.parts(start, end)
        assert (segments[0].start, segments[-1].end) == (start, end)
        assert all(one.end == other.start for one, other in itertools.pairwise(segments))
        for each in segments:
            if each.origin is Origin.ZERO:
                found = layer.next_data(each.start)
                assert found is None or (found == each.end if each.end < end else found >= end)
    assert {each.origin for each in layer.parts(0, size)} == {Origin.ZERO, Origin.EXPORTED}
    assert sum(each.end - each.start for each in layer.parts(0, size) if each.origin is Origin.EXPORTED) < 3 << 20
    assert layer.next_data(size) is None


def test_adjacent_runs_are_one_and_runs_beyond_the_limit_are_joined(monkeypatch):
    runs = [(0, 1), (1, 2), (4, 5), (8, 9)]
    assert exported._joined(10, iter(runs)).starts.tolist() == [0, 4, 8]
    monkeypatch.setattr(exported, "_MOST_LISTED", 2)
    found = exported._joined(10, iter(runs))
    assert (found.starts.tolist(), found.ends.tolist()) == ([0, 4], [2, 9])


def test_layers_of_one_file_share_an_export_that_ends_with_the_last(source, started):
    before = servers()
    layers = [ExportedLayer(source, None, accept) for _ in range(3)]
    for each in layers:
        each.start()
    assert len(started) == 1
    layers[0].close()
    assert read(layers[1], 0, 4096) == notation.content("4k:A")
    layers[1].close()
    layers[2].close()
    assert servers() == before


def test_a_file_that_changed_gets_a_new_export(source, layer, started):
    os.utime(source.path, (1, 1))
    other = ExportedLayer(source, None, accept)
    other.start()
    assert started == [source.path]
    other.close()


def test_nothing_is_left_open(source):
    def count():
        gc.collect()
        return sorted(os.listdir("/proc/self/fd"))

    before = count()
    for _ in range(3):
        layer = ExportedLayer(source, None, accept)
        read(layer)
        layer.close()
    assert count() == before


def test_a_forked_worker_uses_the_export_of_its_parent(layer, started):
    read(layer, 0, 4096)
    pid = os.fork()
    if pid == 0:
        try:
            right = read(layer, 0, 8192) == notation.content("8k:A") and not started
            layer.close()
            os._exit(0 if right else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert read(layer, 0, 4096) == notation.content("4k:A")


def test_threads_read_at_the_same_time(layer):
    expected, wrong = notation.content(CONTENT), []

    def work():
        for start in range(0, 2 << 20, 64 << 10):
            if read(layer, start, start + 4096) != expected[start : start + 4096]:
                wrong.append(start)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong


def test_a_server_that_is_killed(layer):
    os.kill(server(), signal.SIGKILL)
    with pytest.raises(ImageError, match=r"cannot read .*image.vmdk: qemu-nbd, .* has ended: .*SIGKILL"):
        read(layer)


def test_a_server_that_is_stopped(source, monkeypatch):
    monkeypatch.setattr(export, "_WAIT", 1.0)
    layer = ExportedLayer(source, None, accept)
    layer.start()
    os.kill(server(), signal.SIGSTOP)
    with pytest.raises(
        ImageError, match=r"cannot read .*image.vmdk: qemu-nbd, .* did not answer within 1 seconds"
    ):
        read(layer)
    before = server()
    layer.close()
    assert before not in servers()


def test_an_export_that_was_ended_for_another_user_starts_again(layer, source, started):
    pid = server()
    exported.end_exports(layer.fd)
    assert pid not in servers()
    assert read(layer, 0, 4096) == notation.content("4k:A")
    assert started == [source.path]


def test_an_image_that_qemu_refuses(source):
    with open(source.path, "r+b") as file:
        file.truncate(1024)
    layer = ExportedLayer(source, None, accept)
    with pytest.raises(ImageError, match=r"QEMU cannot open .*image.vmdk: .*qemu-nbd.*exit code 1"):
        layer.start()
    layer.close()


def test_without_qemu_nbd(source, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    layer = ExportedLayer(source, None, accept)
    with pytest.raises(ImageError, match=r"cannot run qemu-nbd: No such file or directory.*Debian: qemu-utils"):
        layer.start()
    layer.close()


@pytest.mark.parametrize("left", range(14))
def test_too_few_descriptors(source, left):
    """At each of the calls that need one, the error names the image and the limit, and nothing stays open."""
    layer, fillers, failed = ExportedLayer(source, None, accept), [], None
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(each) for each in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 40, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(layer.fd))
        for _ in range(left):
            os.close(fillers.pop())
        layer.start()
    except ImageError as error:
        failed = error
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        layer.close()
        for fd in fillers:
            os.close(fd)
    assert left not in {0, 4, 13} or (failed is None) == (left == 13)
    assert failed is None or source.path in str(failed)
    assert failed is None or "ulimit -n" in failed.remedy
    assert servers() == []


def test_another_file_that_takes_its_place_is_not_read(source, tmp_path):
    layer = ExportedLayer(source, None, accept)
    os.rename(source.path, tmp_path / "away")
    notation.write_raw(tmp_path / "image.vmdk", "1M:Z")
    assert read(layer, 0, 4096) == notation.content("4k:A")
    layer.close()


def test_the_server_is_confined(layer):
    with open(f"/proc/{server()}/limits") as file:
        limits = file.read()
    assert str(programs.MEMORY) in limits
    assert str(background._MOST_PRINTED) in limits
    with open(f"/proc/{server()}/status") as file:
        assert "NoNewPrivs:\t1" in file.read()
