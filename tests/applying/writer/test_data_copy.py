"""The copying of data into a new image.

Guards applying/writer/data_stores.py.
"""

import errno
import os
import random

import notation
import numpy as np
import pytest
from oracle import guest_bytes, source

from batchdiff.applying.writer.data_copy import Copier
from batchdiff.applying.writer.data_stores import CompressedStore, PlainStore
from batchdiff.errors import ImageError
from batchdiff.extents import Kind, from_runs
from batchdiff.files.read_write import write_all
from batchdiff.image.open import open_image
from batchdiff.qcow2.entries import COPIED
from batchdiff.qcow2.geometry import CompressionType, Geometry
from batchdiff.units import KIB, MIB

CLUSTERS = np.array([0, 2, 3, 7], dtype=np.int64)
DATA = from_runs([(0, 1, Kind.DATA), (2, 2, Kind.DATA), (5, 1, Kind.ZERO), (7, 1, Kind.DATA)])
TEXT = "64k:A 64k:B 64k:C 64k:D 64k:E 64k:- 64k:F 64k:G"
PICKED = "64k:A 128k:- 64k:C 64k:D 64k:G"


@pytest.fixture
def target(tmp_path):
    fd = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def picked(whole: bytes) -> bytes:
    return b"".join(whole[number << 16 : (number + 1) << 16] for number in CLUSTERS.tolist())


def store_plain(path, target, start=65536):
    with open_image(source(path)) as image:
        store = PlainStore(Copier(target, image, lambda: None), Geometry(65536), start)
        entries = store.store(DATA, CLUSTERS)
    assert store.end == start + len(CLUSTERS) * 65536
    assert store.refcounts() is None
    assert entries.tolist() == [(start + number * 65536) | int(COPIED) for number in range(len(CLUSTERS))]
    return os.pread(target, len(CLUSTERS) << 16, start).ljust(len(CLUSTERS) << 16, b"\0")


def make(tmp_path, kind):
    if kind == "raw":
        return notation.write_raw(tmp_path / "g.img", TEXT)
    return notation.write_qcow2(tmp_path / "g.qcow2", TEXT, compressed=kind == "compressed")


@pytest.mark.parametrize("kind", ["raw", "qcow2", "compressed"])
def test_plain_clusters_follow_each_other(tmp_path, target, kind):
    assert store_plain(make(tmp_path, kind), target) == picked(notation.content(TEXT))


@pytest.mark.parametrize(
    "error", [errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EIO]
)
def test_without_copy_file_range(tmp_path, target, monkeypatch, error):
    def refuse(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "copy_file_range", refuse)
    assert store_plain(make(tmp_path, "raw"), target) == picked(notation.content(TEXT))


def test_copy_file_range_that_stops_half_way(tmp_path, target, monkeypatch):
    real = os.copy_file_range
    calls = []

    def some(source_fd, target_fd, count, from_offset, to_offset):
        calls.append(count)
        if len(calls) % 3 == 0:
            return 0
        return real(source_fd, target_fd, min(count, 5000), from_offset, to_offset)

    monkeypatch.setattr(os, "copy_file_range", some)
    assert store_plain(make(tmp_path, "raw"), target) == picked(notation.content(TEXT))


def test_a_full_disk(tmp_path, target, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "copy_file_range", fail)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        store_plain(make(tmp_path, "raw"), target)


@pytest.mark.parametrize(("call", "names_guest"), [("pread", True), ("pwrite", False)])
def test_a_failing_disk_is_the_one_that_is_named(tmp_path, target, monkeypatch, call, names_guest):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = make(tmp_path, "raw")
    monkeypatch.setattr(os, "copy_file_range", fail)
    for each in (call, f"{call}v"):
        monkeypatch.setattr(os, each, fail)
    with pytest.raises(ImageError if names_guest else OSError) as caught:
        store_plain(path, target)
    assert (getattr(caught.value, "path", None) == str(path)) is names_guest


def test_the_end_of_an_odd_file_is_filled_with_zeros(tmp_path, target):
    path = tmp_path / "odd.img"
    path.write_bytes(b"x" * 65537)
    with open_image(source(path)) as image:
        PlainStore(Copier(target, image, lambda: None), Geometry(65536), 0).store(
            from_runs([(0, 2, Kind.DATA)]), np.arange(2)
        )
    assert os.pread(target, MIB, 0) == b"x" * 65537 + bytes(511)


def test_subclusters_go_to_their_places(tmp_path, target):
    """Data in granules 3 and 34 of 2 KiB: two clusters, all else in them stays a hole."""
    path = notation.write_raw(tmp_path / "g.img", "128k:A")
    runs = from_runs([(3, 1, Kind.DATA), (4, 1, Kind.ZERO), (34, 1, Kind.DATA)])
    with open_image(source(path)) as image:
        PlainStore(Copier(target, image, lambda: None), Geometry(65536, extended_l2=True), 0).store(
            runs, np.arange(2)
        )
    found = os.pread(target, 128 * KIB, 0).ljust(128 * KIB, b"\0")
    expected = bytearray(128 * KIB)
    for granule in (3, 34):
        expected[granule * 2048 : (granule + 1) * 2048] = notation.data("A", granule * 2048, 2048)
    assert found == expected


@pytest.mark.parametrize("kind", CompressionType)
def test_what_does_not_compress_is_stored_as_it_is(tmp_path, target, kind):
    path = tmp_path / "g.img"
    path.write_bytes(random.Random(1).randbytes(65536) + b"words " * 10922 + b"four")
    with open_image(source(path)) as image:
        store = CompressedStore(Copier(target, image, lambda: None), Geometry(65536, compression_type=kind), 0)
        first, second = store.store(from_runs([(0, 2, Kind.DATA)]), np.arange(2)).tolist()
        assert os.pread(target, 65536, 0) == guest_bytes(image, 0, 65536)
    assert first == int(COPIED)
    assert second & 1 << 62
    assert store.end == 2 * 65536
    assert store.refcounts().tolist() == [1, 1]


def test_compressed_clusters_keep_their_order(tmp_path, target):
    """More clusters than are under way at once, of very different sizes."""
    rng = random.Random(2)
    pieces = [rng.randbytes(rng.choice([0, 100, 30_000])).ljust(65536, b"\0") for _ in range(200)]
    path = tmp_path / "g.img"
    path.write_bytes(b"".join(pieces))
    geometry = Geometry(65536, compression_type=CompressionType.ZSTD)
    with open_image(source(path)) as image:
        store = CompressedStore(Copier(target, image, lambda: None), geometry, 0)
        hosts = store.store(from_runs([(0, 200, Kind.DATA)]), np.arange(200)).tolist()
    offsets = [host & ((1 << 54) - 1) for host in hosts]
    assert offsets == sorted(offsets)
    assert len(set(offsets)) == 200
    assert store.refcounts().sum() >= 200


@pytest.mark.parametrize("read_before", [False, True])
def test_zeros_that_were_never_written_stay_holes(tmp_path, target, read_before):
    """Also where the page cache has them, and the filesystem calls them data."""
    path = tmp_path / "g.img"
    notation.run("fallocate", "-l", "1M", str(path))
    with path.open("r+b") as file:
        file.seek(512 << 10)
        file.write(notation.data("A", 0, 5000))
    notation.run("sync", str(path))
    if read_before:
        path.read_bytes()
    with open_image(source(path)) as image:
        Copier(target, image, lambda: None).copy(0, 1 << 20, 1 << 20)
        assert os.pread(target, 1 << 20, 1 << 20).ljust(1 << 20, b"\0") == guest_bytes(image, 0, 1 << 20)
    os.fsync(target)
    assert os.fstat(target).st_blocks * 512 == 8192


def test_write_all_goes_on_after_short_writes(tmp_path, target, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:7], offset))
    write_all(target, b"0123456789" * 5, 3)
    assert os.pread(target, 100, 0) == b"\0\0\0" + b"0123456789" * 5
