"""The lookup of the files that paths in a manifest refer to."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

from batchdiff.files import own_files
from batchdiff.files.filenames import check_usable, shell_word, unfit, why_unfit
from batchdiff.files.identity import Identity, identity_in
from batchdiff.image.format_marks import looks_like
from batchdiff.image_source import ImageFormat
from batchdiff.linux.call_failures import reason
from batchdiff.linux.device_names import image_path, is_among_devices
from batchdiff.linux.permissions import Deed
from batchdiff.manifest.text.problems import Problems, YamlPath
from batchdiff.quoting import show, show_whole, yaml_text

# Comparing a name with thousands takes tens of milliseconds, and every image is missing if the folder is wrong.
_MOST_SUGGESTIONS = 20
_MOST_NAMES = 2000


class Place(NamedTuple):
    """The location of an existing image.

    ``written``: the path before it is resolved; ``named``: as :func:`resolve_folder` returns it; ``path``: the
    absolute path to open, free of symbolic links, except that the last component of a block device's path can be
    one.
    """

    where: YamlPath
    written: str
    named: str
    path: str
    identity: Identity


def resolve_folder(folder: str, written: str) -> str:
    """Return a path made absolute: symbolic links above its last component are resolved."""
    directory, name = os.path.split(os.path.join(folder, written))
    return os.path.join(os.path.realpath(directory), name)


def locate_image(
    folder: str, written: str, where: YamlPath, problems: Problems, *, matched: bool = False
) -> Place | None:
    """Return the place of the image at a path; None, with a problem, if no usable image is found there.

    ``matched``: the path is not written in the manifest, so unfit characters are accepted.
    """
    if not matched and unfit(written):
        problems.add(where, _unfit(written))
        return None
    full = os.path.join(folder, written)
    try:
        check_usable(full)
        status = os.stat(full)
    except FileNotFoundError:
        problems.add(where, _no_such_file(full, written, suggest=len(problems) < _MOST_SUGGESTIONS))
        return None
    except (OSError, ValueError) as error:
        problems.add(where, f"{show(full)} cannot be checked: {_why_unchecked(error, full)}")
        return None
    if kind := _not_an_image(status.st_mode):
        remedy = "an image is a regular file or a block device"
        if stat.S_ISDIR(status.st_mode) and (*where[:1], *where[2:]) == ("guests", "path"):
            pattern = f"{glob.escape(written.rstrip('/'))}/*"
            remedy = f"for all images in it, write `glob: {yaml_text(pattern)}`"
        problems.add(where, f"{show(full)} is {kind}; {remedy}")
        return None
    return Place(where, written, resolve_folder(folder, written), image_path(full), identity_in(status))


def locate_folders(folder: str, written: Iterable[tuple[YamlPath, str]], problems: Problems) -> tuple[str, ...]:
    """Return the real paths of folders; report entries that are not folders."""
    found = []
    for where, name in written:
        path = "" if unfit(name) else os.path.realpath(os.path.join(folder, name))
        if not path:
            problems.add(where, _unfit(name))
        elif os.path.isdir(path):
            found.append(path)
        elif not problems.objects_to(where):  # a default is looked up for each guest
            problems.add(where, f"{show(path)} is not a folder; correct it, or leave it out")
    return tuple(found)


def is_image(path: str) -> bool:
    """Return True if a path leads to a regular file or a block device."""
    try:
        return not _not_an_image(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def locate_overlay(folder: str, written: str, where: YamlPath, problems: Problems) -> str | None:
    """Return an overlay's absolute path; None, with a problem, if it is unusable."""
    if unfit(written):
        problems.add(where, _unfit(written))
    elif os.path.basename(written) in {"", ".", ".."}:
        problems.add(where, f"{show(written)} names a folder; write the overlay's file name too")
    elif written.endswith(own_files.RESERVED):
        problems.add(
            where, f"{show(written)} has a name that is reserved for batchdiff's own files; choose another"
        )
    else:
        return _in_existing_folder(resolve_folder(folder, written), where, problems)
    return None


def _in_existing_folder(path: str, where: YamlPath, problems: Problems) -> str | None:
    directory = os.path.dirname(path)
    if is_among_devices(path):
        problems.add(where, f"the overlay {show(path)} would be gone after a reboot; put it outside /dev")
        return None
    if os.path.isdir(directory):
        return path
    problems.add(where, f"the overlay's folder {show(directory)} {_why_no_folder(directory)}")
    return None


def _why_no_folder(path: str) -> str:
    try:
        os.stat(path)
    except FileNotFoundError:
        return f"does not exist; create it: `mkdir -p {shell_word(path)}`"
    except OSError as error:
        return f"cannot be checked: {_why_unchecked(error, path)}"
    return "is not a folder; correct the path"


def _unfit(written: str) -> str:
    return f"{show(written)} has {why_unfit(written)}, and reports and logs cannot show such a name; rename it"


def missing_format(folder: str, written: object, *, file: str = "the file") -> str:
    """Return the message for an image without a format, with the format that its content suggests, if any."""
    found = looks_like(os.path.join(folder, written)) if isinstance(written, str) else None
    if found is None:
        return "format is missing, and is never guessed; write the image's format, such as `format: raw`"
    if found is ImageFormat.LUKS:
        return (
            f"format is missing; {file} looks encrypted (luks). If the guest's OS encrypts its whole disk, write "
            "`format: raw`; if QEMU encrypts it, write `format: luks` and `secret_file: PATH`"
        )
    return (
        f"format is missing; {file} looks like a {found} image, so if you trust where it came from, "
        f"write `format: {found}`"
    )


def _not_an_image(mode: int) -> str:
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        return ""
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a FIFO"
    return "a socket" if stat.S_ISSOCK(mode) else "a character device"


def _no_such_file(full: str, written: str, *, suggest: bool) -> str:
    directory, name = os.path.split(full)
    if written.startswith("~"):
        return f"no such file: {show(full)}; ~ is not expanded, so write the full path"
    try:
        names = [entry for entry in os.listdir(directory) if entry != name]
    except OSError:
        return f"no such file: {show(full)}; its folder does not exist or cannot be listed"
    if name + own_files.QUARANTINE in names:
        remedy = "bring it back with `batchdiff restore` and the plan that put it there"
        aside = show_whole(full + own_files.QUARANTINE)
        return f"no such file: {show(full)}; it is in quarantine, as {aside}; {remedy}"
    if os.path.islink(full):
        return f"{show(full)} is a symbolic link to {show(os.readlink(full))}, which does not exist"
    near = _near(name, names[:_MOST_NAMES]) if suggest else ""
    return f"no such file: {show(full)}{near}"


def _near(name: str, names: list[str]) -> str:
    alike = next((each for each in names if each.casefold() == name.casefold()), None)
    if alike is not None:
        return f"; did you mean {show_whole(alike)}?"
    stem, suffix = os.path.splitext(name)
    # Only stems are compared, because a common suffix makes any two names look similar.
    stems = {os.path.splitext(each)[0]: each for each in names if each.endswith(suffix)}
    from difflib import get_close_matches  # noqa: PLC0415  # only if something is wrong

    near = get_close_matches(stem, list(stems), n=1)
    return f"; did you mean {show_whole(stems[near[0]])}?" if near else ""


def _why_unchecked(error: OSError | ValueError, path: str) -> str:
    if isinstance(error, PermissionError):
        return reason(error, Deed.READ, path)
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return f"{why}; correct the path" if isinstance(error, NotADirectoryError) else why
