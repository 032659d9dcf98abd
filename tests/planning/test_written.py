"""What of an overlay's data is free, against asking for each run of it alone."""

import os

import notation
import pytest
from filesystems import mounted
from seeds import seeded

from batchdiff.extents import Kind, from_runs
from batchdiff.image.opening import open_image
from batchdiff.image.sharing import placed
from batchdiff.image.source import ImageFormat, ImageSource
from batchdiff.planning import written
from batchdiff.planning.compare import UNIT
from batchdiff.planning.written import Free, free_bytes
from batchdiff.qcow2.entries import Origin
from batchdiff.units import KIB, ceil_div


def naive(image, extents, granule):
    """As free_bytes, run by run."""
    holes = shared = 0
    for first, count in extents.pairs(Kind.DATA).tolist():
        segments = image.segments(first * granule, (first + count) * granule)
        zeros = [segment for segment in segments if segment.origin is Origin.ZERO]
        holes += sum(max(zero.end // UNIT - ceil_div(zero.start, UNIT), 0) * UNIT for zero in zeros)
        shared += sum(place.end - place.start for place in placed(image, segments))
    return Free(holes, shared)


def random_runs(rng, units):
    """Runs of data and zeros, with and without gaps; the last may reach past the end."""
    at, runs = rng.randrange(4), []
    while at < units:
        count = min(rng.choice([1, 1, 2, 5, 40]), units - at)
        runs.append((at, count, rng.choice([Kind.DATA, Kind.DATA, Kind.ZERO])))
        at += count + rng.choice([0, 1, 2, 9])
    return from_runs(runs)


def random_text(rng, size, letters):
    parts, left = [], size
    while left:
        length = min(rng.choice([1, 1, 3, 8, 29]), left)
        parts.append(f"{length * 2}k:{rng.choice(letters)}")
        left -= length
    return " ".join(parts)


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_free_bytes_are_those_of_each_run(tmp_path, monkeypatch, form):
    rng = seeded()
    for number in range(8):
        path = tmp_path / f"{number}.img"
        if form == "raw":
            notation.write_raw(path, random_text(rng, 500, "A0--"))
        else:
            notation.write_qcow2(path, random_text(rng, 500, "A0--"), options="cluster_size=4k")
        monkeypatch.setattr(written, "_STRETCH", rng.choice([16, 64, 1 << 20]) * KIB)
        with open_image(ImageSource(str(path), ImageFormat(form))) as image:
            for granule in (512, 4096, 65536):
                extents = random_runs(rng, ceil_div(image.virtual_size, granule))
                assert free_bytes(image, extents, granule, sharing=True) == naive(image, extents, granule)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_shared_blocks_are_those_of_each_run(tmp_path, monkeypatch, kind):
    """A reflink copy, with some of it rewritten."""
    rng = seeded()
    monkeypatch.setattr(written, "_STRETCH", 1 << 20)
    with mounted(tmp_path, kind) as point:
        template, guest = point / "template.img", point / "guest.img"
        notation.write_raw(template, "4M:A 1M:- 3M:B")
        notation.run("cp", "--reflink=always", str(template), str(guest))
        with open(guest, "r+b") as file:
            for _ in range(20):
                os.pwrite(file.fileno(), b"x" * 4096, rng.randrange(2047) * 4096)
        with open_image(ImageSource(str(guest), ImageFormat.RAW)) as image:
            for _ in range(10):
                extents = random_runs(rng, 2048)
                found = free_bytes(image, extents, 4096, sharing=True)
                assert found == naive(image, extents, 4096)
                assert found.shared > 0
                assert free_bytes(image, extents, 4096, sharing=False) == Free(found.holes, 0)


def test_no_data_is_no_question(tmp_path):
    notation.write_raw(tmp_path / "guest.img", "1M:A")
    with open_image(ImageSource(str(tmp_path / "guest.img"), ImageFormat.RAW)) as image:
        image.segments = None
        assert free_bytes(image, from_runs([(0, 5, Kind.ZERO)]), 4096, sharing=True) == Free(0, 0)


def test_a_guest_of_many_runs_is_asked_a_few_times(tmp_path, monkeypatch):
    notation.write_raw(tmp_path / "guest.img", "4M:A")
    with open_image(ImageSource(str(tmp_path / "guest.img"), ImageFormat.RAW)) as image:
        asked = []
        segments = image.segments
        monkeypatch.setattr(
            image, "segments", lambda start, end: asked.append((start, end)) or segments(start, end)
        )
        extents = from_runs([(unit, 1, Kind.DATA) for unit in range(0, 1024, 2)])
        assert free_bytes(image, extents, 4096, sharing=True) == naive(image, extents, 4096)
        assert asked[0] == (0, 1023 * 4096)
        assert len(asked) == 1 + 512
