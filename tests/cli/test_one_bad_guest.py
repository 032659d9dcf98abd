"""Whatever has become of the files of one guest, each command reports the others as if nothing had happened.

::

    one     converted       reported as in a sound fleet, by every verb
    two     a hostile state, such as a folder in place of the overlay
    three   converted       reported as in a sound fleet, by every verb
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import notation
import pytest
from commands import batchdiff, events, rarely

TEMPLATE = "256k:A 256k:B"
GUESTS = {"one": "64k:X 192k:A 256k:B", "two": "256k:A 192k:B 64k:Y", "three": "128k:Z 128k:A 256k:B"}
PLAN = "fleet.plan.json"

LOOKING = (
    ("status", "--textfile", "status.prom"),
    ("show",),
    ("verify", "--textfile", "verify.prom"),
    ("restore", "--dry-run"),
    ("restore", "--dry-run", "--discard-changes"),
    ("purge", "--dry-run"),
    ("purge", "--dry-run", "--used"),
    ("definitions", *(f"--xml={name}.xml" for name in GUESTS)),
)
"""Commands that change nothing."""

CHANGING = (("apply", "--retire=quarantine"), ("purge", "--yes"), ("restore", "--yes"))
"""Commands that change images, in an order in which each has something to do for a sound guest."""

DISCARDING = (("restore", "--discard-changes", "--yes"), ("apply", "--guest=one", "--guest=two", "--guest=three"))

EVENTS = {"definition", "finding", "guest", "report", "status"}
"""Those about guests, at the end of the work on each."""

WORDS = ("event", "status", "health", "exit_code", "right")
"""What is compared of an event; sizes and paths differ from fleet to fleet."""


class Fleet:
    """Three guests that were converted, each in a folder of its own; ``retire``: how."""

    def __init__(self, folder: Path, retire: str) -> None:
        self.folder = folder
        notation.write_raw(folder / "template.img", TEMPLATE)
        lines = ["version: 1", "template: {path: template.img, format: raw}", f"retire: {retire}", "guests:"]
        for name, text in GUESTS.items():
            (folder / name).mkdir()
            notation.write_raw(folder / name / "vm.img", text)
            lines.append(f"  - {{name: {name}, path: {name}/vm.img, format: raw}}")
            image = folder / name / "vm.img"
            (folder / f"{name}.xml").write_text(
                f"<domain><name>{name}</name><devices><disk type='file' device='disk'><driver type='raw'/>"
                f"<source file='{image}'/><target dev='vda'/></disk></devices></domain>"
            )
        (folder / "fleet.yaml").write_text("\n".join(lines))
        batchdiff("plan", "fleet.yaml", "-q", "-j1", cwd=folder)
        batchdiff("apply", PLAN, "-q", "--verify=native", cwd=folder)

    @property
    def original(self) -> Path:
        return self.folder / "two" / "vm.img"

    @property
    def aside(self) -> Path:
        return self.folder / "two" / "vm.img.batchdiff-original"

    @property
    def overlay(self) -> Path:
        return self.folder / "two" / "vm.qcow2"

    @property
    def journal(self) -> Path:
        return self.folder / f"{PLAN}.journal"

    def others(self, *command: str) -> list[tuple[str, ...]]:
        """What a command says of the other two guests, in a few words; whatever it says of the second one."""
        done = batchdiff(*command[:1], PLAN, *command[1:], "--json", cwd=self.folder, expect=None)
        assert done.returncode not in {2, 3}, done.stderr
        found = []
        for event in events(done):
            entries = event["report"]["guests"] if event["event"] == "report" else [event]
            for each in entries if event["event"] in EVENTS else ():
                name = next(str(each[word]) for word in ("name", "guest", "domain") if word in each)
                if name in {"one", "three"}:
                    found.append((name, *(str(each[word]) for word in WORDS if word in each)))
        for file in self.folder.glob("*.prom"):
            found.append((file.name,))
            file.unlink()
        return found


def two_originals(fleet: Fleet) -> None:
    shutil.copy(fleet.aside, fleet.original)


def another_file_at_its_own_path(fleet: Fleet) -> None:
    fleet.original.mkdir()


def two_originals_and_no_overlay(fleet: Fleet) -> None:
    two_originals(fleet)
    fleet.overlay.unlink()


def two_overlays(fleet: Fleet) -> None:
    shutil.copy(fleet.overlay, f"{fleet.overlay}.batchdiff-overlay")


def overlay_gone(fleet: Fleet) -> None:
    fleet.overlay.unlink()


def all_gone(fleet: Fleet) -> None:
    shutil.rmtree(fleet.overlay.parent)


def a_file_for_its_folder(fleet: Fleet) -> None:
    all_gone(fleet)
    fleet.overlay.parent.write_text("not a folder")


def a_folder_for_the_overlay(fleet: Fleet) -> None:
    fleet.overlay.unlink()
    fleet.overlay.mkdir()


def a_loop_for_the_overlay(fleet: Fleet) -> None:
    fleet.overlay.unlink()
    fleet.overlay.symlink_to(fleet.overlay.name)


def a_dead_device_for_the_overlay(fleet: Fleet) -> None:
    fleet.overlay.unlink()
    try:
        os.mknod(fleet.overlay, 0o600 | stat.S_IFBLK, os.makedev(7, 251))
    except PermissionError:
        pytest.skip("only root can make device nodes")


def a_pipe_for_the_original(fleet: Fleet) -> None:
    fleet.aside.unlink()
    os.mkfifo(fleet.aside)


def a_truncated_overlay(fleet: Fleet) -> None:
    os.truncate(fleet.overlay, 70_000)


def a_truncated_original(fleet: Fleet) -> None:
    os.truncate(fleet.aside, 1000)


def an_overlay_with_a_garbage_header(fleet: Fleet) -> None:
    with fleet.overlay.open("r+b") as file:
        file.write(b"QFI\xfb\0\0\0\3" + b"\xa5" * 200)


def an_overlay_on_itself(fleet: Fleet) -> None:
    where = str(fleet.overlay)
    notation.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", where, "-F", "qcow2", where)


def a_garbage_sidecar(fleet: Fleet) -> None:
    Path(f"{fleet.original}.batchdiff-template.json").write_bytes(b"{\xff")


def no_entries_in_the_journal(fleet: Fleet) -> None:
    lines = fleet.journal.read_text().splitlines(keepends=True)
    fleet.journal.write_text("".join(line for line in lines if '"guest": "two"' not in line))


def no_entries_and_two_originals(fleet: Fleet) -> None:
    no_entries_in_the_journal(fleet)
    two_originals(fleet)


STATES = (
    two_originals,
    a_folder_for_the_overlay,
    an_overlay_with_a_garbage_header,
    *rarely(
        another_file_at_its_own_path,
        no_entries_and_two_originals,
        two_originals_and_no_overlay,
        two_overlays,
        overlay_gone,
        all_gone,
        a_file_for_its_folder,
        a_loop_for_the_overlay,
        a_dead_device_for_the_overlay,
        a_pipe_for_the_original,
        a_truncated_overlay,
        a_truncated_original,
        an_overlay_on_itself,
        a_garbage_sidecar,
        no_entries_in_the_journal,
    ),
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """What is said of the two guests of a fleet in which all three are sound, by command."""
    said = {}
    for commands in (LOOKING + CHANGING, DISCARDING):
        fleet = Fleet(tmp_path_factory.mktemp("sound"), "quarantine")
        said |= {command: fleet.others(*command) for command in commands}
    for command, found in said.items():
        assert {name for name, *_ in found} >= {"one", "three"}, command
    return said


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("commands", [LOOKING + CHANGING, *rarely((DISCARDING,))], ids=["keeping", "discarding"])
def test_the_other_guests_are_reported(tmp_path, sound, commands, state):
    fleet = Fleet(tmp_path, "quarantine")
    state(fleet)
    for command in commands:
        assert fleet.others(*command) == sound[command], command
