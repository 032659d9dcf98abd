"""Signals that are held back come late, and never not at all."""

import signal

import pytest

from batchdiff.signals import HELD, held_signals, signal_name


class CaughtError(Exception):
    """Somebody wants to end the command."""


@pytest.fixture(params=HELD, ids=[signal.Signals(number).name for number in HELD])
def ending(request):
    """A signal by which people end a command, raised as an exception wherever it comes."""

    def handle(number, _frame):
        raise CaughtError(number)

    before = signal.signal(request.param, handle)
    yield request.param
    signal.signal(request.param, before)


def test_a_signal_comes_when_the_work_is_done(ending):
    """To this thread: what is sent to the process, another thread would take, and numpy starts some in pytest."""
    done = []

    def work():
        with held_signals():
            signal.raise_signal(ending)
            done.append("in one piece")

    with pytest.raises(CaughtError, match=str(int(ending))):
        work()
    assert done == ["in one piece"]


def test_it_is_held_for_the_work_alone(ending):
    with held_signals():
        pass
    with pytest.raises(CaughtError):
        signal.raise_signal(ending)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(HELD)


def test_work_that_fails_holds_nothing_back(ending):
    def work():
        with held_signals():
            raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        work()
    with pytest.raises(CaughtError):
        signal.raise_signal(ending)


def test_names():
    assert (signal_name(9), signal_name(40)) == ("SIGKILL", "signal 40")
