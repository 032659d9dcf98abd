"""The options that an overlay cannot have, or cannot have together."""

from __future__ import annotations

import os
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from batchdiff.files import own_files
from batchdiff.foreign.qed import largest_disk
from batchdiff.image_source import ImageFormat
from batchdiff.plan.overlay_options import (
    CLUSTER_SIZES,
    COMPRESSION_LEVELS,
    QED_CLUSTER_SIZES,
    BackingPath,
    Compat,
    Compression,
    Encryption,
    OverlayFormat,
    OverlayOptions,
    Preallocation,
)
from batchdiff.qcow2.geometry import DEFAULT_REFCOUNT_BITS, SMALLEST_EXTENDED_L2
from batchdiff.units import format_size

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from batchdiff.plan.plan import GuestPlan

_ESSIV_HASHES = {"aes": ("sha256", "md5"), "serpent": ("sha256", "md5"), "twofish": ("sha256", "md5")}
"""By cipher family, the hashes that are as long as a key of that family; for cast5, only md5 is."""

_OF_LAYOUT = ("vmid", "disk")

_UNRECOGNISED = (ImageFormat.VPC, ImageFormat.LUKS)
"""Formats impossible below a QED overlay, which records only whether its backing file is raw: a fixed VHD has no
mark at its start, and no secret can be given for a backing file of unknown format."""


def contradictions(
    options: OverlayOptions, written: Mapping[str, Any] = MappingProxyType({})
) -> Iterator[tuple[str, str]]:
    """Yield the keys of options that an overlay cannot have, alone or together, each with the reason.

    ``written``: the overlay's keys and values as the manifest has them.
    """
    yield from _of_layout(options, written)
    sizes = QED_CLUSTER_SIZES if options.format is OverlayFormat.QED else CLUSTER_SIZES
    if options.cluster_size is not None and options.cluster_size not in sizes:
        yield "cluster_size", f"{options.format} has no clusters of {options.cluster_size} bytes"
    yield from _of_qcow2(options)
    if options.format is OverlayFormat.QED:
        yield from _of_qed(options, written)
    elif "table_size" in written:
        yield "table_size", "only a QED overlay has a table size; leave it out, or write `format: qed`"
    if options.preallocation is not Preallocation.OFF and options.format is OverlayFormat.QCOW2:
        yield from _of_preallocation(options)
    if options.encryption is not None and options.format is OverlayFormat.QCOW2:
        if options.compression is not Compression.NONE:
            yield (
                "encryption",
                "QEMU cannot encrypt compressed clusters; leave out either encryption or compression",
            )
        yield from ((f"encryption.{key}", why) for key, why in _of_encryption(options.encryption, written))
    if options.data_file is not None and options.format is OverlayFormat.QCOW2:
        yield from _of_data_file(options)
    if written.get("data_file_raw"):
        yield (
            "data_file_raw",
            "QEMU allows this only without a backing file, and every overlay has the template as its backing file;"
            " leave data_file_raw out",
        )


def _of_layout(options: OverlayOptions, written: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "layout" not in written:
        yield from (
            (key, f"needs `layout: proxmox`; add that, or leave {key} out") for key in _OF_LAYOUT if key in written
        )
        return
    for key, is_wrong, why in (
        (
            "path",
            "path" in written,
            "`layout: proxmox` determines the overlay's path; leave out either path or layout",
        ),
        (
            "backing_path",
            options.backing_path is not BackingPath.RELATIVE,
            "Proxmox VE recognises a linked clone only by a relative backing file name; leave backing_path"
            " out, or write `backing_path: relative`",
        ),
        (
            "format",
            options.format is not OverlayFormat.QCOW2,
            "a linked clone of Proxmox VE is a qcow2 image; leave out either format or `layout: proxmox`",
        ),
        (
            "encryption",
            options.encryption is not None,
            "Proxmox VE gives QEMU no secret for an image; leave out either encryption or `layout: proxmox`",
        ),
    ):
        if is_wrong:
            yield key, why


def _of_qcow2(options: OverlayOptions) -> Iterator[tuple[str, str]]:
    size, compression, level = options.cluster_size, options.compression, options.compression_level
    if options.extended_l2 and size is not None and size < SMALLEST_EXTENDED_L2:
        least = format_size(SMALLEST_EXTENDED_L2)
        yield "extended_l2", f"needs a cluster_size of {least} or more, not {format_size(size)}"
    if level is not None and compression is Compression.NONE:
        yield "compression_level", "needs `compression: zlib` or `compression: zstd`"
    elif level is not None and level not in (levels := COMPRESSION_LEVELS[compression]):
        yield "compression_level", f"{level} is not a level of {compression}; use {levels[0]} to {levels[-1]}"
    if options.compat is Compat.V2:
        for key, impossible, instead in (
            ("extended_l2", options.extended_l2, "`extended_l2: false`"),
            ("compression", compression is Compression.ZSTD, "`compression: zlib`"),
            ("lazy_refcounts", options.lazy_refcounts, "`lazy_refcounts: false`"),
            ("refcount_bits", options.refcount_bits != DEFAULT_REFCOUNT_BITS, "`refcount_bits: 16`"),
        ):
            if impossible:
                yield key, f'is impossible with `compat: "{Compat.V2}"`; use {instead}, or `compat: "{Compat.V3}"`'


def _of_qed(options: OverlayOptions, written: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if options.cluster_size is not None and not largest_disk(options.cluster_size, options.table_size):
        yield (
            "table_size" if "table_size" in written else "cluster_size",
            f"QEMU cannot open a QED image with clusters of {format_size(options.cluster_size)} and tables of"
            f" {options.table_size} clusters; choose a smaller table_size or a smaller cluster_size",
        )
    for key, is_set, what in (
        ("compression", options.compression is not Compression.NONE, "compressed clusters"),
        ("extended_l2", options.extended_l2, "subclusters"),
        ("lazy_refcounts", options.lazy_refcounts, "refcounts"),
        ("refcount_bits", options.refcount_bits != DEFAULT_REFCOUNT_BITS, "refcounts"),
        ("compat", options.compat is not Compat.V3, "versions"),
        ("preallocation", options.preallocation is not Preallocation.OFF, "preallocation"),
        ("encryption", options.encryption is not None, "encryption"),
        ("data_file", options.data_file is not None, "external data file"),
    ):
        if is_set:
            yield key, f"a QED overlay has no {what}; leave {key} out, or write `format: qcow2`"


def _of_preallocation(options: OverlayOptions) -> Iterator[tuple[str, str]]:
    if not options.extended_l2:
        yield (
            "preallocation",
            "QEMU preallocates an overlay only with `extended_l2: true`, because only then can a cluster have a"
            " place in the file while the template still shows through. Write `extended_l2: true`, or leave out"
            " preallocation",
        )
    if options.compression is not Compression.NONE:
        yield (
            "preallocation",
            "compressed clusters cannot be preallocated; leave out either preallocation or compression",
        )


def _of_data_file(options: OverlayOptions) -> Iterator[tuple[str, str]]:
    if options.compat is not Compat.V3:
        yield "data_file", f'needs `compat: "{Compat.V3}"`; write that, or leave out data_file'
    if options.compression is not Compression.NONE:
        yield (
            "data_file",
            "QEMU writes no compressed clusters to a data file; leave out either data_file or compression",
        )
    if options.encryption is not None:
        yield "data_file", "batchdiff does not encrypt data files; leave out either data_file or encryption"


def _of_encryption(chosen: Encryption, written: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the wrong options of an encryption, and why (source: QEMU ``crypto/block-luks.c``)."""
    family, _, bits = chosen.cipher_alg.rpartition("-")
    given = written.get("encryption", {})
    if family == "cast5" and chosen.cipher_mode == "xts":
        yield "cipher_mode", "cast5-128 has blocks of 64 bits, and xts needs 128; choose `cipher_mode: cbc`"
    if bits == "192" and chosen.cipher_mode != "xts":
        yield (
            "cipher_alg",
            f"QEMU crashes when it creates a key slot for {chosen.cipher_alg} with {chosen.cipher_mode};"
            " use 128 or 256 bits, or `cipher_mode: xts`",
        )
    if chosen.ivgen_alg == "essiv":
        hashes = _ESSIV_HASHES.get(family, ("md5",))
        if chosen.ivgen_hash_alg not in hashes:
            yield (
                "ivgen_hash_alg",
                f"with essiv and {chosen.cipher_alg}, the hash must be as long as a key of {family};"
                f" choose {' or '.join(hashes)}",
            )
    elif "ivgen_hash_alg" in given:
        yield "ivgen_hash_alg", "only `ivgen_alg: essiv` uses it; leave it out"
    from batchdiff.foreign.luks import LONGEST_ITER_TIME  # noqa: PLC0415  # few overlays are encrypted

    if not 1 <= chosen.iter_time <= LONGEST_ITER_TIME:
        yield "iter_time", f"{chosen.iter_time} ms is out of range; choose 1 to {LONGEST_ITER_TIME}"


def template_objection(options: OverlayOptions, template: ImageFormat) -> str:
    """Return why no overlay with these options can have a template of that format; empty if one can."""
    if options.format is OverlayFormat.QED and template in _UNRECOGNISED:
        return (
            f"QEMU would not recognise a {template} template below a QED overlay, which does not record the"
            " format of its backing file; write `format: qcow2`"
        )
    return ""


def misplaced_data_files(guests: Sequence[GuestPlan], template: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the names of guests whose overlays cannot have their planned data files, and why.

    ``template``: the paths of its whole chain.
    """
    chosen = [(guest, data_file) for guest in guests if (data_file := guest.options.data_file) is not None]
    if not chosen:
        return
    others = {*template, *(path for guest in guests for path in (guest.overlay_path, *guest.source.files))}
    for guest, path in chosen:
        if os.path.dirname(path) != os.path.dirname(guest.overlay_path):
            yield guest.name, f"{path!r} is not beside the overlay"
        if path.endswith(own_files.ALL):
            yield guest.name, f"{path!r} has a name that is reserved for batchdiff's own files"
        if path in others:
            yield guest.name, f"{path!r} is also the path of another file in the plan"
        others.add(path)
