"""The installed qemu-img: its version, formats, options and failures."""

from __future__ import annotations

import re

from batchdiff.errors import InUseError, ProgramError
from batchdiff.linux.call_failures import AGAIN
from batchdiff.qemu import programs
from batchdiff.qemu.programs import CompletedProgram

NAME = "qemu-img"
PACKAGE = "qemu-utils"

_WHERE = (
    "batchdiff confines qemu-img to the images, to system folders such as /usr, to the folder of qemu-img itself"
    " and to the folders in LD_LIBRARY_PATH. Install a qemu-img that needs no other files."
)

_SECONDS_TO_ANSWER = 60


def installed_version() -> str:
    """Return the version of qemu-img; if its output has an unknown form, the whole output.

    :raises ProgramError: qemu-img cannot be run, or fails.
    """
    done = _ask("--version")
    words = done.output.split("\n", 1)[0].split()
    # "qemu-img version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)"
    return words[2] if words[:2] == [NAME, "version"] and len(words) > 2 else done.output.strip()


def known_formats() -> list[str]:
    """Return the formats that qemu-img lists, sorted; some of them it can read, but not write.

    :raises ProgramError: qemu-img cannot be run, or fails.
    """
    _, found, listed = _ask("--help").output.partition("Supported formats:")
    return sorted(listed.split("\n\n", 1)[0].split()) if found else []


def create_options(kind: str) -> list[str]:
    """Return the names of the options for creating an image of a format, sorted.

    :raises ProgramError: qemu-img cannot be run, or fails.
    """
    lines = _ask("create", "-f", kind, "-o", "help").output.splitlines()
    return sorted({line.split("=", 1)[0].strip() for line in lines if "=<" in line})


def _ask(*arguments: str) -> CompletedProgram:
    done = programs.run([NAME, *arguments], reads=[], timeout=_SECONDS_TO_ANSWER, package=PACKAGE)
    if done.code != 0:
        raise failure(done)
    return done


def failure(done: CompletedProgram) -> ProgramError:
    """Return the error to raise if qemu-img has failed."""
    # 126 and 127 come from a shell or the loader: qemu-img or a library may be outside the readable folders.
    remedy = _WHERE if done.code in {126, 127} else f"Fix what it reports, {AGAIN}"
    if done.code < 0:
        remedy = f"Look in the kernel log (`dmesg`) for what killed it, {AGAIN}"
    return ProgramError("qemu-img failed", why=done.described(), remedy=remedy)


def require_success(done: CompletedProgram) -> None:
    """Raise an error if qemu-img has failed.

    :raises InUseError: another program has locked an image.
    :raises ProgramError: it has failed for another reason.
    """
    if done.code == 0:
        return
    if is_locked(done):
        raise InUseError(
            "an image is in use by a VM or another program",
            why=done.described(),
            remedy=f"Shut down the VM or end the program, {AGAIN}",
        )
    raise failure(done)


_LOCKED = re.compile(r"Failed to get .*lock|Failed to lock byte")
"""What QEMU reports if an image is locked. Source: QEMU, block/file-posix.c, raw_*_lock_bytes."""


def is_locked(done: CompletedProgram) -> bool:
    """Return whether a qemu-img that failed reports a locked image."""
    return _LOCKED.search(done.output) is not None
