"""Fleets of disks as arrays of numbers, one for each 64 KiB, and their samples: as batchdiff would take them."""

from __future__ import annotations

import numpy as np

from batchdiff.discovery.grouping import Trait
from batchdiff.discovery.sample_index import SampleIndex
from batchdiff.discovery.sample_offsets import SAMPLE, chosen_probes
from batchdiff.discovery.samples import Samples

Disk = np.ndarray


class Fleet:
    """Disks of one size by name. 0 is a block of zeros, and every other number a content of its own."""

    def __init__(self, seed: int, blocks: int = 20_000) -> None:
        self.random = np.random.default_rng(seed)
        self.blocks = blocks
        self.disks: dict[str, Disk] = {}
        self.traits: dict[str, dict[str, object]] = {}

    def new(self, name: str, used: float = 0.4, **traits: object) -> Disk:
        """A disk of its own, with data in clumps."""
        disk = np.zeros(self.blocks, dtype=np.uint64)
        self._write(disk, used, 200)
        return self._put(name, disk, traits)

    def copy(self, of: str, name: str, changed: float, clump: int = 20, **traits: object) -> Disk:
        """A copy of a disk, of whose data a share has changed, in clumps."""
        disk = self.disks[of].copy()
        self._write(disk, changed, clump, within=np.flatnonzero(disk))
        return self._put(name, disk, traits)

    def adopt(self, name: str, other: str, places: np.ndarray, share: float) -> None:
        """Give a disk a share of another one's blocks at some places."""
        taken = places[self.random.random(len(places)) < share]
        self.disks[name][taken] = self.disks[other][taken]

    def sampled(self, most: int = 512) -> tuple[list[str], SampleIndex, list[Trait]]:
        """The names, the index and the traits of all disks."""
        names = list(self.disks)
        samples = [samples_of(self.disks[name], most) for name in names]
        traits = [
            Trait(**({"virtual_size": len(self.disks[name]) * SAMPLE, "is_backing": False, "read_only": False,
                      "modified_ns": number, "allocated": int(np.count_nonzero(self.disks[name])) * SAMPLE,
                      "path": f"/{name}"} | self.traits[name]))
            for number, name in enumerate(names)
        ]  # fmt: skip
        return names, SampleIndex(samples, 0), traits

    def similarity(self, name: str, template: str) -> float:
        """The share of a disk's data that another one has, in truth."""
        disk, other = self.disks[name], self.disks[template]
        data = disk != 0
        return float(np.count_nonzero(disk[data] == other[: len(disk)][data]) / np.count_nonzero(data))

    def _put(self, name: str, disk: Disk, traits: dict[str, object]) -> Disk:
        self.disks[name], self.traits[name] = disk, traits
        return disk

    def _write(self, disk: Disk, share: float, clump: int, within: np.ndarray | None = None) -> None:
        """Write new content to a share of the blocks of a disk, or of those within some places."""
        places = np.arange(len(disk)) if within is None else within
        wanted = int(len(places) * share)
        written = np.zeros(len(places), dtype=bool)
        while np.count_nonzero(written) < wanted:
            start = int(self.random.integers(0, len(places)))
            written[start : start + min(clump, wanted - int(np.count_nonzero(written)))] = True
        chosen = places[written]
        disk[chosen] = self.random.integers(1, 1 << 62, len(chosen), dtype=np.uint64)


def samples_of(disk: Disk, most: int) -> Samples:
    """The samples of a disk: at the lowest level that gives few enough."""
    for level in range(64):
        cells = np.arange(-(-len(disk) >> level))
        chosen = chosen_probes(cells, level)
        chosen = chosen[chosen < len(disk)]
        chosen = chosen[disk[chosen] != 0]
        if len(chosen) <= most:
            break
    hashes = disk[chosen] ^ (chosen.astype(np.uint64) << np.uint64(40))
    stored = np.full(len(chosen), SAMPLE)
    return Samples(level, chosen, hashes, stored)
