"""Measurements that races cannot make: space that apply takes, reads of the template, start-up, deduplication."""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial

from bench.contestants import UNTIL_OPEN, batchdiff, plan_command, plan_path, restored, until_first_open
from bench.fleets import Fleet, fleet_of
from bench.machine import free_bytes, settle
from bench.report import Fact, Race, Series
from bench.running import Run, timed

PLAN_DELETE = "plan + apply, originals deleted"
PLAN_SHARE = "plan + apply, strategy share"
DUPEREMOVE_PARTIAL = "duperemove, partial, 4 KiB blocks"
_DUPEREMOVE = {
    "duperemove": (),
    DUPEREMOVE_PARTIAL: ("--dedupe-options=partial", "-b", "4k"),
}
"""The defaults, with which it compares only whole extents, and the options that freed the most space."""
BARE, VERSION, SHOW = "bare interpreter", "batchdiff --version", "batchdiff show"
GIVEN_BACK = "given back by {}"
NEW_BLOCKS = "new blocks of apply on reflink copies"
TEMPLATE_READS = "template read, guests: {}"

_READING = "read,readv,pread64,preadv,preadv2"
_READ_CALL = re.compile(r"^(?:read|pread64|preadv2?|readv)\(\d+<(?P<path>[^>]*)>.*\) = (?P<count>\d+)$")


def apply_space(fleet: Fleet) -> list[Fact]:
    """Measure the space that apply takes if originals are kept, relative to the bytes that the guests wrote."""
    with restored(fleet):
        timed(plan_command(fleet))
        before = free_bytes(fleet.folder)
        timed(batchdiff("apply", "-q", plan_path(fleet)))
        taken = before - free_bytes(fleet.folder)
    return [
        Fact(NEW_BLOCKS, taken / fleet.changed_bytes, "of the changed bytes"),
        Fact(f"{NEW_BLOCKS}, in bytes", taken, "bytes"),
        Fact("bytes of data that the guests wrote", fleet.changed_bytes, "bytes"),
    ]


def template_reads(fleet: Fleet) -> list[Fact]:
    """Measure, for 1, 4 and all guests, the bytes of the template that all processes read, per allocated byte."""
    facts = []
    for count in (1, 4, len(fleet.guests)):
        names = [member.path for member in fleet.guests[:count]]
        some = fleet_of(fleet.what, fleet.template.path, names, name=f"of-{count}")
        # One log per process, so that no call is interrupted by one of another process.
        trace = ["strace", "-ff", "-y", "-o", f"{some.manifest}.strace", "-e", f"trace={_READING}"]
        subprocess.run([*trace, *plan_command(some)], check=True, stdout=subprocess.DEVNULL)
        allocated = os.stat(fleet.template.path).st_blocks * 512
        read = sum(
            bytes_read(log, os.path.realpath(fleet.template.path)) for log in _logs(f"{some.manifest}.strace")
        )
        facts.append(Fact(TEMPLATE_READS.format(count), read / allocated, "times"))
    return facts


def _logs(stem: str) -> Iterator[str]:
    for path in glob.glob(f"{glob.escape(stem)}.*"):
        with open(path, encoding="utf-8", errors="replace") as file:
            yield file.read()


def bytes_read(log: str, path: str) -> int:
    """Return the bytes of a file that the read calls in a log of ``strace -y`` returned."""
    calls = (_READ_CALL.search(line) for line in log.splitlines())
    return sum(int(call["count"]) for call in calls if call and call["path"] == path)


def start_up(fleet: Fleet, rounds: int) -> Race:
    """Race a bare interpreter, ``--version``, ``show``, and ``plan`` until it opens an image."""
    timed(plan_command(fleet))
    commands = {
        BARE: [sys.executable, "-c", "pass"],
        VERSION: batchdiff("--version"),
        SHOW: batchdiff("show", plan_path(fleet)),
    }
    entries: dict[str, Callable[[], Run]] = {name: partial(timed, argv) for name, argv in commands.items()}
    entries[UNTIL_OPEN] = partial(until_first_open, fleet)
    runs = [{name: entry() for name, entry in entries.items()} for _ in range(rounds + 1)][1:]
    series = tuple(
        Series(name, tuple(run[name].seconds for run in runs), max(run[name].resident for run in runs))
        for name in entries
    )
    return Race("startup", f"start-up; the plan has {len(fleet.guests)} small guests", "warm", series)


def deduplication(fleet: Fleet, rounds: int) -> tuple[Race, list[Fact]]:
    """Race batchdiff and duperemove to free the space of the same full copies; each run has fresh copies.

    duperemove hashes all files and has the kernel share equal blocks; the images stay full images. batchdiff
    plans, then writes and verifies overlays and deletes the copies; or it plans, then shares blocks as duperemove
    does. Making the copies is not part of the time.
    """
    contestants: dict[str, Callable[[Fleet], Run]] = {PLAN_DELETE: _plan_and_delete, PLAN_SHARE: _plan_and_share}
    contestants |= {name: partial(_duperemove, options) for name, options in _DUPEREMOVE.items()}
    runs: dict[str, list[tuple[Run, int]]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            runs[name].append(_on_fresh_copies(fleet, contestant))
    series = tuple(
        Series(name, tuple(round(run.seconds, 4) for run, _ in each), max(run.resident for run, _ in each))
        for name, each in runs.items()
    )
    allocated = sum(os.stat(member.path).st_blocks * 512 for member in fleet.guests)
    facts = [
        Fact(GIVEN_BACK.format(name), min(space for _, space in each) / allocated, "of the copies' space")
        for name, each in runs.items()
    ]
    return Race("duplicates", fleet.what, "warm", series), facts


def _on_fresh_copies(fleet: Fleet, contestant: Callable[[Fleet], Run]) -> tuple[Run, int]:
    """Return a run, and the bytes by which free space grew."""
    folder = os.path.join(fleet.folder, "copies")
    os.mkdir(folder)
    try:
        for path in fleet.images:
            subprocess.run(["cp", "--reflink=never", "--sparse=always", path, folder], check=True)
        template, *names = (os.path.join(folder, os.path.basename(path)) for path in fleet.images)
        copies = fleet_of(fleet.what, template, names)
        before = free_bytes(folder)
        run = contestant(copies)
        return run, free_bytes(folder) - before
    finally:
        shutil.rmtree(folder)
        settle(fleet.folder)


def _plan_and_delete(fleet: Fleet) -> Run:
    apply = batchdiff("apply", "-q", plan_path(fleet), "--retire", "delete", "--yes")
    return timed(plan_command(fleet), apply)


def _plan_and_share(fleet: Fleet) -> Run:
    guests = [member.path for member in fleet.guests]
    sharing = fleet_of(fleet.what, fleet.template.path, guests, name="share", strategy="share")
    return timed(plan_command(sharing), batchdiff("apply", "-q", plan_path(sharing)))


def _duperemove(options: tuple[str, ...], fleet: Fleet) -> Run:
    return timed(["duperemove", "-d", *options, *fleet.images])
