"""Headers: built ones parse to what they were built from and QEMU understands them; parsing never breaks down.

Guards qcow2/header.py, qcow2/header_writing.py.
"""

from __future__ import annotations

import json
import struct

import notation
import pytest
from hypothesis import given
from hypothesis import strategies as st
from patching import Patched

from batchdiff.qcow2.backing_name import named_data_file
from batchdiff.qcow2.extensions import DATA_FILE
from batchdiff.qcow2.faults import FormatError
from batchdiff.qcow2.geometry import REFCOUNT_BITS, CompressionType, Geometry
from batchdiff.qcow2.header import MAX_NAME, Header, claimed_cluster_size, parse
from batchdiff.qcow2.header_writing import build


@st.composite
def geometries(draw):
    bits = draw(st.integers(9, 21))
    if draw(st.booleans()):
        return Geometry(1 << bits, zero_flag=False)
    return Geometry(
        1 << bits,
        extended_l2=bits >= 14 and draw(st.booleans()),
        compression_type=draw(st.sampled_from(CompressionType)),
        refcount_bits=draw(st.sampled_from(REFCOUNT_BITS)),
    )


@st.composite
def headers(draw):
    geometry = draw(geometries())
    cluster = geometry.cluster_size
    entries = draw(st.integers(1, 2 * cluster // 8))
    l1_clusters = -(-entries * 8 // cluster)
    virtual_size = draw(st.integers(1, entries * geometry.l2_coverage // 512)) * 512
    return Header(
        version=3 if geometry.zero_flag else 2,
        geometry=geometry,
        virtual_size=virtual_size,
        l1_offset=cluster,
        l1_entries=entries,
        refcount_offset=(1 + l1_clusters) * cluster,
        refcount_bytes=draw(st.integers(1, min(3, (8 << 20) // cluster))) * cluster,
        snapshots=0,
        bitmaps=0,
        backing_name=draw(
            st.none()
            | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=80)
        ),
        backing_format=draw(st.sampled_from([None, "raw", "qcow2"])),
        lazy_refcounts=geometry.zero_flag and draw(st.booleans()),
    )


@given(headers())
def test_a_built_header_parses_to_the_same(header):
    head = build(header).ljust(header.geometry.cluster_size, b"\0")
    assert parse(head, header.refcount_offset + header.refcount_bytes) == header


@given(headers(), st.data())
def test_a_file_that_is_too_short_is_refused(header, data):
    head = build(header).ljust(header.geometry.cluster_size, b"\0")
    size = data.draw(st.integers(0, header.refcount_offset + header.refcount_bytes - 1))
    with pytest.raises(FormatError):
        parse(head[:size], size)


@given(headers(), st.data())
def test_any_bytes_are_parsed_or_refused(header, data):
    head = bytearray(build(header).ljust(header.geometry.cluster_size, b"\0"))
    changed = len(build(header)) - 1
    for _ in range(data.draw(st.integers(1, 5))):
        head[data.draw(st.integers(0, changed))] = data.draw(st.integers(0, 255))
    try:
        parsed = parse(bytes(head), data.draw(st.integers(0, 1 << 40)))
    except FormatError:
        return
    assert parsed.virtual_size > 0
    assert parsed.l1_entries * parsed.geometry.l2_coverage >= parsed.virtual_size


@given(st.binary(max_size=300))
def test_noise_is_refused(noise):
    with pytest.raises(FormatError):
        parse(b"QFI\xfb" + noise, len(noise) + 4)


def header(**changes):
    fields = {
        "version": 3,
        "geometry": Geometry(65536),
        "virtual_size": 1 << 30,
        "l1_offset": 65536,
        "l1_entries": 2,
        "refcount_offset": 131072,
        "refcount_bytes": 65536,
        "snapshots": 0,
        "bitmaps": 0,
        "backing_name": None,
        "backing_format": None,
        "lazy_refcounts": False,
    }
    return Header(**fields | changes)


@pytest.mark.parametrize("cluster", [512, 4096, 65536])
def test_names_up_to_the_limits_fit(cluster):
    longest = min(MAX_NAME, cluster - 112 - 8 - 16)
    built = build(header(geometry=Geometry(cluster), backing_name="n" * longest, backing_format="raw"))
    assert len(built) <= cluster
    too_long = (
        f"the header with the template's path takes {cluster + 1} bytes, more than one cluster of {cluster} bytes"
    )
    too_long = too_long if cluster == 512 else "the template's path is 1024 bytes long; a qcow2 header allows 1023"
    with pytest.raises(FormatError, match=f"^{too_long}$"):
        build(header(geometry=Geometry(cluster), backing_name="n" * (longest + 1), backing_format="raw"))


def test_a_header_that_ends_early_is_called_truncated():
    with pytest.raises(FormatError, match="it is truncated: it has 14 bytes"):
        parse(b"QFI\xfb" + bytes(10), 14)
    with pytest.raises(FormatError, match="is not a qcow2 image"):
        parse(bytes(14), 14)


def test_names_are_measured_in_bytes():
    with pytest.raises(FormatError, match="1026 bytes"):
        build(header(backing_name="\u20ac" * 342))


def test_names_that_are_not_utf8_survive():
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    head = build(header(backing_name=name)).ljust(65536, b"\0")
    assert parse(head, 1 << 20).backing_name == name


@pytest.mark.parametrize(
    ("geometry", "said"),
    [
        pytest.param(Geometry(65536), {"extended-l2": False, "compression-type": "zlib"}, id="plain"),
        pytest.param(
            Geometry(1 << 14, extended_l2=True, compression_type=CompressionType.ZSTD),
            {"extended-l2": True, "compression-type": "zstd"},
            id="extended-zstd",
        ),
        *(
            pytest.param(Geometry(65536, refcount_bits=bits), {"refcount-bits": bits}, id=f"refcount-bits-{bits}")
            for bits in REFCOUNT_BITS
        ),
    ],
)
def test_qemu_understands_a_built_header(tmp_path, geometry, said):
    cluster = geometry.cluster_size
    built = build(
        header(
            geometry=geometry,
            virtual_size=cluster,
            l1_offset=cluster,
            refcount_offset=2 * cluster,
            refcount_bytes=cluster,
            backing_name="/low.raw",
            backing_format="raw",
            lazy_refcounts=True,
        )
    )
    path = tmp_path / "a.qcow2"
    path.write_bytes(built.ljust(3 * cluster, b"\0"))
    info = json.loads(notation.run("qemu-img", "info", "-f", "qcow2", "--output=json", str(path)))
    assert (info["virtual-size"], info["cluster-size"]) == (cluster, cluster)
    assert (info["backing-filename"], info["backing-filename-format"]) == ("/low.raw", "raw")
    expected = {"compat": "1.1", "lazy-refcounts": True, "refcount-bits": 16, **said}
    assert info["format-specific"]["data"].items() >= expected.items()


def test_qemu_understands_a_header_of_version_2(tmp_path):
    fields = {"refcount_offset": 131072, "backing_name": "/low.raw", "backing_format": "raw"}
    geometry = Geometry(65536, zero_flag=False)
    built = build(header(version=2, geometry=geometry, virtual_size=65536, l1_entries=1, **fields))
    assert len(built) == 72 + 16 + 8 + len("/low.raw")
    path = tmp_path / "a.qcow2"
    path.write_bytes(built.ljust(3 * 65536, b"\0"))
    info = json.loads(notation.run("qemu-img", "info", "-f", "qcow2", "--output=json", str(path)))
    assert (info["backing-filename"], info["backing-filename-format"]) == ("/low.raw", "raw")
    assert info["format-specific"]["data"].items() >= {"compat": "0.10", "refcount-bits": 16}.items()


MADE_BY_QEMU = {
    "plain": ("", {"version": 3, "lazy_refcounts": False}),
    "version-2": ("compat=0.10", {"version": 2, "lazy_refcounts": False}),
    "lazy": ("lazy_refcounts=on", {"version": 3, "lazy_refcounts": True}),
    "refcount-bits": ("refcount_bits=1", {"version": 3, "lazy_refcounts": False}),
}


@pytest.mark.parametrize(("options", "said"), MADE_BY_QEMU.values(), ids=MADE_BY_QEMU)
def test_a_header_of_qemu_parses(tmp_path, options, said):
    notation.write_raw(tmp_path / "low.raw", "1M:A")
    path = notation.write_qcow2(tmp_path / "a.qcow2", "1M:-", options=options, backing="low.raw")
    head = path.read_bytes()
    parsed = parse(head, len(head))
    assert (parsed.backing_name, parsed.backing_format, parsed.virtual_size) == ("low.raw", "raw", 1 << 20)
    assert {field: getattr(parsed, field) for field in said} == said
    bits = 1 if "refcount_bits" in options else 16
    assert parsed.geometry == Geometry(65536, zero_flag=said["version"] == 3, refcount_bits=bits)


def test_snapshots_and_bitmaps_are_counted(tmp_path):
    path = notation.write_qcow2(tmp_path / "a.qcow2", "1M:A")
    for number in range(3):
        notation.run("qemu-img", "snapshot", "-c", f"s{number}", str(path))
    for number in range(2):
        notation.run("qemu-img", "bitmap", "--add", "-f", "qcow2", str(path), f"b{number}")
    head = path.read_bytes()
    parsed = parse(head, len(head))
    assert (parsed.snapshots, parsed.bitmaps) == (3, 2)


def at_the_limit(snapshots):
    """The first cluster of a header that counts so many snapshots, and the size of its file."""
    empty = header(snapshots=snapshots, snapshots_offset=3 * 65536)
    head = bytearray(build(empty).ljust(65536, b"\0"))
    struct.pack_into(">IQ", head, 60, snapshots, empty.snapshots_offset)
    return bytes(head), empty.snapshots_offset + snapshots * 40


def test_as_many_snapshots_as_qemu_takes():
    assert parse(*at_the_limit(65536)).snapshots == 65536
    with pytest.raises(FormatError, match="65537 snapshots exceed QEMU's limit"):
        parse(*at_the_limit(65537))


@pytest.mark.parametrize("autoclear", [1, 0])
def test_bitmaps_count_only_with_their_bit(tmp_path, autoclear):
    """A program that does not know bitmaps clears it; what they say is out of date then, and may be wrong."""
    path = notation.write_qcow2(tmp_path / "a.qcow2", "1M:A")
    notation.run("qemu-img", "bitmap", "--add", "-f", "qcow2", str(path), "b")
    image = Patched(path)
    assert image["autoclear"] == 1
    sound = parse(bytes(image.data), len(image.data))
    image["autoclear"] = autoclear
    at = image.data.index(struct.pack(">II", 0x23852875, 24))  # its extension: count, length, offset
    struct.pack_into(">Q", image.data, at + 8 + 16, image["l1_offset"])
    head = bytes(image.data)
    if autoclear:
        with pytest.raises(FormatError, match="overlap"):
            parse(head, len(head))
    else:
        found = parse(head, len(head))
        assert (sound.bitmaps, found.bitmaps, found.bitmap_directory) == (1, 0, (0, 0))


def test_a_cut_off_header_claims_no_cluster_size():
    head = bytes(20) + (0x1000).to_bytes(4, "big")
    assert claimed_cluster_size(bytes(20) + (16).to_bytes(4, "big")) == 65536
    assert [claimed_cluster_size(head[:length]) for length in range(20, 24)] == [0, 0, 0, 0]


def test_a_data_files_name_that_runs_past_the_cluster_is_refused():
    head = bytearray(512)
    struct.pack_into(">4sIQI", head, 0, b"QFI\xfb", 3, 600, 5)
    struct.pack_into(">I", head, 100, 104)
    struct.pack_into(">II", head, 104, DATA_FILE, 450)
    with pytest.raises(FormatError, match="does not fit into the header"):
        named_data_file(bytes(head))
