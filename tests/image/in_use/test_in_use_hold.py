"""Held images against real programs that want them: kept out, or noticed and let go on."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import notation
import pytest
import real_holders
from oracle import source
from real_holders import REFUSED, image_format, process, vm_command, wait_for

from batchdiff.errors import GuestError, ImageError
from batchdiff.image.in_use import hold as holding
from batchdiff.image.in_use.check import Purpose
from batchdiff.image.in_use.hold import hold
from batchdiff.image.open import open_image

PURPOSES = pytest.mark.parametrize("purpose", Purpose)


@contextlib.contextmanager
def held_image(path, purpose=Purpose.GUEST):
    with open_image(source(path)) as image, hold(image, purpose) as held:
        yield held


def python(path, how):
    return [sys.executable, "-c", f"import os; path = {str(path)!r}; {how}"]


@PURPOSES
@pytest.mark.parametrize("holding_it", real_holders.WRITERS.values(), ids=real_holders.WRITERS)
def test_who_was_there_before(raw, purpose, holding_it):
    with holding_it(raw) as name:
        with pytest.raises(REFUSED[purpose], match="open for writing") as caught, held_image(raw, purpose):
            pass
        assert name in caught.value.why
    with held_image(raw, purpose) as held:
        assert held.unknown == ""
        held.check()


COMERS = {
    "vm": vm_command,
    "vm-without-locks": lambda path: vm_command(path, ",file.locking=off"),
    "qemu-nbd": lambda path: ["qemu-nbd", "-t", "-k", f"{path}.sock", "-f", image_format(path), str(path)],
    "qemu-io": lambda path: [
        "qemu-io",
        "-f",
        image_format(path),
        "-c",
        "write 0 512",
        "-c",
        "sleep 2000",
        str(path),
    ],
    "writer": lambda path: python(path, "os.open(path, os.O_RDWR); input()"),
    "appender": lambda path: python(path, "os.open(path, os.O_WRONLY | os.O_APPEND); input()"),
    "loop-device": lambda path: ["losetup", "--find", str(path)],
}


@PURPOSES
@pytest.mark.parametrize("command", COMERS.values(), ids=COMERS)
def test_who_comes_while_it_is_held_waits_and_goes_on_when_we_notice(path, purpose, command, monkeypatch):
    monkeypatch.setattr(holding, "_NAMING_SECONDS", 20)  # where it is busy it takes a while to come out of open()
    before = path.read_bytes()
    with held_image(path, purpose) as held:
        held.check()
        assert not held.is_broken()
        with process(command(path)) as comer:
            wait_for(held.is_broken)
            time.sleep(0.1)
            assert path.read_bytes() == before
            start = time.monotonic()
            with pytest.raises(REFUSED[purpose], match=r"is in use") as caught:
                held.check()
            assert time.monotonic() - start < 30  # the kernel itself would let it in after 45 s
            if comer.args[0] != "losetup":
                assert f"(pid {comer.pid}" in caught.value.why
                assert comer.poll() is None  # it was let in, and neither failed nor was cut off
            else:
                assert comer.wait(60) == 0
            assert held.is_broken()
            with pytest.raises(REFUSED[purpose], match=r"is in use"):
                held.check()
    for device in notation.run("losetup", "--noheadings", "--output", "NAME", "--associated", str(path)).split():
        notation.run("losetup", "--detach", device)


def test_who_waits_goes_on_when_we_let_go(raw):
    with held_image(raw) as held, process(python(raw, "os.write(os.open(path, os.O_RDWR), b'new')")) as comer:
        wait_for(held.is_broken)
        held.release()
        assert comer.wait(60) == 0
    assert raw.read_bytes()[:3] == b"new"


def test_a_writer_that_has_gone_is_reported_without_a_name(raw, monkeypatch):
    monkeypatch.setattr(holding, "_NAMING_SECONDS", 0.1)
    with held_image(raw) as held:
        with pytest.raises(BlockingIOError):
            os.open(raw, os.O_RDWR | os.O_NONBLOCK)
        with pytest.raises(GuestError, match="something wanted to write to it"):
            held.check()


@PURPOSES
@pytest.mark.parametrize("by", ["lock", "lease"])
def test_a_writer_whose_name_cannot_be_looked_up(raw, purpose, by, full):
    """Everything is released by then, so this must be the last check that finds the image held."""
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(held_image(raw, purpose))
        if by == "lock":  # of a program that no lease shows, because it has yet to open the file for writing
            stack.enter_context(real_holders.shared_locker(raw, 1, 101))
        else:
            with pytest.raises(BlockingIOError):
                os.open(raw, os.O_RDWR | os.O_NONBLOCK)
        expected = "something has it open for writing" if by == "lock" else "something wanted to write to it"
        with full(), pytest.raises(REFUSED[purpose], match=expected):
            held.check()
        os.close(os.open(raw, os.O_RDWR | os.O_NONBLOCK))  # it is let in
        for _ in range(2):
            assert held.is_broken()
            with pytest.raises(REFUSED[purpose], match=expected):
                held.check()


@PURPOSES
def test_qemu_reads_what_is_held(path, purpose):
    form = image_format(path)
    commands = [
        ["qemu-img", "compare", "-f", form, "-F", form, str(path), str(path)],
        ["qemu-img", "convert", "-f", form, "-O", "raw", str(path), f"{path}.copy"],
        ["qemu-img", "info", "-f", form, str(path)],
        *([["qemu-img", "check", str(path)]] if form == "qcow2" else []),
    ]
    with held_image(path, purpose) as held:
        for command in commands:
            notation.run(*command)
            held.check()
        with real_holders.nbd_server(path, "-r"):
            held.check()  # also while one of ours reads
        assert not held.is_broken()


def test_vms_run_on_overlays_of_a_template_that_is_held(path):
    with real_holders.vm_on_overlay(path), held_image(path, Purpose.TEMPLATE) as held:
        held.check()
    with held_image(path, Purpose.TEMPLATE) as held, real_holders.vm_on_overlay(path):
        held.check()
        with held_image(path, Purpose.TEMPLATE) as other:  # another plan's apply
            other.check()
        held.check()


def test_one_apply_at_a_time_has_a_guest(path):
    program = f"""
from batchdiff.image.in_use.hold import hold
from batchdiff.image.open import open_image
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.image.in_use.check import Purpose
with open_image(ImageSource({str(path)!r}, ImageFormat({image_format(path)!r}))) as image:
    with hold(image, Purpose.GUEST):
        print("ready", flush=True)
        input()
"""
    with real_holders.running([sys.executable, "-c", program], b"ready") as other:
        with pytest.raises(GuestError, match=rf"being read by .*\(pid {other.pid}\)"), held_image(path):
            pass
        other.kill()
        other.wait()
        with held_image(path):  # what holds dies with whoever holds
            pass


def test_vm_that_waits_for_its_migration_is_noticed_when_it_takes_its_disk(raw):
    with real_holders.vm_waiting_for_migration(raw) as name:
        with pytest.raises(GuestError) as caught, held_image(raw):
            pass
        assert name in caught.value.why


def test_a_file_that_no_process_has_is_closed_soon(raw):
    """The kernel closes the files of a program that used io_uring after its end. Here this process itself does."""
    with held_image(raw) as held:
        other = os.open(raw, os.O_RDONLY)
        closing = threading.Timer(0.1, os.close, [other])
        closing.start()
        assert held.alone().objection == ""
        closing.join()


@pytest.mark.parametrize("reader", [real_holders.reader, real_holders.vm_waiting_for_migration])
def test_alone(path, reader):
    with held_image(path) as held:
        assert held.alone().objection == ""
        with reader(path) as name:
            assert name in held.alone().objection
            held.check()  # reading is no harm until it is retired
            assert not held.is_broken()
        assert held.alone().objection == ""
        held.check()
        with process(python(path, "os.open(path, os.O_RDWR); input()")):
            wait_for(held.is_broken)
            assert held.alone().objection
            with pytest.raises(GuestError):
                held.check()


def test_qemu_is_kept_out_where_there_are_no_leases(raw, monkeypatch):
    """As of another's image, or on a block device: its locks are all there is."""
    raw.chmod(0o644)
    with open_image(source(raw)) as image:
        os.seteuid(65534)
        try:
            held = holding.Held()
            held.take(image.path, image.layers[0].fd, Purpose.GUEST)
        finally:
            os.seteuid(0)
        assert held.unknown == "only its owner or root can check who has it open"
        done = subprocess.run(vm_command(raw), capture_output=True, text=True, timeout=30, check=False)
        assert 'Failed to get "write" lock' in done.stderr
        held.check()
        with real_holders.vm_without_locks(raw) as name, pytest.raises(GuestError) as caught:
            held.check()
        assert name in caught.value.why
        held.release()


def test_a_block_device_cannot_be_mounted_while_it_is_held(raw):
    with real_holders.loop_device(raw) as name:
        device = Path(name.split()[-1])
        with held_image(device) as held:
            assert "block device" in held.unknown
            assert held.alone().objection == ""
            with pytest.raises(OSError, match="busy"):
                os.open(device, os.O_RDONLY | os.O_EXCL)
            notation.run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(device), str(raw))
            held.check()
            with real_holders.writer(device) as who, pytest.raises(GuestError) as caught:
                held.check()
            assert who in caught.value.why
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL))


def test_nothing_stays_of_an_image_that_could_not_be_held(folder, raw):
    guest = folder / "thin.qcow2"
    notation.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(raw), "-F", "raw", str(guest))
    with open_image(source(guest, raw)) as image:
        with real_holders.writer(raw), pytest.raises(ImageError, match="not change"), hold(image, Purpose.GUEST):
            pass
        for path in (guest, raw):
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        notation.run("qemu-io", "-f", "qcow2", "-c", "write 0 512", str(guest))


def test_each_check_names_the_file_that_was_given_up(folder, raw):
    guest = folder / "thin.qcow2"
    notation.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(raw), "-F", "raw", str(guest))
    with open_image(source(guest, raw)) as image, hold(image, Purpose.GUEST) as held:
        writing = threading.Thread(target=lambda: os.close(os.open(raw, os.O_RDWR)))
        writing.start()
        wait_for(held.is_broken)
        for _ in range(2):
            with pytest.raises(ImageError, match=f"{raw}, which must not change"):
                held.check()
        assert held.is_broken()
        writing.join()
