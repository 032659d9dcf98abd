"""The samples of real images: the same ones in every format, only where there is data, and not too many.

Guards discovery/samples.py.
"""

import os

import notation
import numpy as np
import pytest
from oracle import source

from batchdiff.discovery.sample_offsets import SAMPLE
from batchdiff.discovery.samples import ReadCount, SampleShape, most_bytes, take_samples
from batchdiff.errors import ImageError
from batchdiff.image.open import open_image
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.units import KIB

FEW = SampleShape(16, 0)
LONG = SampleShape(64, 3)
TEXT = "1M:A 3M:- 1M:0 1M:B 10M:- 64k:C 60k:D 4k:- 8M:E 100k:F 512:G"


def counted(path, shape=FEW):
    count = ReadCount()
    with open_image(source(path)) as image:
        return take_samples(image, shape, count), count


def samples(path, shape=FEW):
    return counted(path, shape)[0]


def numbers_with_data(text):
    """The numbers of all samples that are not zeros, as the notation has them."""
    content = np.frombuffer(notation.content(text), dtype=np.uint8)
    padded = np.zeros(-(-len(content) // SAMPLE) * SAMPLE, dtype=np.uint8)
    padded[: len(content)] = content
    return np.flatnonzero(padded.reshape(-1, SAMPLE).any(axis=1))


@pytest.mark.parametrize("shape", [SampleShape(4096, 0), SampleShape(4096, 3)])
def test_a_small_image_is_read_in_full(tmp_path, shape):
    taken = samples(notation.write_raw(tmp_path / "a.img", TEXT), shape)
    assert taken.level == 0
    assert taken.numbers.tolist() == numbers_with_data(TEXT).tolist()


@pytest.mark.parametrize("shape", [FEW, LONG])
def test_a_large_one_is_read_in_part(tmp_path, shape):
    taken, count = counted(notation.write_raw(tmp_path / "a.img", TEXT), shape)
    assert taken.level > 0
    assert shape.probes / 4 < count.reads <= shape.probes
    assert 0 < count.read_bytes <= count.reads * shape.probe
    assert np.isin(taken.numbers, numbers_with_data(TEXT)).all()


@pytest.mark.parametrize("shape", [FEW, LONG, SampleShape(4096, 3)])
def test_the_bytes_to_read_are_known_in_advance(tmp_path, shape):
    image = notation.write_raw(tmp_path / "a.img", TEXT)
    most, size = most_bytes(str(image), shape), image.stat().st_size
    assert counted(image, shape)[1].read_bytes <= most <= min(size, shape.probes * shape.probe)
    sparse = notation.write_raw(tmp_path / "b.img", "64k:A 64M:-")
    assert most_bytes(str(sparse), shape) == 64 * KIB
    assert most_bytes(str(tmp_path / "none"), shape) == 0


def test_of_a_file_whose_blocks_cannot_be_counted_nothing_is_expected(tmp_path, monkeypatch):
    def broken(_fd, path):
        raise ImageError(f"cannot find the extents of {path}", path=path)

    monkeypatch.setattr("batchdiff.discovery.samples.allocated_bytes", broken)
    assert most_bytes(str(notation.write_raw(tmp_path / "a.img", TEXT)), FEW) == 0


@pytest.mark.parametrize("form", ["monolithicFlat", "twoGbMaxExtentFlat", "data file"])
def test_the_bytes_to_read_include_those_of_other_files(tmp_path, form):
    raw = notation.write_raw(tmp_path / "a.img", TEXT)
    image = tmp_path / "vm"
    if form == "data file":
        options = ("-O", "qcow2", "-o", f"data_file={tmp_path}/vm.data,data_file_raw=on")
    else:
        options = ("-O", "vmdk", "-o", f"subformat={form}")
    notation.run("qemu-img", "convert", "-f", "raw", *options, str(raw), str(image))
    count = ReadCount()
    with open_image(ImageSource(str(image), ImageFormat(options[1]))) as opened:
        take_samples(opened, FEW, count)
    assert 512 * KIB < count.read_bytes <= most_bytes(str(image), FEW) == FEW.probes * FEW.probe
    # Only files beside the image count, and only regular ones.
    os.mkfifo(tmp_path / "fifo")
    for name in ("/dev/zero", "fifo", "../elsewhere", "missing"):
        (tmp_path / "forged").write_text(f'# Disk DescriptorFile\nRW 8192 FLAT "{name}" 0\n')
        assert most_bytes(str(tmp_path / "forged"), FEW) < KIB


@pytest.mark.parametrize("options", ["", "cluster_size=4k", "cluster_size=2M", "extended_l2=on"])
def test_the_format_makes_no_difference(tmp_path, options):
    raw = samples(notation.write_raw(tmp_path / "a.img", TEXT))
    other = samples(notation.write_qcow2(tmp_path / "a.qcow2", TEXT, options=options))
    # What takes less space may be sampled at another level: then the higher one is part of the other.
    few, many = sorted((raw, other), key=lambda each: -each.level)
    assert set(few.hashes.tolist()) <= set(many.hashes.tolist())
    assert len(few.hashes)


def test_compressed_clusters_are_sampled_too(tmp_path):
    """They take less space than their data, so the first level is too low."""
    text = "64k:a 16M:A"
    path = notation.write_qcow2(tmp_path / "a.qcow2", text, compressed=True)
    assert 4 < counted(path)[1].reads <= 16


def test_equal_bytes_at_another_place_are_another_sample(tmp_path):
    for name, offset in (("a", 0), ("b", 1)):
        with open(tmp_path / f"{name}.img", "wb") as file:
            file.truncate(4 * SAMPLE)
            file.seek(offset * SAMPLE)
            file.write(b"x" * SAMPLE)
    one, other = samples(tmp_path / "a.img"), samples(tmp_path / "b.img")
    assert (one.numbers.tolist(), other.numbers.tolist()) == ([0], [1])
    assert one.hashes[0] != other.hashes[0]


@pytest.mark.parametrize("text", ["1M:-", "1M:0", "512:0"])
def test_nothing_but_zeros_gives_no_samples(tmp_path, text):
    assert len(samples(notation.write_raw(tmp_path / "a.img", text)).hashes) == 0


def test_a_huge_image_is_sampled_where_its_data_is(tmp_path):
    with open(tmp_path / "a.img", "wb") as file:
        file.truncate(8 << 40)
        for place in (0, 5 << 40, (8 << 40) - (2 << 20)):
            file.seek(place)
            file.write(b"x" * (2 << 20))
    taken, count = counted(tmp_path / "a.img", SampleShape(512, 0))
    assert len(taken.hashes) == count.reads == 96
