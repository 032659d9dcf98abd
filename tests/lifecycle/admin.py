"""What administrators and VMs do to a fleet in its life: with QEMU's tools, cp and mv, never with batchdiff.

Each function does it to the files and to the model. The caller has seen to it that it makes sense.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import notation
from disks import backing_name, bitmaps_of, chain, kind_of, padded, scan
from world import Vm, World

STEP = 64 << 10

TOUCHES = ("utime", "writable", "read-only", "rewritten", "replaced")
"""What may happen to a template's file that leaves its content as it is."""


def _qemu_img(*words: str) -> None:
    notation.run("qemu-img", *words)


def _touched_original(world: World, vm: Vm) -> None:
    """Plans made before don't fit any more where the VM still runs on its full copy."""
    guest = vm.guest
    if guest is not None and vm.disk == guest.path and not (guest.in_place and guest.published):
        guest.version += 1


def _mark(vm: Vm, what: str) -> None:
    if vm.guest is not None:
        vm.guest.marks.add(what)


# ---- what VMs do


def write(world: World, vm: Vm, at: int, length: int, letter: int) -> None:
    """The VM writes; ``at`` and ``length`` in sectors, taken modulo what there is."""
    sectors = len(vm.truth) // 512
    at = at % sectors
    length = min(length, sectors - at)
    world.say(f"{vm.name} writes {length} sectors at {at} to {os.path.basename(vm.disk)}")
    command = f"write -P {letter} {at * 512} {length * 512}"
    notation.qemu_io(vm.disk, command, image_format=kind_of(vm.disk))
    truth = bytearray(vm.truth)
    truth[at * 512 : (at + length) * 512] = bytes([letter]) * (length * 512)
    vm.truth = bytes(truth)
    _touched_original(world, vm)


# ---- snapshots and clones


def snapshot(world: World, vm: Vm) -> None:
    """An internal snapshot."""
    name = world.new_name("snapshot", "")
    world.say(f"internal {name} in {os.path.basename(vm.disk)}")
    _qemu_img("snapshot", "-c", name, vm.disk)
    vm.snapshots[name] = vm.truth
    _touched_original(world, vm)


def revert(world: World, vm: Vm) -> None:
    """Back to the newest internal snapshot."""
    name = list(vm.snapshots)[-1]
    world.say(f"{vm.name} goes back to {name}")
    _qemu_img("snapshot", "-a", name, vm.disk)
    vm.truth = vm.snapshots[name]
    _touched_original(world, vm)


def forget_snapshots(world: World, vm: Vm) -> None:
    """Deletes all internal snapshots."""
    world.say(f"internal snapshots of {vm.name} deleted")
    for name in vm.snapshots:
        _qemu_img("snapshot", "-d", name, vm.disk)
    vm.snapshots = {}
    _touched_original(world, vm)


def bitmap(world: World, vm: Vm) -> None:
    """A persistent bitmap, as for backups."""
    name = world.new_name("bitmap", "")
    world.say(f"{name} in {os.path.basename(vm.disk)}")
    _qemu_img("bitmap", "--add", vm.disk, name)
    _touched_original(world, vm)


def has_bitmaps(vm: Vm) -> bool:
    """Whether there are bitmaps in a VM's disk."""
    return bitmaps_of(vm.disk) > 0


def external(world: World, vm: Vm, how: str) -> None:
    """An external snapshot: from now on the VM runs on a new file that rests on its disk."""
    target = os.path.join(os.path.dirname(vm.disk), world.new_name("external", ".qcow2"))
    _linked(world, vm, target, how)
    world.say(f"external snapshot of {vm.name}: {os.path.basename(target)} ({how})")
    _touched_original(world, vm)
    vm.disk, vm.snapshots = target, {}


def commit(world: World, vm: Vm) -> None:
    """The external snapshot's changes go down, and the VM runs on the file below again."""
    below = chain(vm.disk)[1]
    world.say(f"{os.path.basename(vm.disk)} committed into {os.path.basename(below)}")
    _qemu_img("commit", "-q", vm.disk)
    os.unlink(vm.disk)
    vm.disk, vm.snapshots = below, {}
    before = padded(vm.truth)
    # The file below does not get smaller.
    vm.truth = world.reader.content(below)
    assert vm.truth[: len(before)] == before
    _touched_original(world, vm)


def clone(world: World, vm: Vm, how: str) -> None:
    """A linked clone: a VM of its own on a file that rests on the disk of this one, which is shut down."""
    target = os.path.join(os.path.dirname(vm.disk), world.new_name("clone", ".qcow2"))
    _linked(world, vm, target, how)
    world.say(f"linked clone of {vm.name}: {os.path.basename(target)} ({how})")
    world.vms.append(Vm(Path(target).stem, target, vm.truth))
    _touched_original(world, vm)


def _linked(world: World, vm: Vm, target: str, how: str) -> None:
    name = vm.disk
    if how == "relative":
        name = os.path.basename(name)
    elif how == "symlink":
        name = os.path.join(os.path.dirname(vm.disk), world.new_name("link", ""))
        os.symlink(os.path.basename(vm.disk), name)
    _qemu_img("create", "-q", "-f", "qcow2", "-b", name, "-F", kind_of(vm.disk), target)


def drop(world: World, vm: Vm) -> None:
    """A linked clone is not needed any more."""
    world.say(f"{vm.name} is deleted")
    os.unlink(vm.disk)
    world.vms.remove(vm)


# ---- files


def _replace(source: str, target: str) -> None:
    os.rename(source, target)


def compact(world: World, vm: Vm) -> None:
    """``qemu-img convert -B``: the same content in a new file; snapshots and bitmaps are not kept."""
    world.say(f"{os.path.basename(vm.disk)} is compacted")
    new = vm.disk + ".new"
    _qemu_img("convert", "-f", "qcow2", "-O", "qcow2", "-B", world.template, "-F", "raw", vm.disk, new)
    _replace(new, vm.disk)
    vm.snapshots = {}
    _mark(vm, "replaced")


def flatten(world: World, vm: Vm, how: str) -> None:
    """The disk no longer rests on anything: rebased in place, or converted to a standalone in its place."""
    world.say(f"{os.path.basename(vm.disk)} is flattened ({how})")
    if how == "rebase":
        _qemu_img("rebase", "-f", "qcow2", "-b", "", vm.disk)
    else:
        new = vm.disk + ".new"
        _qemu_img("convert", "-f", "qcow2", "-O", "qcow2", vm.disk, new)
        _replace(new, vm.disk)
        vm.snapshots = {}
    _mark(vm, "flattened")


def transfer(world: World, vm: Vm) -> None:
    """Another file with the same bytes at the same place, as rsync or a storage migration leaves it."""
    world.say(f"{os.path.basename(vm.disk)} is copied and put in its own place")
    new = vm.disk + ".new"
    shutil.copy2(vm.disk, new)
    _replace(new, vm.disk)
    _mark(vm, "replaced")
    _touched_original(world, vm)


def back_up(world: World, vm: Vm) -> None:
    """A copy of the disk's file, in another folder."""
    target = str(world.elsewhere / world.new_name("copy", Path(vm.disk).suffix))
    world.say(f"{os.path.basename(vm.disk)} is copied to {os.path.basename(target)}")
    shutil.copy2(vm.disk, target)
    world.copies[vm.name] = (target, vm.disk, vm.truth, vm.base, dict(vm.snapshots))


def from_backup(world: World, vm: Vm, how: str) -> None:
    """The copy comes back to where it was made: into the file that is there, or in its place."""
    source, vm.disk, vm.truth, vm.base, snapshots = world.copies[vm.name]
    world.say(f"{os.path.basename(source)} is copied back to {os.path.basename(vm.disk)} ({how})")
    if how == "into":
        shutil.copyfile(source, vm.disk)
    else:
        shutil.copy2(source, vm.disk + ".new")
        _replace(vm.disk + ".new", vm.disk)
    vm.snapshots, vm.lost = dict(snapshots), False
    _mark(vm, "replaced")
    guest = vm.guest
    if guest is not None:
        guest.version += 1
        if guest.in_place:
            guest.published = scan(Path(vm.disk).parent)[vm.disk].backing is not None


def move(world: World, vm: Vm) -> None:
    """The disk moves to another folder, and the VM's definition names it there."""
    target = str(world.elsewhere / os.path.basename(vm.disk))
    world.say(f"{os.path.basename(vm.disk)} is moved elsewhere")
    _touched_original(world, vm)
    os.rename(vm.disk, target)
    vm.disk = target
    _mark(vm, "moved")


def move_back(world: World, vm: Vm) -> None:
    """And back."""
    target = str(world.folder / os.path.basename(vm.disk))
    world.say(f"{os.path.basename(vm.disk)} is moved back")
    os.rename(vm.disk, target)
    vm.disk = target
    if vm.guest is not None:
        vm.guest.marks.discard("moved")
    _touched_original(world, vm)


def lose(world: World, vm: Vm) -> None:
    """The disk is deleted by mistake."""
    world.say(f"{os.path.basename(vm.disk)} is deleted by mistake")
    os.unlink(vm.disk)
    vm.lost, vm.snapshots = True, {}


def resize(world: World, vm: Vm, steps: int) -> None:
    """The disk gets larger, or smaller, by steps of 64 KiB."""
    size = len(padded(vm.truth)) + steps * STEP
    world.say(f"{os.path.basename(vm.disk)} is resized to {size}")
    shrink = ["--shrink"] if size < len(vm.truth) else []
    _qemu_img("resize", "-q", *shrink, "-f", kind_of(vm.disk), vm.disk, str(size))
    before = vm.truth
    # What is shrunk and grown again may show what was there before, within a cluster: QEMU says what it is.
    vm.truth = world.reader.content(vm.disk)
    least = min(size, len(before))
    assert (len(vm.truth), vm.truth[:least]) == (size, before[:least])
    _touched_original(world, vm)


def chmod(world: World, vm: Vm) -> None:
    """Only the mode of a disk's file changes, and so its ctime."""
    world.say(f"mode of {os.path.basename(vm.disk)} changed")
    os.chmod(vm.disk, 0o640 if os.stat(vm.disk).st_mode & 0o077 else 0o600)


def remove_aside(world: World, path: str) -> None:
    """An original that is not needed any more is deleted by hand."""
    world.say(f"{os.path.basename(path)} is deleted by hand")
    os.unlink(path)
    for guest in world.guests.values():
        if path in guest.names:
            guest.marks.add("original removed")
            guest.version += 1


def take_back(world: World, vm: Vm) -> None:
    """Somebody undoes a conversion with ``mv``, and the VM runs on its original again."""
    guest = vm.guest
    assert guest is not None
    world.say(f"{os.path.basename(guest.quarantine)} gets its name back by hand")
    os.rename(guest.quarantine, guest.path)
    vm.disk, vm.truth, vm.base, vm.snapshots, vm.lost = guest.path, guest.old, None, {}, False
    guest.published = guest.published and not guest.in_place
    guest.version += 1
    guest.marks.add("taken back")


# ---- the template and the pool


def touch_template(world: World, how: str) -> None:
    """What it holds stays; its times, its mode or the file itself change."""
    world.say(f"the template: {how}")
    match how:
        case "utime":
            os.utime(world.template)
        case "writable":
            os.chmod(world.template, 0o644)
        case "read-only":
            os.chmod(world.template, 0o444)
        case "rewritten":
            content = Path(world.template).read_bytes()
            os.chmod(world.template, 0o644)
            Path(world.template).write_bytes(content)
        case "replaced":
            shutil.copyfile(world.template, world.template + ".new")
            _replace(world.template + ".new", world.template)


def change_template(world: World, at: int) -> None:
    """Somebody writes to it: every disk that rests on it is broken until the old content is back."""
    world.say(f"the template changes at sector {at}")
    os.chmod(world.template, 0o644)
    with open(world.template, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(at * 512 % size)
        file.write(b"?" * 512)


def bring_template_back(world: World) -> None:
    """The template's first content is back."""
    world.say("the template's first content comes back")
    os.chmod(world.template, 0o644)
    with open(world.template, "r+b") as file:
        file.write(world.first_template)


def remount(world: World) -> None:
    """The pool gets other device numbers."""
    world.say("the pool is mounted through another loop device")
    world.pool.remount()


def move_pool(world: World) -> None:
    """The whole pool gets another name, and the overlays the new one of their template, as docs/moving.md says."""
    old, new = world.folder, world.folder.with_name(world.new_name("images", ""))
    world.say(f"the pool moves to {new.name}")
    os.rename(old, new)
    world.moved(new)
    for path in scan(new):
        name = None if os.path.islink(path) else backing_name(path)
        if name is not None and name.startswith(f"{old}/"):
            there = str(new) + name.removeprefix(str(old))
            _qemu_img("rebase", "-u", "-f", "qcow2", "-b", there, "-F", kind_of(there), path)


def lose_journal(world: World, plan: str) -> None:
    """The journal of a plan is deleted."""
    world.say(f"the journal of {os.path.basename(plan)} is deleted")
    os.unlink(f"{plan}.journal")
    for guest in world.guests.values():
        guest.marks.add("journal lost")
