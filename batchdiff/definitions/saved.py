"""Definitions from before and after ``--define`` changed them, saved for ``--undo``.

::

    fleet.plan.json.definitions/web01.20261129T075000.123456Z.before.xml   only their owner can read them: they may
                                web01.20261129T075000.123456Z.after.xml    contain the passwords of consoles
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from datetime import datetime

from batchdiff.errors import DefinitionError
from batchdiff.files import own_files
from batchdiff.files.atomic_write import sync_folder
from batchdiff.frozen import frozen
from batchdiff.linux.call_failures import reason
from batchdiff.linux.permissions import Deed
from batchdiff.linux.rename import rename_without_replacing

_READ = "Run the command as the user who used `--define`, or make the folder and its files readable."
_ROOM = (
    "Make sure that the plan's folder and the folder of saved definitions in it are writable, and that their"
    " filesystem has free space, then run the same command again."
)

_BEFORE, _AFTER = ".before.xml", ".after.xml"

_LONGEST_NAME = 150
"""In bytes; a longer name would leave too few of a file name's 255 bytes for the time and the suffixes."""


@frozen
class SavedDefinition:
    """A saved change. ``path``: the file with ``before``; ``after``: None if it was not saved."""

    path: str
    before: bytes
    after: bytes | None


def folder_of(plan: str) -> str:
    """Return a plan's folder of saved definitions."""
    return f"{os.path.abspath(plan)}.definitions"


def save_before(folder: str, domain: str, document: bytes, now: datetime) -> str:
    """Save a definition before it is changed; return the path. ``now``: in UTC.

    :raises DefinitionError: the file cannot be written.
    """
    path = os.path.join(folder, f"{_file_name(domain)}.{now:%Y%m%dT%H%M%S.%fZ}{_BEFORE}")
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, mode=0o700)
            sync_folder(os.path.dirname(folder))
        _write(path, document)
    except OSError as error:
        raise DefinitionError(
            f"cannot save the definition of {domain} as {path}", why=reason(error), remedy=_ROOM
        ) from error
    return path


def save_after(before: str, document: bytes) -> None:
    """Save the definition after a change. ``before``: the path of the former one.

    :raises DefinitionError: the file cannot be written.
    """
    path = before.removesuffix(_BEFORE) + _AFTER
    try:
        _write(path, document)
    except OSError as error:
        remedy = f"The definition has been changed. The former one is in {before}, should you need it."
        raise DefinitionError(f"cannot save {path}", why=reason(error), remedy=remedy) from error


def forget(before: str) -> None:
    """Remove a definition that was saved before a failed change: undo must find the last change that was made.

    :raises OSError: the file cannot be removed.
    """
    os.unlink(before)


def latest(folder: str, domain: str) -> SavedDefinition | None:
    """Return the last saved change of a domain, if any.

    :raises DefinitionError: the saved definitions cannot be read.
    """
    begin = f"{_file_name(domain)}."
    try:
        names = [name for name in os.listdir(folder) if name.startswith(begin) and name.endswith(_BEFORE)]
        if not names:
            return None
        path = os.path.join(folder, max(names, key=lambda name: name.removeprefix(begin)))
        after = path.removesuffix(_BEFORE) + _AFTER
        return SavedDefinition(path, _read(path), _read(after) if os.path.exists(after) else None)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DefinitionError(
            f"cannot read the saved definitions in {folder}", why=reason(error, Deed.READ), remedy=_READ
        ) from error


def _file_name(domain: str) -> str:
    """Return a domain's name for the start of a file name: escaped, without dots and, if it is long, shortened.

    In the file name, a dot follows it.
    """
    escaped = domain.replace("%", "%25").replace("/", "%2F").replace(".", "%2E")
    name = os.fsencode(escaped)
    if len(name) <= _LONGEST_NAME:
        return escaped
    return f"{os.fsdecode(name[:64])}%{hashlib.sha256(name).hexdigest()}"


def _write(path: str, document: bytes) -> None:
    """Write a new file, so that after a crash it is either missing or whole."""
    temporary = own_files.temporary(path)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(document)
            file.flush()
            os.fsync(file.fileno())
        rename_without_replacing(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
