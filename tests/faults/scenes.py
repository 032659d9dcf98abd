"""Small fleets for tests of faults, what must be true of them at every instant, and how each verb ends."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import notation
from commands import batchdiff
from oracle import assert_same

from batchdiff.files.own_files import QUARANTINE as QUARANTINE_SUFFIX

TEMPLATE = "512k:A 256k:- 256k:B"
GUESTS = {
    "raw.img": "512k:A 64k:X 192k:- 256k:B",
    "thick.qcow2": "512k:A 256k:- 64k:Y 192k:B",
    "odd.img": "128k:0 384k:A 256k:- 256k:B 100:Z",
}
OVERLAYS = {"raw.img": "raw.qcow2", "thick.qcow2": "thick.overlay.qcow2", "odd.img": "odd.qcow2"}
_MANIFEST = """\
version: 1
template: {path: template.img, format: raw}
defaults: {format: raw}
guests: [{path: raw.img}, {path: thick.qcow2, format: qcow2}, {path: odd.img}]
"""
PLAN = "fleet.plan.json"


@dataclasses.dataclass(frozen=True)
class Scene:
    """A verb and what was done before it. ``left``: the files of each guest at the end, by their suffixes."""

    name: str
    before: tuple[tuple[str, ...], ...]
    verb: tuple[str, ...]
    left: str


SCENES = {
    scene.name: scene
    for scene in (
        Scene("keep", (), ("apply",), "original overlay"),
        Scene("quarantine", (), ("apply", "--retire", "quarantine"), "quarantined overlay"),
        Scene("delete", (), ("apply", "--retire", "delete", "--yes"), "overlay"),
        Scene("delete later", (("apply",),), ("apply", "--retire", "delete", "--yes"), "overlay"),
        Scene("purge", (("apply", "--retire", "quarantine"),), ("purge", "--yes"), "overlay"),
        Scene("restore kept", (("apply",),), ("restore",), "original"),
        Scene("restore quarantined", (("apply", "--retire", "quarantine"),), ("restore",), "original"),
        Scene("rebuild", (("apply", "--retire", "delete", "--yes"),), ("restore",), "original"),
    )
}


def make_fleet(folder: Path) -> None:
    """A template and three guests, with their plan."""
    folder.mkdir(exist_ok=True)
    notation.write_raw(folder / "template.img", TEMPLATE)
    for name, text in GUESTS.items():
        (notation.write_qcow2 if name.endswith("qcow2") else notation.write_raw)(folder / name, text)
    (folder / "fleet.yaml").write_text(_MANIFEST)
    batchdiff("plan", "fleet.yaml", "-q", "-j", "1", cwd=folder)


def prepare(folder: Path, scene: Scene) -> None:
    """A fleet on which all has been done that comes before the verb."""
    make_fleet(folder)
    for verb, *arguments in scene.before:
        batchdiff(verb, PLAN, *arguments, "-q", cwd=folder)


def arguments(scene: Scene) -> list[str]:
    """The arguments of a scene's verb."""
    verb, *rest = scene.verb
    return [verb, PLAN, *rest, "-q"]


def seconds_of(folder: Path, scene: Scene) -> float:
    """How long a scene's verb takes where nobody disturbs it: a fixed time would miss it on a faster machine."""
    prepare(folder, scene)
    begin = time.monotonic()
    batchdiff(*arguments(scene), cwd=folder)
    return time.monotonic() - begin


def content(name: str) -> bytes:
    """What a guest's disk holds, as QEMU shows it."""
    whole = notation.content(GUESTS[name])
    return whole.ljust(-(-len(whole) // 512) * 512, b"\0")


def form_of(path: Path) -> str:
    with path.open("rb") as file:
        return "qcow2" if file.read(4) == b"QFI\xfb" else "raw"


def places(name: str) -> list[str]:
    """Where a guest's content may be."""
    mine, overlay = name, OVERLAYS[name]
    suffixes = ("", QUARANTINE_SUFFIX, ".batchdiff-deleting", ".batchdiff-overlay")
    return [each + suffix for each in (mine, overlay) for suffix in suffixes]


def assert_nothing_is_lost(folder: Path) -> None:
    """Each guest is there, and every file under a name that counts holds exactly its content."""
    assert_same((folder / "template.img").read_bytes(), notation.content(TEMPLATE))
    for name in GUESTS:
        there = [folder / place for place in places(name) if (folder / place).exists()]
        assert there, f"{name} is lost: {sorted(os.listdir(folder))}"
        for path in there:
            assert_same(notation.qemu_content(path, form_of(path)), content(name))


def assert_ended(folder: Path, scene: Scene) -> None:
    """Nothing is lost, and the files are those that the verb leaves where nobody disturbed it."""
    assert_nothing_is_lost(folder)
    expected = set()
    for name in GUESTS:
        kinds = {"original": name, "quarantined": name + QUARANTINE_SUFFIX, "overlay": OVERLAYS[name]}
        expected |= {kinds[kind] for kind in scene.left.split()}
    found = {name for name in os.listdir(folder) if not name.startswith(("fleet.", "template.img"))}
    assert found == expected
