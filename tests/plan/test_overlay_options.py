"""The combinations of options that are refused, with QEMU as the judge.

Guards plan/overlay_options.py.
"""

import itertools
import subprocess

import pytest

from batchdiff.plan.overlay_options import (
    COMPRESSION_LEVELS,
    Compat,
    Compression,
    OverlayOptions,
    geometry_of,
)
from batchdiff.plan.overlay_rules import contradictions
from batchdiff.qcow2.geometry import REFCOUNT_BITS, CompressionType, Geometry


def refused(**options):
    return [key for key, _ in contradictions(OverlayOptions(**options))]


COMBINATIONS = itertools.product(
    Compat, [False, True], list(Compression), [False, True], REFCOUNT_BITS, [8192, 16384]
)


def qemu_creates(folder, options: OverlayOptions) -> bool:
    """Whether QEMU creates an image with these options."""
    switches = {
        "compat": options.compat,
        "extended_l2": "on" if options.extended_l2 else "off",
        "lazy_refcounts": "on" if options.lazy_refcounts else "off",
        "refcount_bits": options.refcount_bits,
        "cluster_size": options.cluster_size,
    }
    if options.compression is not Compression.NONE:
        switches["compression_type"] = options.compression
    text = ",".join(f"{key}={value}" for key, value in switches.items())
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", text, str(folder / "a.qcow2"), "1M"]
    done = subprocess.run(command, check=False, capture_output=True)
    assert done.returncode in {0, 1}, done.stderr
    return done.returncode == 0


def test_what_is_refused_is_what_qemu_refuses(tmp_path):
    found = {}
    for compat, extended, compression, lazy, bits, cluster_size in COMBINATIONS:
        options = OverlayOptions(
            cluster_size, extended, compression, lazy_refcounts=lazy, refcount_bits=bits, compat=compat
        )
        # One odd feature at a time, and all of those that version 2 does not have at once.
        oddities = [extended, compression is Compression.ZSTD, lazy, bits != 16, cluster_size == 8192]
        if sum(oddities) <= 2 or all(oddities[:4]):
            found[options] = not list(contradictions(options))
    assert {options: qemu_creates(tmp_path, options) for options in found} == found
    assert len(set(found.values())) == 2


@pytest.mark.parametrize("compression", [Compression.ZLIB, Compression.ZSTD])
def test_levels(compression):
    levels = COMPRESSION_LEVELS[compression]
    for level in range(-1, 30):
        assert refused(compression=compression, compression_level=level) == (
            [] if level in levels else ["compression_level"]
        )
    assert refused(compression=compression) == []
    assert refused(compression_level=levels[0]) == ["compression_level"]


def test_auto_is_no_contradiction():
    """It stands for whatever is possible."""
    assert refused(extended_l2=None, cluster_size=4096) == []
    assert refused(extended_l2=None, compat=Compat.V2) == []
    assert refused(extended_l2=True, cluster_size=None) == []


def test_geometries():
    assert geometry_of(OverlayOptions(), 65536) == Geometry(65536)
    chosen = OverlayOptions(extended_l2=True, compression=Compression.ZSTD, refcount_bits=1)
    assert geometry_of(chosen, 16384) == Geometry(16384, True, CompressionType.ZSTD, refcount_bits=1)
    assert geometry_of(OverlayOptions(compat=Compat.V2), 512) == Geometry(512, zero_flag=False)
