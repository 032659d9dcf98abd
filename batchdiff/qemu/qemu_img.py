"""Verbs of qemu-img, as functions. qemu-img shares no code with batchdiff, so its checks are independent."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from batchdiff.errors import DifferenceError, ImageError, VerificationError
from batchdiff.files.filenames import shell_word
from batchdiff.image_source import ImageFormat, ImageSource
from batchdiff.qcow2.faults import LACKS_OR_DAMAGED
from batchdiff.qemu import io_uring, programs
from batchdiff.qemu.image_options import decryption, dotted, names_of
from batchdiff.qemu.installed import NAME, PACKAGE, is_locked, require_success
from batchdiff.qemu.programs import CompletedProgram, OutputError, inherited, never, without_ranges
from batchdiff.qemu.secret_files import is_descriptor
from batchdiff.qemu.secrets import Secrets, require_secrets_fit, secrets_of
from batchdiff.units import MIB, format_size

_SECONDS, _BYTES_PER_SECOND = 600, MIB
"""The time limit is generous: `apply -j` may read dozens of images from one slow disk at the same time."""

_LARGEST_MAP = 256 * MIB

_SECONDS_TO_MAP = 2 * _SECONDS


def is_installed() -> bool:
    """Return whether qemu-img is on the PATH."""
    return programs.is_on_path(NAME)


_LEAKS_ONLY = 3
"""The exit code for clusters that are allocated but not used. No data is lost."""


def check(
    image: ImageSource,
    virtual_size: int,
    *,
    leaks_allowed: bool = False,
    stopped: Callable[[], bool] = never,
    percent: Callable[[float], None] | None = None,
) -> None:
    """Run `qemu-img check`. ``percent``: called repeatedly, always with 0.

    :raises VerificationError: it finds an error, or a leak that is not allowed.
    :raises InUseError: another program has locked an image.
    :raises OSError: a file cannot be used.
    :raises ProgramError: qemu-img cannot be run, or fails.
    :raises SecretError: a secret cannot be used, or is wrong.
    :raises StopError: ``stopped`` became true.
    """
    done = _run("check", [image], virtual_size, stopped, options=["-q"], percent=percent)
    if done.code == _LEAKS_ONLY and leaks_allowed:
        return
    if done.code in {2, _LEAKS_ONLY}:
        found = "leaks" if done.code == _LEAKS_ONLY else "errors"
        raise VerificationError(
            f"qemu-img check found {found} in {image.path}",
            why=done.described(),
            # Unless leaks are allowed, the image is new and will be discarded: there is nothing to repair.
            remedy=_how_to_repair(image) if leaks_allowed else "",
        )
    require_success(done)


def _how_to_repair(image: ImageSource) -> str:
    secret_files = [each.secret_file for each in (image, *image.backing) if each.secret_file is not None]
    how = f"repair the image with `qemu-img check -r all -f {image.format} {shell_word(image.path)}`"
    if secret_files:
        named = " and with the path of the secret file after `file=`"
        passed = named if any(map(is_descriptor, secret_files)) else ""
        how = f"run the `qemu-img check` above with `-r all` instead of `-q`{passed}"
    first = "Shut its VM down and copy the image first, because a repair may lose data. Then"
    return f"{first} {how}. Check that the VM starts, then run the same command again."


def require_opens(image: ImageSource, *, stopped: Callable[[], bool] = never) -> None:
    """Have QEMU open an image with the backing chain that the headers name.

    `qemu-img info` is not enough: it opens neither the chain nor an external data file. `map` without JSON output
    fails if the first bytes are compressed.

    :raises VerificationError: QEMU refuses one of the files.
    :raises InUseError: another program has locked an image.
    :raises OSError: a file cannot be used.
    :raises ProgramError: qemu-img cannot be run, or fails.
    :raises SecretError: a secret cannot be used, or is wrong.
    :raises StopError: ``stopped`` became true.
    """
    done = _run("map", [image], 0, stopped, options=["--max-length=512", "--output=json"])
    if done.code == 1 and not is_locked(done):
        raise VerificationError(
            f"QEMU cannot open {image.path}",
            why=done.described(),
            remedy="If the error is in the template, no VM can run on its overlays here. If QEMU lacks what the"
            " template needs, such as a driver, install that. If the template is damaged, restore it from a"
            " backup, then plan again.",
        )
    require_success(done)


_CRASHES = "Convert it with a newer version of QEMU, or with the program that made it."


def file_map(image: ImageSource, *, most_output: int = _LARGEST_MAP) -> str:
    """Return the JSON list that `qemu-img map` prints.

    Source: QEMU, ``qemu-img`` manual, "map", and ``qapi/block-core.json`` (MapEntry).

    :raises ImageError: QEMU cannot map the image, or the list is too long.
    :raises InUseError: another program has locked the image.
    :raises OSError: the image cannot be examined.
    :raises ProgramError: qemu-img cannot be run, or takes too long.
    """
    most_output = min(most_output, _LARGEST_MAP)
    try:
        done = programs.run(
            [NAME, "map", "--output=json", *names_of([image], {}, alone=image.format is ImageFormat.QED)],
            reads=[image.path, *image.other_files],
            timeout=_SECONDS_TO_MAP,
            package=PACKAGE,
            most_output=most_output,
        )
    except OutputError as error:
        raise ImageError(
            f"cannot use {image.path}",
            path=image.path,
            why=f"the list of its ranges exceeds {format_size(most_output)}",
            remedy="Make a less fragmented copy with `qemu-img convert`, and use that.",
        ) from error
    if done.code == 1 and not is_locked(done):
        raise ImageError(
            f"QEMU cannot open or map {image.path}",
            path=image.path,
            why=without_ranges(done),
            remedy=LACKS_OR_DAMAGED,
        )
    if done.code < 0:
        raise ImageError(f"QEMU crashes on {image.path}", path=image.path, why=done.described(), remedy=_CRASHES)
    require_success(done)
    return done.output[max(done.output.find("["), 0) :]  # without warnings before the list


def compare(
    one: ImageSource,
    other: ImageSource,
    virtual_size: int,
    *,
    stopped: Callable[[], bool] = never,
    percent: Callable[[float], None] | None = None,
) -> None:
    """Run `qemu-img compare` on two images with the backing chains that the headers name.

    :raises DifferenceError: the disks differ, other than in zeros past the end of the smaller one.
    :raises InUseError: another program has locked an image.
    :raises OSError: a file cannot be used.
    :raises ProgramError: qemu-img cannot be run, or fails.
    :raises SecretError: a secret cannot be used, or is wrong.
    :raises StopError: ``stopped`` became true.
    """
    options = [] if percent is None else [_PERCENTAGES]

    def compared(of_files: Mapping[str, object]) -> CompletedProgram:
        return _run(
            "compare", [one, other], virtual_size, stopped, options=options, of_files=of_files, percent=percent
        )

    done = compared(of_files := io_uring.options([one, other]))
    if of_files and io_uring.is_refused(done):
        done = compared({})
    # qemu-img also exits with 1 if it cannot even start to compare.
    if done.code == 1 and _MISMATCH in done.output:
        raise DifferenceError(
            f"qemu-img compare found a difference between {one.path} and {other.path}", why=done.described()
        )
    require_success(done)


_PERCENTAGES = "-p"

_MISMATCH = "mismatch"


_EXACT_SIZE = {ImageFormat.VPC: ("-o", "force_size=on"), ImageFormat.VHDX: ("-o", "block_size=1M")}
"""Without these, QEMU would round a VHD's size up to whole cylinders, and use larger blocks in a VHDX."""

_UNMEASURED = "Unable to get accurate CPU usage"
_CREATIONS = 30
"""The maximum number of attempts.

QEMU measures the CPU's speed, and fails if the clock shows that no time has passed. On some VMs, a third of
attempts fail.
"""


def convert(  # noqa: PLR0913  # options by keyword
    image: ImageSource,
    target: int,
    new: ImageSource,
    virtual_size: int,
    *,
    stopped: Callable[[], bool] = never,
    percent: Callable[[float], None] | None = None,
) -> None:
    """Write the disk of an image with its backing chain to the file ``target``, which is emptied first.

    ``new``: the format of ``target``, and the file with its secret, if any.

    :raises InUseError: another program has locked an image.
    :raises OSError: the disk is full, a quota is used up, or a file cannot be used.
    :raises ProgramError: qemu-img cannot be run, or fails.
    :raises SecretError: a secret cannot be used, or is wrong.
    :raises StopError: ``stopped`` became true.
    """
    secrets = secrets_of([image, new])
    arguments = ["convert", *secrets.arguments, "-O", new.format.value, *_EXACT_SIZE.get(new.format, ())]
    if new.secret_file is not None:
        arguments += ["-o", ",".join(dotted(decryption(replace(new, backing=()), secrets.ids)))]
    arguments += [*names_of([image], secrets.ids), inherited(target)]
    seconds = virtual_size / _BYTES_PER_SECOND
    run_to_write(arguments, [image], secrets, writes=[target], seconds=seconds, stopped=stopped, percent=percent)


def _require_written(done: CompletedProgram) -> None:
    for number in (errno.ENOSPC, errno.EDQUOT):
        if done.code != 0 and os.strerror(number) in done.output:
            raise OSError(number, os.strerror(number))
    require_success(done)


def run_to_write(  # noqa: PLR0913  # options by keyword
    arguments: Sequence[str],
    images: Sequence[ImageSource],
    secrets: Secrets,
    *,
    writes: Sequence[int] = (),
    memory: Sequence[int] = (),
    seconds: float = 0,
    stopped: Callable[[], bool] = never,
    percent: Callable[[float], None] | None = None,
) -> None:
    """Run a verb of qemu-img that writes to open files.

    ``images``: those that it reads. ``memory``: descriptors of files in memory, or of these images. ``seconds``:
    added to the time limit of ten minutes.

    :raises InUseError: another program has locked an image.
    :raises OSError: the disk is full, or a quota is used up.
    :raises ProgramError: qemu-img cannot be run, or fails.
    :raises SecretError: a secret is wrong.
    :raises StopError: ``stopped`` became true.
    """
    argv = [NAME, arguments[0], *([] if percent is None else [_PERCENTAGES]), *arguments[1:]]
    for _ in range(_CREATIONS):
        done = programs.run(
            argv,
            reads=[*(path for image in images for path in image.files), *secrets.reads],
            inherits=[*memory, *secrets.inherits],
            writes=writes,
            timeout=_SECONDS + seconds,
            package=PACKAGE,
            stopped=stopped,
            percent=percent,
        )
        if done.code == 0 or _UNMEASURED not in done.output:
            break
    require_secrets_fit(done, images)
    _require_written(done)


def _run(  # noqa: PLR0913  # options by keyword
    verb: str,
    images: list[ImageSource],
    virtual_size: int,
    stopped: Callable[[], bool],
    *,
    options: Sequence[str] = (),
    of_files: Mapping[str, object] = MappingProxyType({}),
    percent: Callable[[float], None] | None = None,
) -> CompletedProgram:
    secrets = secrets_of(images)
    done = programs.run(
        [NAME, verb, *secrets.arguments, *options, *names_of(images, secrets.ids, of_files=of_files)],
        reads=[*(path for image in images for path in image.files), *secrets.reads],
        inherits=secrets.inherits,
        timeout=_SECONDS + virtual_size / _BYTES_PER_SECOND,
        package=PACKAGE,
        stopped=stopped,
        percent=percent,
    )
    require_secrets_fit(done, images)
    return done
