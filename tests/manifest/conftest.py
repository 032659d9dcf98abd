"""What the tests of manifests share."""

from __future__ import annotations

import os

import pytest
from manifest_texts import make


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a template and three guests, which is the working folder too."""
    monkeypatch.chdir(tmp_path)
    os.mkdir("clones")
    make("t.img", "clones/a.img", "clones/b.img", "clones/c.qcow2")
    return str(tmp_path)
