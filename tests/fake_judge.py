"""A program in qemu-img's place. It can change no file, as qemu-img cannot, so tests watch it from outside."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from commands import COMMAND
from real_holders import wait_for

COMPARES = "[ $1 = compare ] || exit 0\nsleep 600"
"""Finds no error, and is not done with comparing for ten minutes."""
COMPARES_UNTIL_TOLD = "[ $1 = compare ] || exit 0\nuntil [ -e ${0%/*}/done ]; do sleep 0.02; done"
"""The same, and says that all is equal once :func:`let_it_end` was called. It may read what is beside it."""


def install(folder: Path, script: str) -> str:
    """Makes it; the PATH on which it is found first."""
    fake = folder / "bin" / "qemu-img"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    return f"{fake.parent}:{os.environ['PATH']}"


def let_it_end(path: str) -> None:
    """Ends the comparison of the judge that is found on that PATH."""
    Path(path.split(":", maxsplit=1)[0], "done").touch()


@contextlib.contextmanager
def applying(
    folder: Path, path: str, *arguments: str, verb: str = "apply"
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A verb whose judge, found on ``path``, has begun to compare: its process, and the judge's number."""
    with subprocess.Popen(
        [*COMMAND, verb, "fleet.plan.json", *arguments],
        cwd=folder,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        fake = path.split(":", maxsplit=1)[0] + "/qemu-img"
        wait_for(lambda: comparing(fake) != [])
        yield process, comparing(fake)[0]


def comparing(fake: str) -> list[int]:
    """The processes of a fake qemu-img, by its path, that are asked to compare."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[1:3] == [fake.encode(), b"compare"]:
                found.append(int(pid))
    return found
