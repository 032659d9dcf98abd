"""One filesystem of each kind, and a fresh folder in it for each test."""

import contextlib
import tempfile
from pathlib import Path

import pytest
from filesystems import mounted


@pytest.fixture(scope="module")
def filesystems(tmp_path_factory):
    with contextlib.ExitStack() as stack:
        here = tmp_path_factory.mktemp("filesystems")
        yield {kind: stack.enter_context(mounted(here, kind)) for kind in ("ext4", "xfs", "btrfs")}


@pytest.fixture
def place(filesystems):
    def made(kind):
        return Path(tempfile.mkdtemp(dir=filesystems[kind]))

    return made
