"""The examples, the documentation and the schema agree."""

from __future__ import annotations

import glob
import os
import re
import subprocess
import sys

import pytest
from jsonschema import Draft202012Validator
from manifest_texts import ROOT, check_shape, guests, make, raw, read, schema_keys, write

from batchdiff.choices import Loss, Retire
from batchdiff.image_source import ImageFormat
from batchdiff.plan.json_schema import schema_of
from batchdiff.plan.overlay_options import BackingPath, Compression

EXAMPLES = sorted(glob.glob(f"{ROOT}/manifests/*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=os.path.basename)
def test_examples_are_valid(path):
    check_shape(path)


def test_there_are_examples():
    assert len(EXAMPLES) >= 4


def fences(path: str) -> list[str]:
    with open(path, encoding="utf-8") as file:
        return re.findall(r"^```yaml\n(.*?)^```", file.read(), re.MULTILINE | re.DOTALL)


def test_examples_of_the_documentation_are_valid(folder):
    found = fences(f"{ROOT}/docs/manifest.md")
    assert len(found) >= 2
    for text in found:
        check_shape(write(text))


def test_every_key_and_word_is_documented():
    with open(f"{ROOT}/docs/manifest.md", encoding="utf-8") as file:
        text = file.read()
    words = (
        schema_keys(schema_of("manifest"))
        | set(ImageFormat)
        | set(Compression)
        | set(BackingPath)
        | set(Retire)
        | set(Loss)
    )
    assert [word for word in sorted(words) if f"`{word}`" not in text] == []


def test_the_schema_is_a_schema_and_knows_the_same_words():
    schema = schema_of("manifest")
    Draft202012Validator.check_schema(schema)
    definitions = schema["$defs"]
    assert definitions["format"]["enum"] == list(ImageFormat)
    assert definitions["compression"]["enum"] == list(Compression)
    assert definitions["backing_path"]["enum"] == list(BackingPath)
    assert schema["properties"]["retire"]["enum"] == list(Retire)
    assert schema["properties"]["allow_loss"]["items"]["enum"] == list(Loss)


def test_jsonschema_is_imported_only_when_needed():
    code = "import sys, batchdiff.manifest.file; sys.exit('jsonschema' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_a_thousand_guests(folder):
    names = [f"clones/g{number:04}.img" for number in range(1000)]
    make(*names)
    manifest = read(guests(*(raw(name) for name in names[:500]), '{glob: "clones/g*.img", format: raw}'))
    assert [guest.name for guest in manifest.guests] == [f"g{number:04}" for number in range(1000)]
