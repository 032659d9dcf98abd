"""Manifests in few words, for tests."""

from __future__ import annotations

import os

import pytest

from batchdiff.errors import ManifestError
from batchdiff.manifest.file import read_manifest
from batchdiff.manifest.manifest import Manifest
from batchdiff.manifest.schema import check_schema
from batchdiff.manifest.text.problems import Problems
from batchdiff.manifest.text.yaml_lines import parse_yaml

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HEAD = "version: 1\ntemplate: {path: t.img, format: raw}\n"


def make(*paths: str) -> None:
    for path in paths:
        with open(path, "wb") as file:
            file.write(b"QFI\xfb" if path.endswith("qcow2") else b"")


def write(text: str, path: str = "m.yaml") -> str:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def check_shape(path: str) -> None:
    """Fail if a manifest's YAML or its keys are wrong, without looking at any file that it names."""
    found = Problems()
    with open(path, encoding="utf-8") as file:
        check_schema(parse_yaml(file.read(), path, found), os.path.dirname(path), found)
    assert not found, found.report(path)


def read(text: str, **options: bool) -> Manifest:
    return read_manifest(write(text), **options)


def guests(*items: str, head: str = HEAD, tail: str = "") -> str:
    return head + "guests:\n" + "".join(f"  - {item}\n" for item in items) + tail


def raw(path: str, more: str = "") -> str:
    return f"{{path: {path}, format: raw{more}}}"


def problems(text: str, **options: bool) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        read(text, **options)
    assert caught.value.exit_code == 3
    return caught.value.what.split("\n")


def named(manifest: Manifest, folder: str) -> dict[str, str]:
    return {guest.name: os.path.relpath(guest.overlay_path, folder) for guest in manifest.guests}


def schema_keys(schema: object) -> set[str]:
    if isinstance(schema, list):
        return set().union(*map(schema_keys, schema))
    if not isinstance(schema, dict):
        return set()
    own = set(schema["properties"]) if isinstance(schema.get("properties"), dict) else set()
    return own.union(*(schema_keys(value) for value in schema.values()))
