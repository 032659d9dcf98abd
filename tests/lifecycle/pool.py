"""A small ext4 on which a fleet lives, which can be mounted again through another loop device.

::

    folder/memory           tmpfs: a sync costs nothing
    folder/memory/disk      the ext4 image  <-  /dev/loopN or /dev/loopM
    folder/pool             its mount point; other device numbers after each remount()
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from filesystems import wait_until_unmounted
from notation import run

_SIZE = 96 << 20
"""A fleet takes less than 20 MiB."""


class Pool:
    """The mounted filesystem. ``folder`` is where a fleet lives, ``scratch`` is outside of the filesystem."""

    def __init__(self, folder: Path) -> None:
        self._point, self._memory = folder / "pool", folder / "memory"
        self._disk = self._memory / "disk"
        self.folder, self.scratch = self._point / "images", self._memory / "scratch"
        self._loop = ""

    def make(self) -> None:
        """Makes and mounts it."""
        self._point.mkdir()
        self._memory.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=256m", "batchdiff-tests", str(self._memory))
        self.scratch.mkdir()
        with self._disk.open("wb") as file:
            file.truncate(_SIZE)
        run("mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "nodiscard,lazy_itable_init=0", str(self._disk))
        self._mount()

    def _mount(self) -> None:
        """Attaches the next free loop device and mounts it."""
        # Somebody else who detaches a device by a number that is not his any longer may hit this one.
        for last in (False, False, True):
            loop = run("losetup", "--find", "--show", str(self._disk)).strip()
            try:
                run("mount", loop, str(self._point))
            except AssertionError:
                subprocess.run(["losetup", "--detach", loop], check=False, timeout=60, capture_output=True)
                if last:
                    raise
            else:
                self._loop = loop
                return

    def empty(self) -> None:
        """Removes the fleet that lived there before."""
        for path in self._point.iterdir():
            if path.name != "lost+found":
                shutil.rmtree(path)
        self.folder.mkdir()

    def remount(self) -> None:
        """Mounts it through another loop device, as a reboot may do."""
        before = self._loop
        self._unmount()
        wait_until_unmounted(before)
        self._mount()  # the device of before is still taken, so this one has another number
        run("losetup", "--detach", before)

    def _unmount(self) -> None:
        """Unmounts it; another test's search of folders may have a file of it open for a moment."""
        for _ in range(100):
            tried = subprocess.run(["umount", str(self._point)], capture_output=True, check=False, timeout=60)
            if tried.returncode == 0:
                return
            time.sleep(0.1)
        run("umount", str(self._point))

    def close(self) -> None:
        """Unmounts and detaches what is there, as far as it came."""
        for point in (self._point, self._memory):
            if os.path.ismount(point):
                # Lazily: what a failed test has left open must not leave a mount among pytest's folders.
                subprocess.run(["umount", "--lazy", str(point)], check=True, timeout=60)
            if point is self._point and self._loop:
                subprocess.run(["losetup", "--detach", self._loop], check=True, timeout=60)


@contextlib.contextmanager
def mounted_pool(folder: Path) -> Iterator[Pool]:
    """A pool that is gone afterwards, whatever happened."""
    pool = Pool(folder)
    try:
        pool.make()
        yield pool
    finally:
        pool.close()
