"""The studies: one function for each fleet, which makes it, runs the contestants on it, and removes it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from batchdiff.units import GIB, KIB, MIB
from bench import fleets
from bench.contestants import (
    APPLY,
    APPLY_CHANGED,
    APPLY_NATIVE,
    APPLY_ONE,
    CHECKS,
    LIMIT,
    ONE_JOB,
    PLAN,
    PLAN_APPLY,
    REBASE,
    REBASE_COMPARE,
    SMALL_GUESTS,
    UNTIL_OPEN,
    VERIFICATION_LIMIT,
    apply,
    limit,
    plan,
    plan_command,
)
from bench.discovering import discovery, many_images
from bench.examinations import apply_space, deduplication, start_up, template_reads
from bench.exported import NBDCOPY, READER, nbdcopy, read_all
from bench.fleets import Fleet
from bench.large import large_plan
from bench.races import STANDARD, cold_races, entries_of, warm_race
from bench.report import Fact, Point, Race
from bench.running import memory_of
from bench.scaling import scaling_points
from bench.several_hosts import hosts_race, workers_race

_REFLINK_COPY = ("cp", "--reflink=always")
_SHARE_OF_SIXTEEN = 0.2


@dataclass(slots=True)
class Study:
    """The settings and results of a run: folder for fleets, numbers of rounds, divisor of sizes for --quick."""

    folder: str
    rounds: int
    cold_rounds: int
    smaller: int = 1
    races: list[Race] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)

    @contextmanager
    def place(self, name: str) -> Iterator[str]:
        """Yield the path of a folder that does not exist yet, and remove the folder at the end."""
        path = os.path.join(self.folder, name)
        shutil.rmtree(path, ignore_errors=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def size(self, size: int) -> int:
        """Return the size of an image in this run, in bytes."""
        return size // self.smaller

    def note_memory(self, fleet: Fleet, name: str) -> None:
        """Record the memory of a planner and its workers as facts."""
        memory = memory_of(plan_command(fleet))
        self.facts.append(Fact(f"worker memory, {name}", memory.worker, "bytes"))
        self.facts.append(Fact(f"planner memory, {name}", memory.own, "bytes"))


def raw(study: Study) -> None:
    """Race all contestants on four raw guests, warm and cold."""
    with study.place("raw") as folder:
        fleet = fleets.raw(folder, size=study.size(4 * GIB), guests=4)
        study.races.append(warm_race("raw", fleet, entries_of(fleet, (*STANDARD, UNTIL_OPEN)), study.rounds))
        study.races += cold_races("raw", fleet, study.cold_rounds)
        study.note_memory(fleet, "4 GiB")


def sixteen(study: Study) -> None:
    """Plan sixteen raw guests, which all fit into the page cache of a machine with 24 GiB."""
    with study.place("sixteen") as folder:
        fleet = fleets.raw(folder, size=study.size(4 * GIB), guests=16, share=_SHARE_OF_SIXTEEN)
        study.races.append(warm_race("sixteen", fleet, entries_of(fleet, (PLAN, LIMIT, UNTIL_OPEN)), study.rounds))


def verification(study: Study) -> None:
    """Race the three verification modes of apply, each with a plan made beforehand."""
    names = (APPLY, APPLY_CHANGED, APPLY_NATIVE, VERIFICATION_LIMIT)
    with study.place("verification") as folder:
        fleet = fleets.raw(folder, size=study.size(2 * GIB), guests=4)
        fleet = fleets.described(fleet, f"{fleet.what}: apply")
        study.races.append(warm_race("verification", fleet, entries_of(fleet, names), study.rounds))


def qcow2(study: Study) -> None:
    """Race all contestants on four qcow2 guests of a qcow2 template, and plan the same content in other forms."""
    with study.place("qcow2") as folder:
        made = fleets.forms(folder, size=study.size(2 * GIB), guests=4)
        study.races.append(warm_race("qcow2", made["qcow2"], entries_of(made["qcow2"]), study.rounds))
        entries = {name: partial(plan, fleet) for name, fleet in made.items()}
        entries |= {f"{LIMIT} {name}": partial(limit, made[name]) for name in ("raw", "qcow2")}
        limit(made["raw"])
        fleet = fleets.described(made["qcow2"], "the same content in other forms: plan")
        study.races.append(warm_race("forms", fleet, entries, study.rounds))


def mapped(study: Study) -> None:
    """Plan the same guests as raw and in the formats that QEMU maps, then apply these plans."""
    with study.place("mapped") as folder:
        # Small enough that all of them fit into the page cache of a machine with 16 GiB.
        made = fleets.mapped(folder, size=study.size(1 * GIB), guests=2)
        for fleet in made.values():
            limit(fleet)
        fleet = fleets.described(made["raw"], "the same guests in formats that QEMU maps: plan")
        entries = {name: partial(plan, each) for name, each in made.items()}
        study.races.append(warm_race("mapped", fleet, entries, study.rounds))
        fleet = fleets.described(made["raw"], "the same guests in formats that QEMU maps: apply")
        entries = {name: partial(apply, each) for name, each in made.items()}
        study.races.append(warm_race("mapped, apply", fleet, entries, study.rounds))


def exported(study: Study) -> None:
    """Read images of the kinds that QEMU must read, with batchdiff's reader and with nbdcopy."""
    with study.place("exported") as folder:
        for kind, image in fleets.exported(folder, size=study.size(2 * GIB)).items():
            entries = {READER: partial(read_all, image), NBDCOPY: partial(nbdcopy, image)}
            fleet = Fleet(f"one image of {kind}, read once", image, (), f"{image.path}.yaml")
            study.races.append(warm_race(f"exported {kind}", fleet, entries, study.rounds))


def compressed(study: Study, kind: str) -> None:
    """Race on copies of a compressed template."""
    with study.place(kind) as folder:
        fleet = fleets.compressed(folder, kind, size=study.size(GIB), guests=4)
        names = (PLAN, PLAN_APPLY, REBASE, REBASE_COMPARE)
        study.races.append(warm_race(kind, fleet, entries_of(fleet, names), study.rounds))


def reflink(study: Study) -> None:
    """Race all contestants on reflink copies on XFS, and measure the space that apply takes."""
    size = study.size(4 * GIB)
    with study.place("reflink") as place, fleets.xfs(place, 3 * size) as folder:
        fleet = fleets.raw(folder, size=size, guests=4, copy=_REFLINK_COPY)
        fleet = fleets.described(fleet, f"{fleet.what}, reflink copies on XFS")
        names = (*STANDARD, ONE_JOB, UNTIL_OPEN)
        study.races.append(warm_race("reflink", fleet, entries_of(fleet, names), study.rounds))
        study.races += cold_races("reflink", fleet, study.cold_rounds)
        study.facts += apply_space(fleet)


def duplicates(study: Study) -> None:
    """Race batchdiff and duperemove on full copies on XFS, each until the space is freed."""
    size = study.size(GIB)
    with study.place("duplicates") as place, fleets.xfs(place, 12 * size) as folder:
        fleet = fleets.raw(folder, size=size, guests=4)
        fleet = fleets.described(fleet, f"{fleet.what}, full copies on XFS")
        race, facts = deduplication(fleet, min(study.rounds, 3))
        study.races.append(race)
        study.facts += facts


def sparse(study: Study) -> None:
    """Plan a guest of 15 TiB, on a template of the same size."""
    with study.place("sparse") as folder:
        fleet = fleets.sparse(folder)
        study.races.append(warm_race("sparse", fleet, entries_of(fleet, (PLAN,)), study.rounds))
        study.note_memory(fleet, "15 TiB")


def small(study: Study) -> None:
    """Race all contestants on many small guests."""
    with study.place("small") as folder:
        fleet = fleets.raw(folder, size=study.size(64 * MIB), guests=SMALL_GUESTS)
        names = (*STANDARD, APPLY_ONE, CHECKS)
        study.races.append(warm_race("small", fleet, entries_of(fleet, names), study.rounds))


def thousand(study: Study) -> None:
    """Plan a thousand guests."""
    with study.place("thousand") as folder:
        fleet = fleets.thousand(folder, size=study.size(4 * GIB))
        study.races.append(warm_race("thousand", fleet, entries_of(fleet, (PLAN, LIMIT)), study.rounds))
        study.note_memory(fleet, "1,000 guests")


def extents(study: Study) -> None:
    """Measure the plan of a thousand guests with ten thousand extents each."""
    with study.place("extents") as folder:
        guests, pieces = 1000 // study.smaller, 10_000 // study.smaller
        fleet = fleets.trimmed(folder, size=study.size(4 * GIB), guests=guests, pieces=pieces)
        study.races.append(large_plan(fleet, study.rounds))
        study.note_memory(fleet, "1,000 guests with 10,000 extents each")


def discover(study: Study) -> None:
    """Find the templates of a thousand images."""
    with study.place("discover") as folder:
        fleet = many_images(folder, size=40 * GIB, images=1000 // study.smaller)
        race, facts = discovery(fleet, study.rounds)
        study.races.append(race)
        study.facts += facts


def different(study: Study) -> None:
    """Plan guests that have nothing in common with their template."""
    with study.place("different") as folder:
        fleet = fleets.raw(folder, size=study.size(4 * GIB), guests=4, changed=1)
        study.races.append(warm_race("different", fleet, entries_of(fleet, (PLAN, LIMIT)), study.rounds))


def dask(study: Study) -> None:
    """Plan with the workers of a Dask scheduler, as hosts that share storage would."""
    with study.place("dask") as folder:
        fleet = fleets.raw(folder, size=study.size(4 * GIB), guests=4, share=_SHARE_OF_SIXTEEN)
        study.races.append(workers_race(fleet, study.rounds))
    with study.place("hosts") as folder:
        # One guest, so that a range takes a host no longer than two seconds, and all hosts end at the same time.
        fleet = fleets.raw(folder, size=study.size(8 * GIB), guests=1, share=_SHARE_OF_SIXTEEN)
        fleet = fleets.described(fleet, f"{fleet.what}, a fifth allocated: hosts with a limited rate")
        study.races.append(hosts_race(fleet, study.rounds))


def startup(study: Study) -> None:
    """Time commands that do next to nothing."""
    with study.place("startup") as folder:
        fleet = fleets.raw(folder, size=MIB, guests=4)
        study.races.append(start_up(fleet, 4 * study.rounds))


def reads(study: Study) -> None:
    """Count how often the template is read, by number of guests."""
    with study.place("reads") as folder:
        study.facts += template_reads(fleets.raw(folder, size=64 * MIB + 12 * KIB, guests=16))


def scaling(study: Study) -> None:
    """Measure the growth of time and memory."""
    study.points += scaling_points(study.place, study.size, study.rounds)


STUDIES: dict[str, Callable[[Study], None]] = {
    "raw": raw,
    "sixteen": sixteen,
    "verification": verification,
    "qcow2": qcow2,
    "mapped": mapped,
    "exported": exported,
    "zlib": partial(compressed, kind="zlib"),
    "zstd": partial(compressed, kind="zstd"),
    "reflink": reflink,
    "duplicates": duplicates,
    "sparse": sparse,
    "small": small,
    "thousand": thousand,
    "extents": extents,
    "discover": discover,
    "different": different,
    "dask": dask,
    "startup": startup,
    "reads": reads,
    "scaling": scaling,
}
