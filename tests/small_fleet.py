"""A template and three guests of 12 MiB, six ranges of 2 MiB: their manifest, and what a plain plan of them is."""

from __future__ import annotations

from pathlib import Path

import notation
from oracle import source

from batchdiff.choices import Retire
from batchdiff.manifest.manifest import GuestEntry, Manifest
from batchdiff.plan.document import to_dict
from batchdiff.plan.file import checksum_of
from batchdiff.plan.overlay_options import OverlayOptions
from batchdiff.planning.planner import make_plan

TEMPLATE = "2M:A 1M:- 2M:B 1M:0 2M:C 4M:D"
GUESTS = {
    "one.img": "2M:A 1M:X 2M:B 1M:0 2M:C 4M:D",
    "two.img": "1M:Y 1M:A 1M:- 2M:B 1M:Z 2M:C 4M:0",
    "three.qcow2": "2M:A 1M:- 2M:W 1M:0 2M:C 3M:D 1M:V",
}
OTHER = "2M:Q 1M:- 2M:B 1M:0 2M:C 4M:D 1M:E"


def write_fleet(folder: Path) -> None:
    """The images."""
    notation.write_raw(folder / "template.img", TEMPLATE)
    for name, text in GUESTS.items():
        (notation.write_qcow2 if name.endswith("qcow2") else notation.write_raw)(folder / name, text)


def manifest(folder, names=tuple(GUESTS), **options):
    entries = tuple(
        GuestEntry(name, source(folder / name), str(folder / f"{name}.overlay"), OverlayOptions(**options))
        for name in names
    )
    return Manifest(
        path="/fleet.yaml",
        sha256="00" * 32,
        template=source(folder / "template.img"),
        guests=entries,
        retire=Retire.KEEP,
        minimum_savings=0.0,
        protect_template=True,
        allow_loss=frozenset(),
    )


def checksum(plan):
    return checksum_of(to_dict(plan))


def fresh(of: Manifest) -> str:
    """The checksum of a plan that rests on nothing from before."""
    return checksum(make_plan(of, jobs=1))
