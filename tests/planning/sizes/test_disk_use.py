"""What an overlay's data takes on its disk, against asking for each run of it alone."""

import os
import tracemalloc

import notation
import pytest
from filesystems import mounted
from seeds import seeded

from batchdiff.extents import Kind, from_runs
from batchdiff.image.open import open_image
from batchdiff.image.storage.shared_blocks import raw_extents, shared_extents
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.planning.scan.compare import UNIT
from batchdiff.planning.sizes import disk_use
from batchdiff.planning.sizes.disk_use import SpaceTaken, space_taken
from batchdiff.qcow2.entries import Origin
from batchdiff.units import KIB, MIB, ceil_div


def naive(image, extents, granule):
    """As space_taken, run by run and block by block."""
    blocks, shared = set(), 0
    for first, count in extents.pairs(Kind.DATA).tolist():
        segments = image.segments(first * granule, (first + count) * granule)
        stored = [segment for segment in segments if segment.origin is not Origin.ZERO]
        blocks |= {block for each in stored for block in range(each.start // UNIT, ceil_div(each.end, UNIT))}
        shared += sum(place.end - place.start for place in shared_extents(image, segments))
    return SpaceTaken(len(blocks) * UNIT, shared)


def taken(image, extents, granule, **options):
    """What data extents in granules take; where a raw image is on its disk makes no difference but in time."""
    data = extents.pairs(Kind.DATA) * granule
    found = space_taken(image, data, **options)
    assert found == space_taken(image, data, known=raw_extents(image), **options)
    return found


def data_bytes(path, runs, granule):
    with open_image(ImageSource(str(path), ImageFormat.RAW)) as image:
        extents = from_runs([(*run_, Kind.DATA) for run_ in runs])
        return taken(image, extents, granule, sharing=False).data


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
def test_the_space_taken_is_that_of_each_run(tmp_path, monkeypatch, form):
    rng = seeded()
    for number in range(8):
        path = tmp_path / f"{number}.img"
        if form == "raw":
            notation.write_raw(path, random_text(rng, 500, "A0--"))
        else:
            notation.write_qcow2(path, random_text(rng, 500, "A0--"), options="cluster_size=4k")
        monkeypatch.setattr(disk_use, "_STRETCH", rng.choice([16, 64, 1 << 20]) * KIB)
        with open_image(ImageSource(str(path), ImageFormat(form))) as image:
            for granule in (512, 4096, 65536):
                extents = random_runs(rng, ceil_div(image.virtual_size, granule))
                assert taken(image, extents, granule, sharing=True) == naive(image, extents, granule)


def naive_holes(image, extents, granule, file_start, unit):
    """The whole units, from the first to the last byte of the data in the file, to which nothing is written."""
    at, touched = file_start, set()
    for first, count in extents.pairs(Kind.DATA).tolist():
        start, end = first * granule, (first + count) * granule
        for each in image.segments(start, end):
            if each.origin is not Origin.ZERO:
                touched |= set(range((each.start - start + at) // unit, ceil_div(each.end - start + at, unit)))
        at += end - start
    return len(set(range(ceil_div(file_start, unit), at // unit)) - touched) * unit


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_units_of_the_file_that_hold_nothing(tmp_path, monkeypatch, form):
    rng, found = seeded(), 0
    for number in range(8):
        path = tmp_path / f"{number}.img"
        if form == "raw":
            notation.write_raw(path, random_text(rng, 500, "A0---"))
        else:
            notation.write_qcow2(path, random_text(rng, 500, "A0---"), options="cluster_size=512")
        monkeypatch.setattr(disk_use, "_STRETCH", rng.choice([16, 64, 1 << 20]) * KIB)
        with open_image(ImageSource(str(path), ImageFormat(form))) as image:
            for granule, unit in ((512, 4096), (512, 16384), (4096, 16384), (16384, 65536)):
                extents = random_runs(rng, ceil_div(image.virtual_size, granule))
                start = rng.randrange(50) * granule
                holes = taken(image, extents, granule, sharing=False, unit=unit, file_start=start).holes
                assert holes == naive_holes(image, extents, granule, start, unit)
                found += holes
    assert found > 0


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_shared_blocks_are_those_of_each_run(tmp_path, monkeypatch, kind):
    """A reflink copy, with some of it rewritten."""
    rng = seeded()
    monkeypatch.setattr(disk_use, "_STRETCH", 1 << 20)
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
                found = taken(image, extents, 4096, sharing=True)
                assert found == naive(image, extents, 4096)
                assert found.shared > 0
                assert taken(image, extents, 4096, sharing=False) == SpaceTaken(found.data, 0)


def test_no_data_is_no_question(tmp_path):
    notation.write_raw(tmp_path / "guest.img", "1M:A")
    with open_image(ImageSource(str(tmp_path / "guest.img"), ImageFormat.RAW)) as image:
        image.segments = None
        nothing = from_runs([(0, 5, Kind.ZERO)]).pairs(Kind.DATA)
        assert space_taken(image, nothing, sharing=True) == SpaceTaken(0, 0)


def test_a_guest_of_many_runs_is_asked_a_few_times(tmp_path, monkeypatch):
    notation.write_raw(tmp_path / "guest.img", "4M:A")
    with open_image(ImageSource(str(tmp_path / "guest.img"), ImageFormat.RAW)) as image:
        asked = []
        segments = image.segments
        monkeypatch.setattr(
            image, "segments", lambda start, end: asked.append((start, end)) or segments(start, end)
        )
        extents = from_runs([(unit, 1, Kind.DATA) for unit in range(0, 1024, 2)])
        assert taken(image, extents, 4096, sharing=True) == naive(image, extents, 4096)
        assert asked[:2] == [(0, 1023 * 4096)] * 2
        assert len(asked) == 2 + 512


def test_the_holes_of_a_guest(tmp_path):
    guest = notation.write_raw(tmp_path / "g.img", "4k:A 1020k:- 4k:B 1020k:-")
    assert data_bytes(guest, [(0, 1)], MIB) == 4 * KIB
    assert data_bytes(guest, [(0, 2)], MIB) == 8 * KIB


def test_what_was_never_written_does_not_count_whoever_read_it(tmp_path):
    guest = tmp_path / "g.img"
    notation.run("fallocate", "-l", "8M", str(guest))
    with guest.open("r+b") as file:
        for at in (1, 3, 5):
            file.seek(at * MIB)
            file.write(os.urandom(4 * KIB))
    assert data_bytes(guest, [(0, 4)], 2 * MIB) == 3 * 4 * KIB
    guest.read_bytes()
    assert data_bytes(guest, [(0, 4)], 2 * MIB) == 3 * 4 * KIB


def test_subclusters_smaller_than_a_block_take_whole_blocks_once(tmp_path):
    guest = notation.write_raw(tmp_path / "g.img", "64k:A")
    assert data_bytes(guest, [(0, 1)], 512) == 4 * KIB
    assert data_bytes(guest, [(0, 1), (3, 1), (6, 2)], 512) == 4 * KIB
    assert data_bytes(guest, [(7, 2), (20, 1)], 512) == 3 * 4 * KIB


def test_the_end_of_the_disk_is_the_end_of_the_data(tmp_path):
    guest = notation.write_raw(tmp_path / "g.img", "64k:A 512:B")
    assert data_bytes(guest, [(0, 2)], 64 * KIB) == 68 * KIB


def test_a_run_over_many_stretches_takes_no_memory(tmp_path, monkeypatch):
    notation.write_raw(tmp_path / "guest.img", "4k:A 4k:- " * 2000)
    extents = from_runs([(0, 4000, Kind.DATA)])
    peaks = []
    for stretch in (64 * MIB, 64 * KIB):
        monkeypatch.setattr(disk_use, "_STRETCH", stretch)
        with open_image(ImageSource(str(tmp_path / "guest.img"), ImageFormat.RAW)) as image:
            tracemalloc.start()
            assert taken(image, extents, 4 * KIB, sharing=False).data == 2000 * 4 * KIB
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < peaks[0] / 4
