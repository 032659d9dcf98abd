"""Reading a manifest: its YAML is parsed and checked against the schema, and the files that it names are found."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from batchdiff.errors import ManifestError
from batchdiff.manifest.content import ManifestReader
from batchdiff.manifest.schema import VERSION, check_schema, describe, is_readable, version_problem
from batchdiff.manifest.text.input import ManifestFile, manifest_file
from batchdiff.manifest.text.problems import Problem, Problems, sentence
from batchdiff.manifest.text.yaml_lines import PlainData, parse_yaml

if TYPE_CHECKING:
    from batchdiff.manifest.manifest import Manifest


def read_manifest(path: str, *, allow_existing_overlays: bool = False, left: Collection[str] = ()) -> Manifest:
    """Read a manifest from a file, and check it completely.

    ``path`` may be ``-`` for stdin. ``allow_existing_overlays`` allows existing data files, too. ``left``: the
    paths of unmodified overlays that restores left behind.

    :raises ManifestError: the manifest cannot be read, or has problems.
    """
    file = manifest_file(path)
    problems = Problems()
    data = _well_formed(file, problems)
    reader = ManifestReader(data, file.folder, problems)
    content = reader.manifest(allow_existing_overlays=allow_existing_overlays, left=left)
    if content is None:
        raise ManifestError(problems.report(file.shown))
    return replace(content, path=file.path, sha256=hashlib.sha256(file.content).hexdigest())


def _well_formed(file: ManifestFile, problems: Problems) -> dict[str, PlainData]:
    try:
        text = file.content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = file.content.count(b"\n", 0, error.start) + 1
        remedy = "Save the manifest as UTF-8, or convert it with `iconv`."
        raise ManifestError(f"{file.shown}:{line}", why="this line is not valid UTF-8", remedy=remedy) from None
    data = parse_yaml(text, file.shown, problems)
    if data is None and len(problems):
        raise ManifestError(problems.report(file.shown))
    if data is None:
        raise ManifestError(f"{file.shown}:1: the manifest is empty; docs/manifest.md has an example")
    if not isinstance(data, dict):
        found = describe(data)
        raise ManifestError(f"{file.shown}:1: expected a mapping with version, template and guests, found {found}")
    if wrong := version_problem(data):
        where, message = wrong
        if not is_readable(data):
            raise ManifestError(sentence(file.shown, Problem(problems.line(where), where, message)))
        problems.add(where, message)
        data["version"] = VERSION  # probably meant: assume it, so that everything else is checked
    check_schema(data, file.folder, problems)
    return data
