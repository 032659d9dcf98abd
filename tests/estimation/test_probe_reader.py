"""Guards estimation/probe_reader.py, estimation/pricing.py."""

from __future__ import annotations

from contextlib import ExitStack

import notation
import numpy as np
import pytest
from oracle import source

from batchdiff.errors import ImageError
from batchdiff.estimation import probe_reader
from batchdiff.estimation.frame import ProbeClass
from batchdiff.estimation.pricing import OverlayPlace, PriceRule, Pricing, pricing_of, probe_size
from batchdiff.estimation.probe_reader import ProbeContents, ProbeReader
from batchdiff.image.open import open_image
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.manifest.manifest import GuestEntry
from batchdiff.plan.overlay_options import Compression, OverlayOptions, Preallocation, geometry_of
from batchdiff.qcow2.geometry import Geometry
from batchdiff.units import GIB, KIB, MIB, TIB

SAME_ZERO, ZERO, SAME, DATA = range(4)


def contents(folder, template: str, guest: str, pricing: Pricing, kind=ProbeClass.COMPARED) -> ProbeContents:
    """The first probe, of 64 KiB."""
    with ExitStack() as opened:
        images = []
        for name, text in (("template.img", template), ("guest.img", guest)):
            notation.write_raw(folder / name, text)
            images.append(opened.enter_context(open_image(source(folder / name))))
        found = ProbeReader(*images, pricing, 64 * KIB).read(np.array([0]), kind)
    assert isinstance(found, ProbeContents)
    return found


def written(cluster: int, **options) -> Pricing:
    return Pricing(PriceRule.WRITTEN, Geometry(cluster, **options), 4 * KIB)


def test_kinds_of_units(tmp_path):
    found = contents(tmp_path, "4k:A 4k:A 4k:A 4k:- 48k:A", "4k:A 4k:B 4k:0 4k:C 48k:A", written(4 * KIB))
    assert found.kinds[0].tolist() == [SAME, DATA, ZERO, DATA] + [SAME] * 12
    assert found.prices.tolist() == [8 * KIB]
    assert found.read.tolist() == [60 * KIB + 64 * KIB]


@pytest.mark.parametrize(
    ("pricing", "price"),
    [
        (written(4 * KIB), 4 * KIB),
        (written(16 * KIB), 8 * KIB),  # without the hole in that cluster
        (written(64 * KIB), 40 * KIB),
        (Pricing(PriceRule.WRITTEN, Geometry(16 * KIB), 16 * KIB), 16 * KIB),
        (Pricing(PriceRule.WHOLE, Geometry(16 * KIB), 4 * KIB), 16 * KIB),
        (Pricing(PriceRule.WHOLE, None, 4 * KIB), 4 * KIB),
    ],
)
def test_prices(tmp_path, pricing: Pricing, price: int):
    guest = "4k:B 4k:A 8k:- 16k:A 16k:- 16k:A"
    assert contents(tmp_path, "64k:A", guest, pricing).prices.tolist() == [price]


def test_version_2_has_no_zero_clusters(tmp_path):
    for zero_flag, price in ((True, 0), (False, 4 * KIB)):
        pricing = written(4 * KIB, zero_flag=zero_flag)
        assert contents(tmp_path, "64k:A", "4k:0 60k:A", pricing).prices.tolist() == [price]


def test_compressed_clusters(tmp_path):
    pricing = Pricing(PriceRule.COMPRESSED, Geometry(16 * KIB), 4 * KIB)
    found = contents(tmp_path, "64k:A", "16k:B 16k:A 4k:C 12k:- 16k:A", pricing)
    assert found.lengths.shape == (1, 4)
    assert found.lengths[0, [1, 3]].tolist() == [0, 0]
    assert 0 < found.lengths[0, 2] < 8 * KIB
    assert found.prices[0] == (found.lengths[0, 0] or 16 * KIB) + found.lengths[0, 2]


def test_added_and_cleared_probes_are_read_from_one_image(tmp_path):
    added = contents(tmp_path, "64k:-", "32k:B 32k:-", written(4 * KIB), ProbeClass.ADDED)
    assert (added.read.tolist(), added.prices.tolist()) == ([32 * KIB], [32 * KIB])
    cleared = contents(tmp_path, "32k:A 32k:0", "64k:-", written(4 * KIB), ProbeClass.CLEARED)
    assert cleared.read.tolist() == [64 * KIB]
    assert cleared.kinds[0].tolist() == [ZERO] * 8 + [SAME_ZERO] * 8


@pytest.mark.parametrize("failing", ["template.img", "guest.img"])
def test_a_fault_of_the_template_is_not_one_of_the_guest(tmp_path, monkeypatch, failing):
    """Only the guest's is a reason to refuse it."""

    def fail(image, _segments):
        if image.path.endswith(failing):
            raise ImageError(f"cannot find the extents of {image.path}", why="Input/output error")
        return []

    monkeypatch.setattr(probe_reader, "shared_extents", fail)
    with ExitStack() as opened:
        images = []
        for name in ("template.img", "guest.img"):
            notation.write_raw(tmp_path / name, "64k:A")
            images.append(opened.enter_context(open_image(source(tmp_path / name))))
        reader = ProbeReader(*images, Pricing(PriceRule.EQUAL, None, 4 * KIB), 64 * KIB)
        if failing == "guest.img":
            assert isinstance(reader.read(np.array([0]), ProbeClass.COMPARED), ImageError)
        else:
            with pytest.raises(ImageError, match=r"template\.img"):
                reader.read(np.array([0]), ProbeClass.COMPARED)


def test_nothing_is_past_the_end_of_the_guest(tmp_path):
    """Its template may be longer by the rounding of a VHD."""
    found = contents(tmp_path, "64k:A", "8k:A 512:B", Pricing(PriceRule.WHOLE, None, 4 * KIB))
    assert found.kinds[0].tolist() == [SAME, SAME, DATA] + [SAME_ZERO] * 13


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({}, PriceRule.WRITTEN),
        ({"compression": Compression.ZLIB}, PriceRule.COMPRESSED),
        ({"extended_l2": True, "preallocation": Preallocation.FALLOC}, PriceRule.WHOLE),
        ({"extended_l2": True, "preallocation": Preallocation.METADATA}, PriceRule.WRITTEN),
        ({"cluster_size": 2 * KIB}, PriceRule.WHOLE),
    ],
)
def test_the_rule_follows_from_the_options(options, rule: PriceRule):
    chosen = OverlayOptions(**options)
    entry = GuestEntry("guest", ImageSource("/guest", ImageFormat.RAW), "/overlay", chosen)
    found = pricing_of(entry, geometry_of(chosen, chosen.cluster_size), OverlayPlace(4 * KIB, is_same=True))
    assert found.rule is rule
    assert found.shares is (
        rule is PriceRule.WRITTEN and found.resolution >= 4 * KIB and not options.get("extended_l2")
    )


def test_sizes_of_probes():
    sizes = [
        probe_size(OverlayOptions(cluster_size=cluster), unit, disk, 64 * MIB)
        for cluster, unit, disk in (
            (64 * KIB, 4 * KIB, GIB),
            (4 * KIB, 4 * KIB, GIB),
            (MIB, 4 * KIB, GIB),
            (None, 4 * KIB, GIB),
            (64 * KIB, 256 * KIB, GIB),
            (64 * KIB, 4 * KIB, 15 * TIB),
        )
    ]
    assert sizes == [64 * KIB, 64 * KIB, MIB, 256 * KIB, 256 * KIB, 8 * MIB]
