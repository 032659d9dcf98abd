"""Scans of one range, compared with the bytes that the images read as.

Guards planning/scan/equal_compressed.py, planning/scan/range_kinds.py, planning/scan/results.py.
"""

import itertools
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import naive
import notation
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import guest_bytes, recorded, source, within
from scan_jobs import scan_job

from batchdiff.errors import ImageError
from batchdiff.extents import concatenate
from batchdiff.image import files
from batchdiff.image.content_digest import RangeDigest
from batchdiff.image.open import open_image
from batchdiff.plan.overlay_options import CLUSTER_SIZES
from batchdiff.planning import scan_all
from batchdiff.planning.scan import one_range, windows
from batchdiff.planning.scan.equal_compressed import compressed_clusters, range_to_compare
from batchdiff.planning.scan.reopening import Budget
from batchdiff.planning.scan_all import ScanSettings, ranges_with_data
from batchdiff.qcow2 import compression
from batchdiff.units import KIB, MIB, TIB, ceil_div

FOLDED = [size for size in CLUSTER_SIZES if size >= naive.UNIT]


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch):
    """Many ranges in small images; aligned to the largest cluster as always."""
    for module in (one_range, scan_all):
        monkeypatch.setattr(module, "RANGE", 4 * MIB)


def scanned(template, *guests):
    """The differences of each guest, a path or what was recorded of one, and what failed, over all ranges."""
    records = (recorded(guest) if isinstance(guest, Path) else guest for guest in guests)
    job = scan_job(template, *records)
    scanner = job.open()
    size = max(*scanner._sizes, 1)
    results = [scanner.scan(number) for number in range(ceil_div(size, one_range.RANGE))]
    failures = results[-1].failures
    scanner.close()
    found = [
        concatenate([result.differences[number] for result in results if number in result.differences])
        for number in range(len(guests))
    ]
    return found, failures, [result.template_digest for result in results]


def assert_found(found, template, guest):
    """Whatever the cluster size, the same is to be written as the naive comparison says."""
    expected = naive.differences(template, guest)
    for cluster_size in FOLDED:
        assert naive.to_write(found, cluster_size) == naive.to_write(expected, cluster_size)


TEMPLATE = "1M:A 64k:- 64k:0 900k:B 2M:C 1M:- 1M:D"
GUESTS = {
    "equal": TEMPLATE,
    "one-byte": "1M:A 64k:- 64k:0 900k:B 2M:C 1M:- 1023k:D 1023:D 1:E",
    "all-different": "6124k:Z",
    "all-zero": "6124k:0",
    "all-hole": "6124k:-",
    "zeroed-parts": "512k:A 4k:0 8k:- 500k:A 64k:- 64k:0 900k:B 1M:0 1M:C 1M:- 1M:D",
    "data-in-holes": "1M:A 64k:X 64k:Y 900k:B 2M:C 4k:Z 1016k:- 4k:Z 1M:D",
    "scattered": "4k:X 1020k:A 128k:- 896k:B 4k:Y 2M:C 4k:Q 1020k:- 1020k:D 4k:X",
    "larger": f"{TEMPLATE} 512k:- 4k:E 3M:- 512:F",
    "larger-hole": f"{TEMPLATE} 9M:-",
    "larger-odd": f"{TEMPLATE} 4097:G",
    "edges": "512k:A 512k:B 64k:- 64k:0 380k:B 512k:E 1M:C 512k:E 512k:C 1M:- 1M:D",
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Every guest as raw and as qcow2, with 64 KiB clusters, tiny ones, and compressed."""
    folder = tmp_path_factory.mktemp("guests")
    for name, text in GUESTS.items():
        notation.write_raw(folder / f"{name}.img", text)
        notation.write_qcow2(folder / f"{name}.qcow2", text)
        notation.write_qcow2(folder / f"{name}-4k.qcow2", text, options="cluster_size=4k")
    notation.write_raw(folder / "template.img", TEMPLATE)
    notation.write_qcow2(folder / "template.qcow2", TEMPLATE)
    notation.write_qcow2(folder / "template-4k.qcow2", TEMPLATE, options="cluster_size=4k", compressed=True)
    return folder


@pytest.mark.parametrize("template", ["template.img", "template.qcow2", "template-4k.qcow2"])
@pytest.mark.parametrize("form", [".img", ".qcow2", "-4k.qcow2"])
def test_against_the_naive_comparison(cases, template, form):
    """All guests at once: each is found to be what it is alone."""
    found, failures, _ = scanned(cases / template, *(cases / f"{name}{form}" for name in GUESTS))
    assert failures == {}
    for text, extents in zip(GUESTS.values(), found, strict=True):
        assert_found(extents, notation.content(TEMPLATE), notation.content(text))


def test_the_digest_is_of_the_content_only(cases):
    digests = [scanned(cases / name)[2] for name in ("template.img", "template.qcow2", "template-4k.qcow2")]
    assert digests[0] == digests[1] == digests[2]
    assert scanned(cases / "one-byte.img")[2] != digests[0]


@pytest.mark.parametrize("difference", [-4097, -4096, -513, -1, 0, 1, 512, 4095, 4097, 65537])
def test_odd_sizes(tmp_path, difference):
    template, guest = (random.Random(seed).randbytes(MIB) for seed in (1, 1))
    guest = (guest + random.Random(2).randbytes(MIB))[: MIB + difference] if difference > 0 else guest
    template = template[: MIB + min(difference, 0)]
    (tmp_path / "t.raw").write_bytes(template)
    (tmp_path / "g.img").write_bytes(guest)
    (found,), _, _ = scanned(tmp_path / "t.raw", tmp_path / "g.img")
    assert_found(found, template, guest)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    kinds=st.lists(st.sampled_from("AA0-B"), min_size=1, max_size=40),
    sizes=st.lists(st.sampled_from([512, 4096, 12_288, 65_536, 524_288, 1_000_448]), min_size=40, max_size=40),
    changes=st.lists(st.tuples(st.integers(0, 39), st.sampled_from("AB0-Z")), max_size=10),
    tail=st.sampled_from(["", "4k:X", "3M:-", "1M:0 513:Y"]),
    forms=st.sampled_from(["img img", "img qcow2", "qcow2 img", "qcow2 qcow2"]),
)
def test_random_pairs(tmp_path, kinds, sizes, changes, tail, forms):
    template = [f"{size}:{kind}" for size, kind in zip(sizes, kinds, strict=False)]
    guest = list(template)
    for index, kind in changes:
        if index < len(guest):
            guest[index] = f"{sizes[index]}:{kind}"
    texts = " ".join(template), " ".join([*guest, tail])
    paths = []
    for name, form, text in zip("tg", forms.split(), texts, strict=True):
        paths.append(tmp_path / f"{name}.{form}")
        paths[-1].unlink(missing_ok=True)
        (notation.write_qcow2 if form == "qcow2" else notation.write_raw)(paths[-1], text)
    (found,), _, _ = scanned(*paths)
    assert_found(found, *map(notation.content, texts))


class Spy:
    """Counts the bytes that are read from each file, by name and offset."""

    def __init__(self, monkeypatch):
        self.bytes = Counter()
        self.reads = []
        real = files.read_into

        def counted(fd, buffer, offset, path, observer):
            name = os.path.basename(path)
            self.bytes[name] += len(buffer)
            self.reads.append((name, offset, len(buffer)))
            return real(fd, buffer, offset, path, observer)

        monkeypatch.setattr(files, "read_into", counted)


@pytest.mark.parametrize("guests", [1, 3, 40])
def test_the_template_is_read_once_for_all_guests(tmp_path, monkeypatch, guests):
    text = "6M:A"
    notation.write_raw(tmp_path / "t.raw", text)
    paths = [notation.write_raw(tmp_path / f"{number}.img", f"4M:A {number + 1}k:B") for number in range(guests)]
    spy = Spy(monkeypatch)
    scanned(tmp_path / "t.raw", *paths)
    assert spy.bytes["t.raw"] == 6 * MIB
    offsets = sorted((at, at + length) for name, at, length in spy.reads if name == "t.raw")
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(offsets))


def test_what_metadata_settles_is_not_read(tmp_path, monkeypatch):
    notation.write_raw(tmp_path / "t.raw", "1M:A 2M:- 1M:-")
    notation.write_raw(tmp_path / "hole.img", "1M:- 2M:- 1M:B")
    notation.write_raw(tmp_path / "empty.img", "4M:-")
    spy = Spy(monkeypatch)
    scanned(tmp_path / "t.raw", tmp_path / "hole.img", tmp_path / "empty.img")
    assert spy.bytes == {"t.raw": MIB, "hole.img": MIB}


def test_zero_clusters_of_qcow2_are_not_read(tmp_path, monkeypatch):
    notation.write_raw(tmp_path / "t.raw", "4M:A")
    path = notation.write_qcow2(tmp_path / "g.qcow2", "1M:A 2M:0 1M:-")
    scanner = scan_job(tmp_path / "t.raw", recorded(path)).open()
    spy = Spy(monkeypatch)
    scanner.scan(0)
    scanner.close()
    assert spy.bytes["g.qcow2"] < MIB + 64 * KIB


def test_a_guest_that_cannot_be_opened(tmp_path, cases):
    gone = recorded(notation.write_raw(tmp_path / "none.img", TEMPLATE))
    (tmp_path / "none.img").unlink()
    found, failures, _ = scanned(cases / "template.img", gone, cases / "one-byte.img")
    assert list(failures) == [0]
    assert "none.img" in str(failures[0])
    assert_found(found[1], notation.content(TEMPLATE), notation.content(GUESTS["one-byte"]))


def failing(monkeypatch, name, after=0):
    """From offset ``after`` on a file gives EIO."""
    real = os.preadv

    def preadv(fd, buffers, offset, *rest):
        if offset + len(buffers[0]) > after and os.readlink(f"/proc/self/fd/{fd}").endswith(name):
            raise OSError(5, "Input/output error")
        return real(fd, buffers, offset, *rest)

    monkeypatch.setattr(os, "preadv", preadv)


@pytest.mark.parametrize("after", [0, 100, 2 * MIB, 5 * MIB])
def test_a_guest_that_fails_leaves_the_others_right(cases, monkeypatch, after):
    failing(monkeypatch, "scattered.img", after)
    guests = ["one-byte", "scattered", "larger"]
    found, failures, digests = scanned(cases / "template.img", *(cases / f"{name}.img" for name in guests))
    assert list(failures) == [1]
    assert "scattered.img" in str(failures[1])
    assert "Input/output error" in str(failures[1])
    for number in (0, 2):
        assert_found(found[number], notation.content(TEMPLATE), notation.content(GUESTS[guests[number]]))
    monkeypatch.undo()
    monkeypatch.setattr(one_range, "RANGE", 4 * MIB)
    assert scanned(cases / "template.img", cases / "larger.img")[2] == digests


@pytest.mark.parametrize("after", [0, 5 * MIB])
def test_a_template_that_fails_is_fatal(cases, monkeypatch, after):
    failing(monkeypatch, "template.img", after)
    with pytest.raises(ImageError, match=r"cannot read .*template.img"):
        scanned(cases / "template.img", cases / "larger.img")


@pytest.mark.parametrize("most", [1, 40, 400, windows.MOST_KEPT])
def test_however_little_is_kept_the_findings_are_the_same(cases, monkeypatch, most):
    for module in (windows, one_range):
        monkeypatch.setattr(module, "MOST_KEPT", most)
    names = [name for name in GUESTS for _ in range(5)]
    found, _, digests = scanned(cases / "template.img", *(cases / f"{name}.img" for name in names))
    _, _, of_few = scanned(cases / "template.img", cases / "equal.img")
    assert digests[: len(of_few)] == of_few
    for name, extents in zip(names, found, strict=True):
        assert_found(extents, notation.content(TEMPLATE), notation.content(GUESTS[name]))


def ranges(path):
    with open_image(source(path)) as image:
        return list(ranges_with_data(image))


def test_ranges_with_data(tmp_path):
    one = notation.write_raw(tmp_path / "1.img", "1k:A 9M:- 1k:A 90M:- 4k:0 10M:-")
    two = notation.write_raw(tmp_path / "2.img", "200M:- 1k:B")
    three = notation.write_raw(tmp_path / "3.img", "300M:-")
    assert ranges(one) == [0, 2, 24, 25] or ranges(one) == [0, 2, 24]
    assert ranges(two) == [50]
    assert ranges(three) == []


def test_ranges_of_a_huge_sparse_pair(tmp_path, monkeypatch):
    """15 TiB, data at both ends and in the middle."""
    monkeypatch.undo()
    for name in ("t.raw", "g.img"):
        with (tmp_path / name).open("wb") as file:
            for at in (0, 7 * TIB + 5, 15 * TIB - 1):
                file.seek(at)
                file.write(b"x")
    notation.run("qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "g.qcow2"), "15T")
    notation.qemu_io(tmp_path / "g.qcow2", "write -P 1 9T 64k")
    with within(2):
        found = {number for name in ("t.raw", "g.img", "g.qcow2") for number in ranges(tmp_path / name)}
    expected = {0, 7 * TIB // one_range.RANGE, 15 * TIB // one_range.RANGE - 1, 9 * TIB // one_range.RANGE}
    assert expected <= found
    # An L2 table of 64 KiB clusters covers 512 MiB: for qcow2 the ranges are no finer.
    assert len(found) <= 3 + 8


def test_scanning_memory_does_not_grow_with_the_image(tmp_path):
    """A range of holes with a single byte is not blown up."""
    with (tmp_path / "t.raw").open("wb") as file:
        file.truncate(TIB)
    with (tmp_path / "g.img").open("wb") as file:
        file.seek(TIB - 1)
        file.write(b"x")
    scanner = scan_job(tmp_path / "t.raw", recorded(tmp_path / "g.img")).open()
    with within(2):
        result = scanner.scan(TIB // one_range.RANGE - 1)
    scanner.close()
    assert naive.to_write(result.differences[0], 4096) == [(TIB // 4096 - 1, 1, 3)]


def test_images_can_be_closed(cases):
    before = len(os.listdir("/proc/self/fd"))
    scanned(cases / "template.img", cases / "larger.img", cases / "larger.qcow2")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "options",
    ["", "cluster_size=512", "cluster_size=4k", "cluster_size=2M", "compression_type=zstd", "extended_l2=on"],
)
def test_copies_of_a_compressed_template(tmp_path, monkeypatch, options):
    """What is still packed as in the template is equal, and is not unpacked for any guest."""
    # Clusters of 512 bytes are many: an eighth of the image has as many as the others.
    unit = 128 * KIB if options == "cluster_size=512" else MIB
    text = f"{4 * unit}:A {unit}:- {unit}:0 {2 * unit}:B"
    template = notation.write_qcow2(tmp_path / "t.qcow2", text, options=options, compressed=True)
    names = ("same", "written", "zeroed", "discarded", "packed again", "unpacked", "larger")
    guests = {name: shutil.copy(template, tmp_path / f"{name}.qcow2") for name in names}
    notation.qemu_io(guests["written"], f"write -P 7 {unit * 5 // 8} 4k", f"write -P 8 {5 * unit} 512")
    notation.qemu_io(guests["zeroed"], f"write -z {unit} {unit // 2}")
    notation.qemu_io(guests["discarded"], f"discard {6 * unit} {unit}")
    text = f"{2 * unit}:A {2 * unit}:X {unit}:- {unit}:0 {2 * unit}:B"
    guests["another"] = notation.write_qcow2(tmp_path / "another.qcow2", text, options=options, compressed=True)
    other = "zlib" if "zstd" in options else "zstd"
    convert = ("qemu-img", "convert", "-O", "qcow2")
    notation.run(*convert, "-c", "-o", f"compression_type={other}", str(template), str(guests["packed again"]))
    notation.run(*convert, str(template), str(guests["unpacked"]))
    notation.run("qemu-img", "resize", "-q", str(guests["larger"]), str(9 * unit))
    notation.qemu_io(guests["larger"], f"write -P 9 {8 * unit} 64k")
    content = notation.qemu_content(template, "qcow2")
    found, failures, _ = scanned(template, *guests.values())
    assert not failures
    for extents, path in zip(found, guests.values(), strict=True):
        assert_found(extents, content, notation.qemu_content(path, "qcow2"))
    unpacked = Counter()
    real = compression.decompress
    monkeypatch.setattr(compression, "decompress", lambda *what: unpacked.update(["one"]) or real(*what))
    scanned(template, template)
    alone = unpacked.pop("one")
    scanned(template, *[guests["same"]] * 5)
    assert unpacked.pop("one") == alone > 0


def test_bytes_behind_a_packed_cluster_are_not_its_own(tmp_path):
    """Its entry counts sectors, so others' bytes are compared with it: then it is unpacked, and equal."""
    template = notation.write_qcow2(tmp_path / "t.qcow2", "64k:A 64k:B", compressed=True)
    guest = Path(shutil.copy(template, tmp_path / "g.qcow2"))
    with open_image(source(guest)) as opened:
        first, second = opened.segments(0, 128 * KIB)
        begin, after = (segment.address & (1 << 54) - 1 for segment in (first, second))
        ends = begin + len(opened.layers[0].compressed_cluster(first).data)
        assert begin < after < ends
    data = bytearray(guest.read_bytes())
    data[ends - 1] ^= 1  # in the second cluster's bytes
    guest.write_bytes(data)
    with open_image(source(template)) as one, open_image(source(guest)) as other:
        stored = compressed_clusters(one, one.segments(0, 64 * KIB))
        assert range_to_compare(stored, other, other.segments(0, 64 * KIB), 0, 64 * KIB) == (0, 64 * KIB)
        assert guest_bytes(one, 0, 64 * KIB) == guest_bytes(other, 0, 64 * KIB)


def test_a_range_past_the_end_of_all_of_them(cases):
    """Others of the fleet, which are scanned apart, may be larger."""
    scanner = scan_job(cases / "template.img", recorded(cases / "one-byte.img")).open()
    try:
        result = scanner.scan(7)
        assert (result.differences, result.failures) == ({}, {})
        assert result.template_digest == RangeDigest().value()
    finally:
        scanner.close()


@pytest.mark.parametrize("files", [1, 2, 5, 100])
def test_however_few_fit_at_once_the_findings_are_the_same(cases, files):
    """Guests of other sizes than the template's, and one that is gone, in batches of so many files."""
    names = [name for name in GUESTS for _ in range(2)]
    records = [recorded(cases / f"{name}.img") for name in names]
    gone = recorded(notation.write_raw(cases / "gone.img", "1M:A"))
    (cases / "gone.img").unlink()
    guests = {f"guest{number}": record for number, record in enumerate([*records, gone])}
    ticks = []
    settings = ScanSettings(Budget(1, files), "", lambda done, total: ticks.append((done, total)), print, None)
    with open_image(source(cases / "template.img")) as template:
        record = recorded(cases / "template.img")
        found = scan_all.scan_guests(template, record, guests, settings, sharing=False)
    _, _, digests = scanned(cases / "template.img")
    assert [found.digests[number] for number in sorted(found.digests)][: len(digests)] == digests
    assert list(found.failures) == [f"guest{len(records)}"]
    for number, name in enumerate(names):
        assert_found(
            found.compared(f"guest{number}")[0], notation.content(TEMPLATE), notation.content(GUESTS[name])
        )
    assert ticks == sorted(ticks)
    assert ticks[-1][0] == ticks[-1][1]
