"""Holes of a qcow2 file itself: clusters that it maps and nobody ever wrote, found with few questions."""

import os
import random
import subprocess

import notation
import pytest
from oracle import guest_bytes, source

from batchdiff.image.files import ImageFile
from batchdiff.image.open import open_image
from batchdiff.qcow2.entries import Origin
from batchdiff.units import KIB, MIB

CLUSTER, SIZE, PAGE = 64 * KIB, 4 * MIB, 4 * KIB


def mixed_image(path, seed):
    """An image whose clusters lie in any order in its file."""
    clusters = list(range(SIZE // CLUSTER))
    random.Random(seed).shuffle(clusters)
    notation.write_qcow2(path, f"{SIZE}:-")
    notation.qemu_io(path, *(f"write -P {cluster + 1} {cluster * CLUSTER} {CLUSTER}" for cluster in clusters))
    return path


def placed(image):
    """By guest page, where its cluster puts it in the file: asked of QEMU, which knows of no holes there."""
    return {
        part["start"] + at: part["offset"] + at
        for part in notation.qemu_map(image, "qcow2")
        if "offset" in part
        for at in range(0, part["length"], PAGE)
    }


def punch(path, offset, length):
    subprocess.run(["fallocate", "--punch-hole", "-o", str(offset), "-l", str(length), path], check=True)


@pytest.mark.parametrize("seed", range(6))
def test_what_is_a_hole_in_the_file_is_zeros(tmp_path, seed):
    image_path = mixed_image(tmp_path / "a.qcow2", seed)
    where = placed(image_path)
    rng = random.Random(seed)
    punched = set()
    for offset in rng.sample(sorted(where.values()), 12):
        length = rng.choice([PAGE, CLUSTER, 3 * CLUSTER])
        length = min(length, os.path.getsize(image_path) - offset)
        punch(image_path, offset, length)
        punched |= set(range(offset, offset + length, PAGE))
    with open_image(source(image_path)) as image:
        start = rng.randrange(SIZE // PAGE // 2) * PAGE
        segments = image.segments(start, SIZE)
        content = guest_bytes(image, 0, SIZE)
    kinds = {
        at: (segment.origin, segment.address + at - segment.start if segment.origin is Origin.FILE else 0)
        for segment in segments
        for at in range(segment.start, segment.end, PAGE)
    }
    assert kinds == {
        at: (Origin.ZERO, 0) if offset in punched else (Origin.FILE, offset)
        for at, offset in where.items()
        if at >= start
    }
    assert content == notation.qemu_content(image_path, "qcow2")


def test_clusters_past_the_end_are_left_for_reading_to_find(tmp_path):
    image_path = mixed_image(tmp_path / "a.qcow2", 1)
    where = placed(image_path)
    end = sorted(where.values())[-20]
    with open_image(source(image_path)) as image:
        whole = image.segments(0, SIZE)
        os.truncate(image_path, end)
        image.layers[0]._size = end
        assert [segment.origin for segment in image.segments(0, SIZE)] == [segment.origin for segment in whole]


def test_a_run_of_data_is_asked_for_once_for_all_that_lies_in_it(tmp_path, monkeypatch):
    image_path = mixed_image(tmp_path / "a.qcow2", 2)
    asked = []

    def data_runs(*arguments, real=ImageFile.data_runs):
        asked.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(ImageFile, "data_runs", data_runs)
    with open_image(source(image_path)) as image:
        assert len(image.segments(0, SIZE)) > 50
    assert len(asked) == 1
