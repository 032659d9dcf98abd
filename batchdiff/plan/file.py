"""Reading and writing plan.json.

The checksum is the SHA-256 of the plan without ``created`` and ``checksum``, as canonical JSON
(docs/plan-format.md).
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from batchdiff.errors import PlanError
from batchdiff.files import own_files
from batchdiff.files.atomic_write import write_whole
from batchdiff.files.own_documents import LARGEST_DOCUMENT
from batchdiff.linux.call_failures import explain, reason
from batchdiff.linux.permissions import Deed
from batchdiff.plan.document import from_dict, to_dict
from batchdiff.plan.json_reader import READABLE, canonical, encode_json, parse_json, why_not_json
from batchdiff.plan.json_schema import first_problem, schema_of
from batchdiff.plan.plan import FORMAT_VERSION, Plan
from batchdiff.plan.recognise import check_is_plan, plan_again
from batchdiff.units import format_size

ELSEWHERE = "Choose another place with `-o`."
_LONGEST_SHOWN = 300


def checksum_of(document: dict[str, Any]) -> str:
    """Return the checksum of a plan document, with the prefix ``sha256:``.

    :raises ValueError: a number cannot be encoded.
    :raises RecursionError: the document is nested too deeply.
    """
    covered = {key: value for key, value in document.items() if key not in {"created", "checksum"}}
    digest = hashlib.sha256()
    for piece in canonical(covered):
        digest.update(piece.encode("ascii"))
    return f"sha256:{digest.hexdigest()}"


def encode(plan: Plan) -> str:
    """Return the text of a plan file, with one guest per line for ``diff -u``."""
    return "".join(_pieces(plan))


def _pieces(plan: Plan) -> Iterator[str]:
    document = to_dict(plan)
    checksum = checksum_of(document)
    head = {key: document.pop(key) for key in ("format_version", "generator", "created")}
    guests = document.pop("guests")
    lines = [
        f"{READABLE.encode(key)}: {encode_json(value, READABLE)}"
        for key, value in (head | {"checksum": checksum} | document).items()
    ]
    yield "{" + ",\n ".join([*lines, '"guests": ['])
    for number, guest in enumerate(guests):
        yield f"{',' if number else ''}\n  {encode_json(guest, READABLE)}"
    yield "]}\n"


def write_plan(plan: Plan, path: str) -> None:
    """Write a plan; ``path`` never holds only a part of it, even after a crash.

    :raises PlanError: the plan cannot be written there or made durable.
    """
    # A symbolic link is kept, and its target is replaced.
    target = os.path.realpath(path)
    if os.path.exists(target) and not os.path.isfile(target):
        # A rename would replace a device such as /dev/null with a file.
        raise PlanError(f"cannot write the plan {path}", why="it is not a regular file", remedy=ELSEWHERE)
    try:
        write_whole(target, _pieces(plan))
    except OSError as error:
        raise PlanError(f"cannot write the plan {path}", why=reason(error), remedy=ELSEWHERE) from error


def try_folder(folder: str) -> None:
    """Create and remove a file in a folder, because mode bits show neither a read-only mount nor a full quota.

    :raises OSError: the file cannot be created or removed.
    """
    trial = own_files.temporary(os.path.join(folder, "plan"))
    os.close(os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    os.unlink(trial)


def read_plan(path: str) -> Plan:
    """Read a plan, and check that it is complete, unedited and consistent.

    :raises PlanError: the plan cannot be read or fails a check.
    """
    # Imported here, because importing numpy takes longer than most reports, which do not need it.
    from batchdiff.plan.extents import check_extents  # noqa: PLC0415

    plan = read_for_report(path)
    for guest in plan.guests:
        try:
            check_extents(guest)
        except (ValueError, OverflowError) as error:
            why = f"guest {guest.name!r}: {error}"
            raise PlanError(f"{path} is not a valid plan", why=why, remedy=plan_again(path)) from error
    return plan


def read_for_report(path: str) -> Plan:
    """Read a plan without ``check_extents``, which needs numpy.

    :raises PlanError: the plan cannot be read or fails another check.
    """
    check_is_plan(path)
    document = _parsed(path)
    _check_version(document, path)
    try:
        checksum = checksum_of(document)
    except ValueError as error:
        raise PlanError(
            f"{path} is not a valid plan", why="a number is too large", remedy=plan_again(path)
        ) from error
    except RecursionError as error:  # the encoder's limit may differ from the parser's
        raise PlanError(
            f"{path} is not a valid plan", why="it is nested too deeply", remedy=plan_again(path)
        ) from error
    if document.get("checksum") != checksum:
        raise PlanError(
            f"{path} has been edited or damaged", why="its checksum does not match", remedy=plan_again(path)
        )
    _check_schema(document, path)
    try:
        return replace(from_dict(document), checksum=checksum)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise PlanError(f"{path} is not a valid plan", why=str(error), remedy=plan_again(path)) from error


def _parsed(path: str) -> dict[str, Any]:
    try:
        content = read_regular(path, LARGEST_DOCUMENT)
    except OSError as error:
        fault = explain(error, Deed.READ, path)
        raise PlanError(f"cannot read the plan {path}", why=fault.why, remedy=fault.remedy) from error
    except ValueError as error:
        raise PlanError(f"{path} is not a plan", why=str(error), remedy=plan_again(path)) from error
    try:
        text = content.decode()
        del content  # 100 MiB for a large fleet
        document = parse_json(text)
    except (ValueError, RecursionError) as error:
        is_syntax = isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
        what = "is truncated or not valid JSON" if is_syntax else "is not a valid plan"
        raise PlanError(f"{path} {what}", why=why_not_json(error), remedy=plan_again(path)) from error
    if not isinstance(document, dict):
        raise PlanError(f"{path} is not a plan", why="it is not a JSON object", remedy=plan_again(path))
    return document


def read_regular(path: str, largest: int) -> bytes:
    """Return the content of a file; refuse a FIFO or a device, which might never end.

    :raises OSError: the file cannot be read.
    :raises ValueError: the path is unusable, or the file is not regular or has more than ``largest`` bytes.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        fd = file.fileno()
        info = os.fstat(fd)
        if not (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)):
            raise ValueError("it is not a regular file")
        if info.st_size > largest:
            raise ValueError(f"it is larger than {format_size(largest)}")
        return file.read()


def _check_version(document: dict[str, Any], path: str) -> None:
    version = str(document.get("format_version", ""))
    major, _, minor = version.partition(".")
    if not (major.isdecimal() and minor.isdecimal() and major.isascii() and minor.isascii()):
        raise PlanError(f"{path} is not a plan", why="it has no valid format_version", remedy=plan_again(path))
    if major != str(FORMAT_VERSION[0]):
        raise PlanError(
            f"cannot use {path}",
            why=f"its format is version {_cut(version)}; this batchdiff reads only {FORMAT_VERSION[0]}.x",
            remedy="Use a version of batchdiff that reads it, such as the one that wrote it.",
        )


def _check_schema(document: dict[str, Any], path: str) -> None:
    problem = first_problem(document, schema_of("plan"))
    if problem is not None:
        raise PlanError(f"{path} is not a valid plan", why=_cut(problem), remedy=plan_again(path))


def _cut(text: str) -> str:
    # Text from the file may have any length.
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."
