"""A backing file larger than its overlay, with data past the overlay's end: nothing of that is the image's.

::

    top    | A A . . . . |                  an image's size is its top layer's
    base   | . . B . . . | . . C . . . |    C is never seen
"""

from __future__ import annotations

import os
from dataclasses import replace

import notation
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import assert_reads_like_qemu, source
from small_fleet import manifest

from batchdiff.applying.checks.space import standalone_bytes
from batchdiff.applying.writer.standalone import write_standalone
from batchdiff.choices import Verdict
from batchdiff.image.content_digest import content_digest
from batchdiff.image.open import open_image
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.manifest.manifest import GuestEntry
from batchdiff.plan.extents import extents_of
from batchdiff.plan.overlay_options import OverlayOptions
from batchdiff.planning.planner import make_plan
from batchdiff.planning.scan_all import ranges_with_data
from batchdiff.units import KIB, MIB

UNIT = 64 * KIB


def go_on():
    """Nobody asks to stop."""


@st.composite
def chains(draw):
    """Size of each layer, and where it has data, in units from the base up; one ends before that below it."""
    sizes = draw(st.lists(st.integers(1, 80), min_size=2, max_size=4))
    above = draw(st.integers(1, len(sizes) - 1))
    sizes[above - 1] = max(sizes[above - 1], sizes[above] + draw(st.integers(1, 60)))
    data = [draw(st.sets(st.integers(0, size - 1), max_size=3)) for size in sizes]
    data[above - 1].add(draw(st.integers(sizes[above], sizes[above - 1] - 1)))
    return list(zip(sizes, data, strict=True))


def write_chain(folder, chain):
    """The images of a chain, the top one first."""
    paths = []
    for depth, (size, data) in enumerate(chain):
        backing = {"backing": paths[0], "backing_format": "qcow2"} if paths else {}
        text = " ".join(f"{UNIT}:{'ABCD'[depth] if at in data else '-'}" for at in range(size))
        paths.insert(0, notation.write_qcow2(folder / f"{depth}.qcow2", text, **backing))
    return paths


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chain=chains())
@pytest.mark.usefixtures("small_ranges")
def test_random_chains_show_what_qemu_shows(tmp_path_factory, chain):
    folder = tmp_path_factory.mktemp("chain")
    paths = write_chain(folder, chain)
    assert_reads_like_qemu(*paths)
    flat = folder / "flat.raw"
    notation.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(paths[0]), str(flat))
    with open_image(source(*paths)) as image, open_image(source(flat)) as same:
        assert image.virtual_size == same.virtual_size == chain[-1][0] * UNIT
        assert content_digest(image, check=go_on) == content_digest(same, check=go_on)
        for number in ranges_with_data(image):
            assert number * 2 * MIB < image.virtual_size
        new = ImageSource("", ImageFormat.QCOW2)
        assert standalone_bytes(image, str(folder), new) < image.virtual_size + 2 * MIB
        fd = os.open(folder / "copy.qcow2", os.O_RDWR | os.O_CREAT)
        write_standalone(fd, image, ImageSource("/copy", ImageFormat.QCOW2), image.virtual_size, check=go_on)
        os.close(fd)
    notation.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(flat), str(folder / "copy.qcow2"))


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("role", ["guest", "template"])
@pytest.mark.usefixtures("small_ranges")
def test_it_is_planned(tmp_path, role, jobs):
    base = notation.write_qcow2(tmp_path / "base.qcow2", "2M:A 7M:- 3M:B")
    top = notation.write_qcow2(tmp_path / "top.qcow2", "1M:C 3M:-", backing=base, backing_format="qcow2")
    other = notation.write_raw(tmp_path / "other.raw", "1M:C 1M:A 1M:D 1M:-")
    images = {"guest": (source(other), source(top, base)), "template": (source(top, base), source(other))}
    template, guest = images[role]
    entry = GuestEntry("g", guest, str(tmp_path / "overlay.qcow2"), OverlayOptions())
    plan = make_plan(replace(manifest(tmp_path), template=template, guests=(entry,)), jobs=jobs)
    (found,) = plan.guests
    assert found.verdict in {Verdict.CONVERT, Verdict.SKIP}
    assert found.image.virtual_size == 4 * MIB
    runs = extents_of(found.diff)
    assert (runs.first * found.diff.unit).tolist() == [2 * MIB]
    assert (runs.count * found.diff.unit).tolist() == [MIB]
