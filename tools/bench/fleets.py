"""Fleets made from a seed: a template and guests that ran on from it, in several forms."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from batchdiff.units import GIB, KIB, MIB, TIB

SEED = 2012
ALLOCATED_SHARE = 0.57
"""Of the template; as on a Debian guest with half-full disk."""
CLUSTER = 64 * KIB


@dataclass(frozen=True, slots=True)
class Fleet:
    """Images of one kind in one folder, with a manifest; ``what`` is for the report."""

    what: str
    folder: str
    image_format: str
    template: str
    guests: tuple[str, ...]
    size: int

    @property
    def manifest(self) -> str:
        """Path of the manifest."""
        return os.path.join(self.folder, "manifest.yaml")

    @property
    def images(self) -> tuple[str, ...]:
        """All images, the template first."""
        return (self.template, *self.guests)


def raw(folder: str, *, size: int = 4 * GIB, guests: int = 4, changed: float = 0.04) -> Fleet:
    """Raw copies; ``changed`` is the share of their clusters that differ."""
    template, names = _raw_images(folder, size, guests, changed, ["cp", "--sparse=always"])
    return _fleet(
        f"{guests} raw guests of {size // MIB} MiB, {changed:.0%} changed", folder, "raw", template, names, size
    )


def qcow2(folder: str, *, size: int = 4 * GIB, guests: int = 4, changed: float = 0.04) -> Fleet:
    """The raw fleet, each image converted to qcow2."""
    template, names = _raw_images(folder, size, guests, changed, ["cp", "--sparse=always"])
    converted = [_converted(name, []) for name in (template, *names)]
    what = f"{guests} qcow2 guests of {size // MIB} MiB, {changed:.0%} changed"
    return _fleet(what, folder, "qcow2", converted[0], converted[1:], size)


def compressed(folder: str, kind: str, *, size: int = 4 * GIB, guests: int = 4, changed: float = 0.04) -> Fleet:
    """Copies of a compressed qcow2 template, as cloud images are, that ran on uncompressed."""
    os.makedirs(folder)
    template_raw = os.path.join(folder, "template.raw")
    _write_template(template_raw, size, compressible=True)
    template = _converted(template_raw, ["-c", "-o", f"compression_type={kind}"])
    names = []
    for number in range(guests):
        name = os.path.join(folder, f"guest{number}.qcow2")
        subprocess.run(["cp", "--reflink=never", template, name], check=True)
        _write_through_qemu(name, size, changed, number)
        names.append(name)
    what = f"{guests} guests, {kind}-compressed template of {size // MIB} MiB, {changed:.0%} changed"
    return _fleet(what, folder, "qcow2", template, names, size)


def small(folder: str, *, size: int = 64 * MIB, guests: int = 64) -> Fleet:
    """Many small guests."""
    template, names = _raw_images(folder, size, guests, 0.04, ["cp", "--sparse=always"])
    return _fleet(f"{guests} raw guests of {size // MIB} MiB", folder, "raw", template, names, size)


def sparse(folder: str) -> Fleet:
    """A pair of 15 TiB that is almost empty."""
    os.makedirs(folder)
    names = [os.path.join(folder, f"{name}.raw") for name in ("template", "guest0")]
    for number, name in enumerate(names):
        with open(name, "wb") as file:
            file.truncate(15 * TIB)
            for where in (0, 7 * TIB, 15 * TIB - MIB):
                file.seek(where)
                file.write(random.Random(SEED + number * (where > 0)).randbytes(MIB))
    return _fleet("1 raw guest of 15 TiB, almost empty", folder, "raw", names[0], names[1:], 15 * TIB)


@contextmanager
def reflink(folder: str, *, size: int = 4 * GIB, guests: int = 4, changed: float = 0.04) -> Iterator[Fleet]:
    """Reflink copies on an XFS of their own, mounted from a file; needs root."""
    os.makedirs(folder)
    disk, mount = os.path.join(folder, "xfs.img"), os.path.join(folder, "mnt")
    with open(disk, "wb") as file:
        file.truncate(size * (guests + 2) + GIB)
    os.mkdir(mount)
    subprocess.run(["mkfs.xfs", "-q", disk], check=True)
    subprocess.run(["mount", "-o", "loop", disk, mount], check=True)
    try:
        inside = os.path.join(mount, "fleet")
        template, names = _raw_images(inside, size, guests, changed, ["cp", "--reflink=always"])
        os.sync()
        what = f"{guests} reflink copies of {size // MIB} MiB on XFS, {changed:.0%} changed"
        yield _fleet(what, inside, "raw", template, names, size)
    finally:
        subprocess.run(["umount", mount], check=True)


def _fleet(what: str, folder: str, image_format: str, template: str, guests: list[str], size: int) -> Fleet:
    fleet = Fleet(what, folder, image_format, template, tuple(guests), size)
    lines = [
        "version: 1",
        f"template: {{path: {os.path.basename(template)}, format: {image_format}}}",
        f"defaults: {{format: {image_format}}}",
        "guests:",
        *(f"  - {{path: {os.path.basename(guest)}}}" for guest in guests),
    ]
    with open(fleet.manifest, "w", encoding="ascii") as file:
        file.write("\n".join(lines) + "\n")
    return fleet


def _raw_images(folder: str, size: int, guests: int, changed: float, copy: list[str]) -> tuple[str, list[str]]:
    os.makedirs(folder)
    template = os.path.join(folder, "template.raw")
    _write_template(template, size)
    names = [os.path.join(folder, f"guest{number}.raw") for number in range(guests)]
    for number, name in enumerate(names):
        subprocess.run([*copy, template, name], check=True)
        _run_on(name, size, changed, number)
    return template, names


def _write_template(path: str, size: int, *, compressible: bool = False) -> None:
    rng = random.Random(SEED)
    pool = _pool(rng, compressible=compressible)
    with open(path, "wb") as file:
        at = 0
        while at < size:
            length = min(rng.randrange(1, 16) * MIB // 4, size - at)
            if rng.random() < ALLOCATED_SHARE:
                begin = rng.randrange(len(pool) - 4 * MIB)
                file.seek(at)
                # The offset makes every run its own, so that no two clusters are equal by chance.
                file.write(at.to_bytes(8, "little") + pool[begin : begin + length - 8])
            at += length
        file.truncate(size)


def _pool(rng: random.Random, *, compressible: bool) -> bytes:
    if not compressible:
        return rng.randbytes(32 * MIB)
    words = [rng.randbytes(rng.randrange(3, 12)) for _ in range(4000)]
    return b"".join(rng.choice(words) for _ in range(6 * MIB))[: 32 * MIB]


def _run_on(path: str, size: int, changed: float, seed: int) -> None:
    """Writes to a share of a guest's clusters: 7 of 10 with data, the others with zeros."""
    rng = random.Random(SEED + 1 + seed)
    pool = rng.randbytes(MIB)
    with open(path, "r+b") as file:
        for cluster in sorted(rng.sample(range(size // CLUSTER), int(size // CLUSTER * changed))):
            file.seek(cluster * CLUSTER)
            begin = rng.randrange(len(pool) - CLUSTER)
            length = rng.choice((4 * KIB, 8 * KIB, CLUSTER))
            file.write(pool[begin : begin + length] if rng.random() < 0.7 else bytes(CLUSTER))


def _write_through_qemu(path: str, size: int, changed: float, seed: int) -> None:
    rng = random.Random(SEED + 1 + seed)
    clusters = sorted(rng.sample(range(size // CLUSTER), int(size // CLUSTER * changed)))
    commands = "".join(f"write -q -P {rng.randrange(1, 256)} {c * CLUSTER} {CLUSTER}\n" for c in clusters)
    subprocess.run(
        ["qemu-io", "-f", "qcow2", path], input=commands.encode(), check=True, stdout=subprocess.DEVNULL
    )


def _converted(path: str, options: list[str]) -> str:
    target = os.path.splitext(path)[0] + ".qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, path, target], check=True)
    os.unlink(path)
    return target


MAKERS: dict[str, Callable[[str], Fleet | contextlib.AbstractContextManager[Fleet]]] = {
    "raw": raw,
    "qcow2": qcow2,
    "zlib": lambda folder: compressed(folder, "zlib"),
    "zstd": lambda folder: compressed(folder, "zstd"),
    "reflink": reflink,
    "sparse": sparse,
    "small": small,
}
