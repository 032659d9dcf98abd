"""How much is kept of where the images' bytes are: enough, and never more than fits."""

import shutil
import tracemalloc

import notation
import pytest
from oracle import guest_bytes, recorded, source
from patching import OFFSET, Patched
from scan_jobs import scan_job

from batchdiff.image.open import open_image
from batchdiff.planning.scan import one_range, windows
from batchdiff.planning.scan.compare import WINDOW
from batchdiff.planning.scan.windows import MOST_KEPT, Stride, map_windows, spans_to_read
from batchdiff.units import KIB, MIB, TIB


def test_only_windows_that_are_needed_are_kept(tmp_path):
    path = notation.write_raw(tmp_path / "a.img", "4k:- 4k:A 2040k:- 4k:B 508k:-")
    with open_image(source(path)) as image:
        segments = image.segments(0, image.virtual_size)
    found = map_windows(segments, 0, spans_to_read(segments, 0, []))
    assert found.spans == {0: (4 * KIB, 8 * KIB), 4: (0, 4 * KIB)}
    assert set(found.segments) == {0, 4}
    assert [part.end for part in found.segments[4]] == [2052 * KIB, 2560 * KIB]
    assert found.kept == 2 + 3 + 2


def test_the_stride_grows_while_little_is_kept():
    stride = Stride(128)
    for expected in (1, 2, 4, 8, 16, 32, 64, 128, 128):
        assert stride.windows == expected
        stride.lengthen_after(MOST_KEPT // 4)
    stride.windows = 8
    stride.lengthen_after(MOST_KEPT // 4 + 1)
    assert stride.windows == 8


def test_the_stride_shrinks_where_too_much_would_be_kept():
    stride = Stride(128)
    assert stride.fits(MOST_KEPT, 128)
    assert not stride.fits(MOST_KEPT + 1, 128)
    assert stride.windows == 64
    assert stride.fits(MOST_KEPT + 1, 1)  # it cannot be less


def in_no_order(path):
    """A qcow2 with clusters of 512 bytes, each a segment of its own: the order is turned round in every table."""
    notation.write_qcow2(path, "4M:A 28M:-", options="cluster_size=512")
    image = Patched(path)
    for index in range(image["l1_entries"]):
        table = image[image.l1(index)] & OFFSET
        if table:
            words = [image[table + 8 * n] for n in range(64)]
            for n, word in enumerate(reversed(words)):
                image[table + 8 * n] = word
    return image.save(path)


def test_memory_does_not_grow_with_guests_in_no_order(tmp_path, monkeypatch):
    """With all 8,192 segments of 6 guests kept for eight windows this takes 8.6 MB."""
    for module in (windows, one_range):
        monkeypatch.setattr(module, "MOST_KEPT", 64)
    template = in_no_order(tmp_path / "t.qcow2")
    guests = [shutil.copy(template, tmp_path / f"{number}.qcow2") for number in range(6)]
    notation.qemu_io(guests[5], f"write -P 7 {3 * WINDOW + 512} 512")
    scanner = scan_job(template, *map(recorded, guests)).open()
    tracemalloc.start()
    try:
        found = scanner.scan(0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        scanner.close()
    assert set(found.differences) == {5}
    assert peak < 3 * MIB


@pytest.mark.parametrize("size", [TIB, 15 * TIB])
def test_an_open_image_keeps_nothing_of_its_empty_tables(tmp_path, size):
    path = notation.write_qcow2(tmp_path / "a.qcow2", f"64k:A {size - 128 * KIB}:- 64k:B")
    open_image(source(path)).close()
    tracemalloc.start()
    try:
        with open_image(source(path)) as image:
            kept, peak = tracemalloc.get_traced_memory()
            assert guest_bytes(image, size - 64 * KIB, 64 * KIB) == notation.data("B", size - 64 * KIB, 64 * KIB)
    finally:
        tracemalloc.stop()
    assert kept < 64 * KIB
    assert peak < 2 * MIB
