"""Runs the commands of a page as its reader would, in a folder that stands in for the root of a machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from commands import assert_no_traceback
from test_docs import FENCES


def page_fences(page: str, kind: str) -> list[str]:
    """The texts of a page's fences of one kind, in their order."""
    return [fence.text for fence in FENCES if (fence.document, fence.kind) == (f"docs/{page}.md", kind)]


class PageRunner:
    """Runs shell commands in the folder ``at``, by default ``images``; the page's paths are below ``folder``."""

    def __init__(self, folder: Path, *places: str) -> None:
        self.folder = folder
        self.images = folder / "images"
        self.images.mkdir(exist_ok=True)
        self.at = self.images
        self.messages = ""
        self._places = "|".join(("/images", *places))
        self.add_program("batchdiff", f'exec {sys.executable} -m batchdiff "$@"')

    def add_program(self, name: str, script: str) -> None:
        """A program of the page's machine, found before any other of that name."""
        program = self.folder / "programs" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def located(self, text: str) -> str:
        """A text of the page with the folder's own paths."""
        return re.sub(rf"(?<![\w/.])(?={self._places})(?:{self._places})\b", rf"{self.folder}\g<0>", text)

    def write(self, name: str, text: str) -> None:
        (self.images / name).write_text(self.located(text))

    def run(self, text: str, *, expect: int | None = 0) -> str:
        """What the commands of a fence print, with the paths of the page; each of them must succeed.

        Their messages on stderr are in ``messages``.
        """
        environment = os.environ | {"PATH": f"{self.folder}/programs:{os.environ['PATH']}"}
        done = subprocess.run(
            ["sh", "-e", "-c", self.located(text)],
            cwd=self.at,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert_no_traceback(done.stdout + done.stderr)
        assert expect is None or done.returncode == expect, done.stdout + done.stderr
        self.messages = done.stderr.replace(str(self.folder), "")
        return done.stdout.replace(str(self.folder), "")
