"""The request to stop, which the handler of a signal makes wherever it interrupts the work."""

from __future__ import annotations

import sys

import pytest

from batchdiff.applying.session.stop import Stop
from batchdiff.errors import StopError


def test_a_request():
    stop = Stop()
    stop.check()
    assert not stop.is_asked
    stop.ask()
    assert stop.is_asked
    with pytest.raises(StopError, match="interrupted"):
        stop.check()


def test_a_request_takes_no_lock():
    """A handler that interrupts another request, in the same thread, would wait for that lock for ever."""
    stop, calls = Stop(), []

    def note(frame, event, function):
        if event in {"call", "c_call"}:
            calls.append(frame.f_code.co_name if event == "call" else function.__name__)

    sys.setprofile(note)
    stop.ask()
    sys.setprofile(None)
    assert calls == ["ask", "setprofile"]
