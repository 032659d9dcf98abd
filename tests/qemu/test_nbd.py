"""batchdiff.qemu.nbd: reads and block status as QEMU's own client sees them, and servers that lie are refused."""

import contextlib
import itertools
import os
import socket
import struct
import subprocess
import threading

import notation
import pytest

from batchdiff.qemu import nbd
from batchdiff.qemu.nbd import NbdConnection

CONTENT = "100k:A 1M:- 64k:B 9M:- 70k:C 900k:- 512:D"
GREETING = b"NBDMAGICIHAVEOPT\x00\x03"


@pytest.fixture
def address(tmp_path):
    """The socket of a qemu-nbd that serves CONTENT as qcow2."""
    raw, image, place = notation.write_raw(tmp_path / "raw", CONTENT), tmp_path / "image", tmp_path / "socket"
    notation.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(image))
    argv = ["qemu-nbd", "-r", "-f", "qcow2", "--persistent", "-k", str(place), str(image)]
    with subprocess.Popen([*argv, "--fork", "--pid-file", str(tmp_path / "pid")]) as starter:
        assert starter.wait() == 0
    yield str(place)
    os.kill(int((tmp_path / "pid").read_text()), 9)


@pytest.fixture
def connection(address):
    found = NbdConnection(address, 20)
    yield found
    found.close()


@pytest.mark.parametrize("most", [4096, 65536, nbd._AT_ONCE])
def test_reads_of_any_length_at_any_offset(connection, most, monkeypatch):
    monkeypatch.setattr(nbd, "_AT_ONCE", most)
    expected = notation.content(CONTENT)
    assert connection.size == len(expected)
    for start, length in [
        (0, 1),
        (511, 99_999),
        (0, len(expected)),
        (len(expected) - 3, 3),
        (5, 0),
        (4096, 65536),
    ]:
        buffer = memoryview(bytearray(length))
        connection.read(start, buffer)
        assert buffer == expected[start : start + length]


def test_runs_of_data(connection, monkeypatch):
    expected = notation.content(CONTENT)
    runs = list(connection.data_runs())
    assert sum(end - start for start, end in runs) <= 7 * 65536
    for (_, end), (start, _) in itertools.pairwise([(0, 0), *runs, (len(expected), 0)]):
        assert not any(expected[end:start])
    monkeypatch.setattr(nbd, "_MOST_ASKED", 100_000 * 512)
    assert list(connection.data_runs()) == runs


def test_a_read_past_the_end_is_an_error_and_the_next_one_is_not(connection):
    with pytest.raises(OSError, match=r"past EOF|range|Invalid"):
        connection.read(connection.size, memoryview(bytearray(512)))
    buffer = memoryview(bytearray(512))
    connection.read(0, buffer)
    assert buffer == notation.content("512:A")


def chunk(kind, cookie, data, flags=1, magic=0x668E33EF, length=None):
    return struct.pack(">IHHQI", magic, flags, kind, cookie, len(data) if length is None else length) + data


def reply(option, kind, data=b"", magic=0x3E889045565A9):
    return struct.pack(">QIII", magic, option, kind, len(data)) + data


AGREED = (
    GREETING
    + reply(8, 1)
    + reply(10, 3, b"\0\0\0\0base:allocation") * 0
    + reply(10, 4, b"\0\0\0\0base:allocation")
    + reply(10, 1)
    + reply(7, 3, struct.pack(">HQH", 0, 1 << 20, 0x8F))
    + reply(7, 1)
)


@pytest.fixture
def speak(tmp_path):
    """Return a client of a server that says certain bytes, whatever it hears, and then ends or hangs."""
    rooms = []

    def served(words, seconds=20.0, hangs=False):
        place = str(tmp_path / f"socket{len(rooms)}")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(place)
        listener.listen()
        over = threading.Event()

        def serve():
            with contextlib.suppress(ConnectionError), listener, listener.accept()[0] as client:
                client.sendall(words)
                if hangs:
                    over.wait(60)
                else:
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(65536):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        rooms.append((over, thread))
        connection = None
        try:
            connection = NbdConnection(place, seconds)
            buffer = memoryview(bytearray(4096))
            connection.read(0, buffer)
            return bytes(buffer)
        finally:
            over.set()
            if connection is not None:
                connection.close()

    yield served
    for over, thread in rooms:
        over.set()
        thread.join()


def data(text, at=0):
    return struct.pack(">Q", at) + text


def test_an_honest_server(speak):
    assert speak(AGREED + chunk(1, 1, data(b"x" * 4096))) == b"x" * 4096
    assert speak(AGREED + chunk(1, 1, data(b"x" * 4096), flags=0) + chunk(0, 1, b"")) == b"x" * 4096


@pytest.mark.parametrize(
    "words",
    [
        b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53" + bytes(200),
        GREETING[:-1] + b"\x00",
        GREETING + reply(8, 1 << 31 | 1),
        GREETING + reply(8, 1, magic=7),
        GREETING + reply(9, 1),
        GREETING + reply(8, 1) + reply(10, 1),
        AGREED.replace(struct.pack(">HQH", 0, 1 << 20, 0x8F), struct.pack(">HQH", 9, 1 << 20, 0x8F)),
        GREETING + struct.pack(">QIII", 0x3E889045565A9, 8, 1, 0xFFFFFFFF),
        AGREED + chunk(1, 1, data(b"x" * 4096), magic=0x67446698),
        AGREED + chunk(1, 1, data(b"x" * 4097)),
        AGREED + chunk(1, 1, data(b"x" * 4095)),
        AGREED + chunk(1, 1, data(b"x" * 4096, at=512)),
        AGREED + chunk(1, 9, data(b"x" * 4096)),
        AGREED + chunk(1, 0, data(b"x" * 4096)),
        AGREED + chunk(2, 1, data(b"\0\0\1\0")),
        AGREED + chunk(1, 1, data(b"x" * 4096), flags=0) + chunk(1, 1, data(b"x" * 4096)),
        AGREED + chunk(0, 1, b""),
        AGREED + chunk(0x8001, 1, b"\0"),
    ],
)
def test_a_server_that_breaks_the_protocol(speak, words):
    with pytest.raises(OSError, match="does not follow the NBD protocol"):
        speak(words)


def test_an_error_of_the_server(speak):
    with pytest.raises(OSError, match="no luck") as caught:
        speak(AGREED + chunk(0x8001, 1, struct.pack(">IH", 5, 7) + b"no luck"))
    assert caught.value.errno == 5


@pytest.mark.parametrize("words", [b"", GREETING, AGREED, AGREED + chunk(1, 1, data(b"x" * 4096))[:-1]])
def test_a_server_that_ends(speak, words):
    with pytest.raises(ConnectionError):
        speak(words)


@pytest.mark.parametrize("words", [b"", GREETING, AGREED, AGREED + chunk(1, 1, data(b"x" * 4096))[:-1]])
def test_a_server_that_hangs(speak, words):
    with pytest.raises(TimeoutError):
        speak(words, seconds=0.3, hangs=True)


def test_block_status_that_makes_no_progress(tmp_path, monkeypatch):
    one, other = socket.socketpair()
    monkeypatch.setattr(nbd.socket, "socket", lambda *_: one)
    monkeypatch.setattr(one.__class__, "connect", lambda *_: None, raising=False)
    other.sendall(AGREED + chunk(5, 1, b"\0\0\0\0"))
    connection = NbdConnection("", 20)
    with pytest.raises(OSError, match="NBD protocol"):
        list(connection.data_runs())
    connection.close()
    other.close()
