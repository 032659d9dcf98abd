"""The order of fsync, rename and unlink in whole commands: nothing rests on what a power cut would take back.

tests/faults/test_power_cuts.py asks real filesystems, which keep more than they promise, and some states of many.
"""

import signal
from pathlib import Path

import notation
import pytest
from durable_disk import Change, Disk, watched

from batchdiff.cli import main

TEMPLATE = "512k:A 256k:- 256k:B"
GUESTS = {"one": "512k:A 64k:X 192k:- 256k:B", "two": "512k:A 256k:- 64k:Y 192k:B"}


class Fleet:
    """Template, originals, overlays and plan, each in a folder of its own: no fsync of one serves another."""

    def __init__(self, folder: Path) -> None:
        self.folders = {name: folder / name for name in ("templates", "originals", "overlays", "plans")}
        for each in self.folders.values():
            each.mkdir()
        self.template = notation.write_raw(self.folders["templates"] / "template.img", TEMPLATE)
        self.sidecar = self.template.with_name("template.img.batchdiff-template.json")
        self.plan = self.folders["plans"] / "fleet.plan.json"
        self.journal = self.folders["plans"] / "fleet.plan.json.journal"
        for name, text in GUESTS.items():
            notation.write_raw(self.original(name), text)

    def original(self, name: str) -> Path:
        return self.folders["originals"] / f"{name}.img"

    def overlay(self, name: str) -> Path:
        return self.folders["overlays"] / f"{name}.qcow2"

    def data_file(self, name: str) -> Path:
        return self.folders["overlays"] / f"{name}.data.raw"

    def planned(self, *, protect: bool = True, data_file: bool = False) -> None:
        more = ", data_file: true" if data_file else ""
        guests = "".join(
            f"  - {{path: {self.original(name)}, format: raw, overlay: {{path: {self.overlay(name)}{more}}}}}\n"
            for name in GUESTS
        )
        manifest = self.folders["plans"] / "fleet.yaml"
        manifest.write_text(
            f"version: 1\ntemplate: {{path: {self.template}, format: raw}}\n"
            f"protect_template: {str(protect).lower()}\nguests:\n{guests}"
        )
        command("plan", manifest)

    def images_of(self, name: str) -> list[Path]:
        """All that may have a guest's content now."""
        found = [*self.folders["originals"].iterdir(), *self.folders["overlays"].iterdir()]
        return [path for path in found if path.name.startswith(name) and path != self.data_file(name)]

    def guest_of(self, *paths: Path | None) -> str | None:
        """Whose image one of the paths is; None for template, sidecar, journal and temporary files."""
        return next((name for path in paths if path for name in GUESTS if path.name.startswith(name)), None)


@pytest.fixture
def fleet(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    yield Fleet(tmp_path)
    signal.signal(signal.SIGTERM, before)


def command(*arguments):
    assert main.run([*map(str, arguments), "-q"]) == 0


class Observer:
    """Asserts what must be so before each change, and remembers the changes."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.changes: list[Change] = []
        self._lines: dict[str, int] = {}

    def __call__(self, disk: Disk, change: Change) -> None:
        self.changes.append(change)
        guest = self.fleet.guest_of(change.path, change.target)
        if guest is not None and self._is_of_a_deleted_overlay(change, guest):
            assert disk.has(self.fleet.journal)
            assert f'"parts": [["{self.fleet.data_file(guest)}"' in self.fleet.journal.read_text()
        elif guest is not None:
            self._a_line_of_the_journal_came_before(disk, change, guest)
        if change.call == "rename":
            if change.path.name.endswith("-tmp"):
                assert disk.has_content(change.path), f"{change} before its content is durable"
            if change.target == self.fleet.overlay(guest or ""):
                assert disk.has(self.fleet.template), f"{change} on a template that may go"
                data_file = self.fleet.data_file(guest or "")
                assert disk.has(data_file) or not data_file.exists(), f"{change} without its data"
            if change.target == self.fleet.data_file(guest or ""):
                assert '"step": "written"' in self.fleet.journal.read_text().splitlines()[-1], (
                    f"{change} unrecorded"
                )
        elif change.call == "unlink" and guest is not None:
            self._the_guest_is_elsewhere(disk, change, guest)

    def _is_of_a_deleted_overlay(self, change: Change, guest: str) -> bool:
        """A data file is recorded before its overlay is deleted, and goes after it."""
        gone = not self.fleet.overlay(guest).exists() and not list(self.fleet.folders["overlays"].glob(".*"))
        return gone and change.path.name.startswith(self.fleet.data_file(guest).name)

    def _a_line_of_the_journal_came_before(self, disk: Disk, change: Change, guest: str) -> None:
        assert disk.has(self.fleet.journal), f"{change} before it is in the journal"
        lines = self.fleet.journal.read_bytes().count(b"\n")
        assert lines > self._lines.get(guest, 0), f"{change} is not in the journal"
        self._lines[guest] = lines

    def _the_guest_is_elsewhere(self, disk: Disk, change: Change, guest: str) -> None:
        others = [path for path in self.fleet.images_of(guest) if path != change.path]
        data_file = self.fleet.data_file(guest)
        if data_file.exists() and not disk.has(data_file):
            others.remove(self.fleet.overlay(guest))
        assert any(map(disk.has, others)), f"{change}, and the guest is nowhere durably"
        if self.fleet.overlay(guest) in others:
            assert disk.has(self.fleet.template), f"{change}, and the template's mode may come back"
            assert disk.has(self.fleet.sidecar), f"{change}, and the template's sidecar may be gone"

    def unlinked(self, fleet: Fleet) -> list[str | None]:
        """Whose images were deleted; a data file is none by itself."""
        data = [f"{fleet.data_file(name).name}.batchdiff-deleting" for name in GUESTS]
        return [
            fleet.guest_of(change.path)
            for change in self.changes
            if change.call == "unlink" and change.path.name not in data
        ]


def run_watched(fleet: Fleet, *arguments, new_template: bool = False) -> Observer:
    """A command, all its changes judged, and all that is there at its end durable.

    ``new_template``: it was copied a moment ago, and its content is in memory only.
    """
    observer = Observer(fleet)
    with watched(observer) as disk:
        for folder in fleet.folders.values():
            for path in folder.iterdir():
                disk.take(path, content=path != fleet.template or not new_template)
        command(*arguments)
        for folder in fleet.folders.values():
            there = {path.name for path in folder.iterdir()} | set(disk.names[str(folder)])
            assert [name for name in sorted(there) if not disk.has_name(folder / name)] == []
            assert [name for name in sorted(there) if not disk.has_content(folder / name)] == []
    return observer


@pytest.mark.parametrize("protect", [True, False])
def test_apply_that_deletes(fleet, protect):
    fleet.planned(protect=protect)
    seen = run_watched(fleet, "apply", fleet.plan, "--retire", "delete", "--yes", new_template=True)
    assert seen.unlinked(fleet) == list(GUESTS)
    assert [change.target for change in seen.changes].count(fleet.sidecar) == 2
    assert [change.path for change in seen.changes if change.call == "fchmod"].count(fleet.template) == protect


@pytest.mark.parametrize("first", ["keep", "quarantine"])
def test_apply_that_deletes_nothing(fleet, first):
    fleet.planned()
    seen = run_watched(fleet, "apply", fleet.plan, "--retire", first, new_template=True)
    assert seen.unlinked(fleet) == []
    assert {fleet.overlay(name) for name in GUESTS} <= {change.target for change in seen.changes}


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("keep", ("apply", "--retire", "delete", "--yes")),
        ("quarantine", ("purge", "--yes")),
        ("keep", ("restore",)),
        ("quarantine", ("restore",)),
        ("delete", ("restore",)),
    ],
)
def test_what_comes_later(fleet, first, then):
    fleet.planned()
    command("apply", fleet.plan, "--retire", first, "--yes")
    seen = run_watched(fleet, then[0], fleet.plan, *then[1:])
    assert seen.unlinked(fleet) == list(GUESTS)


@pytest.mark.parametrize("then", [None, "restore"])
def test_data_files(fleet, then):
    """Each is durable, with its name, before its overlay is published; it goes after that is deleted, durably."""
    fleet.planned(data_file=True)
    apply = ("apply", fleet.plan, "--retire", "keep" if then else "delete", "--yes")
    seen = run_watched(fleet, *apply, new_template=True)
    if then is not None:
        seen = run_watched(fleet, then, fleet.plan)
        assert not any(fleet.data_file(name).exists() for name in GUESTS)
    assert seen.unlinked(fleet) == list(GUESTS)
    assert {fleet.data_file(name) for name in GUESTS} <= {
        change.path if then else change.target for change in seen.changes
    }
