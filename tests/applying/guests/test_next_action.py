"""The state machine, driven through crashes at every point on a disk that forgets what was not synced."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchdiff.applying.guests.next_action import Action, IncomingAt, OutgoingAt, Scene, next_action
from batchdiff.choices import Retire

OWN, QUARANTINE, DELETING, TEMPORARY, THIN = "vm.img", "vm.img.original", "vm.img.deleting", ".tmp", "vm.qcow2"
ENDS = {Action.DONE, Action.LOST}


class CrashError(Exception):
    """The machine lost its power."""


@dataclasses.dataclass
class Disk:
    """Names and what they hold. A crash takes back the newest changes that no sync has covered."""

    names: dict[str, str]
    durable: dict[str, str] = dataclasses.field(default_factory=dict)
    pending: list[dict[str, str]] = dataclasses.field(default_factory=list)
    journal: str = "begin"
    """The last note; a note is durable at once."""

    def __post_init__(self):
        self.durable = dict(self.names)

    def change(self, **_):
        self.pending.append(dict(self.names))

    def rename(self, source, target):
        assert target not in self.names, f"{target} would be replaced"
        self.names[target] = self.names.pop(source)
        self.change()

    def sync(self):
        self.durable = dict(self.names)
        self.pending.clear()

    def crash(self, kept):
        """Power goes: of the changes since the last sync the first ``kept`` have reached the disk."""
        kept = min(kept, len(self.pending))
        self.names = dict(self.pending[kept - 1] if kept else self.durable)
        self.sync()


class Driver:
    """One process: performs what the machine says, with a budget of changes before it dies."""

    def __init__(self, disk, retire, one_name, budget):
        self.disk, self.retire, self.one_name, self.budget = disk, retire, one_name, budget
        self.verified = False
        self.ours = False
        self.published_name = OWN if one_name else THIN

    def scene(self):
        names = self.disk.names
        places = {DELETING: OutgoingAt.DELETING, QUARANTINE: OutgoingAt.ASIDE, OWN: OutgoingAt.NAMED}
        outgoing = next((at for name, at in places.items() if names.get(name) == "original"), OutgoingAt.GONE)
        if names.get(self.published_name) == "overlay":
            incoming = IncomingAt.PUBLISHED
        elif self.disk.journal in {"published", "retired"}:
            incoming = IncomingAt.LOST
        elif TEMPORARY in names:
            incoming = IncomingAt.READY if self.ours else IncomingAt.UNFINISHED
        else:
            incoming = IncomingAt.NONE
        return Scene(outgoing, incoming, self.verified, self.retire, self.one_name)

    def tick(self):
        if self.budget == 0:
            raise CrashError
        self.budget -= 1

    def run(self):
        for _ in range(30):
            scene = self.scene()
            action = next_action(scene)
            if action in ENDS:
                return action
            self.perform(action, scene)
        raise AssertionError("it does not end")

    def perform(self, action, scene):
        disk = self.disk
        where = {OutgoingAt.NAMED: OWN, OutgoingAt.ASIDE: QUARANTINE, OutgoingAt.DELETING: DELETING}.get(
            scene.outgoing
        )
        self.tick()
        match action:
            case Action.PUT_BACK:
                self.verified = False
                disk.rename(where, QUARANTINE if OWN in disk.names else OWN)
            case Action.DISCARD:
                del disk.names[TEMPORARY]
                disk.change()
            case Action.WRITE:
                assert where == OWN
                disk.names[TEMPORARY] = "half an overlay"
                disk.change()
                self.tick()
                disk.names[TEMPORARY] = "overlay"
                self.ours = True
                disk.change()
            case Action.VERIFY:
                assert disk.names[where] == "original"
                here = disk.names.get(TEMPORARY) or disk.names.get(self.published_name)
                assert here == "overlay"
                self.verified = True
            case Action.QUARANTINE:
                disk.rename(where, QUARANTINE)
            case Action.SET_ASIDE:
                disk.rename(where, DELETING)
            case Action.PUBLISH:
                assert self.verified
                disk.rename(TEMPORARY, self.published_name)
            case Action.UNLINK:
                assert self.verified
                assert disk.durable.get(self.published_name) == "overlay", "the overlay was not durable"
                del disk.names[DELETING]
                disk.change()
        self.tick()
        disk.sync()
        self.tick()
        if action is Action.PUBLISH:
            disk.journal = "published"


def assert_nothing_is_lost(disk):
    """The original is whole somewhere, or a complete overlay is durable under its own name."""
    for names in (disk.names, disk.durable):
        values = set(names.values())
        assert "original" in values or "overlay" in {names.get(OWN), names.get(THIN)}, names


retires = st.sampled_from(Retire)
crashes = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 3)), max_size=8)


@given(retires, st.booleans(), crashes)
def test_every_order_of_crashes_ends_in_the_same_state(retire, one_name, deaths):
    if one_name and retire is Retire.KEEP:
        retire = Retire.QUARANTINE
    disk = Disk({OWN: "original"})
    for budget, kept in deaths:
        driver = Driver(disk, retire, one_name, budget)
        try:
            assert driver.run() is Action.DONE
        except CrashError:
            disk.crash(kept)
        assert_nothing_is_lost(disk)
    assert Driver(disk, retire, one_name, -1).run() is Action.DONE
    published = {OWN if one_name else THIN: "overlay"}
    left = {
        Retire.KEEP: {OWN: "original"},
        Retire.QUARANTINE: {QUARANTINE: "original"},
        Retire.DELETE: {},
    }[retire]
    assert disk.names == published | left


@given(st.builds(Scene, *map(st.sampled_from, (OutgoingAt, IncomingAt)), st.booleans(), retires, st.booleans()))
def test_nothing_is_retired_or_published_unverified(scene):
    """Whatever the scene, possible or not."""
    action = next_action(scene)
    if action in {Action.PUBLISH, Action.QUARANTINE, Action.SET_ASIDE, Action.UNLINK}:
        assert scene.verified
    if action in {Action.QUARANTINE, Action.SET_ASIDE, Action.UNLINK} and not scene.one_name:
        assert scene.incoming is IncomingAt.PUBLISHED
    if action is Action.UNLINK:
        assert scene.retire is Retire.DELETE
        assert scene.incoming is IncomingAt.PUBLISHED
        assert scene.outgoing is OutgoingAt.DELETING
    if action is Action.WRITE:
        assert scene.incoming is IncomingAt.NONE
        assert scene.outgoing is OutgoingAt.NAMED
        assert not scene.verified, "nothing would compare it"


@pytest.mark.parametrize("retire", Retire)
@pytest.mark.parametrize("verified", [False, True])
def test_an_overlay_that_is_lost_is_never_written_again(retire, verified):
    """It may have held what no original has."""
    for outgoing in OutgoingAt:
        scene = Scene(outgoing, IncomingAt.LOST, verified, retire, False)
        expected = Action.PUT_BACK if outgoing is OutgoingAt.DELETING else Action.LOST
        assert next_action(scene) is expected
