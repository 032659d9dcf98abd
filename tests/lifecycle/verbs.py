"""Batchdiff's commands as an operator gives them: run, judged by the laws, followed in the VMs' definitions."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from disks import digest, kind_of
from laws import Case, Command, offences, untruths
from running import CODES, Done, Kill, finished, killed, options
from world import Guest, Record, Vm, World, look


def execute(world: World, command: Command, *, kill: Kill | None = None, running: Vm | None = None) -> Done:
    """Runs a command and judges it.

    ``kill``: when to kill it. ``running``: a VM that runs meanwhile, so that its disk is in use.

    :raises ViolationError: it did what it must not do.
    """
    world.say(_described(command, kill, running))
    before = look(world)
    broken = frozenset(g.name for g in world.guests.values() if not world.is_sound(world.vm_of(g)))
    dependents = {path: world.dependents(path) for path in before.seen}
    with _running(running):
        done = finished(command.argv) if kill is None else killed(command.argv, kill, world.pool.scratch)
    world.log[-1] += f" -> {'killed' if done.code is None else done.code}"
    after = look(world)
    case = Case(world, command, before, after, done.code is None, broken, dependents)
    _judge(world, case, done, running)
    _note(world, case, done)
    world.settle()
    world.check()
    return done


def _described(command: Command, kill: Kill | None, running: Vm | None) -> str:
    said = " ".join(os.path.basename(word) if word.startswith("/") else word for word in command.argv)
    said += f"   (killed at {kill.call} {kill.number})" if kill else ""
    return said + (f"   (while {running.name} runs)" if running else "")


@contextlib.contextmanager
def _running(vm: Vm | None) -> Iterator[None]:
    """A process of QEMU's that has a VM's disk open for writing, as the VM has."""
    if vm is None:
        yield
        return
    pipe = subprocess.PIPE
    argv = ["qemu-io", "-f", kind_of(vm.disk), vm.disk]
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT) as process:
        try:
            process.stdin.write(b"read 0 512\n")
            process.stdin.flush()
            assert b"512/512" in process.stdout.readline() + process.stdout.readline(), argv
            yield
        finally:
            process.stdin.close()
            process.wait(60)


def _judge(world: World, case: Case, done: Done, running: Vm | None) -> None:
    if "Traceback" in done.said or done.code not in CODES | {None}:
        raise world.violation(f"exit code {done.code}:\n{done.said}")
    found = offences(case) + untruths(case, done.outcomes)
    if running is not None and not case.stays(running.disk):
        found.append(f"{running.disk} went while its VM was running")
    if found:
        raise world.violation("\n".join([*found, done.said]))


def _note(world: World, case: Case, done: Done) -> None:
    """What the operator learns: where overlays are, and which disk each definition must name now."""
    command = case.command
    if case.was_killed:
        world.unsettled |= command.guests
    for name in command.guests:
        guest = world.guests[name]
        if command.reads_only:
            continue
        status = done.outcomes.get(name, {}).get("status", "")
        _note_overlay(world, case, guest, status)
        _follow(world, case, guest, status)
        record = world.plans.get(command.plan)
        if status in {"converted", "retired"} and record is not None:
            record.retired[name] = command.retire
            record.undone_elsewhere.discard(name)
            world.given_back.discard((record.checksum, name))
        if command.verb == "restore" and (case.was_killed or status == "restored") and record is not None:
            world.given_back.add((record.checksum, name))
        if done.code == 0 and os.path.exists(world.vm_of(guest).disk):
            world.unsettled.discard(name)


def _note_overlay(world: World, case: Case, guest: Guest, status: str) -> None:
    before, after = case.before.files.get(guest.overlay), case.after.files.get(guest.overlay)
    was = guest.published
    if status == "restored":
        guest.published = False
    elif before != after:
        guest.published = after is not None and after.backing is not None
    if guest.published and not was:
        guest.old = world.reader.content(guest.overlay)
        guest.version += 1
        guest.marks.discard("discarded")
        world.bases.add(world.template_digest())
    if was and not guest.published:
        guest.version += 1
        guest.marks &= {"discarded"}
        for path, record in world.plans.items():
            if record.retired.pop(guest.name, None) is not None and path != case.command.plan:
                record.undone_elsewhere.add(guest.name)
        if case.command.discard:
            guest.marks.add("discarded")


def _follow(world: World, case: Case, guest: Guest, status: str) -> None:
    """The operator changes the VM's definition as the command said, or to what is there."""
    for vm in (vm for vm in world.vms if vm.guest is guest):
        converted = status in {"converted", "retired"}
        has_original, has_overlay = os.path.exists(guest.path), os.path.exists(guest.overlay)
        went = guest.overlay in case.before.files and not has_overlay
        if vm.disk == guest.path and has_overlay and (converted or not has_original):
            vm.disk = guest.overlay
        elif vm.disk == guest.overlay and has_original and (went or status == "restored"):
            vm.disk, vm.lost, vm.snapshots = guest.path, False, {}
            vm.base = None
        if vm.lost and os.path.exists(vm.disk):
            vm.lost = False  # it is there again: then it must show what the VM saw
            if guest.path in case.before.files and not guest.in_place:
                vm.truth = guest.old  # or what its owner had kept, and now has converted once more
        if case.command.discard and vm.disk == guest.path and not guest.published:
            _accept_the_old_state(world, guest, vm)


def _accept_the_old_state(world: World, guest: Guest, vm: Vm) -> None:
    if vm.lost or (os.path.exists(vm.disk) and world.reader.seen_or_none(vm.disk) == digest(guest.old)):
        vm.truth, vm.lost = guest.old, False


# ---- the commands


def manifest_text(world: World, names: list[str], *, style: str) -> str:
    """A manifest of these guests. ``style``: paths, or globs where they will do."""
    # Every apply here says for itself how it retires; an overlay in its guest's place needs more than "keep".
    retire = "quarantine" if any(world.guests[name].in_place for name in names) else "keep"
    options_ = ", backing_path: relative" if world.relative else ""
    lines = ["version: 1", "template: {path: template.img, format: raw}", f"retire: {retire}", "guests:"]
    if style == "globs" and any(name.startswith("web") for name in names):
        overlay = ", overlay: {backing_path: relative}" if world.relative else ""
        lines.append(f"  - {{glob: 'web*.img', format: raw{overlay}}}")
        names = [name for name in names if not name.startswith("web")]
    for name in names:
        guest = world.guests[name]
        file = os.path.basename(guest.path)
        kind = "qcow2" if file.endswith("qcow2") else "raw"
        own = "path: same" if guest.in_place else f"path: {os.path.basename(guest.overlay)}"
        lines.append(f"  - {{path: {file}, format: {kind}, overlay: {{{own}{options_}}}}}")
    return "\n".join(lines) + "\n"


def plan(world: World, names: list[str], *, output: str, style: str = "paths", kill: Kill | None = None) -> Done:
    """Plans these guests."""
    manifest = world.folder / "fleet.yaml"
    manifest.write_text(manifest_text(world, names, style=style))
    path = world.plan_path(output)
    argv = ("plan", str(manifest), "-o", path, "-j", "1", "--json")
    before = Path(path).read_bytes() if os.path.exists(path) else b""
    there = set(world.plan_files())
    done = execute(world, Command("plan", argv), kill=kill)
    for kept in set(world.plan_files()) - there:
        if Path(kept).read_bytes() == before:
            world.plans[kept] = world.plans[path]
    if done.code in {0, 1, None} and os.path.exists(path) and Path(path).read_bytes() != before:
        _record(world, path)
    return done


def _record(world: World, path: str) -> None:
    document = json.loads(Path(path).read_text())
    verdicts = {guest["name"]: guest["verdict"] for guest in document["guests"]}
    versions = {name: world.guests[name].version for name in verdicts}
    world.plans[path] = Record(world.template_digest(), world.folder, verdicts, versions, document["checksum"])


def about(world: World, verb: str, path: str, *more: str, guest: str | None = None, **asked) -> Command:
    """A command about a plan. Options that this batchdiff does not have are left out."""
    known = options(verb)
    record = world.plans.get(path)
    former = [folder for folder in world.former if record is None or record.folder == folder]
    more += tuple(f"--map {folder}={world.folder}" for folder in former)
    words = [verb, path, "--json", *(("--guest", guest) if guest else ())]
    words += [word for word in _options(more) if word.split()[0] in known for word in word.split()]
    names = frozenset(world.guests if record is None else record.verdicts)
    return Command(verb, tuple(words), frozenset({guest}) if guest else names, path, **asked)


def _options(words: tuple[str, ...]) -> list[str]:
    return [word for word in words if word]


def apply(world: World, path: str, retire: str, *, guest: str | None = None) -> Command:
    """``batchdiff apply``."""
    return about(world, "apply", path, f"--retire {retire}", "--yes", guest=guest, retire=retire)


def restore(
    world: World,
    path: str,
    *,
    guest: str | None = None,
    discard: bool = False,
    allow: frozenset[str] = frozenset(),
    dry: bool = False,
) -> Command:
    """``batchdiff restore``."""
    if dry and "--dry-run" not in options("restore"):
        return about(world, "status", path)
    words = [f"--allow-loss {what}" for what in sorted(allow)]
    discard = discard and "--discard-changes" in options("restore")
    words += ["--discard-changes"] * discard + ["--dry-run"] * dry + ["--yes"]
    return about(world, "restore", path, *words, guest=guest, discard=discard, allow=allow, dry=dry)


def purge(world: World, path: str, *, guest: str | None = None, used: bool = False, dry: bool = False) -> Command:
    """``batchdiff purge``."""
    if dry and "--dry-run" not in options("purge"):
        return about(world, "status", path)
    used = used and "--used" in options("purge")
    words = ["--used"] * used + ["--dry-run"] * dry + ["--yes"]
    return about(world, "purge", path, *words, guest=guest, used=used, dry=dry)


def verify(world: World, path: str) -> Command:
    """``batchdiff verify``."""
    return about(world, "verify", path)


def status(world: World, path: str) -> Command:
    """``batchdiff status``."""
    return about(world, "status", path)
