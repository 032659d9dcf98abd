"""What each signal does while a command works on images."""

import os
import signal

import pytest

from batchdiff.cli import signals
from batchdiff.cli.signals import stopping
from batchdiff.signals import HELD


class EndedError(Exception):
    """The process would have ended at once."""


@pytest.fixture(autouse=True)
def end(monkeypatch):
    def end(code):
        raise EndedError(code)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(signals, "kill_all", lambda: None)


@pytest.mark.parametrize("number", HELD)
def test_the_first_asks_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with stopping() as stop:
        signal.raise_signal(number)
        assert stop.is_asked
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("first", HELD)
def test_the_second_ends_the_process(first, second):
    with stopping():
        signal.raise_signal(first)
        with pytest.raises(EndedError, match="130"):
            signal.raise_signal(second)


def test_a_terminal_may_hang_up_twice():
    with stopping():
        for _ in range(3):
            signal.raise_signal(signal.SIGHUP)


def test_a_signal_that_is_ignored_stays_so():
    """A shell starts a job in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop.is_asked
            signal.raise_signal(signal.SIGTERM)
            assert stop.is_asked
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
