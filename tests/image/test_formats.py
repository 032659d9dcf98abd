"""The table of formats is complete, has a safety statement for each, and agrees with schemas and documents."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import batchdiff
from batchdiff.errors import ImageError
from batchdiff.image.formats import FORMATS, Outside, Unchecked
from batchdiff.image.open import open_layer
from batchdiff.image_source import ImageFormat, ImageSource

PACKAGE = Path(batchdiff.__file__).parent
DOCS = PACKAGE.parent / "docs"


def enums_of(value: object) -> list[list[str]]:
    """Return the enumerations in a schema that list formats."""
    if isinstance(value, list):
        return [found for inner in value for found in enums_of(inner)]
    if not isinstance(value, dict):
        return []
    own = [value["enum"]] if "raw" in value.get("enum", ()) else []
    return own + [found for inner in value.values() for found in enums_of(inner)]


def test_every_format_that_a_manifest_may_name_has_a_row():
    assert list(FORMATS) == list(ImageFormat)


@pytest.mark.parametrize("name", ["manifest", "plan"])
def test_the_schemas_list_the_same_formats(name):
    schema = json.loads((PACKAGE / f"plan/schemas/{name}.schema.json").read_text())
    found = enums_of(schema)
    assert found
    assert all(each == list(ImageFormat) for each in found)


@pytest.mark.parametrize("image_format", FORMATS)
def test_every_format_states_what_is_checked_before_it_is_trusted(image_format):
    """ "Nothing" is a statement of its own, with its reason."""
    safety = FORMATS[image_format].safety
    statements = (safety.why,) if isinstance(safety, Unchecked) else safety
    assert statements
    assert all(re.fullmatch(r"[^A-Z.].*[^. ]", each) for each in statements)


@pytest.mark.parametrize("image_format", FORMATS)
def test_every_format_states_which_other_files_it_can_refer_to(image_format):
    """That none are possible is a value, too, and not an omission."""
    safety = FORMATS[image_format].safety
    assert isinstance(safety.outside if isinstance(safety, Unchecked) else safety[0], Outside)
    assert isinstance(safety, Unchecked) or not any(isinstance(each, Outside) for each in safety[1:])


def test_the_documents_list_the_checks():
    rows = re.findall(r"^\| ([a-z0-9, ]+) \| (.*) \|$", (DOCS / "safety.md").read_text(), re.MULTILINE)
    documented = {name: checks for names, checks in rows for name in names.split(", ")}
    for image_format, row in FORMATS.items():
        none = f"none: {row.safety.why}" if isinstance(row.safety, Unchecked) else ""
        assert documented[image_format] == (none or "; ".join(row.safety))


def test_the_documents_list_the_formats_that_can_be_read():
    (readable,) = re.findall(r"^(.*) can be converted\.", (DOCS / "manifest.md").read_text(), re.MULTILINE)
    assert re.findall("`([a-z0-9]+)`", readable) == list(FORMATS)


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_format_is_never_guessed(tmp_path, image_format):
    """A file is opened as declared, or refused as not being of that format."""
    path = tmp_path / "image"
    path.write_bytes(b"any bytes" * 1000)
    secret_file = str(path) if image_format is ImageFormat.LUKS else None
    declared = ImageSource(str(path), image_format, secret_file=secret_file)
    if image_format is ImageFormat.RAW:
        layer = open_layer(declared)
        assert layer.backing is None
        layer.inspect()
        layer.close()
    else:
        with pytest.raises(ImageError, match=f"as {image_format}"):
            open_layer(declared)
