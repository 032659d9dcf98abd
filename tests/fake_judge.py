"""A program in qemu-img's place. It can change no file, as qemu-img cannot, so tests watch it from outside."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from commands import COMMAND
from real_holders import wait_for

COMPARES = "[ $1 = check ] && exit 0\nsleep 60"
"""Finds no error, and is not done with comparing for a minute."""
COMPARES_A_MOMENT = "[ $1 = check ] && exit 0\nsleep 2"
"""The same, and says after a moment that all is equal."""


def install(folder: Path, script: str) -> str:
    """Makes it; the PATH on which it is found first."""
    fake = folder / "bin" / "qemu-img"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    return f"{fake.parent}:{os.environ['PATH']}"


@contextlib.contextmanager
def applying(folder: Path, path: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """An apply whose judge, found on ``path``, has begun to compare: its process, and the judge's number."""
    with subprocess.Popen(
        [*COMMAND, "apply", "fleet.plan.json", *arguments],
        cwd=folder,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        fake = path.split(":", maxsplit=1)[0] + "/qemu-img"
        wait_for(lambda: _comparing(fake) != [])
        yield process, _comparing(fake)[0]


def _comparing(fake: str) -> list[int]:
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[1:3] == [fake.encode(), b"compare"]:
                found.append(int(pid))
    return found
