"""qemu/qemu_img.py: what each end of qemu-img means, in words; a program of ours stands for it.

Guards qemu/installed.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from batchdiff.errors import (
    BatchdiffError,
    DifferenceError,
    ImageError,
    InUseError,
    ProgramError,
    VerificationError,
)
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.qemu import io_uring, programs, qemu_img
from batchdiff.qemu.programs import CompletedProgram

A = ImageSource("/a.qcow2", ImageFormat.QCOW2)
B = ImageSource("/b.img", ImageFormat.RAW)
SAID = "`qemu-img` (exit code {}): {}"


def check() -> None:
    qemu_img.check(A, 0)


def check_used() -> None:
    qemu_img.check(A, 0, leaks_allowed=True)


def require_opens() -> None:
    qemu_img.require_opens(A)


def compare() -> None:
    qemu_img.compare(A, B, 0)


ENDS = {
    "errors": (
        check,
        2,
        "ERROR",
        VerificationError,
        f"qemu-img check found errors in /a.qcow2: {SAID}",
    ),
    "leaks": (check, 3, "Leaked", VerificationError, f"qemu-img check found leaks in /a.qcow2: {SAID}"),
    "killed": (
        compare,
        -9,
        "",
        ProgramError,
        "qemu-img failed: `qemu-img` (killed by SIGKILL). Look in the kernel log (`dmesg`) for what killed it,"
        " then run the same command again.",
    ),
    "errors-of-a-used-overlay": (
        check_used,
        2,
        "ERROR",
        VerificationError,
        f"qemu-img check found errors in /a.qcow2: {SAID}. Shut its VM down and copy the image first, because a"
        " repair may lose data. Then repair the image with `qemu-img check -r all -f qcow2 /a.qcow2`. Check that"
        " the VM starts, then run the same command again.",
    ),
    "does-not-open": (
        require_opens,
        1,
        "no",
        VerificationError,
        f"QEMU cannot open /a.qcow2: {SAID}. If the error is in the template, no VM can run on its overlays"
        " here. If QEMU lacks what the template needs, such as a driver, install that. If the template is damaged,"
        " restore it from a backup, then plan again.",
    ),
    "differ": (
        compare,
        1,
        "Content mismatch at offset 0!",
        DifferenceError,
        f"qemu-img compare found a difference between /a.qcow2 and /b.img: {SAID}",
    ),
    "locked": (
        compare,
        1,
        'Failed to get shared "write" lock',
        InUseError,
        f"an image is in use by a VM or another program: {SAID}. Shut down the VM or end the program, then run the"
        " same command again.",
    ),
    "locked by a program that is not QEMU": (
        compare,
        1,
        "Failed to lock byte 100",
        InUseError,
        f"an image is in use by a VM or another program: {SAID}. Shut down the VM or end the program, then run the"
        " same command again.",
    ),
    "failed": (
        compare,
        4,
        "no",
        ProgramError,
        f"qemu-img failed: {SAID}. Fix what it reports, then run the same command again.",
    ),
    "no-library": (
        compare,
        127,
        "no",
        ProgramError,
        f"qemu-img failed: {SAID}. batchdiff confines qemu-img to the images, to system folders such as"
        " /usr, to the folder of qemu-img itself and to the folders in LD_LIBRARY_PATH. Install a"
        " qemu-img that needs no other files.",
    ),
}


@pytest.mark.parametrize(("verb", "code", "output", "kind", "message"), ENDS.values(), ids=ENDS)
def test_message(
    monkeypatch, verb: Callable[[], None], code: int, output: str, kind: type[BatchdiffError], message: str
):
    monkeypatch.setattr(programs, "run", lambda *_, **__: CompletedProgram(("qemu-img",), code, output))
    monkeypatch.setattr(io_uring, "options", lambda _images: {})
    monkeypatch.setattr(qemu_img, "names_of", lambda images, _secrets, **_: [image.path for image in images])
    with pytest.raises(BatchdiffError) as caught:
        verb()
    assert type(caught.value) is kind
    assert str(caught.value) == message.format(code, output.rstrip("!"))


@pytest.mark.parametrize(
    ("secret_file", "below", "how"),
    [
        ("/secret", (), "Then run the `qemu-img check` above with `-r all` instead of `-q`. Check that"),
        (None, ("/secret",), "Then run the `qemu-img check` above with `-r all` instead of `-q`. Check that"),
        ("/dev/fd/3", (), "instead of `-q` and with the path of the secret file after `file=`. Check that"),
    ],
)
def test_the_repair_of_an_image_that_needs_a_secret(monkeypatch, secret_file, below, how):
    """A command without the secret fails."""
    monkeypatch.setattr(qemu_img, "_run", lambda *_, **__: CompletedProgram(("qemu-img",), 2, "ERROR"))
    backing = tuple(ImageSource("/t.qcow2", ImageFormat.QCOW2, secret_file=each) for each in below)
    image = ImageSource("/a.qcow2", ImageFormat.QCOW2, backing, secret_file)
    with pytest.raises(VerificationError) as caught:
        qemu_img.check(image, 0, leaks_allowed=True)
    assert how in caught.value.remedy


def test_an_image_that_qemu_cannot_open_may_be_sound(monkeypatch):
    """This QEMU may lack its driver."""
    said = CompletedProgram(("qemu-img",), 1, "Unknown driver 'qed'")
    monkeypatch.setattr(programs, "run", lambda *_, **__: said)
    monkeypatch.setattr(qemu_img, "names_of", lambda images, _secrets, **_: [image.path for image in images])
    with pytest.raises(ImageError, match="QEMU cannot open or map") as caught:
        qemu_img.file_map(A)
    assert caught.value.remedy.startswith(
        "If QEMU lacks what the image needs, such as the driver for its format, install"
    )


@pytest.mark.parametrize("failures", [0, 3, 100])
def test_an_encrypted_image_is_created_again_if_qemu_cannot_measure_the_cpu(monkeypatch, tmp_path, failures):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    seen: list[list[str]] = []

    def run(argv: list[str], **_: object) -> CompletedProgram:
        seen.append(argv)
        fails = len(seen) <= failures
        return CompletedProgram(tuple(argv), int(fails), "Unable to get accurate CPU usage" if fails else "")

    monkeypatch.setattr(programs, "run", run)
    monkeypatch.setattr(qemu_img, "names_of", lambda images, _secrets, **_: [image.path for image in images])
    new = ImageSource("/new", ImageFormat.QCOW2, secret_file=str(secret))
    if failures > 30:
        with pytest.raises(ProgramError, match="accurate CPU usage"):
            qemu_img.convert(ImageSource("/old", ImageFormat.RAW), 3, new, 1 << 20)
    else:
        qemu_img.convert(ImageSource("/old", ImageFormat.RAW), 3, new, 1 << 20)
    assert len(seen) == min(failures + 1, 30)
    assert seen[0][2:4] == ["--object", f"secret,id=sec0,file={secret}"]
    assert seen[0][4:8] == ["-O", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=sec0"]
