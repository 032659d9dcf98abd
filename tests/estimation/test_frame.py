"""The classes of probes, on images of a few probes each: a letter for each probe of 64 KiB.

Guards estimation/frame.py.

::

    .  zeros in both       =  the template's own bytes      -  zeros in the guest only
    +  zeros in the template only                           ?  data in both
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import notation
import numpy as np
import pytest
from filesystems import mounted
from notation import run
from oracle import source

from batchdiff.estimation.frame import Frame, ProbeClass, frame_of, joined
from batchdiff.image.open import open_image
from batchdiff.image.storage.shared_blocks import has_shared_extents
from batchdiff.units import KIB

LETTERS = {
    ProbeClass.ZEROS: ".",
    ProbeClass.SHARED: "=",
    ProbeClass.CLEARED: "-",
    ProbeClass.ADDED: "+",
    ProbeClass.COMPARED: "?",
}


def frame(template: Path, guest: Path, *below: Path, probe: int = 64 * KIB) -> Frame:
    with closing(open_image(source(template))) as one, closing(open_image(source(guest, *below))) as other:
        return frame_of(one, other, probe, sharing=has_shared_extents(one))


def letters(found: Frame) -> str:
    return "".join(LETTERS[ProbeClass(kind)] for kind in found.classes.tolist())


@pytest.mark.parametrize(
    ("template", "guest", "expected"),
    [
        ("64k:A 64k:- 64k:A 64k:-", "64k:A 64k:B 64k:- 64k:-", "?+-."),
        ("128k:A", "128k:A 64k:B 64k:-", "??+."),
        ("256k:A", "128k:A", "??"),
        ("64k:A 64k:-", "4k:- 4k:B 56k:- 60k:- 4k:B", "?+"),
        ("60k:- 4k:A 64k:-", "4k:B 124k:-", "?."),
        ("64k:A 60k:-", "64k:A 30k:- 20k:B", "?+"),
    ],
)
def test_what_metadata_shows(tmp_path, template: str, guest: str, expected: str):
    notation.write_raw(tmp_path / "t.img", template)
    notation.write_raw(tmp_path / "g.img", guest)
    assert letters(frame(tmp_path / "t.img", tmp_path / "g.img")) == expected


def test_probes_of_several_clusters(tmp_path):
    notation.write_qcow2(tmp_path / "t.qcow2", "64k:A 192k:- 256k:0 256k:B")
    notation.write_qcow2(tmp_path / "g.qcow2", "64k:A 64k:- 64k:C 64k:- 64k:D 448k:-")
    assert letters(frame(tmp_path / "t.qcow2", tmp_path / "g.qcow2", probe=256 * KIB)) == "?+-"
    assert letters(frame(tmp_path / "t.qcow2", tmp_path / "g.qcow2")) == "?.+.+...----"


def test_open_bytes_are_those_of_the_guests_data(tmp_path):
    notation.write_raw(tmp_path / "t.img", "64k:A 192k:-")
    notation.write_raw(tmp_path / "g.img", "128k:A 60k:- 4k:B 64k:-")
    assert frame(tmp_path / "t.img", tmp_path / "g.img").open_bytes == 132 * KIB


def test_an_overlay_of_the_template_shows_where_it_has_clusters_of_its_own(tmp_path):
    template = notation.write_raw(tmp_path / "t.img", "256k:A 64k:-")
    guest = notation.write_qcow2(tmp_path / "g.qcow2", "64k:- 64k:B 64k:0 64k:- 64k:C", backing=template)
    assert letters(frame(template, guest, template)) == "=?-=+"


@pytest.mark.parametrize("filesystem", ["xfs", "btrfs"])
def test_shared_blocks_are_not_read(tmp_path, filesystem: str):
    """Unless a part of the probe is not shared: a cluster then has bytes of both."""
    with mounted(tmp_path, filesystem) as folder:
        for form, write in (("raw", notation.write_raw), ("qcow2", notation.write_qcow2)):
            template, guest = folder / f"t.{form}", folder / f"g.{form}"
            write(template, "256k:A 128k:-")
            run("cp", "--reflink=always", str(template), str(guest))
            notation.qemu_io(guest, "write -P 1 64k 4k", "write -P 2 256k 64k", image_format=form)
            run("sync", "-f", str(folder))
            assert letters(frame(template, guest)) == "=?==+.", form
        template, guest = folder / "t.img", folder / "g.img"
        notation.write_raw(template, "256k:A 32k:A 96k:-")
        run("cp", "--reflink=always", str(template), str(guest))
        notation.qemu_io(guest, "write -P 2 288k 4k", image_format="raw")
        run("fallocate", "-p", "-o", "64KiB", "-l", "32KiB", str(guest))
        run("fallocate", "-p", "-o", "128KiB", "-l", "64KiB", str(guest))
        run("sync", "-f", str(folder))
        assert letters(frame(template, guest)) == "=?-=?."


def test_runs_of_classes_are_counted_and_numbered():
    found = joined(4 * KIB, np.array([0, 0, 4, 4, 4, 1, 4], dtype=np.uint8))
    assert found.lengths.tolist() == [2, 3, 1, 1]
    assert found.numbers(ProbeClass.COMPARED).tolist() == [2, 3, 4, 6]
    assert found.count(ProbeClass.COMPARED) == 4
    assert found.count(ProbeClass.ADDED) == 0
