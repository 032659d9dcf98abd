"""Small filesystems of their own for tests: a file, mkfs, a loop mount; undone at the end, whatever happened."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from notation import run
from real_holders import wait_for

from batchdiff.image.storage.allocation import DiskUse, disk_use
from batchdiff.image.storage.block_ranges import Blocks

MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-b", "4096"),
    "btrfs": ("mkfs.btrfs", "-q"),
    "xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"),
}


@contextlib.contextmanager
def mounted(
    folder: Path, kind: str, size: int = 320 << 20, *, make: tuple[str, ...] = (), options: str = "loop"
) -> Iterator[Path]:
    """A fresh filesystem of that kind, mounted in ``folder``; XFS needs 300 MiB.

    ``make``: more arguments for mkfs; ``options``: those of the mount, with ``loop``.
    """
    image, point = folder / f"{kind}.filesystem", folder / kind
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    run(*MAKE[kind], *make, str(image))
    run("mount", "-o", options, str(image), str(point))
    try:
        yield point
    finally:
        # A process that is looking for users of files may be in it for a moment.
        wait_for(lambda: subprocess.run(["umount", str(point)], check=False, timeout=60).returncode == 0)
        image.unlink()


def wait_until_unmounted(device: str) -> None:
    """Waits until no mount namespace has a device mounted any longer: until then, not all of it is on the device.

    Namespaces of other tests' processes may keep a mount for a moment after umount.
    """
    wait_for(lambda: _is_free(device))


def _is_free(device: str) -> bool:
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def among_own_mounts(point: Path, script: str, *arguments: str) -> list[str]:
    """A command that runs a shell's script, which alone sees what it mounts on ``point`` or below.

    ``point`` must be a mount point. Not all of the namespace is made private: in a chroot whose root is no mount
    point, as in a tree of debootstrap, that cannot be done.
    """
    private = f'mount --make-private "$0"; {script}'
    return ["unshare", "--mount", "--propagation", "unchanged", "sh", "-euc", private, str(point), *arguments]


def look_again(overlay: Path) -> None:
    """Makes an overlayfs take in what has changed in its layers.

    By the old system call: the new one, which mount prefers since util-linux 2.39, has nothing to change there.
    """
    run("env", "LIBMOUNT_FORCE_MOUNT2=always", "mount", "-o", "remount", str(overlay))


def settle(point: Path) -> None:
    """Makes a filesystem do what it has put off, such as giving back the blocks of deleted files.

    To be frozen it has to have done all of it; waiting for it would depend on how busy the machine is.
    """
    run("fsfreeze", "--freeze", str(point))
    run("fsfreeze", "--unfreeze", str(point))


@contextlib.contextmanager
def tmpfs(folder: Path, options: str = "size=64m") -> Iterator[Path]:
    """A fresh tmpfs: mounted at once, and unlike the folder of the tests never an overlayfs."""
    point = folder / "tmpfs"
    point.mkdir()
    run("mount", "-t", "tmpfs", "-o", options, "batchdiff-tests", str(point))
    try:
        yield point
    finally:
        # Lazily: what a failed test has left open must not leave a mount among pytest's folders.
        subprocess.run(["umount", "--lazy", str(point)], check=True, timeout=60)


@contextlib.contextmanager
def overlayfs(folder: Path) -> Iterator[Path]:
    """A fresh overlayfs, as in a container: who has a file open in a layer below is not seen in it."""
    with tmpfs(folder) as below:
        layers = {name: below / name for name in ("lower", "upper", "work", "all")}
        for each in layers.values():
            each.mkdir()
        options = f"lowerdir={layers['lower']},upperdir={layers['upper']},workdir={layers['work']}"
        run("mount", "-t", "overlay", "-o", options, "batchdiff-tests", str(layers["all"]))
        try:
            yield layers["all"]
        finally:
            subprocess.run(["umount", "--lazy", str(layers["all"])], check=True, timeout=60)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor to read a file."""
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def use_of(path: Path, **options: Blocks) -> DiskUse:
    """What a file takes on its disk, and what deleting it would free."""
    with opened(path) as fd:
        return disk_use(fd, str(path), **options)
