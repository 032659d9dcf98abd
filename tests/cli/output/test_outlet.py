"""Guards cli/output/outlet.py."""

import os
import pty
import signal
import sys
import threading
import time

import pytest

from batchdiff.cli.output.outlet import STDERR, STDOUT, Outlet
from batchdiff.errors import UsageError


@pytest.fixture
def terminal():
    """Makes a terminal, and returns its reading end, which never waits, and a stream to write to; tests call it.

    It is closed after a minute, so that a write that waits for it fails.
    """
    opened, closing = [], []

    def make():
        reader, writer = pty.openpty()
        os.set_blocking(reader, False)
        opened.append((os.fdopen(reader, "rb"), os.fdopen(writer, "w")))
        closing.append(threading.Timer(60, opened[-1][0].close))
        closing[-1].start()
        return reader, opened[-1][1]

    yield make
    for timer in closing:
        timer.cancel()
        timer.join()
    for reader, stream in opened:
        stream.close()
        reader.close()


@pytest.fixture
def pipe():
    """Makes a pipe like :func:`terminal`."""
    opened = []

    def make():
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        opened.append((reader, os.fdopen(writer, "w")))
        return opened[-1]

    yield make
    for reader, stream in opened:
        stream.close()
        os.close(reader)


@pytest.fixture(params=["pipe", "terminal"])
def reading_end(request, monkeypatch):
    """Makes a pipe or a terminal that is stdout, and returns its reading end; tests call it."""
    make = request.getfixturevalue(request.param)

    def as_stdout():
        reader, stream = make()
        monkeypatch.setattr(sys, "stdout", stream)
        return reader

    return as_stdout


def all_of(reader):
    """What can be read now, without the \\r that a terminal adds to each \\n."""
    found = b""
    while True:
        try:
            piece = os.read(reader, 1 << 20)
        except BlockingIOError:
            piece = b""
        if not piece:
            return found.decode().replace("\r", "")
        found += piece


LINE = "x" * 99 + "\n"


def test_a_reader_that_does_not_read_holds_nothing_up(reading_end):
    """A pipe takes 64 KiB, a terminal less. What is too much waits in memory; what may be left out is."""
    reader = reading_end()
    outlet = Outlet("stdout")
    begun = time.thread_time()
    for number in range(2000):
        outlet.put(f"{number:099}\n")
        outlet.put_event("progress\n", may_drop=True)
    assert time.thread_time() - begun < 10
    read = all_of(reader)
    assert len(read) <= 64 << 10
    flushing = threading.Thread(target=outlet.flush)
    flushing.start()
    while flushing.is_alive():
        read += all_of(reader)
    flushing.join()
    read += all_of(reader)
    lines = read.splitlines()
    assert [int(line) for line in lines if line != "progress"] == list(range(2000))
    assert 0 < lines.count("progress") < 1000


def test_a_reader_that_comes_back_gets_what_waited(reading_end):
    reader = reading_end()
    outlet = Outlet("stdout")
    for _ in range(1000):
        outlet.put(LINE)
    read = all_of(reader)
    while len(read) < 100_001:
        outlet.put_event("later\n", may_drop=True)
        read += all_of(reader)
    assert set(read.splitlines()) == {LINE.strip(), "later"}


def test_lines_of_threads_never_mix(reading_end):
    reader = reading_end()
    outlet = Outlet("stdout")
    texts = [letter * 5000 for letter in "abcdefgh"]  # more than a pipe takes at once

    def write(text):
        for _ in range(20):
            outlet.put(text + "\n")

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    read = ""
    while any(thread.is_alive() for thread in threads):
        read += all_of(reader)
    flushing = threading.Thread(target=outlet.flush)
    flushing.start()
    while flushing.is_alive():
        read += all_of(reader)
    read += all_of(reader)
    lines = read.splitlines()
    assert set(lines) == set(texts)
    assert len(lines) == 160


def test_a_descriptor_that_another_process_made_non_blocking(reading_end):
    reader = reading_end()
    os.set_blocking(sys.stdout.fileno(), False)
    outlet = Outlet("stdout")
    for _ in range(2000):
        outlet.put(LINE)
    flushing = threading.Thread(target=outlet.flush)
    flushing.start()
    read = ""
    while flushing.is_alive():
        read += all_of(reader)
    assert (read + all_of(reader)).count("\n") == 2000


def test_a_full_disk_is_reported_by_text_at_once_and_by_events_at_the_end(monkeypatch):
    for put in (Outlet.put, Outlet.put_event):
        with os.fdopen(os.open("/dev/full", os.O_WRONLY), "w") as full:
            monkeypatch.setattr(sys, "stdout", full)
            outlet = Outlet("stdout")
            if put is Outlet.put:
                with pytest.raises(UsageError, match="cannot write the output: No space left on device"):
                    put(outlet, "text\n")
            else:
                put(outlet, "text\n")
                put(outlet, "more\n")
                with pytest.raises(UsageError, match="No space left on device"):
                    outlet.flush()
            outlet.put("nowhere\n")
            outlet.flush()
            monkeypatch.undo()


def test_text_goes_above_what_is_drawn(reading_end):
    reader = reading_end()
    said = []

    class Drawing:
        def lifted(self):
            outer = self

            class Lifted:
                def __enter__(self):
                    said.append("lifted")

                def __exit__(self, *_):
                    said.append(all_of(reader))

            assert outer is outlet.drawn
            return Lifted()

    outlet = Outlet("stdout")
    outlet.drawn = Drawing()
    outlet.put("text\n")
    outlet.put_event("event\n", may_drop=True)  # of the drawing itself, perhaps
    assert said == ["lifted", "text\n"]


def test_an_interruption_right_after_a_write_does_not_write_it_again(reading_end, monkeypatch):
    """Ctrl-C arrives when the reader has just got a line: it must not get it twice."""
    reader, write = reading_end(), os.write

    def written_and_interrupted(fd, data):
        done = write(fd, data)
        monkeypatch.setattr(os, "write", write)
        os.kill(os.getpid(), signal.SIGINT)
        return done

    outlet = Outlet("stdout")
    monkeypatch.setattr(os, "write", written_and_interrupted)
    with pytest.raises(KeyboardInterrupt):
        outlet.put("once\n")
    outlet.put("then\n")
    assert all_of(reader) == "once\nthen\n"


def test_messages_on_the_same_terminal_follow_the_result(terminal, monkeypatch):
    """The terminal takes only a part of the result, whose rest must not come after the message."""
    reader, stream = terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    with open(os.dup(stream.fileno()), "w") as also:
        monkeypatch.setattr(sys, "stderr", also)
        for _ in range(1000):
            STDOUT.put(LINE)
        STDERR.put("message\n")
        STDERR.put_event("a bar\n", may_drop=True)
        flushing = threading.Thread(target=STDERR.flush)
        flushing.start()
        read = ""
        while flushing.is_alive():
            read += all_of(reader)
        flushing.join()
        assert read + all_of(reader) == 1000 * LINE + "message\n"
        monkeypatch.undo()


def test_a_terminal_that_this_user_must_not_open_is_written_to_as_it_is(terminal, monkeypatch):
    """After su, the terminal belongs to another user."""
    reader, stream = terminal()
    monkeypatch.setattr(sys, "stdout", stream)

    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)
    Outlet("stdout").put("text\n")
    assert all_of(reader) == "text\n"


def test_a_terminal_that_was_closed_is_reported_once(terminal, monkeypatch):
    reader, stream = terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    outlet = Outlet("stdout")
    outlet.put("text\n")
    with open(os.devnull) as nowhere:
        os.dup2(nowhere.fileno(), reader)  # closes the terminal
    with pytest.raises(UsageError, match="cannot write the output: Input/output error"):
        outlet.put("text\n")
    outlet.put("nowhere\n")
    outlet.flush()
