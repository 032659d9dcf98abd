"""Every buffer that image bytes are read into begins on a page: if not, some processors read five times slower."""

import os
from collections import Counter

import notation
import pytest
from oracle import recorded, source
from overlays import geometry_of, write
from scan_jobs import scan_job

from batchdiff.applying.checks.verify import Comparison, verify
from batchdiff.applying.writer.image_writer import NewImage
from batchdiff.choices import VerifyMode
from batchdiff.extents import Kind, from_runs
from batchdiff.files.memory import address_of, page_aligned, scratch
from batchdiff.image import files
from batchdiff.image.content_digest import content_digest
from batchdiff.image.open import open_image
from batchdiff.plan.overlay_options import Compression, OverlayOptions
from batchdiff.planning.sizes.compressed_estimate import Sample, stored_lengths
from batchdiff.qcow2.geometry import Geometry
from batchdiff.units import KIB, MIB

PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def misaligned(monkeypatch):
    """How many reads went to the start of a page, and how many elsewhere."""
    found: Counter[bool] = Counter()
    real = os.preadv

    def seen(fd, buffers, offset):
        assert len(buffers) == 1
        found[address_of(buffers[0]) % PAGE != 0] += 1
        return real(fd, buffers, offset)

    monkeypatch.setattr(files.os, "preadv", seen)
    return found


def assert_aligned(found):
    assert found[False] > 0  # else nothing was looked at
    assert found[True] == 0


@pytest.fixture
def images(tmp_path):
    template = notation.write_raw(tmp_path / "t.img", "2M:A 1M:- 1M:B")
    guest = notation.write_raw(tmp_path / "g.img", "1M:A 4k:C 1020k:A 1M:- 1M:D")
    return template, guest


def test_scan(images, misaligned):
    template, guest = images
    scanner = scan_job(template, recorded(guest)).open()
    assert scanner.scan(0).differences
    scanner.close()
    assert_aligned(misaligned)


def test_digest(images, misaligned):
    with open_image(source(images[0])) as image:
        content_digest(image, check=lambda: None)
    assert_aligned(misaligned)


def test_native_verification(images, misaligned):
    verify(Comparison(source(images[1]), source(images[1])), VerifyMode.NATIVE)
    assert_aligned(misaligned)


def test_compressed_estimate(images, misaligned):
    stored_lengths(Sample(source(images[1]), Geometry(64 * KIB), (0, 1, 17)))
    assert_aligned(misaligned)


@pytest.mark.parametrize("compression", [Compression.NONE, Compression.ZSTD])
def test_writing_an_overlay(images, tmp_path, misaligned, monkeypatch, compression):
    monkeypatch.setattr(os, "copy_file_range", _cannot_copy)
    geometry = geometry_of(OverlayOptions(compression=compression))
    extents = from_runs([(0, 17, Kind.DATA), (48, 16, Kind.DATA)])
    write(
        tmp_path / "o.qcow2",
        images[1],
        NewImage(4 * MIB, geometry, extents, None, compression is not Compression.NONE, False),
    )
    assert_aligned(misaligned)


def _cannot_copy(*_):
    raise OSError(18, "Invalid cross-device link")


def test_tables_and_packed_clusters(tmp_path, misaligned):
    path = notation.write_qcow2(tmp_path / "t.qcow2", "64k:a 64k:B 64k:c", compressed=True)
    with open_image(source(path)) as image:
        content_digest(image, check=lambda: None)
    assert_aligned(misaligned)


def test_scratch_is_reused_but_not_if_huge():
    first, second = scratch(4 * KIB), scratch(4 * KIB)
    assert address_of(first) == address_of(second)
    large = scratch(8 * MIB)
    assert len(large) == 8 * MIB
    assert len(scratch(2 * MIB)) == 2 * MIB
    assert address_of(scratch(2 * MIB)) != address_of(large)


def test_memory_of_a_forked_process_is_its_own():
    buffer = page_aligned(PAGE)
    child = os.fork()
    if child == 0:
        buffer[0] = 1
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert buffer[0] == 0
