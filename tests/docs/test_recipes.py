"""The recipes of docs/recipes.md do what the page says of them."""

import os
import subprocess
import sys
from pathlib import Path

import notation
import pytest
from commands import batchdiff
from test_docs import FENCES

NIGHTLY = next(fence.text for fence in FENCES if "nightly.yaml" in fence.text)
MANIFEST = next(fence.text for fence in FENCES if fence.kind == "yaml" and fence.document == "docs/recipes.md")
TEMPLATE = "2M:A 1M:- 1M:B"


@pytest.fixture
def images(tmp_path):
    """A template, a guest to convert, one that is always refused, and a `mail` that keeps what it is given."""
    (tmp_path / "clones").mkdir()
    notation.write_raw(tmp_path / "debian-12.img", TEMPLATE)
    notation.write_raw(tmp_path / "clones" / "web 01.img", "64k:X 1984k:A 1M:- 1M:B")
    notation.write_raw(tmp_path / "clones" / "old.img", "1M:A")
    (tmp_path / "nightly.yaml").write_text(MANIFEST)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "mail").write_text('#!/bin/sh\n{ echo "$@"; cat; } >> mails\n')
    (programs / "batchdiff").write_text(f'#!/bin/sh\nexec {sys.executable} -m batchdiff "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    return tmp_path


def night(folder: Path) -> str:
    """What is mailed in one night."""
    environment = os.environ | {"PATH": f"{folder}/programs:{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", NIGHTLY], cwd=folder, env=environment, check=True, timeout=60)
    mails = folder / "mails"
    text = mails.read_text() if mails.exists() else ""
    mails.unlink(missing_ok=True)
    return text


@pytest.mark.parametrize("retire", ["keep", "quarantine"])
def test_the_nightly_recipe_through_the_life_of_a_fleet(images, retire):
    def apply():
        batchdiff(*("apply", "nightly.plan.json", "--verify", "native", "--retire", retire), cwd=images, expect=1)

    first = night(images)
    assert first.startswith("-s disk space can be reclaimed ops\n2 guests on the template")
    assert night(images).startswith(first[:60]), "nothing was done about it: said again"
    apply()
    assert night(images) == "", "one is converted, one refused for ever: no news"
    (kept,) = images.glob("nightly.2*.plan.json")
    notation.write_raw(images / "clones" / "web02.img", f"{TEMPLATE} 64k:Y")
    again = night(images)
    assert again.startswith("-s disk space can be reclaimed ops\n3 guests on the template")
    assert " ".join(again.split()).count(f"skip web 01: done by {kept}") == 1
    assert "web02" in again
    apply()
    assert night(images) == "", "no guest is left to convert"
    assert len(list(images.glob("nightly.2*.plan.json"))) == 2
    if retire == "quarantine":
        done = batchdiff("restore", "nightly.plan.json", "--guest", "web 01", cwd=images, expect=2)
        assert f"batchdiff restore {kept} --guest 'web 01'" in done.stderr
        batchdiff("restore", kept, "--guest", "web 01", cwd=images)
        assert night(images).startswith(first[:30]), "it is a whole image again"


def test_the_nightly_recipe_says_what_went_wrong(images):
    (images / "debian-12.img").unlink()
    assert night(images).startswith("-s batchdiff plan failed ops\nnightly.yaml:2: template.path: no such file")
