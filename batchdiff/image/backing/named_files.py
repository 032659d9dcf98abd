"""The files that an image names in its first bytes, and the identifier by which other images name it.

::

    qcow2   its backing file and its data file            qed    its backing file
    vmdk    its backing file and its extents, as text in a descriptor
    vdi     its parent's identifier                       vpc    its parent's identifier

Only the names are parsed, so they are found even in a damaged image.

Source: QEMU ``docs/interop/qcow2.txt`` and ``docs/interop/qed_spec.txt``; VMware, "Virtual Disk Format 5.0".
"""

from __future__ import annotations

import contextlib
import json
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from batchdiff.qcow2.backing_name import name_ends_at, named_backing, named_data_file
from batchdiff.qcow2.faults import FormatError
from batchdiff.qcow2.header import MAGIC, claimed_cluster_size

FIRST = 4096
"""Bytes of the first read, enough for most images."""

_MOST = 2 << 20
"""The size of the largest qcow2 cluster: a header and its names fit into one."""

_SECTOR = 512

_QED = b"QED\0"
_QED_FIELDS = struct.Struct("<QQQQQII")
_QED_FIELDS_AT = 16
_QED_HAS_BACKING, _QED_BACKING_IS_RAW = 1 << 0, 1 << 2

_VMDK, _VMDK_TEXT = b"KDMV", b"# Disk DescriptorFile"
_VMDK_CAPACITY_AT = 12
_VMDK_FIELDS = struct.Struct("<QQQQ")
_VMDK_TEXT_AT, _VMDK_TEXT_BYTES = _SECTOR, 20 * _SECTOR
"""Where QEMU looks for the parent's name, whatever the header says."""
_VMDK_BELOW = re.compile(rb'parentFileNameHint[ \t]*=[ \t]*"([^"\n]*)"')
_VMDK_EXTENT = re.compile(rb'^[ \t]*(?:RW|RDONLY|NOACCESS)[ \t]+\d+[ \t]+\w+[ \t]+"([^"\n]*)"', re.MULTILINE)


_VDI, _VDI_AT = b"\x7f\x10\xda\xbe", 0x40
_VDI_OWN, _VDI_PARENT = slice(0x188, 0x198), slice(0x1A8, 0x1B8)
_VPC, _VPC_DIFFERENCING, _VPC_TYPE = b"conectix", bytes([0, 0, 0, 4]), slice(60, 64)
_VPC_OWN, _VPC_TABLE_AT, _VPC_PARENT = slice(68, 84), slice(16, 24), slice(40, 56)
_NO_IDENTIFIER = bytes(16)


class Named(NamedTuple):
    """A file that an image names by a path, perhaps relative to the image's folder, or by an identifier.

    ``ends_there``: the chain is not followed past this file, whatever its content looks like.
    """

    name: str
    ends_there: bool


def bytes_needed(head: bytes) -> int:
    """Judging by a file's first bytes, return how many bytes :func:`names_in` needs: at least ``FIRST``."""
    end = 0
    if head.startswith(MAGIC):
        end = min(name_ends_at(head), claimed_cluster_size(head))
    elif head.startswith(_QED) and len(head) >= FIRST:
        *_, offset, size = _QED_FIELDS.unpack_from(head, _QED_FIELDS_AT)
        end = offset + size
    elif head.startswith(_VMDK) and len(head) >= FIRST:
        _, _, first, count = _VMDK_FIELDS.unpack_from(head, _VMDK_CAPACITY_AT)
        end = max((first + count) * _SECTOR, _VMDK_TEXT_AT + _VMDK_TEXT_BYTES)
    elif _is_vpc_difference(head):
        end = int.from_bytes(head[_VPC_TABLE_AT]) + _VPC_PARENT.stop
    elif head.startswith(_VMDK_TEXT):
        end = _MOST
    return min(max(end, FIRST), _MOST)


def names_in(head: bytes) -> tuple[Named, ...]:
    """Return the files that an image names, except the parent of a VHDX image.

    ``head``: as many bytes as :func:`bytes_needed` returns, or all of a shorter file.
    """
    if head.startswith(MAGIC) and claimed_cluster_size(head):
        return tuple(_in_qcow2(head))
    if head.startswith(_QED):
        return tuple(_in_qed(head))
    if head.startswith((_VMDK, _VMDK_TEXT)):
        return tuple(_in_vmdk(head))
    parent = _NO_IDENTIFIER
    if head.startswith(_VDI, _VDI_AT):
        parent = head[_VDI_PARENT]
    elif _is_vpc_difference(head):
        parent = head[int.from_bytes(head[_VPC_TABLE_AT]) :][_VPC_PARENT]
    # The file may end before the identifier.
    is_named = len(parent) == len(_NO_IDENTIFIER) and parent != _NO_IDENTIFIER
    return (Named(identified(parent), ends_there=True),) if is_named else ()


def _is_vpc_difference(head: bytes) -> bool:
    return head.startswith(_VPC) and head[_VPC_TYPE] == _VPC_DIFFERENCING


def identifier_in(head: bytes, last: bytes) -> str | None:
    """Return the name that :func:`names_in` gives to this VDI or VHD image as a parent; None for other formats.

    ``last``: the last sector of the file, or nothing if :func:`may_have_footer` returns False.
    """
    if head.startswith(_VDI, _VDI_AT):
        return identified(head[_VDI_OWN])
    footer = head if head.startswith(_VPC) else last
    return identified(footer[_VPC_OWN]) if footer.startswith(_VPC) else None


def may_have_footer(head: bytes) -> bool:
    """Return whether an image could be a fixed VHD, judging by its first bytes."""
    return not head.startswith((MAGIC, _QED, _VMDK, _VMDK_TEXT, _VPC)) and not head.startswith(_VDI, _VDI_AT)


def identified(identifier: bytes) -> str:
    """Return a name for an image that is known only by its identifier."""
    return f"\0{identifier.hex()}"  # no file can have that name


def _in_qcow2(head: bytes) -> Iterator[Named]:
    head = head[: claimed_cluster_size(head)]
    with contextlib.suppress(FormatError):
        name, kind = named_backing(head)
        for each in [] if name is None else _plain_names(name):
            yield Named(each, kind == "raw")
    with contextlib.suppress(FormatError):
        data_file = named_data_file(head)
        for each in [] if data_file is None else _plain_names(data_file):
            yield Named(each, ends_there=True)


def _in_qed(head: bytes) -> Iterator[Named]:
    if len(head) < _QED_FIELDS_AT + _QED_FIELDS.size:
        return
    features, *_, offset, size = _QED_FIELDS.unpack_from(head, _QED_FIELDS_AT)
    if features & _QED_HAS_BACKING and size > 0 and offset + size <= len(head):
        for each in _plain_names(_text(head[offset : offset + size])):
            yield Named(each, bool(features & _QED_BACKING_IS_RAW))


def _in_vmdk(head: bytes) -> Iterator[Named]:
    text, is_its_extent = head, False
    if head.startswith(_VMDK):
        if len(head) < _VMDK_CAPACITY_AT + _VMDK_FIELDS.size:
            return
        capacity, _, first, count = _VMDK_FIELDS.unpack_from(head, _VMDK_CAPACITY_AT)
        text = head[_VMDK_TEXT_AT:][:_VMDK_TEXT_BYTES]
        if (first, count) != (1, 20):
            text += b"\n" + head[first * _SECTOR : (first + count) * _SECTOR]
        is_its_extent = capacity > 0
    below, extents = _VMDK_BELOW.findall(text), _VMDK_EXTENT.findall(text)
    if is_its_extent and len(extents) == 1:
        extents = []  # the file itself, under the name that it had when it was created
    for names, ends_there in ((below, False), (extents, True)):
        yield from (Named(_text(name), ends_there) for name in names if name)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _plain_names(name: str) -> list[str]:
    if not name.startswith("json:"):
        return [name.removeprefix("file:")]
    with contextlib.suppress(ValueError, RecursionError):
        return list(_file_names(json.loads(name.removeprefix("json:"))))
    return []


def _file_names(value: object) -> Iterator[str]:
    if isinstance(value, list):
        value = {str(at): inner for at, inner in enumerate(value)}
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, str) and key.rpartition(".")[2] == "filename":
                yield inner.removeprefix("file:")
            yield from _file_names(inner)
