"""The time and memory of ``batchdiff discover`` on very many large images, each with little data."""

from __future__ import annotations

import os
import random
from functools import partial

from batchdiff.units import KIB, MIB, format_size
from bench.content import SEED
from bench.contestants import JOBS, batchdiff
from bench.fleets import Fleet, fleet_of
from bench.races import warm_race
from bench.report import Fact, Race
from bench.running import memory_of, timed

DISCOVER = "discover"
OWN_MEMORY, WORKER_MEMORY = "discover: memory of its own process", "discover: memory of a worker"

_TEMPLATES = 4
_RUN, _RUNS = 256 * KIB, 24
"""Bytes and number of the runs of data in each image: 6 MiB, so that a thousand images fit into the page cache."""

_CHANGED = 2
"""Runs that each copy has written to."""


def many_images(folder: str, *, size: int, images: int) -> Fleet:
    """Make templates and their copies, each with a few runs of data between holes."""
    os.makedirs(folder)
    rng = random.Random(SEED)
    templates = [
        {place: rng.randbytes(_RUN) for place in rng.sample(range(size // _RUN), _RUNS)} for _ in range(_TEMPLATES)
    ]
    names = [os.path.join(folder, f"image{number:04}.raw") for number in range(images)]
    for number, name in enumerate(names):
        runs = dict(templates[number % _TEMPLATES])
        if number >= _TEMPLATES:
            runs |= {place: rng.randbytes(_RUN) for place in rng.sample(sorted(runs), _CHANGED)}
        with open(name, "wb") as file:
            file.truncate(size)
            for place, content in sorted(runs.items()):
                file.seek(place * _RUN)
                file.write(content)
    what = (
        f"{images} images of {format_size(size)} with {format_size(_RUN * _RUNS)} of data, {_TEMPLATES} templates"
    )
    return fleet_of(what, names[0], names[1:])


def discovery(fleet: Fleet, rounds: int) -> tuple[Race, list[Fact]]:
    """Time a search through a fleet, and measure its memory in a run of its own."""
    command = batchdiff("discover", "-q", "-j", str(JOBS), fleet.folder)
    race = warm_race("discover", fleet, {DISCOVER: partial(timed, command)}, rounds)
    memory = memory_of(command)
    return race, [
        Fact(OWN_MEMORY, memory.own / MIB, "MiB"),
        Fact(WORKER_MEMORY, memory.worker / MIB, "MiB"),
    ]
