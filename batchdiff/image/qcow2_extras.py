"""The external data file of a qcow2 image, and checks of snapshots and bitmaps.

QEMU refuses a file in which snapshots or bitmaps are invalid.
"""

from __future__ import annotations

import json
import os

import numpy as np

from batchdiff.errors import ImageError, MovedError
from batchdiff.files.allowed_files import allowed_file
from batchdiff.files.filenames import shell_line, shell_path
from batchdiff.image.files import ImageFile, ReadObserver
from batchdiff.image.layer import Segment
from batchdiff.image.qcow2_tables import L2Tables, entries_in, read_words
from batchdiff.image.raw import RawLayer, open_part
from batchdiff.image_source import ImageSource
from batchdiff.qcow2.bitmaps import bitmap_tables, check_bitmap_table
from batchdiff.qcow2.entries import Origin, check_external
from batchdiff.qcow2.faults import require
from batchdiff.qcow2.header import Header
from batchdiff.qcow2.references import SNAPSHOT_TABLE, Table, require_apart, table_at
from batchdiff.qcow2.snapshots import snapshot_tables
from batchdiff.quoting import show


def open_data_file(source: ImageSource, name: str, observer: ReadObserver | None) -> RawLayer:
    """Open the external data file of a qcow2 image.

    :raises MovedError: the absolute name is not allowed, but a file of the same name is beside the image.
    :raises ImageError: the file, or its name, cannot be used.
    """
    try:
        path = allowed_file(name, source.path, source.allow_folders)
    except ImageError as error:
        beside = os.path.join(os.path.dirname(source.path), os.path.basename(name))
        is_there = (
            os.path.isfile(beside) and not os.path.islink(beside) and not os.path.samefile(beside, source.path)
        )
        if os.path.isabs(name) and is_there:
            raise _data_file_moved(source.path, name, beside) from error
        raise
    if not os.path.isabs(name):
        amend = shell_line(["qemu-img", "amend", "-f", "qcow2", "-o", f"data_file={path.replace(',', ',,')}"])
        folder, own = map(shell_path, os.path.split(source.path))
        raise ImageError(
            f"cannot use {source.path}",
            path=source.path,
            why=f"the name of its data file, {name!r}, is relative to the folder in which QEMU is started",
            remedy=f"If {path} is meant, correct the header: `cd {folder} && {amend} {own}`.",
        )
    return open_part(path, "data file", source.path, observer)


def _data_file_moved(image: str, name: str, beside: str) -> MovedError:
    files = {key: {"driver": "file", "filename": path} for key, path in (("file", image), ("data-file", beside))}
    opened = json.dumps({"driver": "qcow2", "backing": None} | files)
    amend = shell_line(["qemu-img", "amend", "-o", f"data_file={beside.replace(',', ',,')}", f"json:{opened}"])
    return MovedError(
        f"cannot use {image}",
        path=image,
        why=f"its header names the data file {show(name)}, but a file of the same name is beside the image",
        remedy=f"If {beside} is meant, as after a move, correct the header: `{amend}`.",
    )


def in_data_file(file: RawLayer, segments: list[Segment]) -> list[Segment]:
    """Replace FILE segments with those of a data file, in which data has the same offsets as on the disk."""
    return [
        part
        for segment in segments
        for part in (
            [each._replace(layer=1) for each in file.parts(segment.start, segment.end)]
            if segment.origin is Origin.FILE
            else [segment]
        )
    ]


def check_in_data_file(file: ImageFile, header: Header, tables: L2Tables, data_size: int) -> None:
    """Check the L2 entries of an image with a data file of ``data_size`` bytes.

    :raises FormatError: an entry is invalid, or the data file is too short.
    :raises ImageError: the entries cannot be read.
    """
    geometry, order = header.geometry, np.argsort(tables.offsets, kind="stable")
    starts = tables.indices[order].astype(np.int64) * geometry.l2_coverage
    within = np.arange(geometry.l2_entries) * geometry.cluster_size
    for first, words in entries_in(file, header, tables.offsets):
        found = starts[first : first + len(words) // geometry.l2_entries]
        places = (found[:, None] + within).reshape(-1)
        check_external(words, geometry, places, virtual_size=header.virtual_size, data_size=data_size)


def check_extras(file: ImageFile, header: Header, metadata: list[Table]) -> list[Table]:
    """Check the snapshots and bitmaps; return ``metadata`` with their tables.

    :raises FormatError: they are invalid, or tables overlap.
    :raises ImageError: the file cannot be read.
    """
    found = list(metadata)
    if header.snapshots:
        found = [table for table in found if table.name != SNAPSHOT_TABLE] + _snapshots(file, header)
    if header.bitmaps:
        offset, length = header.bitmap_directory
        directory = file.read_exactly(length, offset)
        cluster = header.geometry.cluster_size
        for table, count in bitmap_tables(directory, header.bitmaps, cluster, header.virtual_size):
            _require_inside(table + count * 8, file.size, "a bitmap's table")
            check_bitmap_table(read_words(file, table, count), cluster)
            found.append(table_at(table, count * 8, "a bitmap's table"))
    # QEMU detects an overlap only when it writes to the image, as it does when a VM starts on one with bitmaps.
    require_apart(found, header.geometry.cluster_size)
    return found


def _snapshots(file: ImageFile, header: Header) -> list[Table]:
    def read(offset: int, length: int) -> bytes:
        return file.read_exactly(length, offset)

    end, tables = snapshot_tables(read, header.snapshots_offset, header.snapshots)
    _require_inside(end, file.size, "its snapshot table")
    found = [table_at(header.snapshots_offset, end - header.snapshots_offset, SNAPSHOT_TABLE)]
    for start, length in tables:
        _require_inside(start + length, file.size, "a snapshot's L1 table")
        require(
            start % header.geometry.cluster_size == 0,
            f"a snapshot's L1 table at {start} is not aligned to a cluster",
        )
        if length:
            found.append(table_at(start, length, "a snapshot's L1 table"))
    return found


def _require_inside(end: int, size: int, what: str) -> None:
    require(end <= size, f"{what} ends past the end of the file ({size} bytes), which is truncated or damaged")
