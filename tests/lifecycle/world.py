"""A fleet and what its owners know of it: what each VM must see, and which disk its definition names.

::

    template.img    web01.img -> web01.qcow2    web02.img: larger, an odd size    db01.qcow2 -> db01.overlay.qcow2
                    app01.img, app02.qcow2: the overlay takes the guest's own path

The model says nothing of how batchdiff works. It knows what people did, and looks at files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import notation
from disks import File, Reader, UnreadableError, chain, digest, scan
from pool import Pool

TEMPLATE = "256k:A 128k:- 256k:B 128k:0"
FILES = {
    "web01.img": "256k:A 64k:X 64k:- 256k:B 128k:0",
    "web02.img": f"{TEMPLATE} 64k:Y 100:Z",
    "db01.qcow2": "192k:A 64k:V 128k:- 256k:B 128k:0",
    "app01.img": "256k:A 128k:- 128k:W 128k:B 128k:0",
    "app02.qcow2": "256k:0 128k:- 256k:B 64k:U 64k:0",
}
IN_PLACE = {"app01.img", "app02.qcow2"}
PLAN, OTHER = "fleet.plan.json", "other.plan.json"


class ViolationError(AssertionError):
    """Something was lost, or a promise was not kept."""


@dataclass
class Guest:
    """A guest. ``old``: what its original held when it was converted; ``version``: how often it was changed.

    ``published``: whether its overlay is at its path, as far as batchdiff did that. ``marks``: what people did
    that batchdiff may refuse to go on with.
    """

    name: str
    path: str
    overlay: str
    old: bytes = b""
    version: int = 0
    published: bool = False
    marks: set[str] = field(default_factory=set)

    @property
    def in_place(self) -> bool:
        return self.path == self.overlay

    @property
    def quarantine(self) -> str:
        return f"{self.path}.batchdiff-original"

    @property
    def passing(self) -> tuple[str, ...]:
        """The names that files have for a moment only."""
        deleting = (f"{self.path}.batchdiff-deleting", f"{self.overlay}.batchdiff-deleting")
        return (*deleting, f"{self.overlay}.batchdiff-overlay")

    @property
    def names(self) -> tuple[str, ...]:
        """Every name under which its content may stand."""
        return tuple(dict.fromkeys((self.path, self.overlay, self.quarantine, *self.passing)))


@dataclass
class Vm:
    """A VM: the disk that its definition names, and what it must see there.

    ``base``: digest of the template that its disk rests on, None for one that rests on none. ``lost``: its owner
    has deleted the disk. ``snapshots``: what the internal ones hold.
    """

    name: str
    disk: str
    truth: bytes
    guest: Guest | None = None
    base: bytes | None = None
    lost: bool = False
    snapshots: dict[str, bytes] = field(default_factory=dict)


Copy = tuple[str, str, bytes, bytes | None, dict[str, bytes]]
"""A copy of a disk: where it is, of which path, what the VM saw then, on which template, and its snapshots."""


@dataclass
class Record:
    """What the owners know of a plan: of each guest its verdict, its version then, and how it was retired.

    ``template``: the digest of what it held; ``folder``: where the pool was then; ``checksum``: the plan's own.
    ``undone_elsewhere``: the guests that it converted, and that another plan has restored; its journal lacks that.
    """

    template: bytes
    folder: Path
    verdicts: dict[str, str]
    versions: dict[str, int]
    checksum: str = ""
    retired: dict[str, str] = field(default_factory=dict)
    undone_elsewhere: set[str] = field(default_factory=set)


@cache
def _made(name: str, scratch: Path) -> bytes:
    """The bytes of a guest's file."""
    path = scratch / name
    (notation.write_qcow2 if name.endswith("qcow2") else notation.write_raw)(path, FILES[name])
    return path.read_bytes()


class World:
    """One fleet, from its making to its end."""

    def __init__(self, pool: Pool, *, relative: bool = False) -> None:
        pool.empty()
        self.pool, self.folder = pool, pool.folder
        self.relative = relative
        self.reader = Reader(pool.scratch)
        self.template = str(self.folder / "template.img")
        notation.write_raw(self.template, TEMPLATE)
        self.first_template = notation.content(TEMPLATE)
        self.first_digest = digest(self.first_template)
        self.elsewhere = self.folder / "elsewhere"
        self.elsewhere.mkdir()
        self.guests: dict[str, Guest] = {}
        self.vms: list[Vm] = []
        self.plans: dict[str, Record] = {}
        self.copies: dict[str, Copy] = {}
        self.former: list[Path] = []
        self.unsettled: set[str] = set()
        # By plan and name: those that may have been given back, which only an apply that names them converts.
        self.given_back: set[tuple[str, str]] = set()
        self.bases: set[bytes] = set()
        self.log: list[str] = []
        self.counter = 0

    # ---- what there is

    def add_guest(self, file: str) -> Guest:
        """A new full copy of the template, with its VM."""
        path = self.folder / file
        path.write_bytes(_made(file, self.pool.scratch))
        stem, suffix = os.path.splitext(file)
        overlay = file if file in IN_PLACE else f"{stem}{'.overlay' if suffix == '.qcow2' else ''}.qcow2"
        guest = Guest(stem, str(path), str(self.folder / overlay))
        self.guests[stem] = guest
        self.vms.append(Vm(stem, guest.path, notation.content(FILES[file]), guest))
        self.say(f"a full copy: {file}")
        return guest

    def vm_of(self, guest: Guest) -> Vm:
        """The VM that was made with a guest."""
        return next(vm for vm in self.vms if vm.guest is guest)

    def plan_path(self, name: str) -> str:
        return str(self.folder / name)

    def plan_files(self) -> list[str]:
        """Every file that is a plan, whatever it is called by now."""
        found = []
        for path in sorted(self.folder.iterdir()):
            if path.is_file() and path.suffix != ".journal":
                with path.open("rb") as file:
                    if file.read(17) == b'{"format_version"' and "batchdiff-template" not in path.name:
                        found.append(str(path))
        return found

    def new_name(self, stem: str, suffix: str) -> str:
        """A name that no file has had so far in this history."""
        self.counter += 1
        return f"{stem}-{self.counter}{suffix}"

    def say(self, text: str) -> None:
        """A line of the history, for people who read of a violation."""
        self.log.append(text)

    def violation(self, text: str) -> ViolationError:
        """What to raise."""
        story = "\n".join(f"  {number}. {line}" for number, line in enumerate(self.log, 1))
        return ViolationError(f"{text}\nhistory:\n{story}")

    def moved(self, target: Path) -> None:
        """All files are in another folder now: so are their names."""
        old, new = str(self.folder), str(target)

        def there(path: str) -> str:
            return new + path.removeprefix(old)

        self.former.append(self.folder)
        self.folder, self.elsewhere, self.template = target, target / self.elsewhere.name, there(self.template)
        for guest in self.guests.values():
            guest.path, guest.overlay = there(guest.path), there(guest.overlay)
        for vm in self.vms:
            vm.disk = there(vm.disk)
        self.plans = {there(path): record for path, record in self.plans.items()}
        self.copies = {
            name: (there(path), there(disk), *rest) for name, (path, disk, *rest) in self.copies.items()
        }

    # ---- what is true of it

    def template_digest(self) -> bytes:
        """What the template holds now; empty if it is gone."""
        return digest(Path(self.template).read_bytes()) if os.path.exists(self.template) else b""

    def rests_on_template(self, path: str) -> bool:
        """Whether a disk needs the template."""
        return self.template in self._chain(path)

    def _chain(self, path: str) -> list[str]:
        try:
            return chain(path)
        except UnreadableError:
            return []

    def dependents(self, path: str) -> list[str]:
        """The disks of VMs that rest on a file, without that file itself."""
        real = os.path.realpath(path)
        return [vm.disk for vm in self.vms if real in self._chain(vm.disk)[1:]]

    def is_sound(self, vm: Vm) -> bool:
        """Whether its owners have not broken it: its disk is there, and its template as it was."""
        return not vm.lost and os.path.exists(vm.disk) and vm.base in {None, self.template_digest()}

    def usable(self, vm: Vm) -> bool:
        """Whether its VM may run: sound, and its disk nobody's backing file."""
        return self.is_sound(vm) and not self.dependents(vm.disk)

    def settle(self) -> None:
        """Notes which disks rest on the template, and on which content of it."""
        now = self.template_digest()
        for vm in self.vms:
            if not os.path.exists(vm.disk):
                continue
            if not self.rests_on_template(vm.disk):
                vm.base = None
            elif vm.base is None:
                vm.base = now

    def check(self) -> None:
        """Each VM sees what it must see.

        :raises ViolationError: one does not.
        """
        for vm in self.vms:
            if vm.lost:
                continue
            if not os.path.exists(vm.disk):
                self._check_somewhere(vm)
            elif vm.base in {None, self.template_digest()}:
                self._check_seen(vm)

    def _check_seen(self, vm: Vm) -> None:
        try:
            seen = self.reader.seen(vm.disk)
        except UnreadableError as error:
            raise self.violation(f"{vm.name} cannot read its disk {vm.disk}: {error}") from error
        if seen != digest(vm.truth):
            raise self.violation(f"{vm.name} sees something else on {vm.disk} than it did before")

    def _check_somewhere(self, vm: Vm) -> None:
        """In the middle of a command that was killed: its content is under one of the names."""
        guest = vm.guest
        if guest is None or guest.name not in self.unsettled:
            raise self.violation(f"the disk of {vm.name}, {vm.disk}, is gone")
        wanted = {digest(vm.truth)} | ({digest(guest.old)} if "discarded" in guest.marks else set())
        if not any(self.reader.seen_or_none(name) in wanted for name in guest.names):
            raise self.violation(f"what {vm.name} saw is under none of its names, after a kill")


@dataclass(frozen=True)
class Look:
    """The files at one moment, and what guests' files show; ``seen`` by path, None if unreadable."""

    files: dict[str, File]
    seen: dict[str, bytes | None]


def look(world: World) -> Look:
    """Looks at everything, and reads every file that a command might move."""
    files = scan(world.folder)
    names = [name for guest in world.guests.values() for name in guest.names if name in files]
    return Look(files, {name: world.reader.seen_or_none(name) for name in names})
