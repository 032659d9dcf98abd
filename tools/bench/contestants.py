"""The contestants on a fleet: batchdiff, and the ways to do the same with QEMU's tools."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial

from bench.fleets import Fleet, Member
from bench.limit import read_limit
from bench.machine import settle
from bench.running import Run, timed

JOBS = 2
SMALL_GUESTS = 64

Contestant = Callable[[Fleet], Run]


def batchdiff(*arguments: str) -> list[str]:
    """Return the command line of batchdiff in this Python."""
    return [sys.executable, "-m", "batchdiff", *arguments]


def plan_path(fleet: Fleet) -> str:
    """Return the path of a fleet's plan in the benchmark."""
    return f"{fleet.manifest}.plan.json"


def plan_command(fleet: Fleet, jobs: int = JOBS) -> list[str]:
    """Return the command line of ``batchdiff plan`` for a fleet."""
    return batchdiff("plan", "-q", "-j", str(jobs), "-o", plan_path(fleet), fleet.manifest)


def until_first_open(fleet: Fleet) -> Run:
    """Time ``batchdiff plan`` until it opens the first image: its start-up, which does not depend on the fleet.

    :raises RuntimeError: it fails, or exits without opening an image.
    """
    output = f"{fleet.manifest}.never-written.json"
    until_open = [sys.executable, "-m", "bench.start", *fleet.images]
    with restored(fleet):
        run = timed([*until_open, "--", "plan", "-q", "-j", str(JOBS), "-o", output, fleet.manifest])
        if os.path.exists(output):
            raise RuntimeError("batchdiff plan did not open any image of its manifest")
    return run


@contextlib.contextmanager
def restored(fleet: Fleet) -> Iterator[None]:
    """Remove the files that a contestant made, outside its time, and make the template writable again."""
    before = set(os.listdir(fleet.folder))
    try:
        yield
    finally:
        for name in set(os.listdir(fleet.folder)) - before:
            path = os.path.join(fleet.folder, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        os.chmod(fleet.template.path, 0o644)


def plan(fleet: Fleet, *, jobs: int = JOBS) -> Run:
    """Time ``batchdiff plan``."""
    with restored(fleet):
        return timed(plan_command(fleet, jobs))


def plan_and_apply(fleet: Fleet) -> Run:
    """Time ``batchdiff plan`` and ``apply`` with full verification by QEMU."""
    with restored(fleet):
        return timed(plan_command(fleet), batchdiff("apply", "-q", plan_path(fleet)))


def apply(fleet: Fleet, *options: str) -> Run:
    """Time ``batchdiff apply``; its plan is made beforehand, outside the measured time."""
    with restored(fleet):
        timed(plan_command(fleet))
        settle(fleet.folder)
        return timed(batchdiff("apply", "-q", *options, plan_path(fleet)))


def checks(fleet: Fleet) -> Run:
    """Time QEMU alone as it checks and compares overlays one after another; ``apply`` writes them beforehand."""
    with restored(fleet):
        timed(plan_command(fleet), batchdiff("apply", "-q", "--verify", "native", plan_path(fleet)))
        settle(fleet.folder)
        overlays = [(guest, Member(f"{guest.path.removesuffix('.raw')}.qcow2", "qcow2")) for guest in fleet.guests]
        return timed(
            *(
                command
                for guest, overlay in overlays
                for command in (["qemu-img", "check", "-q", overlay.path], _compare(guest, overlay))
            )
        )


def rebase(fleet: Fleet) -> Run:
    """Time ``qemu-img create`` on each guest and ``rebase`` onto the template."""
    with restored(fleet):
        return timed(*(command for guest in fleet.guests for command in _rebase(fleet, guest)))


def rebase_and_compare(fleet: Fleet) -> Run:
    """Time what :func:`rebase` runs, and ``qemu-img compare`` of each overlay with its original."""
    commands = []
    for guest in fleet.guests:
        commands += [*_rebase(fleet, guest), _compare(guest, Member(_overlay(guest), "qcow2"))]
    with restored(fleet):
        return timed(*commands)


def compare(fleet: Fleet) -> Run:
    """Time ``qemu-img compare`` of each guest with itself: with the template, it would stop at a difference."""
    return timed(*(_compare(guest, guest) for guest in fleet.guests))


def _compare(one: Member, other: Member) -> list[str]:
    return ["qemu-img", "compare", "-q", "-f", one.format, "-F", other.format, one.path, other.path]


def _rebase(fleet: Fleet, guest: Member) -> list[list[str]]:
    overlay, template = _overlay(guest), fleet.template
    return [
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", guest.path, "-F", guest.format, overlay],
        ["qemu-img", "rebase", "-q", "-f", "qcow2", "-b", template.path, "-F", template.format, overlay],
    ]


def _overlay(guest: Member) -> str:
    return f"{guest.path}.rebased"


def limit(fleet: Fleet) -> Run:
    """Time processes that read every allocated byte once and do nothing with it."""
    return read_limit(fleet.images, JOBS)


def verification_limit(fleet: Fleet) -> Run:
    """Time processes that read what a verification must read: each guest, and the template once for each guest."""
    return read_limit([path for guest in fleet.guests for path in (fleet.template.path, guest.path)], JOBS)


PLAN, PLAN_APPLY, LIMIT = "plan", "plan + apply", "read limit"
UNTIL_OPEN = "plan, until it opens an image"
REBASE, REBASE_COMPARE, COMPARE = "create + rebase", "create + rebase + compare", "compare"
ONE_JOB = "plan, 1 job"
APPLY, APPLY_CHANGED, APPLY_NATIVE = (f"apply, --verify {mode}" for mode in ("full", "changed", "native"))
VERIFICATION_LIMIT = "read limit of a verification"
APPLY_ONE, CHECKS = "apply, 1 job", "QEMU's check and compare"

ALL: dict[str, Contestant] = {
    PLAN: plan,
    PLAN_APPLY: plan_and_apply,
    LIMIT: limit,
    REBASE: rebase,
    REBASE_COMPARE: rebase_and_compare,
    COMPARE: compare,
    ONE_JOB: partial(plan, jobs=1),
    UNTIL_OPEN: until_first_open,
    APPLY: apply,
    APPLY_CHANGED: lambda fleet: apply(fleet, "--verify", "changed"),
    APPLY_NATIVE: lambda fleet: apply(fleet, "--verify", "native"),
    VERIFICATION_LIMIT: verification_limit,
    APPLY_ONE: lambda fleet: apply(fleet, "-j", "1"),
    CHECKS: checks,
}
