"""Fleets whose guests differ from the template in clumps, of many kinds; each is made from a number.

::

    template   |  data  | hole |    data     | hole |    data   |
    guest                  |new|      |zeros|            |hole|      clumps of one size, or of all sizes
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from notation import run

from batchdiff.manifest.file import read_manifest
from batchdiff.manifest.manifest import Manifest
from batchdiff.units import KIB, MIB

BLOCK = 4 * KIB

Bytes = npt.NDArray[np.uint8]


def write_fleet(
    folder: Path, number: int, *, size: int = 32 * MIB, guests: int = 3, overlay: str = "", form: str = "raw"
) -> Manifest:
    """A template and guests, and their manifest. ``overlay``: the options of overlays, as YAML."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(number)
    template = random.integers(0, 256, size, dtype=np.uint8)
    for start, end in clumps(random, size, 0.3, 4 * MIB):
        template[start:end] = 0
    write(folder / "template.img", template)
    names = [f"guest{index}.{'img' if form == 'raw' else form}" for index in range(guests)]
    for name in names:
        path = folder / name
        write(path.with_suffix(".img"), changed(random, template))
        if form != "raw":
            run("qemu-img", "convert", "-f", "raw", "-O", form, str(path.with_suffix(".img")), str(path))
            path.with_suffix(".img").unlink()
    options = f", overlay: {{{overlay}}}" if overlay else ""
    entries = "\n".join(f"  - {{path: {name}, format: {form}{options}}}" for name in names)
    manifest = folder / "fleet.yaml"
    manifest.write_text(f"version: 1\ntemplate: {{path: template.img, format: raw}}\nguests:\n{entries}\n")
    return read_manifest(str(manifest))


def changed(random: np.random.Generator, template: Bytes) -> Bytes:
    """A copy with some clumps of new data, of half-compressible data, and of zeros."""
    guest = template.copy()
    share = random.choice([0.0005, 0.004, 0.03, 0.12, 0.4])
    longest = int(random.choice([BLOCK, 64 * KIB, MIB, 6 * MIB]))
    for start, end in clumps(random, len(template), share, longest):
        kind = random.integers(0, 4)
        if kind == 0:
            guest[start:end] = 0
        else:
            guest[start:end] = random.integers(0, 16 if kind == 1 else 256, end - start, dtype=np.uint8)
    return guest


def clumps(random: np.random.Generator, size: int, share: float, longest: int) -> list[tuple[int, int]]:
    """Parts of a disk that are about that share of it, each of up to twice ``longest`` bytes."""
    found, left = [], share * size
    while left > 0:
        length = int(random.integers(1, min(2 * longest, size // 2)))
        start = int(random.integers(0, size - length))
        found.append((start, start + length))
        left -= length
    return found


def write(path: Path, content: Bytes) -> None:
    """A raw image with holes where it has whole blocks of zeros."""
    there = content.reshape(-1, BLOCK).any(axis=1).astype(np.int8)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], there, [0]]))) * BLOCK
    with path.open("wb") as file:
        file.truncate(len(content))
        for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            file.seek(start)
            file.write(content[start:end].tobytes())
