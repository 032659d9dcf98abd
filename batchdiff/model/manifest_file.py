"""Reading a manifest: YAML, then its schema, then the files that it names; every problem told at once."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from batchdiff.errors import ManifestError
from batchdiff.image.names import check_usable
from batchdiff.model.manifest_content import manifest_content
from batchdiff.model.manifest_problems import Problem, Problems, sentence, show, suggestion
from batchdiff.model.manifest_schema import check_schema, describe, version_problem
from batchdiff.model.plan_file import read_regular
from batchdiff.model.yaml_positions import PlainData, parse_yaml

if TYPE_CHECKING:
    from batchdiff.model.manifest import Manifest

MAX_BYTES = 8 << 20
"""A hundred thousand guests; more is no manifest but an image or a device given by mistake."""


@dataclass(frozen=True, slots=True)
class _ManifestFile:
    """A manifest file as it was read: its absolute path, its name as given, its content."""

    path: str
    shown: str
    content: bytes

    @property
    def folder(self) -> str:
        return os.path.dirname(self.path)


def read_manifest(path: str, *, allow_existing_overlays: bool = False) -> Manifest:
    """The manifest in a file, all its checks passed.

    ``allow_existing_overlays`` is for reading a manifest again after its overlays were written.

    :raises ManifestError: ``what`` lists every problem, one a line, as ``FILE:LINE: YAML.PATH: message``.
    """
    file = _read(path)
    problems = Problems()
    data = _well_formed(file, problems)
    content = manifest_content(data, file.folder, problems, allow_existing_overlays=allow_existing_overlays)
    if content is None:
        raise ManifestError(problems.report(file.shown))
    return replace(content, path=file.path, sha256=hashlib.sha256(file.content).hexdigest())


def check_shape(path: str) -> None:
    """Checks a manifest's YAML and its schema, and looks at no file that it names.

    :raises ManifestError: as :func:`read_manifest`.
    """
    file = _read(path)
    problems = Problems()
    _well_formed(file, problems)
    if problems:
        raise ManifestError(problems.report(file.shown))


def _read(path: str) -> _ManifestFile:
    shown = show(path)[1:-1]
    try:
        check_usable(path)
        # Not abspath: that goes wrong where ".." follows a symbolic link.
        folder = os.path.realpath(os.path.dirname(path) or os.curdir)
        content = read_regular(path, MAX_BYTES)
    except FileNotFoundError:
        raise ManifestError(shown, why="no such file", remedy=_near(path)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ManifestError(shown, why=f"the manifest cannot be read: {reason}") from error
    return _ManifestFile(os.path.join(folder, os.path.basename(path)), shown, content)


def _near(path: str) -> str:
    try:
        near = suggestion(os.path.basename(path), os.listdir(os.path.dirname(path) or os.curdir))
    except OSError:
        return "Its folder does not exist or cannot be listed"
    return near.removeprefix("; ").capitalize() if near else "Name an existing manifest"


def _well_formed(file: _ManifestFile, problems: Problems) -> dict[str, PlainData]:
    """The manifest's content as plain data; what its schema does not allow becomes problems."""
    try:
        text = file.content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = file.content.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"{file.shown}:{line}: not UTF-8, as a manifest must be") from None
    data = parse_yaml(text, file.shown, problems)
    if data is None:
        raise ManifestError(f"{file.shown}:1: the manifest is empty; docs/manifest.md has an example")
    if not isinstance(data, dict):
        found = describe(data)
        raise ManifestError(f"{file.shown}:1: expected a mapping with version, template and guests, found {found}")
    if wrong := version_problem(data):
        where, message = wrong
        raise ManifestError(sentence(file.shown, Problem(problems.line(where), where, message)))
    check_schema(data, file.folder, problems)
    return data
