"""Encrypted images for tests, made and read by QEMU: LUKS, and qcow2 with LUKS encryption.

QEMU takes seconds of CPU time to create one, because it measures how fast the CPU is. So an empty one is made once
for each secret in a run of the tests, and copied: all processes of pytest-xdist find it in one folder.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

import notation

from batchdiff.image_source import ImageSource

SECRET = "correct-horse-battery-staple"
ATTEMPTS = 20
_FOLDERS: list[Path] = []
KIND = {"luks": "", "qcow2": "encrypt.format=luks,"}
PREFIX = {"luks": "", "qcow2": "encrypt."}


def keep_empty_images_in(folder: Path) -> None:
    """Sets the folder in which all processes of pytest-xdist share their empty images."""
    _FOLDERS[:] = [folder]


def secret_file(path: Path, secret: str = SECRET) -> Path:
    """A file with a secret, which only its owner can read."""
    path.write_text(secret)
    path.chmod(0o600)
    return path


def convert(raw: Path, path: Path, kind: str, secret: Path, options: str = "") -> Path:
    """Makes an encrypted copy of a raw image; ``kind``: luks or qcow2; ``options`` are for creating an image."""
    path.write_bytes(_empty(kind, secret.read_text(), options))
    size = raw.stat().st_size
    if kind == "luks":
        os.truncate(path, path.stat().st_size + size)
    else:
        argv = ["qemu-img", "resize", "-q", "--object", f"secret,id=s,file={secret}", "--image-opts"]
        notation.run(*argv, opened(path, kind), str(size))
    target = ["--target-image-opts", "-n", "-f", "raw", str(raw), opened(path, kind)]
    notation.run("qemu-img", "convert", "--object", f"secret,id=s,file={secret}", *target)
    return path


def create_overlay(path: Path, secret: Path, backing: ImageSource, size: int) -> None:
    """Makes an empty qcow2 overlay that is encrypted; its backing file is not opened."""
    path.write_bytes(_empty("qcow2", secret.read_text(), ""))
    objects = ["--object", f"secret,id=s,file={secret}", "--image-opts"]
    notation.run("qemu-img", "resize", "-q", *objects, opened(path, "qcow2"), str(size))
    named = ["-b", backing.path, "-F", backing.format.value]
    notation.run("qemu-img", "rebase", "-q", "-u", *named, *objects, opened(path, "qcow2"))


@functools.cache
def _empty(kind: str, secret: str, options: str) -> bytes:
    """An image of an empty disk."""
    what = hashlib.sha256(repr((kind, secret, options)).encode()).hexdigest()
    (folder,) = _FOLDERS
    path = folder / what
    with (folder / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process makes the same one, and this one waits for it
        if not path.exists():
            part = _create(kind, secret, options, folder / f"{what}.part")
            part.rename(path)
    return path.read_bytes()


def _create(kind: str, secret: str, options: str, path: Path) -> Path:
    with tempfile.TemporaryDirectory() as folder:
        key = secret_file(Path(folder) / "secret", secret)
        how = f"{KIND[kind]}{PREFIX[kind]}key-secret=s,{PREFIX[kind]}iter-time=10,{options}".rstrip(",")
        argv = ["qemu-img", "create", "-q", "--object", f"secret,id=s,file={key}", "-f", kind, "-o", how]
        for _ in range(ATTEMPTS):
            done = subprocess.run([*argv, path, "0"], capture_output=True, text=True, check=False, timeout=100)
            if done.returncode == 0:
                return path
            assert "accurate CPU usage" in done.stderr, done.stderr
    raise AssertionError(f"QEMU could not measure the CPU in {ATTEMPTS} attempts")


def opened(path: Path, kind: str, backing: str = "") -> str:
    """Options by which QEMU opens an image with the secret ``s``; ``backing``: that of an encrypted backing."""
    key = f"backing.{PREFIX[backing]}key-secret=s" if backing else f"{PREFIX[kind]}key-secret=s"
    return f"driver={kind},{key},file.filename={path}"


def assert_same(path: Path, kind: str, secret: Path, raw: Path, *, backing: str = "") -> None:
    """QEMU finds an image identical to a raw one."""
    images = [opened(path, kind, backing), f"driver=raw,file.filename={raw}"]
    notation.run("qemu-img", "compare", "--object", f"secret,id=s,file={secret}", "--image-opts", *images)


def qemu_io(path: Path, kind: str, secret: Path, command: str, *, backing: str = "") -> None:
    """Runs one qemu-io command on an image, as its VM would write to it."""
    argv = ["qemu-io", "--object", f"secret,id=s,file={secret}", "--image-opts", "-c", command]
    said = notation.run(*argv, opened(path, kind, backing))
    assert " ops;" in said, said


def content(path: Path, kind: str, secret: Path, copy: Path) -> bytes:
    """The bytes that QEMU reads in an encrypted image."""
    secrets = ["--object", f"secret,id=s,file={secret}"]
    notation.run("qemu-img", "convert", *secrets, "-O", "raw", "--image-opts", opened(path, kind), str(copy))
    return copy.read_bytes()
