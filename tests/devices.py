"""Loop devices for tests, and what a reboot does to them: the same numbers, other disks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from notation import run
from real_holders import wait_for

from batchdiff.image.in_use.open_files import holders_of

_LOOP_CHANGE_FD = 0x4C06
"""Linux ``include/uapi/linux/loop.h``: a read-only loop device shows another file of the same size from now on."""


@contextlib.contextmanager
def attached(path: Path, *options: str) -> Iterator[str]:
    """A loop device over a file; detached at the end, whatever happened."""
    device = run("losetup", "--find", "--show", *options, str(path)).strip()
    try:
        _wait_until_it_is_ours(device)
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True, timeout=60)


def _wait_until_it_is_ours(device: str) -> None:
    """Another losetup may have found the same free number, and have it open until it is told that it is taken."""
    with open(device, "rb") as file:
        wait_for(lambda: not holders_of(file.fileno()).found)


def shows_now(device: str, path: Path) -> None:
    """Makes a read-only loop device another disk. Unlike after a detach, nobody can take its number meanwhile."""
    with open(device, "rb") as loop, path.open("rb") as file:
        fcntl.ioctl(loop, _LOOP_CHANGE_FD, file.fileno())


def turn(link: Path, target: str | Path) -> None:
    """Lets a link lead to something else, as udev does."""
    new = link.with_name(f"{link.name}.new")
    new.symlink_to(target)
    os.replace(new, link)
