"""The bytes of images, from a seed: the content of a template, and the changes that its copies wrote later."""

from __future__ import annotations

import random
import subprocess

from batchdiff.units import KIB, MIB

SEED = 2012
CLUSTER = 64 * KIB
ALLOCATED_SHARE = 0.57
"""The share of a template with data, as on a Debian guest with a half-full disk."""

_POOL = 32 * MIB
_LONGEST_RUN = 4 * MIB
_WORDS, _ZIPF = 4000, 1.35
"""Compressible content consists of random words; that of rank n occurs in proportion to ``n ** -_ZIPF``. Deflated
by QEMU, its clusters are as small as those of a Debian system's /usr (37% of 64 KiB for both), and take about as
long to inflate (measured: 105 us and 89 to 92 us by ISA-L, 174 us and 159 to 188 us by zlib)."""

_ZEROED = 0.3
"""The share of zeros among the clusters that a guest wrote: deleted files, trimmed without leaving holes."""


def write_template(path: str, size: int, *, share: float = ALLOCATED_SHARE, compressible: bool = False) -> None:
    """Write runs of 256 KiB to 4 MiB, a share of them data, the others holes."""
    _write(path, size, share, _pool(random.Random(SEED), compressible=compressible))


def write_all_different(path: str, size: int) -> None:
    """Write an image with the template's runs, in which no unit of 4 KiB has the template's bytes."""
    _write(path, size, ALLOCATED_SHARE, _pool(random.Random(SEED + 1), compressible=False))


def _write(path: str, size: int, share: float, pool: bytes) -> None:
    rng = random.Random(SEED)
    with open(path, "wb") as file:
        # Set the size first, as qemu-img does: XFS preallocates past the end of a growing file, also in holes.
        file.truncate(size)
        at = 0
        while at < size:
            length = min(rng.randrange(1, 16) * (_LONGEST_RUN // 16), size - at)
            begin, is_data = rng.randrange(len(pool) - _LONGEST_RUN), rng.random() < share
            if is_data:
                file.seek(at)
                # The offset makes every run unique, so that no two clusters are equal by chance.
                file.write(at.to_bytes(8, "little") + pool[begin : begin + length - 8])
            at += length


def _pool(rng: random.Random, *, compressible: bool) -> bytes:
    if not compressible:
        return rng.randbytes(_POOL)
    words = [rng.randbytes(rng.randrange(3, 12)) for _ in range(_WORDS)]
    weights = [1 / rank**_ZIPF for rank in range(1, _WORDS + 1)]
    return b"".join(rng.choices(words, weights, k=6 * MIB))[:_POOL]


def run_on(path: str, size: int, changed: float, number: int) -> int:
    """Write data or zeros to a share of the clusters of guest ``number``, and return the bytes of data."""
    rng = random.Random(SEED + 1 + number)
    pool = rng.randbytes(MIB)
    written = 0
    with open(path, "r+b") as file:
        for cluster in sorted(rng.sample(range(size // CLUSTER), int(size // CLUSTER * changed))):
            file.seek(cluster * CLUSTER)
            begin = rng.randrange(len(pool) - CLUSTER)
            length = rng.choice((4 * KIB, 8 * KIB, CLUSTER))
            if rng.random() < _ZEROED:
                file.write(bytes(CLUSTER))
            else:
                file.write(pool[begin : begin + length])
                written += length
    return written


def run_on_qcow2(path: str, size: int, changed: float, number: int) -> None:
    """Have QEMU write to a share of the clusters of a qcow2 guest, each as a whole."""
    rng = random.Random(SEED + 1 + number)
    clusters = sorted(rng.sample(range(size // CLUSTER), int(size // CLUSTER * changed)))
    commands = "".join(f"write -q -P {rng.randrange(1, 256)} {c * CLUSTER} {CLUSTER}\n" for c in clusters)
    subprocess.run(
        ["qemu-io", "-f", "qcow2", path], input=commands.encode(), check=True, stdout=subprocess.DEVNULL
    )


def converted(path: str, *options: str, form: str = "qcow2") -> str:
    """Convert a raw image to another format beside it, and return the new path; the raw image stays."""
    target = f"{path}.{form}"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", form, *options, path, target], check=True)
    return target
