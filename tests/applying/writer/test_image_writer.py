"""Images that batchdiff writes, read back by QEMU.

Guards qcow2/tables.py.
"""

import dataclasses
import os
import random
import shutil
from pathlib import Path

import notation
import pytest
from filesystems import mounted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import assert_same, read_all, source
from overlays import new_image, write, write_sparse

from batchdiff.applying.writer.image_writer import NewImage
from batchdiff.extents import Kind, empty, from_runs
from batchdiff.image.open import open_layer
from batchdiff.linux.fiemap import physical_extents
from batchdiff.plan.overlay_options import (
    CLUSTER_SIZES,
    BackingPath,
    Compat,
    Compression,
    OverlayOptions,
    backing_name,
)
from batchdiff.planning.sizes.overlay_sizes import disk_bytes
from batchdiff.qcow2.faults import FormatError
from batchdiff.qcow2.geometry import REFCOUNT_BITS, Geometry
from batchdiff.qcow2.layout import layout_for
from batchdiff.units import KIB, MIB, align_up

UNIT = 4 * KIB
EXTENDED_SIZES = [size for size in CLUSTER_SIZES if size >= 16 * KIB]


def assert_holds(overlay: Path, guest: Path, template: Path) -> None:
    """QEMU finds the file sound and its content the guest's, and so do we."""
    form = "qcow2" if guest.suffix == ".qcow2" else "raw"
    assert "No errors were found" in notation.run("qemu-img", "check", str(overlay))
    notation.run("qemu-img", "compare", "-f", form, "-F", "qcow2", str(guest), str(overlay))
    assert_same(read_all(overlay, template), read_all(guest))


def pair(seed: int, size: int, larger: int) -> tuple[bytes, bytes]:
    """A template and a guest that ran on: compressible, incompressible and zeroed pieces, everywhere."""
    rng = random.Random(seed)
    template = bytearray(rng.randbytes(size // 4 * 3).ljust(size, b"\0"))
    guest = bytearray(template.ljust(size + larger, b"\0"))
    for _ in range(24):
        at, length = rng.randrange(len(guest)), rng.choice([1, 700, 4096, 60_000, 300_000])
        piece = rng.choice(
            [rng.randbytes(length), bytes(length), b"words " * (length // 6 + 1), template[:length]]
        )
        guest[at : at + length] = piece[: max(min(length, len(guest) - at), 0)]
    guest[-1:] = b"\xff"
    return bytes(template), bytes(guest)


def images(folder: Path, template: bytes, guest: bytes) -> tuple[Path, Path]:
    return write_sparse(folder / "t.raw", template), write_sparse(folder / "g.img", guest)


@pytest.mark.parametrize("compression", Compression)
@pytest.mark.parametrize(
    ("cluster_size", "extended_l2"),
    [*((size, False) for size in CLUSTER_SIZES), *((size, True) for size in EXTENDED_SIZES)],
)
def test_every_geometry(tmp_path, cluster_size, extended_l2, compression):
    options = OverlayOptions(cluster_size, extended_l2, compression)
    contents = pair(cluster_size + extended_l2, 5 * MIB + 512, larger=2 * MIB + 4096 + 100)
    template, guest = images(tmp_path, *contents)
    new = new_image(*contents, options, str(template))
    size = write(tmp_path / "o.qcow2", guest, new)
    assert size == (tmp_path / "o.qcow2").stat().st_size
    if compression is Compression.NONE:
        assert size == layout_for(new.extents, new.virtual_size, new.geometry).file_size
    assert_holds(tmp_path / "o.qcow2", guest, template)


@pytest.mark.parametrize("difference", [-4097, -512, -1, 0, 1, 511, 513, 65535, 65537])
@pytest.mark.parametrize("options", [OverlayOptions(), OverlayOptions(extended_l2=True)], ids=["64k", "extended"])
def test_odd_sizes(tmp_path, difference, options):
    template = random.Random(1).randbytes(512 * KIB)
    larger = random.Random(2).randbytes(256 * KIB)
    guest = (template[: 100 * KIB] + b"changed" + template[100 * KIB + 7 :] + larger)[: 640 * KIB + difference]
    template_path, guest_path = images(tmp_path, template, guest)
    write(tmp_path / "o.qcow2", guest_path, new_image(template, guest, options, str(template_path)))
    assert_holds(tmp_path / "o.qcow2", guest_path, template_path)
    assert read_all(tmp_path / "o.qcow2", template_path) == guest.ljust(align_up(len(guest), 512), b"\0")


@pytest.mark.parametrize("options", ["", "cluster_size=4k", "extended_l2=on", "compression_type=zstd"])
@pytest.mark.parametrize("text", ["64k:A 64k:b 64k:0 64k:- 64k:c 36k:C 28k:0", "1M:a 1M:B 1M:- 1M:0"])
def test_a_qcow2_guest(tmp_path, options, text):
    guest = notation.write_qcow2(tmp_path / "guest.qcow2", text, options=options)
    template = notation.write_raw(tmp_path / "t.raw", "64k:A 64k:A 256k:D")
    contents = template.read_bytes(), notation.content(text)
    overlay = tmp_path / "o.qcow2"
    write(overlay, guest, new_image(*contents, OverlayOptions(), str(template)))
    assert_holds(overlay, guest, template)


def test_only_what_differs_is_held(tmp_path):
    """The map of the overlay alone: depth 0 where it holds something, zero clusters included."""
    template, guest = "64k:A 64k:B 64k:C 64k:D 64k:-", "64k:A 64k:X 64k:0 64k:D 64k:E"
    template_path = notation.write_raw(tmp_path / "t.raw", template)
    guest_path = notation.write_raw(tmp_path / "g.img", guest)
    overlay = tmp_path / "o.qcow2"
    contents = notation.content(template), notation.content(guest)
    write(overlay, guest_path, new_image(*contents, OverlayOptions(), str(template_path)))
    held = [
        (entry["start"] >> 16, entry["length"] >> 16, entry["zero"])
        for entry in notation.qemu_map(overlay, "qcow2")
        if entry["depth"] == 0
    ]
    assert held == [(1, 1, False), (2, 1, True), (4, 1, False)]


def test_an_identical_guest_holds_nothing(tmp_path):
    content = random.Random(3).randbytes(MIB)
    template, guest = images(tmp_path, content, content)
    new = new_image(content, content, OverlayOptions(), str(template))
    assert write(tmp_path / "o.qcow2", guest, new) == 4 * 65536  # header, L1, refcount block and table
    assert_holds(tmp_path / "o.qcow2", guest, template)


@pytest.mark.parametrize("compression", Compression)
def test_a_standalone_image(tmp_path, compression):
    guest = write_sparse(tmp_path / "g.img", pair(4, 3 * MIB, 0)[1])
    options = OverlayOptions(compression=compression)
    new = new_image(b"", guest.read_bytes(), options, None)
    write(tmp_path / "o.qcow2", guest, new)
    assert open_layer(source(tmp_path / "o.qcow2")).backing is None
    assert "No errors" in notation.run("qemu-img", "check", str(tmp_path / "o.qcow2"))
    notation.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(guest), str(tmp_path / "o.qcow2"))


@pytest.mark.parametrize("compression", [Compression.NONE, Compression.ZLIB])
@pytest.mark.parametrize("bits", REFCOUNT_BITS)
def test_refcounts_of_every_width_in_many_blocks(tmp_path, bits, compression):
    """More than 10,000 clusters; with 64 bits, each block has the refcounts of 64 of them."""
    guest = write_sparse(tmp_path / "g.img", pair(7, 7 * MIB, 0)[1])
    options = OverlayOptions(cluster_size=512, compression=compression, refcount_bits=bits)
    new = new_image(b"", guest.read_bytes(), options, None)
    size = write(tmp_path / "o.qcow2", guest, new)
    layout = layout_for(new.extents, new.virtual_size, new.geometry)
    assert size == layout.file_size if compression is Compression.NONE else size <= layout.file_size
    assert layout.refcount_blocks > 1
    assert (layout.refcount_table_clusters > 1) is (bits >= 32)
    assert "No errors" in notation.run("qemu-img", "check", str(tmp_path / "o.qcow2"))
    notation.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(guest), str(tmp_path / "o.qcow2"))


def test_an_empty_standalone_image(tmp_path):
    guest = write_sparse(tmp_path / "g.img", bytes(MIB))
    write(tmp_path / "o.qcow2", guest, NewImage(MIB, Geometry(65536), empty(), None))
    assert notation.qemu_content(tmp_path / "o.qcow2", "qcow2") == bytes(MIB)


def test_lazy_refcounts(tmp_path):
    contents = pair(5, MIB, 0)
    template, guest = images(tmp_path, *contents)
    overlay = tmp_path / "o.qcow2"
    write(overlay, guest, new_image(*contents, OverlayOptions(lazy_refcounts=True), str(template)))
    assert "lazy refcounts: true" in notation.run("qemu-img", "info", str(overlay))
    assert_holds(overlay, guest, template)
    # QEMU can write to it, and what it wrote is there.
    notation.qemu_io(overlay, "write -P 7 0 128k")
    assert notation.qemu_content(overlay, "qcow2")[: 128 * KIB] == b"\7" * (128 * KIB)


@pytest.mark.parametrize(
    "name", ["t.raw", "a:b.raw", "json:{}.raw", "ünï cödé.raw", "with, comma=1.raw", "-o.raw"]
)
@pytest.mark.parametrize("how", BackingPath)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_backing_paths(tmp_path, name, how, elsewhere):
    contents = pair(6, MIB, 0)
    folder = tmp_path / "images" if elsewhere else tmp_path
    folder.mkdir(exist_ok=True)
    template = write_sparse(folder / name, contents[0])
    guest, overlay = write_sparse(tmp_path / "g.img", contents[1]), tmp_path / "o.qcow2"
    stored = backing_name(str(overlay), str(template), how)
    assert stored.startswith("/") is (how is BackingPath.ABSOLUTE)
    write(overlay, guest, new_image(*contents, OverlayOptions(), stored))
    assert_holds(overlay, guest, template)
    assert os.path.samefile(tmp_path / stored, template)


@pytest.mark.parametrize("length", [500, 1024, 5000])
def test_a_header_that_does_not_fit(tmp_path, length):
    content = random.Random(7).randbytes(MIB)
    guest = write_sparse(tmp_path / "g.img", content)
    new = new_image(b"", content, OverlayOptions(cluster_size=512), "/" + "x" * length)
    with pytest.raises(FormatError):
        write(tmp_path / "o.qcow2", guest, new)
    assert (tmp_path / "o.qcow2").stat().st_size == 0


def test_the_header_is_written_last(tmp_path, monkeypatch):
    """A file that was not finished must be no qcow2 image."""
    contents = pair(8, MIB, 0)
    template, guest = images(tmp_path, *contents)
    heads = []
    real = os.pwrite

    def spied(fd, data, offset):
        heads.append(os.pread(fd, 4, 0))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", spied)
    write(tmp_path / "o.qcow2", guest, new_image(*contents, OverlayOptions(), str(template)))
    assert len(heads) > 3
    assert not any(head.startswith(b"QFI") for head in heads)


_PIECES = st.lists(
    st.tuples(st.integers(0, 2 * MIB), st.sampled_from([1, 512, 4096, 5000, 70_000]), st.sampled_from("XYZ0t")),
    max_size=12,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    pieces=_PIECES,
    size=st.sampled_from([MIB, MIB + 1, MIB + 4095, 2 * MIB - 512, 3 * MIB - 7]),
    cluster_size=st.sampled_from([512, 4096, 65536, 262144]),
    extended_l2=st.booleans(),
    compression=st.sampled_from(Compression),
    refcount_bits=st.sampled_from(REFCOUNT_BITS),
    compat=st.sampled_from([Compat.V3, Compat.V3, Compat.V2]),
)
def test_random_pairs(tmp_path, pieces, size, cluster_size, extended_l2, compression, refcount_bits, compat):
    template = notation.data("T", 0, MIB)
    guest = bytearray(template.ljust(size, b"\0"))
    for at, length, what in pieces:
        length = max(min(length, size - at), 0)  # noqa: PLW2901
        guest[at : at + length] = bytes(length) if what == "0" else notation.data(what, at, length)
    options = OverlayOptions(
        cluster_size, extended_l2 and cluster_size >= 16384, compression, refcount_bits=refcount_bits
    )
    if compat is Compat.V2:
        packed = Compression.NONE if compression is Compression.ZSTD else compression
        options = OverlayOptions(cluster_size, compression=packed, compat=compat)
    template_path, guest_path = images(tmp_path, template, bytes(guest))
    overlay = tmp_path / "o.qcow2"
    overlay.unlink(missing_ok=True)
    write(overlay, guest_path, new_image(template, bytes(guest), options, str(template_path)))
    assert_holds(overlay, guest_path, template_path)


@pytest.fixture(scope="module", params=["ext4", "xfs"])
def filesystem(request, tmp_path_factory):
    with mounted(tmp_path_factory.mktemp(request.param), request.param) as point:
        yield point


@pytest.fixture
def folder(filesystem):
    path = filesystem / "case"
    path.mkdir()
    yield path
    shutil.rmtree(path)


DISK_CASES = {
    "64k": OverlayOptions(),
    "4k": OverlayOptions(cluster_size=4096),
    "2M": OverlayOptions(cluster_size=2 * MIB),
    "extended": OverlayOptions(extended_l2=True),
    "extended-2M": OverlayOptions(cluster_size=2 * MIB, extended_l2=True),
}


def test_xfs_fills_no_hole_of_a_file_that_grows(tmp_path):
    """XFS allocates space ahead of a growing file, here that of a guest on another filesystem, by writing."""
    options = OverlayOptions(cluster_size=64 * KIB)
    template, guest = "16M:A", "4M:B 4M:A 4k:B 4M:A 4k:C 4088k:A"
    guest_path = notation.write_raw(tmp_path / "g.img", guest)
    new = new_image(notation.content(template), notation.content(guest), options, str(tmp_path / "t.raw"))
    with mounted(tmp_path, "xfs") as folder:
        write(folder / "o.qcow2", guest_path, new)
        found = (folder / "o.qcow2").stat().st_blocks * 512
    data = new.extents.units(Kind.DATA) * new.geometry.granule
    assert found == disk_bytes(layout_for(new.extents, new.virtual_size, new.geometry), data)


@pytest.mark.parametrize("case", DISK_CASES)
@pytest.mark.parametrize(
    ("template", "guest"),
    [
        ("8M:A", "1M:A 64k:B 6M:A 960k:A"),
        ("8M:A", "4k:B 4M:A 4k:C 4088k:A"),
        ("8M:A", "8M:A 2M:B 2M:C"),
        ("4M:A", "4M:0"),
        ("4M:A", "4M:A"),
    ],
)
def test_blocks_on_disk(folder, case, template, guest):
    """What the plan says an overlay takes on its disk is what the filesystem counts."""
    options = DISK_CASES[case]
    template_path = notation.write_raw(folder / "t.raw", template)
    guest_path = notation.write_raw(folder / "g.img", guest)
    new = new_image(notation.content(template), notation.content(guest), options, str(template_path))
    write(folder / "o.qcow2", guest_path, new)
    data = new.extents.units(Kind.DATA) * new.geometry.granule
    expected = disk_bytes(layout_for(new.extents, new.virtual_size, new.geometry), data)
    assert (folder / "o.qcow2").stat().st_blocks * 512 == expected + extent_tree(folder / "o.qcow2")


def extent_tree(path: Path) -> int:
    """Bytes that ext4 takes for itself, and counts as the file's, where the inode can't hold all extents."""
    if path.parent.parent.name != "ext4":
        return 0
    fd = os.open(path, os.O_RDONLY)
    try:
        return UNIT if len(list(physical_extents(fd, "x"))) > 4 else 0
    finally:
        os.close(fd)


def test_data_is_shared_on_xfs(tmp_path_factory):
    """copy_file_range: an overlay of 64 MiB takes no new blocks but for its tables."""
    with mounted(tmp_path_factory.mktemp("sharing"), "xfs") as point:
        guest = point / "g.img"
        guest.write_bytes(random.Random(9).randbytes(64 * MIB))
        notation.run("sync", "-f", str(point))
        free = os.statvfs(point).f_bfree
        new = NewImage(64 * MIB, Geometry(65536), from_runs([(0, 1024, Kind.DATA)]), None)
        write(point / "o.qcow2", guest, new)
        notation.run("sync", "-f", str(point))
        assert (free - os.statvfs(point).f_bfree) * UNIT < 2 * MIB
        notation.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(guest), str(point / "o.qcow2"))


def test_holes_stay_holes(tmp_path):
    """A cluster with data next to a hole: the hole is not written."""
    guest = notation.write_raw(tmp_path / "g.img", "4k:A 1020k:- 4k:B 1020k:-")
    new = NewImage(2 * MIB, Geometry(MIB), from_runs([(0, 2, Kind.DATA)]), None)
    write(tmp_path / "o.qcow2", guest, new)
    assert (tmp_path / "o.qcow2").stat().st_blocks * 512 < MIB + 256 * KIB
    notation.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(guest), str(tmp_path / "o.qcow2"))


def test_options_are_all_tried():
    """Whoever adds an option to the overlay's must think of these tests."""
    names = {field.name for field in dataclasses.fields(OverlayOptions)}
    here = {
        "cluster_size",
        "extended_l2",
        "compression",
        "backing_path",
        "lazy_refcounts",
        "compression_level",
        "refcount_bits",
        "compat",
    }
    assert names == here | {"format", "table_size", "preallocation", "encryption", "data_file"}, (
        "test_overlay_writer.py"
    )
