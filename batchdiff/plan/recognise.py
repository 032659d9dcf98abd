"""Check whether a file can be a plan, before the whole file is decoded."""

from __future__ import annotations

import os
import re
import stat

from batchdiff.errors import PlanError
from batchdiff.files import own_files
from batchdiff.files.filenames import check_usable, shell_path
from batchdiff.files.own_documents import Document, own_document
from batchdiff.image.format_marks import looks_like
from batchdiff.image_source import ImageFormat
from batchdiff.linux.call_failures import explain
from batchdiff.linux.permissions import Deed
from batchdiff.quoting import NO_FOLDER_TO_LIST, suggestion

_HEAD = 4096
"""Bytes; usually enough for a manifest's first keys, even below comments."""
_MANIFEST_KEY = re.compile(rb"^(version|template|guests|defaults)\s*:", re.MULTILINE)
_MANIFEST_SUFFIXES = (".yaml", ".yml")
_BOM = b"\xef\xbb\xbf"


def check_is_plan(path: str) -> None:
    """Refuse a file that cannot be a plan; accept a FIFO or a device.

    :raises PlanError: the file cannot be read, or cannot be a plan.
    """
    head = _head(path)
    if head is None:
        return  # a FIFO or a device: reading the plan will report it
    if not head:
        raise PlanError(f"{path} is not a plan", why="it is empty", remedy=plan_again(path))
    document = own_document(head)
    is_another = document not in {None, Document.PLAN, Document.SIDECAR}
    if is_another or path.endswith(own_files.SIDECAR):
        named = document if is_another else Document.SIDECAR
        raise PlanError(f"{path} is not a plan", why=f"it is {named}", remedy=_plan_of(path, document))
    if head.removeprefix(_BOM).lstrip().startswith(b"{") and b"\0" not in head:
        return
    if _is_manifest(path, head):
        raise PlanError(
            f"{path} is not a plan",
            why="it looks like a manifest",
            remedy=f"Run `batchdiff plan {shell_path(path)}` first; that writes the plan.",
        )
    raise PlanError(
        f"{path} is not a plan", why=_what(path, head), remedy="Pass the file that `batchdiff plan` wrote."
    )


def plan_again(path: str) -> str:
    """Return the remedy for an invalid plan."""
    if not os.path.lexists(f"{path}.journal"):
        return "Run `batchdiff plan MANIFEST` again."
    return (
        f"{path}.journal exists, so guests may have been converted: restore the plan from a backup. If there is"
        " none, turn each overlay into a standalone disk with `qemu-img convert`, and plan the other guests with"
        " `batchdiff plan`."
    )


def _plan_of(path: str, document: Document | None) -> str:
    if document is Document.ESTIMATE:
        return "Run `batchdiff plan MANIFEST` with the manifest that was estimated; that writes the plan."
    plan = path.removesuffix(".journal")
    if plan != path and os.path.exists(plan):
        return f"Pass the plan instead: {shell_path(plan)}."
    return "Pass the file that `batchdiff plan` wrote."


def _head(path: str) -> bytes | None:
    try:
        check_usable(path)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            return file.read(_HEAD) if stat.S_ISREG(os.fstat(fd).st_mode) else None
    except FileNotFoundError as error:
        if not path:
            raise PlanError("the plan", why="no such file", remedy="Its name is empty.") from error
        raise PlanError(f"cannot read the plan {path}", why="there is no such file", remedy=_near(path)) from error
    except OSError as error:
        fault = explain(error, Deed.READ, path)
        raise PlanError(f"cannot read the plan {path}", why=fault.why, remedy=fault.remedy) from error
    except ValueError as error:
        raise PlanError(f"cannot read the plan {path!r}", why=str(error), remedy="Correct the path.") from error


def _near(path: str) -> str:
    """Return a remedy for a missing plan."""
    folder, name = os.path.split(path)
    try:
        names = os.listdir(folder or os.curdir)
    except OSError:
        return NO_FOLDER_TO_LIST
    near = suggestion(name, [each for each in names if each.endswith(".json")])
    if near:
        return near.replace("; d", "D", 1)
    stem = name.removesuffix(".plan.json")
    there = [stem + suffix for suffix in _MANIFEST_SUFFIXES if stem + suffix in names]
    manifest = shell_path(os.path.join(folder, there[0])) if there else "MANIFEST"
    return f"Run `batchdiff plan {manifest}` first; that writes the plan."


def _is_manifest(path: str, head: bytes) -> bool:
    return b"\0" not in head and bool(path.endswith(_MANIFEST_SUFFIXES) or _MANIFEST_KEY.search(head))


def _what(path: str, head: bytes) -> str:
    found = looks_like(path)
    if found not in {None, ImageFormat.RAW}:
        return f"it looks like a {found} image"
    return "it starts like an image or another binary file" if b"\0" in head else "it does not start like JSON"
