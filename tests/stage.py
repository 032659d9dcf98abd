"""A fleet of one guest, or two, whose verbs run in this very process: so a test may act between any two steps.

::

    stage.apply(Retire.DELETE)              ->  the outcomes
    stage.on_step[Step.PUBLISHED] = act     ->  once that step is in the journal
    stage.judge.asked = act                 ->  while qemu-img would compare: it has found the two equal or not
    stage.after_move(DELETING, act)         ->  once a file has a name that ends so
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import notation
import pytest
from oracle import guest_bytes, source

from batchdiff.applying.apply import apply_plan
from batchdiff.applying.guests.recovery import recover_states
from batchdiff.applying.journal.file import Journal, MemoryJournal, read_history
from batchdiff.applying.journal.records import GuestState, History, Step
from batchdiff.applying.results.outcome import GuestOutcome, Status
from batchdiff.applying.session.session import Session
from batchdiff.applying.session.stop import Stop
from batchdiff.applying.swap import retire as retiring
from batchdiff.applying.swap.apply_task import ApplyOptions
from batchdiff.applying.swap.guest_to_restore import RestoreOptions
from batchdiff.applying.swap.purge_task import PurgeOptions
from batchdiff.applying.undo import purge, restore
from batchdiff.choices import Retire
from batchdiff.errors import DifferenceError
from batchdiff.image.open import inspect, open_image
from batchdiff.image_source import ImageSource
from batchdiff.manifest.manifest import GuestEntry, Manifest
from batchdiff.plan.document import to_dict
from batchdiff.plan.file import checksum_of
from batchdiff.plan.overlay_options import OverlayOptions
from batchdiff.plan.plan import GuestPlan, Plan
from batchdiff.planning.planner import make_plan
from batchdiff.progress import Meter, Reading
from batchdiff.qemu import qemu_img

TEMPLATE = "256k:A 256k:B 512k:C"
GUEST = "256k:A 64k:X 192k:B 512k:C"
OTHER = "256k:A 256k:B 448k:C 64k:Y"
NAME = "vm"
ASIDE, DELETING, OVERLAY_ASIDE = ".batchdiff-original", ".batchdiff-deleting", ".batchdiff-overlay"


def nothing() -> None:
    """What happens if a test has not said otherwise."""


class Judge:
    """Stands for qemu-img: reads both images whole, with our own reader, in this process.

    ``asked`` happens while two are compared. ``refuses``: what is raised for the files of those names.
    ``checked``: the files that were checked, each with whether leaks are allowed in it.
    """

    def __init__(self) -> None:
        self.asked: Callable[[], None] = nothing
        self.comparisons = 0
        self.is_installed = True
        self.refuses: dict[str, Exception] = {}
        self.checked: list[tuple[str, bool]] = []

    def compare(
        self,
        one: ImageSource,
        other: ImageSource,
        size: int,
        *,
        stopped: object = None,
        percent: Callable[[float], None] = lambda _percent: None,
    ) -> None:
        self.comparisons += 1
        percent(50.0)
        self._refuse(one, other)
        with open_image(one) as first, open_image(other) as second:
            equal = guest_bytes(first, 0, size) == guest_bytes(second, 0, size)
        self.asked()
        if not equal:
            raise DifferenceError(f"{one.path} and {other.path} differ", why="says the tests' judge")

    def check(
        self,
        image: ImageSource,
        size: int,
        *,
        leaks_allowed: bool = False,
        stopped: object = None,
        percent: Callable[[float], None] = lambda _percent: None,
    ) -> None:
        percent(0.0)
        self.checked.append((Path(image.path).name, leaks_allowed))
        self._refuse(image)
        with open_image(image) as opened:
            inspect(opened)

    def _refuse(self, *images: ImageSource) -> None:
        for image in images:
            if Path(image.path).name in self.refuses:
                raise self.refuses[Path(image.path).name]


class Stage:
    """Files in a folder, their plan, and the verbs.

    ``place`` is "same" for overlays in their guests' places, and "data" or "same data" if they have data files.
    """

    def __init__(
        self,
        folder: Path,
        patch: pytest.MonkeyPatch,
        *,
        place: str = "beside",
        names: tuple[str, ...] = (NAME,),
        form: str = "raw",
        template_form: str = "raw",
    ) -> None:
        self.folder, self._patch, self.names, self.form = folder, patch, names, form
        self._in_place, self.has_data = place.startswith("same"), place.endswith("data")
        if template_form == "raw":
            self.template = notation.write_raw(folder / "template.img", TEMPLATE)
        else:
            self.template = notation.write_qcow2(folder / "template.qcow2", TEMPLATE)
        for name in names:
            self.write_guest(name)
        self.plan = self.planned()
        self.on_step: dict[Step, Callable[[], None]] = {}
        self.steps: list[tuple[str, Step]] = []
        self.notices: list[str] = []
        self.judge = Judge()
        self.stop = Stop()
        self.readings: list[Reading] = []
        self.jobs = 2
        patch.setattr(qemu_img, "compare", self.judge.compare)
        patch.setattr(qemu_img, "check", self.judge.check)
        patch.setattr(qemu_img, "is_installed", lambda: self.judge.is_installed)

    # Files.

    def original(self, name: str = NAME, suffix: str = "") -> Path:
        return self.folder / f"{name}.{'img' if self.form == 'raw' else 'orig.qcow2'}{suffix}"

    def overlay(self, name: str = NAME, suffix: str = "") -> Path:
        return self.original(name, suffix) if self._in_place else self.folder / f"{name}.qcow2{suffix}"

    def data_file(self, name: str = NAME) -> Path:
        return self.folder / f"{name}.data.raw"

    @property
    def sidecar(self) -> Path:
        return self.template.with_name(f"{self.template.name}.batchdiff-template.json")

    @property
    def journal_file(self) -> Path:
        return self.folder / "fleet.plan.json.journal"

    def write_guest(self, name: str) -> None:
        text = GUEST if name == NAME else OTHER
        (notation.write_raw if self.form == "raw" else notation.write_qcow2)(self.original(name), text)

    def images(self) -> set[str]:
        """The names of all images and of what batchdiff makes of them."""
        return {path.name for path in self.folder.iterdir() if not path.name.startswith(("fleet.", "template."))}

    def use(self, name: str = NAME) -> None:
        """Its VM writes to the overlay."""
        notation.qemu_io(self.overlay(name), "write -P 7 512k 64k")

    def content(self, path: Path, form: str) -> bytes:
        """What an image shows, its chain included."""
        below = () if form == "raw" else (source(self.template),)
        with open_image(ImageSource(str(path), source(Path(f"x.{form}")).format, below)) as image:
            return guest_bytes(image, 0, image.virtual_size)

    def linked_clone(self, below: Path, name: str = "clone.qcow2") -> Path:
        """An image that rests on another one, as `qemu-img create -b` makes it."""
        clone = self.folder / name
        form = "qcow2" if below.suffix == ".qcow2" else "raw"
        arguments = ["-f", "qcow2", "-u", "-b", str(below), "-F", form, str(clone), "1M"]
        notation.run("qemu-img", "create", "-q", *arguments)
        return clone

    # The plan and its journal.

    def planned(self, *names: str) -> Plan:
        entries = tuple(
            GuestEntry(
                name,
                source(self.original(name)),
                str(self.overlay(name)),
                OverlayOptions(cluster_size=65536, data_file=str(self.data_file(name)) if self.has_data else None),
            )
            for name in names or self.names
        )
        manifest = Manifest(
            path=str(self.folder / "fleet.yaml"),
            sha256="00" * 32,
            template=source(self.template),
            guests=entries,
            retire=Retire.KEEP,
            minimum_savings=0.0,
            protect_template=True,
            allow_loss=frozenset(),
        )
        plan = make_plan(manifest, jobs=1)
        return dataclasses.replace(plan, checksum=checksum_of(to_dict(plan)))

    def guest(self, name: str = NAME) -> GuestPlan:
        return next(guest for guest in self.plan.guests if guest.name == name)

    @property
    def plan_path(self) -> str:
        return str(self.folder / "fleet.plan.json")

    @property
    def history(self) -> History:
        """What the journal says now."""
        return read_history(self.plan_path, self.plan.checksum)

    def state(self, name: str = NAME) -> GuestState:
        return self.history.states[name]

    def note(self, state: GuestState, name: str = NAME) -> None:
        """Puts a line into the journal, as a process that died a moment later would have."""
        with closing(Journal(self.plan_path, self.plan.checksum)) as journal:
            journal.record(name, state)

    # The verbs.

    def step(self, guest: str, step: Step) -> None:
        """See :class:`batchdiff.applying.session.session.Watch`."""
        self.steps.append((guest, step))
        self.on_step.get(step, nothing)()

    def notice(self, text: str) -> None:
        """See :class:`batchdiff.applying.session.session.Watch`."""
        self.notices.append(text)

    @contextmanager
    def session(self, *, unseen: bool = False) -> Iterator[Session]:
        with closing(Journal(self.plan_path, self.plan.checksum)) as journal:
            if not journal.history.times:
                for name, state in recover_states(self.plan, History()).items():
                    journal.record(name, state)
            yield Session(self.plan, journal, self, self.stop, unseen, self.plan_path, self.jobs, self.meter())

    def frozen(self, *, unseen: bool = False) -> Session:
        """The session of a dry run."""
        return Session(self.plan, MemoryJournal(self.history), self, self.stop, unseen, meter=self.meter())

    def meter(self) -> Meter:
        """A meter that keeps a reading of every report."""
        self.readings.clear()
        return Meter(self.readings.append, every=0)

    def apply(
        self, retire: Retire = Retire.KEEP, *, unseen: bool = False, **options: object
    ) -> list[GuestOutcome]:
        with self.session(unseen=unseen) as session:
            return list(apply_plan(session, ApplyOptions(retire, **options)))

    def restore(self, *, unseen: bool = False, **options: object) -> list[GuestOutcome]:
        with self.session(unseen=unseen) as session:
            return list(restore(session, RestoreOptions(**options)))

    def purge(self, *, unseen: bool = False, **options: object) -> list[GuestOutcome]:
        with self.session(unseen=unseen) as session:
            return list(purge(session, PurgeOptions(**options)))

    # Between two steps.

    def after_move(self, suffix: str, act: Callable[[], None]) -> None:
        """Lets something happen as soon as a file has a name that ends so, the first time."""
        real = retiring.move

        def move(fd: int, source: str, target: str) -> None:
            real(fd, source, target)
            if target.endswith(suffix):
                self._patch.setattr(retiring, "move", real)
                act()

        self._patch.setattr(retiring, "move", move)

    def swap_template(self) -> None:
        """Puts another file of other content in the template's place. A rename breaks no lease."""
        notation.write_raw(self.folder / "template.new", TEMPLATE.replace("B", "Q")).rename(self.template)


def failed(outcomes: list[GuestOutcome]) -> str:
    """The reason of the only outcome, which must be a failure."""
    (outcome,) = outcomes
    assert outcome.status is Status.FAILED, outcome
    assert outcome.exit_code != 0
    return outcome.reason


def status(outcomes: list[GuestOutcome]) -> Status:
    """The status of the only outcome."""
    (outcome,) = outcomes
    return outcome.status
