"""Encrypted images for tests, made and read by QEMU: LUKS, and qcow2 with LUKS encryption.

QEMU measures the CPU for a new key slot, and fails if its clock shows no difference; then it is asked again.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import notation

SECRET = "correct-horse-battery-staple"
ATTEMPTS = 20


def secret_file(path: Path, secret: str = SECRET) -> Path:
    """A file with a secret, which only its owner can read."""
    path.write_text(secret)
    path.chmod(0o600)
    return path


def convert(raw: Path, path: Path, kind: str, secret: Path, options: str = "") -> Path:
    """Makes an encrypted copy of a raw image; ``kind``: luks or qcow2."""
    prefix = "encrypt.format=luks,encrypt." if kind == "qcow2" else ""
    key = f"{prefix}key-secret=s,{prefix.rpartition(',')[2]}iter-time=10"
    made = ["-O", kind, "-o", f"{key},{options}".rstrip(","), str(raw), str(path)]
    for _ in range(ATTEMPTS):
        argv = ["qemu-img", "convert", "--object", f"secret,id=s,file={secret}", "-f", "raw", *made]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode == 0:
            return path
        assert "accurate CPU usage" in done.stderr, done.stderr
    raise AssertionError(f"QEMU could not measure the CPU in {ATTEMPTS} attempts")


def opened(path: Path, kind: str, backing: str = "") -> str:
    """How QEMU is asked to open an image with the secret ``s``; ``backing``: the kind of an encrypted backing."""
    keys = {"": "", "luks": "key-secret=s,", "qcow2": "encrypt.key-secret=s,"}
    below = f"backing.{keys[backing]}" if backing else ""
    return f"driver={kind},{keys[kind if not backing else '']}{below}file.filename={path}"


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
    """What QEMU reads in an encrypted image."""
    secrets = ["--object", f"secret,id=s,file={secret}"]
    notation.run("qemu-img", "convert", *secrets, "-O", "raw", "--image-opts", opened(path, kind), str(copy))
    return copy.read_bytes()
