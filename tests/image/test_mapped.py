"""batchdiff.image.mapped: images that QEMU maps read as QEMU reads them, and no map leads out of the file.

Guards qemu/image_map.py.
"""

import itertools
import os
import struct
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import notation
import pytest
from oracle import guest_bytes

from batchdiff.errors import ImageError
from batchdiff.image import exported, mapped
from batchdiff.image.open import inspect, open_image
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.qcow2.entries import Origin
from batchdiff.qemu import qemu_img

FORMATS = ["vdi", "vpc", "parallels", "qed", "vmdk"]
CONTENT = "100k:A 1M:- 64k:0 1M:B 9M:- 70k:C 900k:- 512:D"


def make(folder, image_format, *options, content=CONTENT):
    raw, path = notation.write_raw(folder / "raw", content), folder / f"image.{image_format}"
    notation.run("qemu-img", "convert", "-f", "raw", "-O", image_format, *options, str(raw), str(path))
    return ImageSource(str(path), ImageFormat(image_format))


def by_qemu(source):
    """The content of an image, as QEMU converts it to raw."""
    target = f"{source.path}.raw"
    notation.run("qemu-img", "convert", "-f", source.format, "-O", "raw", source.path, target)
    with open(target, "rb") as file:
        return file.read()


def read(source):
    with open_image(source) as image:
        inspect(image)
        return guest_bytes(image, 0, image.virtual_size)


@pytest.fixture(autouse=True)
def forget_maps(monkeypatch):
    monkeypatch.setattr(mapped, "_kept", {})


@pytest.fixture
def maps(monkeypatch):
    """The images that QEMU maps."""
    asked = []
    real = qemu_img.file_map
    monkeypatch.setattr(
        qemu_img, "file_map", lambda source, **most: asked.append(source.path) or real(source, **most)
    )
    return asked


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        *((name, ()) for name in FORMATS),
        ("vdi", ("-o", "static=on")),
        ("vpc", ("-o", "subformat=fixed")),
        ("vpc", ("-o", "force_size=on")),
        ("vmdk", ("-o", "zeroed_grain=on")),
        ("qed", ("-o", "cluster_size=4096")),
        ("qed", ("-o", "cluster_size=1048576")),
    ],
)
def test_reads_as_qemu_reads_it(tmp_path, image_format, options):
    source = make(tmp_path, image_format, *options)
    expected = by_qemu(source)
    assert expected.startswith(notation.content(CONTENT))
    assert read(source) == expected


@pytest.mark.parametrize("image_format", FORMATS)
def test_segments_are_gapless_and_holes_are_found(tmp_path, image_format):
    source = make(tmp_path, image_format)
    with open_image(source) as image:
        size = image.virtual_size
        for start, end in [(0, size), (512, 1024), (99 << 10, 101 << 10), (size - 512, size), (4096, 3 << 20)]:
            segments = image.segments(start, end)
            assert (segments[0].start, segments[-1].end) == (start, end)
            assert all(one.end == other.start for one, other in itertools.pairwise(segments))
        holes = [each for each in image.segments(0, size) if each.origin is Origin.ZERO]
        assert holes
        for hole in holes:
            assert not any(guest_bytes(image, hole.start, min(hole.end - hole.start, 1 << 20)))
            assert image.next_data(hole.start) in {hole.end, None}
        assert image.next_data(size - 1) in {size - 1, None}


def test_holes_of_the_file_are_not_read(tmp_path):
    """Else a file of a few KiB could keep a scan busy with terabytes of zeros."""
    source = make(tmp_path, "vdi", content="2M:A 2M:B 2M:C")
    with open(source.path, "r+b") as file:
        start = os.path.getsize(source.path) - (6 << 20)
        for at in (start, start + (5 << 20)):
            file.seek(at)
            file.write(bytes(1 << 20))
    notation.run("fallocate", "-d", source.path)
    assert read(source) == by_qemu(source)
    with open_image(source) as image:
        found = [(each.start, each.end) for each in image.segments(0, 6 << 20) if each.origin is Origin.FILE]
        # Blocks of the file are not aligned with those of the disk.
        data = [(start, end) for start, end in found if end - start > 4096]
        assert sum(end - start for start, end in found) <= (4 << 20) + 3 * 4096
        assert [(start >> 20, end >> 20) for start, end in data] in ([(0, 5)], [(1, 5)])
        assert image.next_data(4096) == data[0][0]


def test_next_data_beyond_many_holes(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "_MOST_LOOKED_AT", 1)
    source = make(tmp_path, "vmdk", content="64k:A 1M:- 64k:A 1M:- 64k:B")
    with open_image(source) as image:
        for offset in image.layers[0]._map.offsets[:2].tolist():
            notation.run("fallocate", "-p", "-o", str(offset), "-l", "64KiB", source.path)
        assert [image.next_data(at) for at in (0, 65536)] == [65536 + (1 << 20), 2 * (65536 + (1 << 20))]


def test_an_image_is_mapped_once_until_it_changes(tmp_path, maps):
    source = make(tmp_path, "vdi")
    for _ in range(3):
        read(source)
    assert len(maps) == 1
    notation.run("qemu-io", "-f", "vdi", "-c", "write -q -P 7 2M 64k", source.path)
    assert read(source)[2 << 20 : (2 << 20) + 65536] == b"\x07" * 65536
    assert len(maps) == 2


def test_maps_are_kept_up_to_a_limit(tmp_path, maps, monkeypatch):
    monkeypatch.setattr(mapped, "_MOST_KEPT", 4)
    (tmp_path / "other").mkdir()
    one, other = make(tmp_path, "vmdk"), make(tmp_path / "other", "vmdk")
    for source in (one, other, one):
        read(source)
    assert maps == [one.path, other.path, one.path]


def test_a_file_that_is_replaced_while_qemu_maps_it_is_refused(tmp_path, monkeypatch):
    source = make(tmp_path, "vdi")
    (tmp_path / "other").mkdir()
    other = make(tmp_path / "other", "vdi", content="8M:X")
    real = qemu_img.file_map

    def replaced(*arguments, **options):
        text = real(*arguments, **options)
        os.replace(other.path, source.path)
        return text

    monkeypatch.setattr(qemu_img, "file_map", replaced)
    with pytest.raises(ImageError, match="changed while it was being read"):
        read(source)


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_truncated_image_is_refused(tmp_path, image_format):
    source = make(tmp_path, image_format)
    os.truncate(source.path, os.path.getsize(source.path) // 2)
    with pytest.raises(ImageError) as caught:
        read(source)
    assert source.path in str(caught.value)


@pytest.mark.parametrize(
    ("image_format", "table", "form", "entries", "problem"),
    [
        ("vdi", 512, "<I", (0, 0), "several parts"),
        ("vdi", 512, "<I", (0, 1 << 20), "past the end|cannot open"),
        ("vpc", 1536, ">I", (3, 3), "several parts"),
        ("vpc", 1536, ">I", (0, 1 << 30), "past the end|cannot open"),
        ("parallels", 64, "<I", (1, 1), "several parts"),
        ("parallels", 64, "<I", (1, 1 << 30), "past the end|cannot open|negative"),
    ],
)
def test_a_hostile_map_is_refused(tmp_path, image_format, table, form, entries, problem):
    """Blocks that all lie at one place of the file would unpack it to any size; others lie outside of it."""
    source = make(tmp_path, image_format, content="8M:A")
    with open(source.path, "r+b") as file:
        file.seek(table)
        file.write(b"".join(struct.pack(form, entry) for entry in entries))
    with pytest.raises(ImageError, match=problem) as caught:
        read(source)
    assert source.path in str(caught.value)


def test_data_that_qemu_does_not_map_is_refused(tmp_path, monkeypatch):
    source = make(tmp_path, "vdi")
    text = '[{"start": 0, "length": 4096, "depth": 0, "zero": false, "data": true}]'
    monkeypatch.setattr(qemu_img, "file_map", lambda *_, **__: text)
    with pytest.raises(ImageError, match="does not map its data to offsets") as caught:
        read(source)
    assert "(its map has a range without 'offset')" in caught.value.why


@pytest.mark.parametrize("number", ["null", '"x"', "1e3", str(1 << 70)])
def test_a_map_with_something_else_in_the_place_of_a_number(tmp_path, monkeypatch, number):
    source = make(tmp_path, "vdi")
    entry = f'{{"start": 0, "length": 4096, "depth": 0, "zero": false, "data": true, "offset": {number}}}'
    monkeypatch.setattr(qemu_img, "file_map", lambda *_, **__: f"[{entry}]")
    with pytest.raises(ImageError, match="does not map its data to offsets") as caught:
        read(source)
    assert "(its map has a value that is too large or not a whole number)" in caught.value.why


@pytest.mark.parametrize(
    "text",
    [
        '[{"start": 0, "length": 4096, "depth": 1, "zero": false, "data": true, "offset": 0}]',
        '[{"start": 4096, "length": 4096, "depth": 0, "zero": false, "data": true, "offset": 0}]',
        '[{"start": 0, "length": 4096, "depth": 0, "zero": true, "data": false}]\nqemu-img: a warning',
        '[{"start": 0, "length": 4096, "depth": 0, "zero": true, "data": false},\n',
        "",
    ],
)
def test_a_map_that_is_not_of_this_file_alone_or_not_whole_is_refused(tmp_path, monkeypatch, text):
    source = make(tmp_path, "vdi")
    monkeypatch.setattr(qemu_img, "file_map", lambda *_, **__: text)
    with pytest.raises(ImageError, match="does not map its data to offsets") as caught:
        read(source)
    assert ("the map ends too early" in str(caught.value)) is (not text)


def test_qemu_is_ended_once_its_map_is_too_long(tmp_path, monkeypatch):
    source = make(tmp_path, "vdi")
    monkeypatch.setattr(qemu_img, "_LARGEST_MAP", 100)
    with pytest.raises(ImageError, match="the list of its ranges exceeds 100 B"):
        read(source)


def test_without_qemu(tmp_path, monkeypatch):
    source = make(tmp_path, "vdi")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match="qemu-img") as caught:
        read(source)
    assert "qemu-utils" in caught.value.remedy


@pytest.mark.parametrize(("module", "limit"), [(mapped, "_MOST_KEPT"), (exported, "_MOST_LISTED")])
def test_threads_may_keep_what_they_found_at_the_same_time(monkeypatch, module, limit):
    monkeypatch.setattr(module, limit, 300)
    monkeypatch.setattr(module, "_kept", {})
    one = types.SimpleNamespace(starts=[1])
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            done = [threads.submit(lambda t: [module._keep((t, n), one) for n in range(500)], t) for t in range(4)]
        for each in done:
            each.result()
    finally:
        sys.setswitchinterval(interval)
    assert len(module._kept) == 300
