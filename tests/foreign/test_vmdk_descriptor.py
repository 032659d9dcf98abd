"""Descriptors that have one meaning are read as QEMU reads them; all others are refused.

Guards foreign/vmdk.py.
"""

import struct

import many_files
import notation
import pytest

from batchdiff.foreign.vmdk import inspect_descriptor, inspect_extent, inspect_vmdk
from batchdiff.foreign.vmdk_descriptor import ExtentKind, VmdkExtent, read_descriptor
from batchdiff.qcow2.faults import FormatError

FLAT = many_files.descriptor(many_files.FLAT, [(2048, "a.vmdk"), (16, "b.vmdk")])
LINE = 'RW 2048 FLAT "a.vmdk" 0'


def read(text):
    data = text if isinstance(text, bytes) else text.encode()
    return read_descriptor(lambda offset, length: data[offset : offset + length], len(data))


def test_extents_in_order():
    assert read(FLAT) == (
        ExtentKind.FLAT,
        (VmdkExtent("a.vmdk", 1 << 20, 0), VmdkExtent("b.vmdk", 8192, 0)),
    )


@pytest.mark.parametrize(
    ("old", "new", "extent"),
    [
        ("\n", "\r\n", None),
        (LINE, '  RW\t2048  FLAT "a.vmdk"\t128 ', VmdkExtent("a.vmdk", 1 << 20, 65536)),
        (LINE, 'RW 2048 FLAT "../x y/a;b.vmdk" 0', VmdkExtent("../x y/a;b.vmdk", 1 << 20, 0)),
        ("CID=12345678\n", 'encoding="windows-1252"\nisNativeSnapshot="no"\nddb.longContentID = "1"\n', None),
        ("parentCID=ffffffff", "parentCID=FFFFFFFF", None),
        ("CID=12345678", "CID= 12345678", None),
        ("CID=12345678", "CID=-5", None),
    ],
)
def test_harmless_variations(old, new, extent):
    found = read(FLAT.replace(old, new))
    assert len(found.extents) == 2
    assert found.extents[0] == (extent or VmdkExtent("a.vmdk", 1 << 20, 0))


def test_bytes_that_are_not_utf_8_are_kept():
    (name, *_), _ = read(FLAT.encode().replace(b"a.vmdk", b"\xe9.vmdk")).extents
    assert name == "\udce9.vmdk"


def test_trailing_null_bytes_are_ignored():
    assert read(FLAT + "\0" * 512) == read(FLAT)


@pytest.mark.parametrize("missing", range(1, 8))
def test_the_end_of_a_longer_text_behind_a_null_byte_is_ignored(missing):
    """QEMU leaves it if it writes a content ID with fewer digits, as in one of 256 images that it creates.

    Source: QEMU ``block/vmdk.c``, vmdk_write_cid().
    """
    whole = FLAT.encode()
    shorter = whole.replace(b"CID=12345678", b"CID=12345678"[: 12 - missing])
    assert read(shorter + b"\0" + whole[len(shorter) + 1 :] + bytes(100)) == read(FLAT)


@pytest.mark.parametrize("rest", [b"x", b"\n\n", f"{LINE}\n".encode()])
def test_other_text_behind_a_null_byte_is_refused(rest):
    text = FLAT.encode() + (rest if len(rest) > 8 else b"")
    with pytest.raises(FormatError, match="control characters"):
        read(text + b"\0" + rest)


REFUSED = [
    ("createType", "createtype", "no type"),
    ('createType="twoGbMaxExtentFlat"', "", "no type"),
    ('createType="twoGbMaxExtentFlat"', '# createType="twoGbMaxExtentFlat"', "no type"),
    ('createType="', 'createType = "', "no type"),
    ("twoGbMaxExtentFlat", "custom", "type custom"),
    ("twoGbMaxExtentFlat", "fullDevice", "type fullDevice"),
    ("twoGbMaxExtentFlat", "streamOptimized", "type streamOptimized"),
    ("twoGbMaxExtentFlat", "vmfsSparse", "type vmfsSparse"),
    ("twoGbMaxExtentFlat", "seSparse", "type seSparse"),
    ("twoGbMaxExtentFlat", "monolithicSparse", "type monolithicSparse"),
    ("twoGbMaxExtentFlat", "monolithicFlat", "2 extents"),
    ("twoGbMaxExtentFlat", "twoGbMaxExtentSparse", "SPARSE"),
    ("version=1", 'version=1\nX="createType"', "createtype more than once"),
    ("version=1", "version=1\nparentCID=ffffffff", "parentcid more than once"),
    ("parentCID=ffffffff", "parentCID=12345678", "differences"),
    ("version=1", 'parentFileNameHint="/etc/passwd"', "differences"),
    ("version=1", '# parentfilenamehint="/etc/passwd"', "differences"),
    (LINE, f'{LINE}\nRDONLY 16 FLAT "x" 0', "line 8"),
    (LINE, f'{LINE}\nNOACCESS 16 FLAT "x" 0', "line 8"),
    (LINE, f"{LINE}\nRW 16 ZERO", "line 8"),
    (LINE, f'{LINE}\nrw 16 FLAT "x" 0', "line 8"),
    (LINE, f'{LINE}\nRW 16 SPARSE "x"', "line 8"),
    (LINE, f'{LINE}\nRW 16 VMFS "x"', "line 8"),
    (LINE, f"{LINE}\nRW", "line 8"),
    (LINE, f"{LINE}\nRW 16 FLAT", "line 8"),
    (LINE, f"{LINE}\nRW 16 FLAT x 0", "line 8"),
    (LINE, f'{LINE}\nRW -16 FLAT "x" 0', "line 8"),
    (LINE, f'{LINE}\nRW 0x10 FLAT "x" 0', "line 8"),
    (LINE, f'{LINE}\nRW 16 FLAT "x" -1', "line 8"),
    (LINE, f'{LINE}\nRW 16 FLAT "x" 0 device 1', "line 8"),
    (LINE, f'{LINE}\nRW 16 FLAT "" 0', "line 8"),
    (LINE, f'{LINE}\nRW 16 FLAT "x"', "offset"),
    (LINE, f'{LINE}\nRW 0 FLAT "x" 0', "no sectors"),
    (LINE, f'{LINE}\nRW 999999999999999 FLAT "x" 0', "64 TiB"),
    (LINE, f'{LINE}\nRW 9999999999999999 FLAT "x" 0', "line 8"),
    (LINE, f'RW 2048 FLAT "{"x" * 512}" 0', "too long"),
    (LINE, f"\n{LINE}", "line 7 of its descriptor is empty"),
    (LINE, f" \t\n{LINE}", "line 7 of its descriptor is empty"),
    (LINE, f"{LINE}\nwhat is this", "line 8"),
    (LINE, f'{LINE}\n16 FLAT "x" 0', "line 8"),
    (LINE, f"{LINE}\n=1", "line 8"),
    (LINE, 'RW 2048 FLAT "a\rb" 0', "control"),
    (LINE, f'{LINE}\rRW 16 FLAT "x" 0', "control"),
    (LINE, f'{LINE}\vRW 16 FLAT "x" 0', "control"),
    (LINE, f'{LINE}\0RW 16 FLAT "x" 0', "control"),
    (LINE, f"{LINE}\x1b[2J", "control"),
    (
        "CID=12345678",
        "# CID of it\nCID=12345678",
        "content ID CID is missing, or is not a number, where QEMU looks",
    ),
    ("CID=12345678", f"#{'x' * 11_000}\nCID=12345678", "content ID CID is missing"),
    ("CID=12345678", "CID=xyz", "content ID CID is missing"),
    ("parentCID=ffffffff", "", "content ID parentCID is missing"),
]


@pytest.mark.parametrize(("old", "new", "words"), REFUSED)
def test_anything_with_another_meaning_is_refused(old, new, words):
    text = FLAT.replace(old, new, 1)
    assert text != FLAT
    with pytest.raises(FormatError) as caught:
        read(text)
    assert words in str(caught.value)


def test_a_descriptor_without_extents_is_refused():
    with pytest.raises(FormatError, match="names no extent"):
        read(many_files.descriptor(many_files.FLAT, []))


def test_a_long_file_is_not_read():
    def unread(_offset, _length):
        raise AssertionError

    with pytest.raises(FormatError, match="too long"):
        read_descriptor(unread, (64 << 10) + 1)


def test_qemu_counts_an_extent_after_an_empty_line_twice(tmp_path):
    """This is the reason to refuse such a line."""
    many_files.write(tmp_path / "a.vmdk", many_files.ONE_FLAT, bytes(4096))
    text = (tmp_path / "a.vmdk").read_text().replace("RW ", "\nRW ")
    (tmp_path / "a.vmdk").write_text(text)
    assert len(many_files.by_qemu(tmp_path / "a.vmdk", "vmdk")) == 8192


@pytest.fixture
def extent(tmp_path):
    (file,) = many_files.write(tmp_path / "a.vmdk", many_files.SPARSE, notation.content("1M:A"), 1)
    return bytearray(file.read_bytes())


def inspect(data, length=1 << 20, *, is_last=True):
    inspect_extent(lambda offset, size: bytes(data[offset : offset + size]), len(data), length, is_last=is_last)


def test_an_extent_of_qemu_is_accepted(extent):
    inspect(extent)


def test_an_extent_without_room_for_a_descriptor_is_not_an_image(extent):
    """The advice is that for extents; nothing has to be restored."""
    extent[28:44] = bytes(16)
    inspect(extent)
    with pytest.raises(FormatError, match="it has no descriptor") as caught:
        inspect_vmdk(lambda offset, size: bytes(extent[offset : offset + size]), len(extent))
    assert caught.value.remedy.startswith("If it is an extent of another image, name the descriptor")


def test_an_extent_of_another_size_is_refused(extent):
    with pytest.raises(FormatError, match="holds 1048576 bytes of the disk, but 512 according to the descriptor"):
        inspect(extent, 512)


def test_only_the_last_extent_may_end_inside_a_grain(extent):
    """QEMU takes the rest of such a grain from the wrong extent."""
    struct.pack_into("<Q", extent, 12, 2047)
    inspect(extent, 2047 * 512)
    with pytest.raises(FormatError, match="not a whole number of grains of 65536"):
        inspect(extent, 2047 * 512, is_last=False)


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (0, b"KDMW", "signature"),
        (12, bytes(8), "size is 0"),
        (512, b"# Disk DescriptorFile", "an image of its own"),
        (77, b"\x01", "compression method 1"),
        (56, b"\xff" * 7 + b"\x00", "grain directory"),
    ],
)
def test_an_extent_with_a_fault_is_refused(extent, at, value, words):
    extent[at : at + len(value)] = value
    with pytest.raises(FormatError, match=words):
        inspect(extent)


def cowd(content):
    """A vmfsSparse extent of ESXi, in grains of 64 KiB: header, directory, table of 4,096 grains, grains."""
    grains = [content[at : at + 65536] for at in range(0, len(content), 65536)]
    head = struct.pack("<4sIIIIIII", b"COWD", 1, 3, len(content) // 512, 128, 4, 1, 40 + 128 * len(grains))
    table = struct.pack(f"<{len(grains)}I", *(40 + 128 * number for number in range(len(grains))))
    return head.ljust(2048, b"\0") + struct.pack("<I", 5).ljust(512, b"\0") + table.ljust(17920, b"\0") + content


def test_a_sparse_image_of_esxi_is_refused_with_a_remedy_that_works(tmp_path):
    content, extent = notation.content("64k:A 128k:B"), tmp_path / "image-s001.vmdk"
    extent.write_bytes(cowd(content))
    text = many_files.descriptor(many_files.VMFS, [(len(content) // 512, extent.name)])
    text = text.replace('"vmfs"', '"vmfsSparse"').replace(" VMFS ", " VMFSSPARSE ")
    with pytest.raises(FormatError, match="its type vmfsSparse is not supported") as caught:
        read(text)
    assert "copy with `qemu-img convert`" in caught.value.remedy
    (tmp_path / "image.vmdk").write_text(text)
    assert notation.qemu_content(tmp_path / "image.vmdk", "vmdk") == content


@pytest.mark.parametrize(("mark", "kind"), [(b"COWD", "vmfsSparse"), (b"\xbe\xba\xfe\xca\0\0\0\0", "seSparse")])
def test_an_extent_of_esxi_is_not_an_image_by_itself(mark, kind):
    data = mark.ljust(4096, b"\0")
    with pytest.raises(FormatError, match=f"it is only an extent of an image of type {kind}") as caught:
        inspect_vmdk(lambda offset, length: data[offset : offset + length], len(data))
    assert "qcow2 copy of the whole image from its descriptor" in caught.value.remedy


@pytest.mark.parametrize(("kind", "shown"), [(b"vmfsSparse", "vmfsSparse"), (b"Sp\xe9cial", r"Sp\xe9cial")])
def test_an_unsupported_type_is_shown_as_it_is_written(kind, shown):
    text = b'createType="' + kind + b'"\nRW 1 SPARSE "a"\n'
    with pytest.raises(FormatError) as caught:
        inspect_descriptor(text, "monolithicsparse")
    assert f"its type {shown} is not supported" in str(caught.value)
