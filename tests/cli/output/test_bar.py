"""Guards cli/output/bar.py."""

import contextlib
import fcntl
import io
import os
import re
import struct
import sys
import termios
from dataclasses import replace

import pytest

from batchdiff.cli.output.bar import ProgressBar, pace_text
from batchdiff.cli.output.outlet import STDERR, STDOUT
from batchdiff.progress import Pace, Phase, Reading
from batchdiff.units import GIB, MIB


@pytest.fixture
def terminal(monkeypatch):
    """Puts a terminal in the place of stderr, and returns what it is written to."""

    def make(*, is_terminal=True, term="xterm"):
        return _screen(monkeypatch, is_terminal, term)

    return make


def _screen(monkeypatch, is_terminal, term):
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.setattr(said, "isatty", lambda: is_terminal)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", "100")
    return said


READING = Reading(
    Pace(12 * GIB, 28 * GIB, 203.4 * MIB, 80.2),
    60.0,
    Phase.VERIFY,
    "web01",
    Pace(GIB, 4 * GIB, 101.7 * MIB, 3700),
    False,
)


def test_the_run_and_the_guest_at_work(terminal):
    screen = terminal()
    bar = ProgressBar()
    bar.show(READING)
    bar.close()
    said = screen.getvalue()
    assert re.search(r"verifying  42\.8%\|.+\| 12 GiB of 28 GiB, 203\.4 MiB/s, 1:20 left", said)
    assert re.search(r"  web01  25\.0%\|.+\| 1 GiB of 4 GiB, 101\.7 MiB/s, 1:01:40 left", said)
    assert "\x1b[A" in said
    assert "\x1b[3" not in said  # no colour, with or without NO_COLOR


def all_of(terminal: int) -> bytes:
    """Return what was written to a terminal that has no writer left."""
    said = b""
    with open(terminal, "rb", buffering=0) as file, contextlib.suppress(OSError):  # the end is an error (EIO)
        while part := file.read(65536):
            said += part
    return said


def drawn_on(monkeypatch, term, rows, columns):
    """What a bar writes to a terminal that reports this size."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    with open(theirs, "w", encoding="utf-8") as screen:
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setenv("TERM", term)
        bar = ProgressBar()
        bar.show(READING)
        bar.close()
        STDERR.flush()
    return all_of(ours).decode()


@pytest.mark.parametrize(
    ("rows", "columns", "width"), [(0, 0, 79), (0, 60, 59), (40, 0, 79), (40, 100, 99)], ids=str
)
def test_a_terminal_that_does_not_know_its_size(monkeypatch, rows, columns, width):
    """A serial console has a size of 0, and so has a container's terminal at first."""
    said = drawn_on(monkeypatch, "vt220", rows, columns)
    drawn = re.split(r"[\r\n]+|\x1b\[A", said)
    for line in ("verifying  42.8%|", "  web01  25.0%|"):
        assert [len(each) for each in drawn if each.startswith(line)] == [width], said


@pytest.mark.parametrize("columns", [1, 2, 10])
def test_a_narrow_terminal_has_no_raw_numbers(monkeypatch, columns):
    drawn = re.split(r"[\r\n]+", drawn_on(monkeypatch, "dumb", 24, columns))
    assert max(map(len, drawn)) == max(columns - 1, 1)
    assert "verifying"[: columns - 1 or 1] in drawn


def test_nothing_to_do_draws_nothing(terminal):
    screen = terminal()
    bar = ProgressBar()
    bar.show(Reading(Pace(0, 0, None, 0.0), 0.0, None, None, None, True))
    bar.close()
    assert not screen.getvalue().replace("\x1b[A", "").strip()


@pytest.mark.parametrize("phase", list(Phase))
def test_each_kind_of_work_has_its_word(terminal, phase):
    """An event of JSON names the same kinds, so only a bar could lack one."""
    screen = terminal()
    bar = ProgressBar()
    bar.show(replace(READING, phase=phase))
    bar.close()
    assert re.search(r"[a-z ]*ing( the template| images)? +42\.8%", screen.getvalue())


def test_a_guest_without_bytes_of_its_own_has_no_line(terminal):
    screen = terminal()
    bar = ProgressBar()
    bar.show(Reading(Pace(GIB, GIB, None, None), 1.0, Phase.ASSESS, "web01", Pace(0, 0, None, 0.0), False))
    bar.close()
    assert re.search(r"assessing web01 100\.0%\|.+\| 1 GiB of 1 GiB *\n", screen.getvalue())
    assert "0 B" not in screen.getvalue()


def test_images_that_are_opened(terminal):
    screen = terminal()
    bar = ProgressBar()
    bar.show(Reading(Pace(0, 0, None, None), 1.0, Phase.OPEN, None, None, False, Pace(1200, 6003, 40.0, 120.1)))
    bar.close()
    assert re.search(r"opening images  19\.9%\|.+\| 1,200 of 6,003, 2:00 left *\n", screen.getvalue())
    assert "0 B" not in screen.getvalue()


@pytest.mark.parametrize("where", ["pipe", "dumb"])
def test_one_line_where_no_cursor_moves_up(terminal, where):
    screen = terminal(is_terminal=where != "pipe", term="dumb" if where == "dumb" else "xterm")
    bar = ProgressBar()
    bar.show(READING)
    bar.close()
    assert "verifying web01  42.8%|" in screen.getvalue()
    assert "\x1b" not in screen.getvalue()
    assert "\n" not in screen.getvalue()


@pytest.mark.parametrize("is_one_terminal", [True, False])
def test_an_event_goes_above_the_bar_on_the_same_terminal(terminal, monkeypatch, is_one_terminal):
    screen, elsewhere = terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", screen if is_one_terminal else elsewhere)
    bar = ProgressBar()
    bar.show(READING)
    drawn = screen.getvalue()
    STDOUT.put_event('{"event": "step"}\n')
    after = screen.getvalue().removeprefix(drawn)
    bar.close()
    if is_one_terminal:
        above, _, below = after.partition('{"event": "step"}\n')
        assert above.replace("\x1b[A", "").rpartition("\r")[2].strip() == ""
        assert "verifying  42.8%" in below
    else:
        assert (after, elsewhere.getvalue()) == ("", '{"event": "step"}\n')


def test_text_goes_above_the_bar(terminal):
    screen = terminal()
    bar = ProgressBar()
    STDERR.put("before\n")
    bar.show(READING)
    STDERR.put("a message\n")
    bar.close()
    STDERR.put("after\n")
    lines = screen.getvalue().replace("\x1b[A", "").split("\n")
    shown = [line.rpartition("\r")[2].rstrip() for line in lines]
    assert [line for line in shown if line in {"before", "a message", "after"}] == ["before", "a message", "after"]
    assert shown[-1] == ""
    assert STDERR.drawn is None


def test_a_long_name_is_cut_in_the_middle(terminal):
    screen = terminal()
    bar = ProgressBar()
    name = "customer-database-replica-07"
    bar.show(Reading(READING.run, 1.0, Phase.WRITE, name + "\x1b[2J", READING.of_guest, False))
    bar.close()
    assert "  customer-d...a-07\\x1b[2J" in screen.getvalue()
    assert "\x1b[2J" not in screen.getvalue()


@pytest.mark.parametrize(
    ("pace", "text"),
    [
        (Pace(0, 5 * GIB, None, None), "0 B of 5 GiB"),
        (Pace(1536 * MIB, 5 * GIB, 512.0, 59.6), "1.5 GiB of 5 GiB, 512 B/s, 1:00 left"),
        (Pace(5 * GIB, 5 * GIB, None, 0.0), "5 GiB of 5 GiB, 0:00 left"),
    ],
)
def test_the_units_are_those_of_reports(pace, text):
    assert pace_text(pace) == text
