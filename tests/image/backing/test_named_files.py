"""Which files an image names, against what QEMU wrote into it.

Guards qcow2/backing_name.py.
"""

import struct

import notation
import pytest
from hypothesis import given
from hypothesis import strategies as st
from notation import run
from patching import Patched

from batchdiff.image.backing.named_files import FIRST, Named, bytes_needed, identifier_in, names_in


def names(path):
    """As heads.py reads them."""
    content = path.read_bytes()
    needed = bytes_needed(content[:FIRST])
    assert needed >= FIRST
    return names_in(content[:needed])


def created(path, kind, *options):
    run("qemu-img", "create", "-q", "-f", kind, *options, str(path), "4M")
    return path


@pytest.fixture
def lower(tmp_path):
    return notation.write_raw(tmp_path / "lower.img", "4M:A")


@pytest.mark.parametrize("options", ["cluster_size=512", "cluster_size=2M", "compat=0.10", "extended_l2=on"])
@pytest.mark.parametrize("name", ["lower.img", "./lower.img", "{folder}/lower.img"])
def test_the_backing_file_of_a_qcow2_image(tmp_path, lower, name, options):
    name = name.format(folder=tmp_path)
    path = created(tmp_path / "x", "qcow2", "-o", options, "-F", "raw", "-b", name)
    assert names(path) == (Named(name, ends_there=True),)
    created(path, "qcow2")
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", name, str(path))
    assert names(path) == (Named(name, ends_there=False),)


def test_a_name_at_the_end_of_a_large_first_cluster(tmp_path, lower):
    """QEMU writes it near the start; the format lets it be anywhere in the first cluster."""
    path = created(tmp_path / "x", "qcow2", "-o", "cluster_size=64k", "-F", "raw", "-b", "lower.img")
    with path.open("r+b") as file:
        file.seek(8)
        file.write((60_000).to_bytes(8, "big") + (9).to_bytes(4, "big"))
        file.seek(60_000)
        file.write(b"lower.img")
    assert run("qemu-img", "info", str(path)).count("lower.img")
    assert names(path) == (Named("lower.img", ends_there=True),)


def test_the_data_file_of_a_qcow2_image(tmp_path):
    """A raw image, which is all that the qcow2 image has."""
    data = tmp_path / "guest.img"
    path = created(tmp_path / "x", "qcow2", "-o", f"data_file={data},data_file_raw=on")
    assert names(path) == (Named(str(data), ends_there=True),)


def test_a_backing_file_and_a_data_file(tmp_path, lower):
    data = tmp_path / "data.img"
    path = created(tmp_path / "x", "qcow2", "-o", f"data_file={data}", "-F", "raw", "-b", "lower.img")
    assert names(path) == (Named("lower.img", ends_there=True), Named(str(data), ends_there=True))


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_the_backing_file_of_a_qed_image(tmp_path, lower, kind):
    created(tmp_path / "lower", kind)
    path = created(tmp_path / "x", "qed", "-F", kind, "-b", "lower")
    assert names(path) == (Named("lower", ends_there=kind == "raw"),)
    assert names(created(tmp_path / "whole", "qed")) == ()


@pytest.mark.parametrize("subformat", ["monolithicSparse", "monolithicFlat", "streamOptimized"])
def test_the_files_of_a_vmdk_image(tmp_path, subformat):
    path = created(tmp_path / "x.vmdk", "vmdk", "-o", f"subformat={subformat}")
    # An image in one file names that file, under the name that it had when it was made: copies still do.
    extents = ["x-flat.vmdk"] if subformat == "monolithicFlat" else []
    assert names(path) == tuple(Named(extent, ends_there=True) for extent in extents)


def test_the_backing_file_of_a_vmdk_image(tmp_path):
    lower = created(tmp_path / "lower.vmdk", "vmdk")
    path = created(tmp_path / "x.vmdk", "vmdk", "-F", "vmdk", "-b", str(lower))
    assert names(path) == (Named(str(lower), ends_there=False),)
    image = bytearray(path.read_bytes().ljust(100 << 10, b"\0"))
    struct.pack_into("<QQ", image, 28, 199, 1)
    path.write_bytes(image)
    assert names(path) == (Named(str(lower), ends_there=False),), "QEMU looks at its usual place"


@pytest.mark.parametrize("kind", ["vdi", "vpc"])
def test_the_identifier_of_a_parent(tmp_path, kind):
    parent = created(tmp_path / "parent", kind).read_bytes()
    identifier = identifier_in(parent, parent[-512:])
    assert identifier is not None
    assert names_in(parent) == ()
    child = bytearray(created(tmp_path / "child", kind).read_bytes())
    if kind == "vdi":
        child[0x1A8:0x1B8] = parent[0x188:0x198]
    else:
        child[60:64], child[512 + 40 : 512 + 56] = bytes([0, 0, 0, 4]), parent[68:84]
    assert names_in(bytes(child)) == (Named(identifier, ends_there=True),)
    fixed = created(tmp_path / "fixed", "vpc", "-o", "subformat=fixed").read_bytes()
    assert identifier_in(fixed[:FIRST], fixed[-512:]) not in {None, identifier}
    assert identifier_in(bytes(4096), bytes(512)) is None


@pytest.mark.parametrize(("table_at", "is_found"), [(512, True), (4080, True), (1 << 20, True), (1 << 62, False)])
def test_the_parent_of_a_vhd_whose_table_header_is_anywhere(tmp_path, table_at, is_found):
    """All known programs put it directly after the copy of the footer."""
    identifier = b"ABCDEFGHIJKLMNOP"
    image = bytearray(b"conectix".ljust((1 << 20) + 56, b"\0"))
    image[16:24], image[60:64] = table_at.to_bytes(8), bytes([0, 0, 0, 4])
    if is_found:
        image[table_at + 40 : table_at + 56] = identifier
    path = tmp_path / "child"
    path.write_bytes(image)
    expected = (Named(f"\0{identifier.hex()}", ends_there=True),)
    assert names(path) == (expected if is_found else ())
    path.write_bytes(image[: min(table_at, 1 << 20) + 55])
    assert names(path) == (), "it ends within the identifier"


def test_names_with_protocols(tmp_path, lower):
    path = created(tmp_path / "x", "qcow2")
    for name, expected in (
        (f"file:{lower}", [str(lower)]),
        ('json:{"driver": "raw", "file": {"driver": "file", "filename": "/a"}}', ["/a"]),
        ('json:{"file.filename": "/a"}', ["/a"]),
        (
            'json:{"driver": "quorum", "children": [{"file": {"filename": "/a"}}, {"file.filename": "/b"}]}',
            ["/a", "/b"],
        ),
        ("json:{", []),
    ):
        run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", name, str(path))
        assert [each.name for each in names(path)] == expected


def test_a_dirty_or_encrypted_image_still_names_its_backing_file(tmp_path, lower):
    path = created(tmp_path / "x", "qcow2", "-F", "raw", "-b", "lower.img")
    with path.open("r+b") as file:
        file.seek(32)
        file.write((1).to_bytes(4, "big"))  # AES
        file.seek(79)
        file.write(b"\x03")  # dirty and corrupt
    assert [each.name for each in names(path)] == ["lower.img"]


@pytest.mark.parametrize("what", [b"", b"QFI\xfb", b"QED\0", b"KDMV", b"# Disk DescriptorFile", b"\0" * 5000])
def test_what_names_nothing(what):
    assert bytes_needed(what) >= FIRST
    assert names_in(what) == ()


@given(st.sampled_from([b"QFI\xfb", b"QED\0", b"KDMV", b"conectix"]), st.binary(max_size=600), st.booleans())
def test_any_bytes_are_read_without_an_error(magic, rest, padded):
    head = (magic + rest).ljust(FIRST if padded else 0, b"\0")
    assert FIRST <= bytes_needed(head) <= 2 << 20
    names_in(head)


def test_a_name_inside_the_fixed_fields(tmp_path, lower):
    """Nobody writes that, and QEMU follows it."""
    path = notation.write_qcow2(tmp_path / "a.qcow2", "64k:-", backing=lower)
    image = Patched(path)
    name = b"./" + lower.name.encode()
    image["header_length"] = 256
    image.put(112, name)
    image.put(256, bytes(8))
    image["backing_offset"], image["backing_size"] = 112, len(name)
    image.save(path)
    assert "backing file: ./" in notation.run("qemu-img", "info", "-f", "qcow2", str(path))
    assert [named.name for named in names_in(path.read_bytes())] == [name.decode()]
