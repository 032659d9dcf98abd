"""qemu-img, one function for each verb: an independent check that shares no code with batchdiff."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Sequence

from batchdiff.errors import DifferenceError, ImageError, InUseError, ProgramError, VerificationError
from batchdiff.files.filenames import shell_word
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.linux.call_failures import AGAIN
from batchdiff.qcow2.faults import NOT_OPENED
from batchdiff.qemu import programs
from batchdiff.qemu.programs import CompletedProgram, OutputError, inherited, never
from batchdiff.units import MIB, format_size

_NAME = "qemu-img"
_PACKAGE = "qemu-utils"
_SECONDS_TO_ANSWER = 60
"""The time limit for a question about qemu-img itself."""

_SECONDS, _BYTES_PER_SECOND = 600, MIB
"""The time limit of a verb: ten minutes, plus the time to read the whole image from a slow disk that is shared
with dozens of others, which `apply -j` processes at the same time on a large host."""

_LARGEST_MAP = 256 * MIB
"""Bytes of the output of `qemu-img map`: two million ranges."""

_SECONDS_TO_MAP = 2 * _SECONDS
"""The time limit of `qemu-img map`, which reads only tables."""

_WHERE = (
    "batchdiff runs qemu-img confined to the images, system folders such as /usr, its own folder and"
    " LD_LIBRARY_PATH. Install a qemu-img that needs no other files."
)


def is_installed() -> bool:
    """Return whether qemu-img is on the PATH."""
    return programs.is_on_path(_NAME)


_LEAKS_ONLY = 3
"""The exit code of `qemu-img check` for leaks: clusters that are allocated but not used. No data is lost."""


def check(
    image: ImageSource,
    virtual_size: int,
    *,
    leaks_allowed: bool = False,
    stopped: Callable[[], bool] = never,
) -> None:
    """Run `qemu-img check` on the refcounts and tables of a qcow2 image; kill it once ``stopped`` is true.

    :raises VerificationError: it finds an error, or a leak that is not allowed.
    :raises InUseError: a VM uses the image.
    :raises ProgramError: it could not be run.
    """
    done = _run("check", [image], virtual_size, stopped, options=["-q"])
    if done.code == _LEAKS_ONLY and leaks_allowed:
        return
    if done.code in {2, _LEAKS_ONLY}:
        raise VerificationError(
            f"qemu-img check finds errors in {image.path}",
            why=done.described(),
            # Errors in an image that was just written are ours, and the image is discarded: nothing to repair.
            remedy=_REPAIR.format(shell_word(image.path)) if leaks_allowed else "",
        )
    _require_success(done)


_REPAIR = (
    "Shut its VM down and copy the file first, because a repair may lose data. Then repair it:"
    " `qemu-img check -r all -f qcow2 {}`; check that the VM starts, then run the same command again."
)


def require_opens(image: ImageSource, *, stopped: Callable[[], bool] = never) -> None:
    """Have QEMU open an image with its backing chain, as the headers name it, and map its first bytes.

    `qemu-img info` is not enough: it opens neither the chain nor an external data file. `map` without JSON output
    fails if those bytes are compressed.

    :raises VerificationError: QEMU refuses one of the files.
    :raises InUseError: a VM uses one of them.
    :raises ProgramError: it could not be run.
    """
    done = _run("map", [image], 0, stopped, options=["--max-length=512", "--output=json"])
    if done.code == 1 and not _is_locked(done):
        raise VerificationError(
            f"QEMU does not open {image.path}",
            why=done.described(),
            remedy="If the error is in the template, no VM could run on its overlays: restore the template from a"
            " backup, then plan again.",
        )
    _require_success(done)


_CRASHES = (
    "Convert it with a newer version of QEMU, or with the program that made it, or leave it out of the manifest."
)


def file_map(image: ImageSource, *, most_output: int = _LARGEST_MAP) -> str:
    """Return what `qemu-img map` prints for an image: a JSON list of its ranges, with their offsets in the file.

    Source: QEMU, ``qemu-img`` manual, "map", and ``qapi/block-core.json`` (MapEntry).

    :raises ImageError: QEMU refuses the image, or the list of its ranges exceeds ``most_output`` bytes or 256 MiB.
    :raises InUseError: a VM uses it.
    :raises ProgramError: it could not be run.
    """
    most_output = min(most_output, _LARGEST_MAP)
    try:
        done = programs.run(
            [_NAME, "map", "--output=json", *_names([image])],
            reads=image.files,
            timeout=_SECONDS_TO_MAP,
            package=_PACKAGE,
            most_output=most_output,
        )
    except OutputError as error:
        raise ImageError(
            f"cannot use {image.path}",
            why=f"the list of its ranges exceeds {format_size(most_output)}",
            remedy="Make a less fragmented copy with `qemu-img convert`, and use that.",
        ) from error
    if done.code == 1 and not _is_locked(done):
        raise ImageError(f"QEMU does not open {image.path}", why=done.described(), remedy=NOT_OPENED)
    if done.code < 0:
        raise ImageError(f"QEMU crashes on {image.path}", why=done.described(), remedy=_CRASHES)
    _require_success(done)
    return done.output


def compare(
    one: ImageSource, other: ImageSource, virtual_size: int, *, stopped: Callable[[], bool] = never
) -> None:
    """Run `qemu-img compare` on the disks of two images; QEMU opens their backing chains as the headers name them.

    :raises DifferenceError: they differ.
    :raises InUseError: a VM uses one of them.
    :raises ProgramError: it could not be run, or could not read one of them.
    """
    done = _run("compare", [one, other], virtual_size, stopped)
    # It also exits with 1 if it could not even start; then it has compared nothing.
    if done.code == 1 and _MISMATCH in done.output:
        raise DifferenceError(
            f"qemu-img compare finds a difference between {one.path} and {other.path}", why=done.described()
        )
    _require_success(done)


_MISMATCH = "mismatch"
"""Printed by `qemu-img compare` for the first byte that differs, and for sizes that differ."""


_EXACT_SIZE = {ImageFormat.VPC: ("-o", "force_size=on"), ImageFormat.VHDX: ("-o", "block_size=1M")}
"""The options without which QEMU would round the size of a disk up to whole cylinders, or use larger blocks."""


def convert(
    image: ImageSource, target: int, form: ImageFormat, virtual_size: int, *, stopped: Callable[[], bool] = never
) -> None:
    """Write the whole disk of an image with its backing chain to the open file ``target``, which is emptied first.

    :raises InUseError: a VM uses one of the images.
    :raises OSError: the disk is full.
    :raises ProgramError: it could not be run, or could not read or write.
    """
    done = programs.run(
        [_NAME, "convert", "-O", form.value, *_EXACT_SIZE.get(form, ()), *_names([image]), inherited(target)],
        reads=image.files,
        writes=[target],
        timeout=_SECONDS + virtual_size / _BYTES_PER_SECOND,
        package=_PACKAGE,
        stopped=stopped,
    )
    for number in (errno.ENOSPC, errno.EDQUOT):
        if done.code != 0 and os.strerror(number) in done.output:
            raise OSError(number, os.strerror(number))  # as if batchdiff had written it
    _require_success(done)


def _run(
    verb: str,
    images: list[ImageSource],
    virtual_size: int,
    stopped: Callable[[], bool],
    *,
    options: Sequence[str] = (),
) -> CompletedProgram:
    return programs.run(
        [_NAME, verb, *options, *_names(images)],
        reads=[path for image in images for path in image.files],
        timeout=_SECONDS + virtual_size / _BYTES_PER_SECOND,
        package=_PACKAGE,
        stopped=stopped,
    )


def _require_success(done: CompletedProgram) -> None:
    if done.code == 0:
        return
    if _is_locked(done):
        raise InUseError(
            "an image is in use by a VM or another program",
            why=done.described(),
            remedy=f"Shut it down, {AGAIN}",
        )
    # 126 and 127 come from a shell or the loader: qemu-img or a library may lie outside the folders it may read.
    remedy = _WHERE if done.code in {126, 127} else f"Fix what it reports, {AGAIN}"
    raise ProgramError("qemu-img failed", why=done.described(), remedy=remedy)


def _is_locked(done: CompletedProgram) -> bool:
    return "lock" in done.output and "Failed to get" in done.output


def _names(images: list[ImageSource]) -> list[str]:
    """Return the arguments that name images, so that QEMU takes no part of a path for a protocol or an option.

    These are ``json:`` names. JSON is UTF-8, so a path with other bytes is passed as the value of an option
    instead, with commas doubled. Source: QEMU, ``qemu-img`` manual, ``--image-opts``.
    """
    if all(image.path.isascii() or _is_utf8(image.path) for image in images):
        return [f"json:{json.dumps(_opened(image))}" for image in images]
    options = [f"driver={image.format.value},file.driver={_driver(image)}" for image in images]
    paths = [image.path.replace(",", ",,") for image in images]
    return [
        "--image-opts",
        *(f"{option},file.filename={path}" for option, path in zip(options, paths, strict=True)),
    ]


def _opened(image: ImageSource) -> dict[str, object]:
    return {"driver": image.format.value, "file": {"driver": _driver(image), "filename": image.path}}


def _driver(image: ImageSource) -> str:
    return "host_device" if stat.S_ISBLK(os.stat(image.path).st_mode) else "file"


def _is_utf8(path: str) -> bool:
    return not any("\udc80" <= letter <= "\udcff" for letter in path)


def installed_version() -> str:
    """Return the version of qemu-img, such as 7.2.22.

    :raises ProgramError: it could not be run.
    """
    done = _ask("--version")
    words = done.output.split("\n", 1)[0].split()
    # "qemu-img version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)"
    return words[2] if words[:2] == [_NAME, "version"] and len(words) > 2 else done.output.strip()


def known_formats() -> list[str]:
    """Return the formats that qemu-img knows, sorted; some of them it can only read.

    :raises ProgramError: it could not be run.
    """
    _, found, listed = _ask("--help").output.partition("Supported formats:")
    return sorted(listed.split("\n\n", 1)[0].split()) if found else []


def create_options(kind: str) -> list[str]:
    """Return the names of the options with which qemu-img creates an image of a format, sorted.

    :raises ProgramError: it could not be run, or does not create that format.
    """
    lines = _ask("create", "-f", kind, "-o", "help").output.splitlines()
    return sorted({line.split("=", 1)[0].strip() for line in lines if "=<" in line})


def _ask(*arguments: str) -> CompletedProgram:
    done = programs.run([_NAME, *arguments], reads=[], timeout=_SECONDS_TO_ANSWER, package=_PACKAGE)
    _require_success(done)
    return done
