"""batchdiff.foreign.vhdx_parent: a differencing image names its parent by the GUID in the parent's header."""

import os
import struct
import uuid

import notation
import pytest
from commands import batchdiff

from batchdiff.foreign.vhdx_parent import own_guid, parent_guids
from batchdiff.image.backing.heads import Heads, identifier_of

ITEMS = 0x300000 + 32
LOCATOR_AT = 0x11000


def make(path, content="2M:A"):
    raw = notation.write_raw(path.with_suffix(".raw"), content)
    notation.run("qemu-img", "convert", "-f", "raw", "-O", "vhdx", str(raw), str(path))
    return path


def locator(*pairs):
    """A parent locator with keys and values."""
    count, body, entries = len(pairs), b"", []
    start = 20 + 12 * count
    for key, value in pairs:
        texts = [text.encode("utf-16-le") for text in (key, value)]
        at = start + len(body)
        entries.append(struct.pack("<IIHH", at, at + len(texts[0]), *map(len, texts)))
        body += b"".join(texts)
    kind = uuid.UUID("b04aefb7-d19e-4a81-b789-25b8e9445913").bytes_le
    return kind + struct.pack("<HH", 0, count) + b"".join(entries) + body


def child(path, *pairs):
    """An image with a parent locator, as Hyper-V makes it, in place of one of QEMU's items."""
    data = bytearray(make(path).read_bytes())
    item = locator(*pairs)
    kind = uuid.UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c").bytes_le
    struct.pack_into("<16sIII", data, ITEMS + 64, kind, LOCATOR_AT, len(item), 4)
    data[0x300000 + LOCATOR_AT : 0x300000 + LOCATOR_AT + len(item)] = item
    path.write_bytes(data)
    return path


def reader(path):
    data = path.read_bytes()
    return lambda offset, length: data[offset : offset + length]


def guid_of(path):
    return uuid.UUID(bytes_le=own_guid(reader(path)))


@pytest.mark.parametrize("style", ["{}", "{{{}}}"])
def test_a_parent_and_its_difference(tmp_path, style):
    parent = make(tmp_path / "parent.vhdx")
    guid = guid_of(parent)
    path = child(
        tmp_path / "child.avhdx",
        ("relative_path", ".\\parent.vhdx"),
        ("parent_linkage", style.format(str(guid).upper())),
    )
    assert parent_guids(reader(path)) == [guid.bytes_le]
    assert parent_guids(reader(parent)) == []
    with open(parent, "rb") as file:
        own = identifier_of(file.fileno())
    (named,) = Heads().names(str(path), os.stat(path))
    assert (named.name, named.ends_there) == (own, True)


def test_the_newer_header_counts(tmp_path):
    data = bytearray(make(tmp_path / "a.vhdx").read_bytes())
    for at, number, first in ((0x10000, 7, 1), (0x20000, 8, 2)):
        struct.pack_into("<Q", data, at + 8, number)
        struct.pack_into("<16s", data, at + 32, bytes([first] * 16))
    assert own_guid(lambda offset, length: bytes(data[offset : offset + length])) == bytes([2] * 16)


def test_damaged_images_name_nothing(tmp_path):
    data = child(tmp_path / "a.vhdx", ("parent_linkage", "{no-guid}"), ("parent_linkage2", "")).read_bytes()
    for length in [0, 8, 0x10010, 0x30004, 0x30010, 0x300000, 0x300020, 0x311000, 0x311018, 0x311030, len(data)]:
        part = data[:length]
        assert parent_guids(lambda offset, count, part=part: part[offset : offset + count]) == []
    nonsense = bytearray(data)
    struct.pack_into("<Q", nonsense, 0x30000 + 16 + 32 + 16, (1 << 64) - 1)
    struct.pack_into("<Q", nonsense, 0x40000 + 16 + 32 + 16, (1 << 64) - 1)
    assert parent_guids(lambda offset, count: bytes(nonsense[offset : offset + count])) == []
    assert own_guid(lambda _offset, _count: b"") == b""


def test_a_guest_with_a_difference_beside_it_is_not_converted(tmp_path):
    parent = make(tmp_path / "guest.vhdx")
    notation.write_raw(tmp_path / "template.img", "2M:A")
    child(tmp_path / "checkpoint.avhdx", ("parent_linkage", f"{{{guid_of(parent)}}}"))
    (tmp_path / "fleet.yaml").write_text(
        "version: 1\ntemplate: {path: template.img, format: raw}\nguests: [{path: guest.vhdx, format: vhdx}]\n"
    )
    said = batchdiff("plan", "fleet.yaml", cwd=tmp_path, expect=1).stdout
    assert f"needed by {tmp_path}/checkpoint.avhdx" in " ".join(said.split())
