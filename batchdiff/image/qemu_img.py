"""qemu-img, one function a verb: the judge that shares no code with ours."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Sequence

from batchdiff.errors import DifferenceError, InUseError, ProgramError, VerificationError
from batchdiff.image import programs
from batchdiff.image.faults import AGAIN
from batchdiff.image.names import shell_word
from batchdiff.image.programs import Finished, never
from batchdiff.image.source import ImageSource
from batchdiff.units import MIB

_NAME = "qemu-img"
_PACKAGE = "qemu-utils"
_SECONDS, _BYTES_PER_SECOND = 600, 20 * MIB
"""How long a verb may take: ten minutes, and as long as a slow disk needs for every byte of the image."""

_WHERE = (
    "batchdiff lets it read only the images, system folders such as /usr, its own folder and what LD_LIBRARY_PATH"
    " names. Put a qemu-img on the PATH that needs no more."
)


def is_installed() -> bool:
    """Whether qemu-img is there."""
    return programs.is_installed(_NAME)


_LEAKS_ONLY = 3
"""What `qemu-img check` ends with if clusters are allocated that nothing uses: space is lost, no content."""


def check(
    image: ImageSource,
    virtual_size: int,
    *,
    leaks_allowed: bool = False,
    stopped: Callable[[], bool] = never,
) -> None:
    """`qemu-img check`: refcounts and tables of a qcow2 image; ended early once ``stopped`` is true.

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
            # Of what was just written the errors are ours, and it is thrown away.
            remedy=_REPAIR.format(shell_word(image.path)) if leaks_allowed else "",
        )
    _require_success(done)


_REPAIR = (
    "Shut its VM down and copy the file first, because a repair may lose data. Then repair it:"
    " `qemu-img check -r all -f qcow2 {}`; check that the VM starts, then run the same command again."
)


def require_opens(image: ImageSource, *, stopped: Callable[[], bool] = never) -> None:
    """Let QEMU open an image with its chain, as headers name it, and look where its first bytes are.

    `qemu-img info` would not do: it opens neither the chain nor an external data file. `map` as text fails if
    those bytes are compressed.

    :raises VerificationError: it refuses one of the files.
    :raises InUseError: a VM uses one of them.
    :raises ProgramError: it could not be run.
    """
    done = _run("map", [image], 0, stopped, options=["--max-length=512", "--output=json"])
    if done.code == 1 and not _is_locked(done):
        raise VerificationError(
            f"QEMU does not open {image.path}",
            why=done.described(),
            remedy="If that is about the template, no VM could run on its overlays: bring the template back from a"
            " backup, then plan again.",
        )
    _require_success(done)


def compare(
    one: ImageSource, other: ImageSource, virtual_size: int, *, stopped: Callable[[], bool] = never
) -> None:
    """`qemu-img compare`: the bytes that two images show their guest; chains are followed as the headers say.

    :raises DifferenceError: they differ.
    :raises InUseError: a VM uses one of them.
    :raises ProgramError: it could not be run, or could not read one of them.
    """
    done = _run("compare", [one, other], virtual_size, stopped)
    # It also ends with 1 where it could not even start; then it has compared nothing.
    if done.code == 1 and _MISMATCH in done.output:
        raise DifferenceError(
            f"qemu-img compare finds a difference between {one.path} and {other.path}", why=done.described()
        )
    _require_success(done)


_MISMATCH = "mismatch"
"""What `qemu-img compare` prints at the first byte that differs, and for other sizes."""


def _run(
    verb: str,
    images: list[ImageSource],
    virtual_size: int,
    stopped: Callable[[], bool],
    *,
    options: Sequence[str] = (),
) -> Finished:
    return programs.run(
        [_NAME, verb, *options, *_names(images)],
        reads=[file.path for image in images for file in (image, *image.backing)],
        timeout=_SECONDS + virtual_size / _BYTES_PER_SECOND,
        package=_PACKAGE,
        stopped=stopped,
    )


def _require_success(done: Finished) -> None:
    if done.code == 0:
        return
    if _is_locked(done):
        raise InUseError(
            "an image is in use by a VM or another program",
            why=done.described(),
            remedy=f"Shut it down, {AGAIN}",
        )
    # What a shell and the loader of libraries end with. Elsewhere it may lie in places that are closed to it.
    remedy = _WHERE if done.code in {126, 127} else f"Fix what it reports, {AGAIN}"
    raise ProgramError("qemu-img failed", why=done.described(), remedy=remedy)


def _is_locked(done: Finished) -> bool:
    return "lock" in done.output and "Failed to get" in done.output


def _names(images: list[ImageSource]) -> list[str]:
    """Images as json: names: nothing in a path is ever taken for a protocol, an option or a format.

    JSON is UTF-8, so a path that is not goes as the value of an option instead, in which a comma is doubled.
    Source: QEMU, ``qemu-img`` manual, ``--image-opts``.
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
