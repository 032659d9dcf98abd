"""Guests one after the other, with swaps that only note what they are asked."""

from __future__ import annotations

import errno
import types

import pytest

from batchdiff.applying import pipeline
from batchdiff.applying.journal.records import Goal
from batchdiff.applying.pipeline import error_to_report, run_swaps
from batchdiff.applying.session.stop import Stop
from batchdiff.errors import DifferenceError, GuestError, ImageError, InUseError, SpaceError, StopError
from batchdiff.progress import Meter
from batchdiff.qcow2.faults import FormatError

DIFFERENT = DifferenceError("the two differ")


class OnceError(Exception):
    """An error that a call raises the first time only."""


class Verdict:
    """Stands for the future of a verification, which ends when it is waited for, or after some looks in vain."""

    def __init__(self, done, log, name, looks=0):
        self.done, self.log, self.name, self.looks = done, log, name, looks
        self.waited = False

    def _wait(self):
        if not self.waited:
            self.waited = True
            self.log.append(f"{self.name}: verified")
        return self.done

    def result(self):
        if self._wait() is not None:
            raise self.done

    def exception(self, timeout=None):
        if timeout is not None and self.looks:
            self.looks -= 1
            raise TimeoutError
        return self._wait()


class World:
    """What the pipeline works with. ``told`` says what a guest does at one of its calls: raise that error."""

    def __init__(self, patch, at_once):
        self.at_once = at_once
        self.log, self.failures, self.stop = [], {}, Stop()
        self.told, self.otherwise, self.quick, self.looks = {}, {}, set(), {}
        self.session = types.SimpleNamespace(meter=Meter())
        self.journal = types.SimpleNamespace(record_failure=self.failures.__setitem__)
        patch.setattr(pipeline, "Swap", self.swap)
        patch.setattr(pipeline, "ThreadPoolExecutor", self.pool)

    def pool(self, threads):
        assert threads == self.at_once
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.log.append("pool closed")

    def submit(self, verify):
        name = verify.__self__.task.guest
        return Verdict(self.told.get((name, "verify")), self.log, name, self.looks.get(name, 0))

    def swap(self, task, run):
        assert run is self
        return FakeSwap(task, self)

    def guests(self, *names):
        return [types.SimpleNamespace(name=name) for name in names]

    def task(self, name):
        self.act(name, "task")
        if_different = self.otherwise.get(name, lambda: None)
        return types.SimpleNamespace(guest=name, goal=Goal.APPLY, if_different=if_different)

    def act(self, name, call):
        self.log.append(f"{name}: {call}")
        if isinstance(self.told.get((name, call)), OnceError):
            raise self.told.pop((name, call)).args[0]
        if (name, call) in self.told:
            raise self.told[name, call]

    def run(self, *names):
        return list(self.results(self.guests(*names)))

    def results(self, guests):
        return run_swaps(guests, lambda guest: self.task(guest.name), self, at_once=self.at_once)


class FakeSwap:
    def __init__(self, task, world):
        self.task, self.world = task, world

    def __getattr__(self, call):
        return lambda: self.world.act(self.task.guest, call)

    def prepare(self):
        self.world.act(self.task.guest, "prepare")
        return self.task.guest not in self.world.quick

    def verify(self):
        self.world.act(self.task.guest, "verify")


@pytest.fixture(params=[1, 2, 4])
def world(monkeypatch, request):
    return World(monkeypatch, request.param)


def about(world, name):
    """What was done with one guest."""
    return [line.removeprefix(f"{name}: ") for line in world.log if line.startswith(f"{name}: ")]


ALL_WELL = ["task", "prepare", "verified", "finish", "close"]


def test_they_arrive_in_their_order_and_the_next_is_written_meanwhile(world):
    found = world.run("a", "b", "c", "d")
    assert [(each.guest, each.error) for each in found] == [(name, None) for name in "abcd"]
    assert [about(world, name) for name in "abcd"] == [ALL_WELL] * 4
    assert [line[0] for line in world.log if line.endswith(": finish")] == [*"abcd"]
    begun = sum(world.log.index(f"{name}: prepare") < world.log.index("a: verified") for name in "abcd")
    assert begun == world.at_once


def test_one_at_once_is_verified_before_the_next_is_written(monkeypatch):
    world = World(monkeypatch, 1)
    world.run("a", "b")
    assert world.log == [*(f"a: {what}" for what in ALL_WELL), *(f"b: {what}" for what in ALL_WELL), "pool closed"]


def test_no_more_than_that_are_under_way(world):
    world.run(*"abcdef")
    under_way = most = 0
    for line in world.log:
        under_way += line.endswith(": prepare")
        under_way -= line.endswith(": close")
        most = max(most, under_way)
    assert most == world.at_once


def test_what_needs_no_verification_is_finished_at_once(world):
    world.quick = {"a"}
    world.run("a", "b")
    assert about(world, "a") == ["task", "prepare", "finish", "close"]
    assert world.log.index("a: finish") < world.log.index("b: task")


@pytest.mark.parametrize("call", ["task", "prepare", "verify", "finish"])
def test_one_that_fails_is_undone_and_the_others_go_on(world, call):
    error = world.told["b", call] = GuestError("no")
    found = world.run("a", "b", "c")
    assert [each.error for each in found] == [None, error, None]
    assert world.failures == {"b": "no"}
    assert about(world, "a") == about(world, "c") == ALL_WELL
    undone = about(world, "b")
    assert undone[-2:] == (["abandon", "close"] if call != "task" else ["task"])
    assert "finish" not in undone or call == "finish"


@pytest.mark.parametrize("call", ["abandon", "close"])
def test_a_failure_to_undo_does_not_stop_the_other_guests(world, call):
    """The next run does it."""
    world.told["a", "prepare"] = GuestError("no")
    if call == "abandon":
        world.told["a", "abandon"] = OSError(errno.EIO, "fault")
    assert [each.error is None for each in world.run("a", "b")] == [False, True]
    assert about(world, "a")[-1] == "close"


def test_a_failure_that_cannot_be_noted_is_reported(world):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    world.journal.record_failure = full
    world.told["a", "prepare"] = GuestError("no")
    assert str(world.run("a")[0].error) == "no"


@pytest.mark.parametrize("call", ["task", "prepare", "verify", "finish"])
def test_a_bug_is_raised_after_all_was_undone(world, call):
    world.told["a", call] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        world.run("a", "b")
    if call != "task":
        assert about(world, "a")[-2:] == ["abandon", "close"]
    if "b: prepare" in world.log:
        assert about(world, "b")[-2:] == ["abandon", "close"]


@pytest.mark.parametrize("how", ["next guest", "consumer"])
@pytest.mark.parametrize("world", [2, 4], indirect=True)
def test_nothing_is_undone_that_is_being_read(world, how):
    """qemu-img may be at the temporary file: its end is awaited before the file is removed."""
    if how == "next guest":
        world.told["b", "task"] = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            world.run("a", "b")
    else:
        world.quick = {"b"}
        results = world.results(world.guests("a", "b", "c"))
        world.told["a", "finish"] = StopError("interrupted")
        with pytest.raises(StopError):
            next(results)
        undone = ["task", "prepare", "verified", "abandon", "close"]
        assert about(world, "c") == (undone if world.at_once == 4 else [])
    assert about(world, "a")[-3:] == ["verified" if how == "next guest" else "finish", "abandon", "close"]
    assert world.stop.is_asked  # so that judges at work end soon


def test_a_request_to_stop(world):
    """What is under way is undone; who is not begun is left alone."""
    world.stop.ask()
    with pytest.raises(StopError):
        world.run("a", "b")
    assert world.log == ["pool closed"]


@pytest.mark.parametrize("world", [2, 4], indirect=True)
def test_stopped_while_it_is_verified(world):
    world.told["a", "verify"] = StopError("interrupted")
    guests = world.guests("a", "b")

    def asking():
        yield guests[0]
        world.stop.ask()

    with pytest.raises(StopError):
        list(world.results(asking()))
    assert about(world, "a") == ["task", "prepare", "verified", "abandon", "close"]
    assert world.failures == {}


def test_ended_early_for_a_waiting_writer(world):
    """The guest is in use: that is its failure, and the others go on."""
    world.told["a", "verify"] = StopError("interrupted")
    error = world.told["a", "check_holds"] = InUseError("it is in use")
    assert [each.error for each in world.run("a", "b")] == [error, None]
    assert about(world, "a") == ["task", "prepare", "verified", "check_holds", "abandon", "close"]


def test_another_task_for_two_that_differ(world):
    """The first is let go before the second writes anything, which is verified here and now."""
    world.told["a", "verify"] = DIFFERENT
    world.otherwise["a"] = lambda: world.task("a2")
    (found,) = world.run("a")
    assert found.error is None
    assert found.guest == "a"
    assert found.swap.task.guest == "a2"
    both = [line for line in world.log if line != "pool closed"]
    first = ["a: task", "a: prepare", "a: verified", "a2: task", "a: abandon", "a: close"]
    assert both == [*first, "a2: prepare", "a2: verify", "a2: finish", "a2: close"]


def test_another_task_that_needs_no_verification(world):
    world.told["a", "verify"] = DIFFERENT
    world.otherwise["a"] = lambda: world.task("a2")
    world.quick = {"a2"}
    world.run("a")
    assert about(world, "a2") == ["task", "prepare", "finish", "close"]


def test_no_other_task(world):
    world.told["a", "verify"] = DIFFERENT
    (found,) = world.run("a")
    assert found.error is DIFFERENT
    assert about(world, "a") == ["task", "prepare", "verified", "abandon", "close"]


@pytest.mark.parametrize("call", ["task", "prepare", "verify", "finish"])
def test_another_task_that_fails(world, call):
    """What it had begun is undone as well; it has no other task in turn."""
    world.told["a", "verify"] = DIFFERENT
    error = world.told["a2", call] = DIFFERENT if call == "verify" else GuestError("no")
    world.otherwise["a"] = lambda: world.task("a2")
    world.otherwise["a2"] = lambda: pytest.fail("a third task")
    (found,) = world.run("a")
    assert found.error is error
    assert about(world, "a")[3:5] == ["abandon", "close"]
    if call != "task":
        assert about(world, "a2")[-2:] == ["abandon", "close"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/x"),
            r"the filesystem of / has no space left\. Make room",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "quota"),
        (OSError(errno.EIO, "Input/output error"), "kernel log"),
        (FormatError("too many clusters"), "cannot write the image of web01: too many clusters"),
    ],
)
def test_the_message_for_a_fault(error, said):
    told = error_to_report("web01", error)
    assert isinstance(told, GuestError)
    assert "web01" in str(told)
    with pytest.raises(GuestError, match=said):
        raise told


def test_our_own_errors_are_not_reworded():
    error = ImageError("cannot read it")
    assert error_to_report("web01", error) is error


def test_a_bug_is_no_fault_of_a_disk():
    with pytest.raises(ZeroDivisionError):
        error_to_report("web01", ZeroDivisionError())


def test_a_vm_need_not_wait_for_the_guests_before_its_own(world):
    """Its guest is verified and waits; the one before it takes hours."""
    world.looks["a"] = 3
    world.told["b", "check_holds"] = InUseError("a VM wants to open it")
    found = {each.guest: each.error for each in world.run("a", "b", "c")}
    assert found["a"] is found["c"] is None
    if world.at_once == 1:
        assert found["b"] is None  # it was not begun before a had arrived
    else:
        assert str(found["b"]) == "a VM wants to open it"
        assert world.log.index("b: close") < world.log.index("a: verified")
        assert "finish" not in about(world, "b")


@pytest.mark.parametrize(
    "error", [SpaceError("not enough space"), OSError(errno.ENOSPC, "full"), OSError(errno.EDQUOT, "quota")]
)
def test_a_guest_without_space_waits_for_those_in_progress(world, error):
    world.told["b", "prepare"] = OnceError(error)
    found = {each.guest: each.error for each in world.run("a", "b", "c")}
    assert found["a"] is found["c"] is None
    if world.at_once == 1:
        assert found["b"] is not None  # there is nothing to wait for
    else:
        assert found["b"] is None
        assert world.log.index("a: finish") < world.log.index("b: finish")
        assert about(world, "b").count("abandon") == 1


def test_a_guest_without_space_fails_if_nothing_is_in_progress(world):
    world.told["a", "prepare"] = SpaceError("not enough space")
    found = {each.guest: each.error for each in world.run("a", "b")}
    assert found["b"] is None
    assert isinstance(found["a"], SpaceError)
    assert about(world, "a").count("prepare") == 1
