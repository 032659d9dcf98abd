"""A libvirt domain: its disks, and the edits that make a disk use another image.

::

    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>               type: the format of the image
      <source file='/images/web01.img'/>             or dev='/dev/vg/web01', or pool='...' volume='...'
      <backingStore type='file'>                     a chain that is written out, which libvirt does not probe
        <format type='raw'/>
        <source file='/images/template.img'/>
        <backingStore/>                              its end; without it, libvirt probes the rest
      </backingStore>
      <target dev='vda' bus='virtio'/>
    </disk>

Source: libvirt, "Domain XML format" (formatdomain.html), section "Hard drives, floppy disks, CDROMs".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from batchdiff.definitions.libvirt_pool import Pool
from batchdiff.definitions.xml_elements import Element, parse_elements
from batchdiff.errors import DefinitionError
from batchdiff.frozen import frozen

_DEVICES = {"disk", "lun"}


@frozen
class DomainDisk:
    """A disk of a domain, or an image below one. Whatever the XML does not give is empty."""

    target: str
    path: str
    pool: str
    volume: str
    format: str
    element: Element


@frozen
class Domain:
    """A domain as its XML describes it.

    ``where``: a name for the source of the XML, such as a file. ``disks``: CD-ROMs, floppy disks, and disks
    without a source are left out.
    """

    name: str
    where: str
    document: bytes
    disks: tuple[DomainDisk, ...]


class WrittenChain(NamedTuple):
    """The images that a definition names below a disk, the topmost first. ``is_ended``: whether these are all."""

    images: tuple[DomainDisk, ...]
    is_ended: bool


def parse_domain(document: bytes, where: str) -> Domain:
    """Parse a domain's XML, as ``virsh dumpxml`` prints it.

    :raises DefinitionError: the document is not the XML of a domain with a name.
    """
    root = parse_elements(document, where)
    if root.name != "domain":
        raise DefinitionError(f"cannot use {where}", why=f"it is a <{root.name}>, not a <domain>")
    name = root.first("name")
    devices = root.first("devices")
    if name is None:
        raise DefinitionError(f"cannot use {where}", why="the domain has no name")
    disks = [_disk(element) for element in devices.all("disk")] if devices else []
    return Domain(name.text.strip(), where, document, tuple(disk for disk in disks if disk is not None))


def _disk(element: Element) -> DomainDisk | None:
    if element.attributes.get("device", "disk") not in _DEVICES:
        return None
    return None if element.first("source") is None else _with_source(element, "driver")


def _with_source(element: Element, format_in: str) -> DomainDisk:
    source, driver, target = element.first("source"), element.first(format_in), element.first("target")
    given = source.attributes if source else {}
    return DomainDisk(
        target=target.attributes.get("dev", "") if target else "",
        path=given.get("file") or given.get("dev") or "",
        pool=given.get("pool", ""),
        volume=given.get("volume", ""),
        format=driver.attributes.get("type", "") if driver else "",
        element=element,
    )


def written_chain(disk: DomainDisk) -> WrittenChain | None:
    """Return the written chain of a disk; None if libvirt probes the whole chain."""
    images: list[DomainDisk] = []
    store = disk.element.first("backingStore")
    if store is None:
        return None
    while store is not None and store.children:
        images.append(_with_source(store, "format"))
        store = store.first("backingStore")
    return WrittenChain(tuple(images), is_ended=store is not None)


def with_image(  # noqa: PLR0913  # options by keyword
    domain: Domain,
    disk: DomainDisk,
    path: str,
    image_format: str,
    pools: Sequence[Pool] = (),
    *,
    keeps_chain: bool = False,
    is_device: bool = False,
) -> bytes:
    """Return the domain's XML with ``disk`` changed to use the image at ``path``.

    A written chain is removed unless ``keeps_chain``: it describes the former image, and libvirt would not probe
    the new one. But an empty chain stays if the image is raw: a raw image has no backing file. A disk that names a
    volume of a pool still does if the pool is in ``pools`` and contains the image. ``is_device``: whether the
    image is a block device, which QEMU 6.0 and later refuse to open as a file.
    """
    edits: list[tuple[int, int, bytes]] = []
    element = disk.element
    document = domain.document
    source, driver = element.first("source"), element.first("driver")
    if source is None:
        raise ValueError("a disk without a source is not among a domain's disks")
    pool = next((pool for pool in pools if disk.pool and pool.name == disk.pool), None)
    volume = pool.volume_at(path) if pool else ""
    if volume:
        if volume != disk.volume:
            edits.append(_with_attributes(document, source, {"volume": volume}, ()))
    elif disk.path != path:
        kind, name, other = ("block", "dev", "file") if is_device else ("file", "file", "dev")
        edits.append(_with_attributes(document, element, {"type": kind}, ()))
        edits.append(_with_attributes(document, source, {name: path}, (other, "pool", "volume", "mode")))
    if driver is None:
        text = f"<driver name='qemu' type={_quoted(image_format)}/>".encode()
        edits.append((source.start, source.start, text + _indentation(document, source.start)))
    elif disk.format != image_format:
        edits.append(_with_attributes(document, driver, {"type": image_format}, ()))
    stores = [store for store in element.all("backingStore") if store.children or image_format != "raw"]
    stores = [] if keeps_chain else stores
    edits += [(*_line_of(document, store), b"") for store in stores]
    return _edited(document, edits)


def _with_attributes(
    document: bytes, element: Element, new: dict[str, str], without: tuple[str, ...]
) -> tuple[int, int, bytes]:
    tag = document[element.start : element.inside]
    for name in without:
        tag = _attribute(name).sub(b"", tag)
    for name, value in new.items():
        text = f" {name}={_quoted(value)}".encode()
        if _attribute(name).search(tag):
            tag = _attribute(name).sub(lambda _found, text=text: text, tag)  # type: ignore[misc]
        else:
            end = -2 if tag.endswith(b"/>") else -1
            tag = tag[:end].rstrip() + text + tag[end:]
    return element.start, element.inside, tag


def _attribute(name: str) -> re.Pattern[bytes]:
    return re.compile(rb"\s+" + name.encode() + rb"\s*=\s*(?:'[^']*'|\"[^\"]*\")")


def _quoted(value: str) -> str:
    return "'" + escape(value, quote=False).replace("'", "&apos;") + "'"


def _indentation(document: bytes, at: int) -> bytes:
    """Return any line break and indentation directly before an offset."""
    line = document.rfind(b"\n", 0, at) + 1
    before = document[line:at]
    return b"\n" + before if not before.strip() and line else b""


def _line_of(document: bytes, element: Element) -> tuple[int, int]:
    line = document.rfind(b"\n", 0, element.start)
    alone = line >= 0 and not document[line : element.start].strip()
    return (line if alone else element.start), element.end


def _edited(document: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for start, end, text in sorted(edits, reverse=True):
        document = document[:start] + text + document[end:]
    return document
