"""The file that is to go: who may be at it, and what is asked of it before anything is begun."""

from __future__ import annotations

import os
import types

import notation
import pytest
from oracle import source

from batchdiff.applying.guests.file_names import original_names
from batchdiff.applying.guests.next_action import OutgoingAt
from batchdiff.applying.journal.file import MemoryJournal
from batchdiff.applying.journal.records import Goal, History
from batchdiff.applying.session.stop import Stop
from batchdiff.applying.swap.incoming import IncomingFile
from batchdiff.applying.swap.outgoing import OutgoingFile
from batchdiff.applying.swap.task import Outgoing
from batchdiff.choices import Retire
from batchdiff.dependents.dependents import Dependents
from batchdiff.errors import GuestError, ImageError, InUseError, PlanError
from batchdiff.files.fingerprint import fingerprint_at
from batchdiff.image.in_use.check import Usage


class Template:
    """What is held of the template: whether somebody wants to write to it."""

    def __init__(self):
        self.wanted = False

    def is_broken(self):
        return self.wanted

    def check(self):
        if self.wanted:
            raise ImageError("the template is in use")


class World:
    """One file, and a task that it goes by."""

    def __init__(self, folder):
        self.folder = folder
        self.path = notation.write_raw(folder / "vm.img", "64k:A")
        self.template, self.stop, self.unseen = Template(), Stop(), False
        self.journal = MemoryJournal(History())
        self.checked = []

    def outgoing(self, retire=Retire.DELETE):
        task = types.SimpleNamespace(
            guest="vm",
            goal=Goal.APPLY,
            outgoing=Outgoing(source(self.path), original_names(str(self.path)), fingerprint_at(str(self.path))),
            incoming=IncomingFile(source(self.folder / "vm.qcow2")),
            retire=retire,
            check=self.check,
        )
        run = types.SimpleNamespace(
            held=self.template,
            stop=self.stop,
            journal=self.journal,
            dependents=Dependents({str(self.folder)}),
            session=types.SimpleNamespace(unseen=self.unseen, plan_path="", require_no_domain=lambda _path: None),
        )
        return OutgoingFile(task, run)

    def check(self, image):
        self.checked.append(image.path)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.fixture
def outgoing(world):
    found = world.outgoing()
    yield found
    found.close()


def test_where_it_stands(world, outgoing):
    assert (outgoing.where, outgoing.path) == (OutgoingAt.NAMED, str(world.path))
    for suffix, where in ((".batchdiff-original", OutgoingAt.ASIDE), (".batchdiff-deleting", OutgoingAt.DELETING)):
        aside = world.folder / f"vm.img{suffix}"
        world.path.rename(aside)
        assert (outgoing.where, outgoing.path) == (where, str(aside))
        aside.rename(world.path)
    world.path.unlink()
    assert (outgoing.where, outgoing.path) == (OutgoingAt.GONE, str(world.path))


def test_it_is_opened_once(world, outgoing):
    image = outgoing.image(moved=False)
    assert outgoing.image(moved=False) is image
    assert world.checked == [str(world.path)]
    outgoing.close()
    assert outgoing.image(moved=False) is not image
    assert len(world.checked) == 2


def test_a_new_ctime_is_ours_if_a_rename_was_begun(world, outgoing):
    os.chmod(world.path, 0o600)
    now = fingerprint_at(str(world.path))
    outgoing.image(moved=False)
    assert world.journal.history.changed == set()
    outgoing.close()
    outgoing.image(moved=True)
    assert world.journal.history.changed == {now}


def test_a_new_mtime_never_is(world, outgoing):
    os.utime(world.path, (1, 1))
    outgoing.image(moved=True)
    assert world.journal.history.changed == set()


@pytest.mark.parametrize("retire", Retire)
@pytest.mark.parametrize("aside", [False, True])
def test_what_may_not_be_retired(world, retire, aside):
    """An objection counts under its own name: what stands aside already is put back first."""
    os.link(world.path, world.folder / "link")
    outgoing = world.outgoing(retire)
    if aside:
        world.path.rename(world.folder / "vm.img.batchdiff-deleting")
    if retire is Retire.DELETE and not aside:
        with pytest.raises(GuestError, match=r"was left unchanged: .* has 2 hard links"):
            outgoing.image(moved=False)
    else:
        outgoing.image(moved=False)
    outgoing.close()


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDONLY])
def test_who_has_it_open(world, outgoing, flags):
    """A writer is in the way from the start, a reader only when it has to go."""
    fd = os.open(world.path, flags)
    if flags == os.O_RDWR:
        with pytest.raises(GuestError, match="is in use"):
            outgoing.image(moved=False)
    else:
        outgoing.image(moved=False)
        with pytest.raises(InUseError, match="was left unchanged"):
            outgoing.require_alone()
    os.close(fd)


def test_nothing_is_asked_before_it_is_open(outgoing):
    outgoing.check_holds()
    outgoing.check_unchanged()
    outgoing.require_alone()
    assert not outgoing.must_end()


def test_what_it_was_is_asked_again(world, outgoing):
    outgoing.image(moved=False)
    outgoing.check_unchanged()
    assert len(world.checked) == 2


def test_what_changed_is_not_held(world):
    def check(_):
        raise PlanError("it changed")

    world.check = check
    outgoing = world.outgoing()
    with pytest.raises(PlanError):
        outgoing.image(moved=False)
    outgoing.close()


@pytest.mark.parametrize("held", [False, True])
def test_a_writer_waits_for_the_template(world, outgoing, held):
    if held:
        outgoing.image(moved=False)
    assert not outgoing.must_end()
    world.template.wanted = True
    assert outgoing.must_end()
    for ask in (outgoing.check_holds, outgoing.check_unchanged):
        with pytest.raises(ImageError, match="the template is in use"):
            ask()


def test_a_writer_waits_for_the_original(world, outgoing):
    outgoing.image(moved=False)
    with pytest.raises(BlockingIOError):
        os.open(world.path, os.O_RDWR | os.O_NONBLOCK)
    assert outgoing.must_end()
    with pytest.raises(GuestError, match="is in use"):
        outgoing.check_holds()


def test_a_request_to_stop(world, outgoing):
    world.stop.ask()
    assert outgoing.must_end()
    outgoing.check_holds()  # no writer: what is being done may be undone


UNKNOWN = Usage(unknown="its filesystem (overlay) cannot show who has it open")


@pytest.mark.parametrize("retire", Retire)
@pytest.mark.parametrize("unseen", [False, True])
def test_open_handles_cannot_be_seen(world, monkeypatch, retire, unseen):
    """Before anything is begun, and at the last look."""
    monkeypatch.setattr("batchdiff.image.in_use.hold.check_usage", lambda *_: UNKNOWN)
    world.unseen = unseen
    outgoing = world.outgoing(retire)
    if retire is not Retire.DELETE or unseen:
        outgoing.image(moved=False)
        outgoing.require_alone()
        outgoing.close()
        return
    with pytest.raises(GuestError, match="so a VM could have it open without being noticed") as caught:
        outgoing.image(moved=False)
    assert "--unseen" in caught.value.remedy
    outgoing.close()


def test_open_handles_cannot_be_seen_at_the_last_check(world, outgoing, monkeypatch):
    outgoing.image(moved=False)
    outgoing.require_alone()
    monkeypatch.setattr("batchdiff.image.in_use.hold.Held.alone", lambda _: UNKNOWN)
    with pytest.raises(GuestError, match="so a VM could have it open without being noticed"):
        outgoing.require_alone()


@pytest.mark.parametrize("retire", Retire)
def test_what_rests_on_it(world, retire):
    arguments = ["-u", "-b", str(world.path), "-F", "raw", str(world.folder / "clone.qcow2"), "64k"]
    notation.run("qemu-img", "create", "-q", "-f", "qcow2", *arguments)
    outgoing = world.outgoing(retire)
    if retire is Retire.KEEP:
        outgoing.image(moved=False)
    else:
        with pytest.raises(GuestError, match=r"clone\.qcow2"):
            outgoing.image(moved=False)
    with pytest.raises(GuestError, match=r"clone\.qcow2"):
        outgoing.require_no_dependents()
    outgoing.close()
