"""Comparison of compressed clusters without unpacking them.

A copy of a compressed template may still store most clusters as the template does. Unpacking zlib takes 50 times
as long as comparing the compressed bytes.
"""

from __future__ import annotations

from batchdiff.image.image import Image
from batchdiff.image.layer import CompressedCluster, Segment, clip_segments
from batchdiff.qcow2.entries import Origin

CompressedClusters = dict[tuple[int, int], CompressedCluster]
"""Whole compressed clusters, each by the start and end of a segment that lies in it."""


def compressed_clusters(image: Image, segments: list[Segment]) -> CompressedClusters:
    """Read the clusters of those ``segments`` that are compressed.

    :raises ImageError: the image cannot be read.
    """
    return {
        (segment.start, segment.end): image.layers[segment.layer].compressed_cluster(segment)
        for segment in segments
        if segment.origin is Origin.COMPRESSED
    }


def range_to_compare(
    clusters: CompressedClusters, image: Image, segments: list[Segment], start: int, end: int
) -> tuple[int, int] | None:
    """Return the part of bytes ``start`` to ``end`` whose content must be compared; None if there is none.

    ``clusters``: those of the other image. ``segments``: those of ``image``; they may stop before ``end``.

    :raises ImageError: ``image`` cannot be read.
    """
    left = []
    for segment in clip_segments(segments, start, end):
        if not _is_equal(clusters, image, segment):
            left.append((segment.start, segment.end))
        start = segment.end
    if start < end:
        left.append((start, end))
    return (left[0][0], left[-1][1]) if left else None


def _is_equal(clusters: CompressedClusters, image: Image, segment: Segment) -> bool:
    if segment.origin is not Origin.COMPRESSED:
        return False
    other = clusters.get((segment.start, segment.end))
    return other is not None and other == image.layers[segment.layer].compressed_cluster(segment)
