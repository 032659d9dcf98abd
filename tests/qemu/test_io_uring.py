"""qemu/io_uring.py: QEMU compares with io_uring where it can, and without it where it cannot."""

from __future__ import annotations

import contextlib
import os
import threading

import notation
import pytest
from oracle import source

from batchdiff.errors import DifferenceError, ProgramError
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.qemu import installed, io_uring, programs, qemu_img
from batchdiff.qemu.programs import CompletedProgram

REFUSALS = {
    "not built in": "Invalid parameter 'io_uring'",
    "forbidden": "Unable to use io_uring: failed to init linux io_uring ring",
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing is known yet of the installed QEMU."""
    io_uring._is_sound.cache_clear()
    monkeypatch.setattr(io_uring, "_refused", threading.Event())
    yield
    io_uring._is_sound.cache_clear()


def programs_run(monkeypatch, fails=lambda _argv: None):
    """Record each program that is run; ``fails`` returns the output of one that fails instead, or None."""
    real, seen = programs.run, []

    def run(argv, **options):
        seen.append(argv)
        output = fails(argv)
        return real(argv, **options) if output is None else CompletedProgram(tuple(argv), 1, output)

    monkeypatch.setattr(programs, "run", run)
    return seen


@pytest.mark.parametrize(
    ("version", "is_sound"),
    [("5.0.0", False), ("7.0.9", False), ("7.1.0", True), ("7.2.22", True), ("10.0.13", True), ("unknown", False)],
)
def test_only_a_version_that_reads_soundly(monkeypatch, version, is_sound):
    monkeypatch.setattr(io_uring, "installed_version", lambda: version)
    assert io_uring.options([]) == ({"aio": "io_uring"} if is_sound else {})


def test_a_qemu_img_that_cannot_run_is_reported_by_the_comparison(monkeypatch):
    def fail():
        raise ProgramError("cannot run qemu-img")

    monkeypatch.setattr(io_uring, "installed_version", fail)
    assert io_uring.options([]) == {}


@pytest.fixture
def images(tmp_path):
    """Return a chain of three, and an image with the same content; one with an odd name."""
    template = notation.write_raw(tmp_path / "template.img", "64k:A 64k:- 64k:B")
    middle, top = tmp_path / "middle, of three.qcow2", tmp_path / "top.qcow2"
    notation.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(template), "-F", "raw", str(middle))
    notation.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(middle), "-F", "qcow2", str(top))
    for path in (middle, top):  # an empty image ends within a sector
        os.truncate(path, 1 << 20)
    copy = notation.write_raw(tmp_path / "copy.img", "64k:A 64k:- 64k:B")
    return source(top, middle, template), source(copy)


def test_every_file_of_a_chain_is_read_with_it(monkeypatch, images):
    seen = programs_run(monkeypatch)
    qemu_img.compare(*images, 192 << 10)
    (compared,) = (argv for argv in seen if argv[1] == "compare")
    assert [name.count('"aio": "io_uring"') for name in compared[-2:]] == [3, 1]
    with open(images[1].path, "r+b") as file:
        file.write(b"other")
    with pytest.raises(DifferenceError):
        qemu_img.compare(*images, 192 << 10)


@pytest.mark.parametrize("which", ["template.img", "middle, of three.qcow2", "top.qcow2", "copy.img"])
def test_not_for_a_chain_with_a_file_that_ends_within_a_sector(monkeypatch, images, which):
    """Reads of its end are short, and QEMU 7.2 may wait for the rest forever."""
    path = os.path.join(os.path.dirname(images[1].path), which)
    os.truncate(path, os.stat(path).st_size + 100)
    seen = programs_run(monkeypatch)
    with contextlib.suppress(DifferenceError):
        qemu_img.compare(*images, 192 << 10)
    (compared,) = (argv for argv in seen if argv[1] == "compare")
    assert "io_uring" not in "".join(compared)


def test_a_small_text_file_that_describes_an_image(tmp_path):
    """With io_uring QEMU 7.2 hangs when it opens this one."""
    raw = notation.write_raw(tmp_path / "copy.img", "64k:A 64k:- 64k:B")
    image = tmp_path / "image.vmdk"
    notation.run("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=monolithicFlat", str(raw), str(image))
    image.write_text(image.read_text().rstrip("\0"))
    assert image.stat().st_size % 512
    extent = str(tmp_path / "image-flat.vmdk")
    vmdk = ImageSource(str(image), ImageFormat.VMDK, other_files=(extent,))
    qemu_img.compare(vmdk, source(raw), 192 << 10)


@pytest.mark.parametrize("output", REFUSALS.values(), ids=REFUSALS)
def test_without_it_if_qemu_refuses_it(monkeypatch, images, output):
    seen = programs_run(monkeypatch, lambda argv: output if "io_uring" in "".join(argv) else None)
    for _ in range(2):
        qemu_img.compare(*images, 192 << 10)
    tried = ["io_uring" in "".join(argv) for argv in seen if argv[1] == "compare"]
    assert tried == [True, False, False]


def test_another_failure_is_not_tried_again(monkeypatch, images):
    seen = programs_run(monkeypatch, lambda argv: "broken" if argv[1] == "compare" else None)
    with pytest.raises(ProgramError, match="broken"):
        qemu_img.compare(*images, 192 << 10)
    assert len([argv for argv in seen if argv[1] == "compare"]) == 1


def test_the_version_is_asked_for_once(monkeypatch, images):
    seen = programs_run(monkeypatch)
    for _ in range(3):
        qemu_img.compare(*images, 192 << 10)
    assert [argv[1] for argv in seen] == ["--version", "compare", "compare", "compare"]
    assert installed.installed_version()
