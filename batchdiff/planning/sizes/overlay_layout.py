"""The layout of an overlay, qcow2 or QED, and its space on disk."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from batchdiff.extents import Extents, Kind
from batchdiff.foreign.luks_size import luks_written_bytes
from batchdiff.foreign.qed_layout import QedLayout, entry_ranges, qed_header, qed_layout
from batchdiff.plan.overlay_options import (
    DEFAULT_CLUSTER_SIZE,
    OverlayFormat,
    OverlayOptions,
    geometry_of,
    layout_options_of,
)
from batchdiff.planning.sizes.disk_use import SpaceTaken
from batchdiff.planning.sizes.overlay_sizes import disk_bytes
from batchdiff.qcow2.layout import Layout, header_for, layout_for
from batchdiff.units import align_up, ceil_div

AnyLayout: TypeAlias = Layout | QedLayout


def overlay_layout(
    extents: Extents, virtual_size: int, options: OverlayOptions, backing: tuple[str, str]
) -> AnyLayout:
    """Return the layout of an uncompressed overlay. ``backing``: the template's name and format.

    :raises FormatError: the overlay cannot be made in its format.
    """
    cluster_size = options.cluster_size or DEFAULT_CLUSTER_SIZE
    if options.format is OverlayFormat.QED:
        layout = qed_layout(extents, virtual_size, cluster_size, options.table_size)
        qed_header(layout, backing)  # only for its checks
        return layout
    found = layout_for(extents, virtual_size, geometry_of(options, cluster_size), layout_options_of(options))
    header_for(found, virtual_size, backing=backing, data_file=options.data_file)  # only for its checks
    return found


def overlay_disk_bytes(layout: AnyLayout, extents: Extents, options: OverlayOptions, data: int, unit: int) -> int:
    """Return an overlay's bytes on disk, each part rounded up to whole units. Its data takes ``data`` bytes."""
    if isinstance(layout, QedLayout):
        return _qed_disk_bytes(layout, extents, data, unit)
    if options.data_file is None and options.preallocation.reserves_blocks:
        return align_up(layout.file_size, unit)
    return disk_bytes(layout, data, unit) + _luks_disk_bytes(layout, options, unit)


def _luks_disk_bytes(layout: Layout, options: OverlayOptions, unit: int) -> int:
    """Return a LUKS header's bytes on disk: only its beginning is written, and the rest stays a hole.

    If a unit holds several clusters, :func:`disk_bytes` counts the whole header, so return minus the hole's bytes.
    """
    secret = options.encryption
    if secret is None:
        return 0
    start, written = layout.luks_offset, luks_written_bytes(secret.cipher_alg, secret.cipher_mode)
    if layout.geometry.cluster_size < unit:
        hole = layout.l1_offset // unit - ceil_div(start + written, unit)
        return -max(hole, 0) * unit
    return align_up(written, unit)


def _qed_disk_bytes(layout: QedLayout, extents: Extents, data: int, unit: int) -> int:
    """Return a QED overlay's bytes on disk. Of a table, count only units with entries: the rest can be a hole."""
    ranges = [np.array([[0, 1]]), np.stack(entry_ranges(extents, layout), axis=1)]
    if layout.cluster_size < unit:  # all units that hold a data cluster are taken
        if extents.units(Kind.DATA):
            ranges.append(np.array([[layout.data_offset, layout.file_size]]))
        data = 0
    return _units_touched(np.concatenate(ranges), unit) * unit + align_up(data, unit)


def encrypted_space(extents: Extents, granule: int, virtual_size: int, unit: int) -> SpaceTaken:
    """Return the space that encrypted data takes: it has no holes and shares no blocks."""
    pairs = extents.pairs(Kind.DATA) * granule
    ends = np.minimum(pairs[:, 0] + pairs[:, 1], virtual_size)
    return SpaceTaken(_units_touched(np.stack([pairs[:, 0], ends], axis=1), unit) * unit, 0)


def _units_touched(ranges: np.typing.NDArray[np.int64], unit: int) -> int:
    """``ranges``: (start, end), ascending and disjoint."""
    if not len(ranges):
        return 0
    begins, stops = ranges[:, 0] // unit, (ranges[:, 1] - 1) // unit
    before = np.concatenate([[-1], stops[:-1]])
    return int((stops - np.maximum(begins, before + 1) + 1).sum())
