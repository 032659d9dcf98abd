"""Fleets: a template and its copies, which changed later, in several forms, each in a folder of its own."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from batchdiff.units import GIB, KIB, MIB, TIB, align_up, format_size
from bench.content import (
    ALLOCATED_SHARE,
    SEED,
    converted,
    run_on,
    run_on_qcow2,
    write_all_different,
    write_template,
)

MAPPED = ("vdi", "vmdk", "qed", "vpc", "parallels", "vhdx")
_SECRET = "secret"
EXPORTED = {
    "streamOptimized": ("vmdk", "-o", "subformat=streamOptimized"),
    "LUKS": ("luks", "--object", f"secret,id=s,file={_SECRET}", "-o", "key-secret=s,iter-time=10"),
}
"""Kinds of images that QEMU exports for batchdiff: their format, and options of `qemu-img convert`."""

_FULL_COPY = ("cp", "--sparse=always", "--reflink=never")


@dataclass(frozen=True, slots=True)
class Member:
    """One image of a fleet. ``secret_file``: empty if it is not encrypted."""

    path: str
    format: str
    secret_file: str = ""


@dataclass(frozen=True, slots=True)
class Fleet:
    """A template, its guests and a manifest; ``what`` is a description for the report.

    ``changed_bytes``: bytes of data that the guests wrote, if that is known.
    """

    what: str
    template: Member
    guests: tuple[Member, ...]
    manifest: str
    changed_bytes: int = 0

    @property
    def folder(self) -> str:
        """The folder that contains all of its files."""
        return os.path.dirname(self.manifest)

    @property
    def images(self) -> tuple[str, ...]:
        """Paths of all images, the template's first."""
        return tuple(member.path for member in (self.template, *self.guests))


def fleet_of(
    what: str,
    template: str,
    guests: list[str],
    *,
    name: str = "fleet",
    changed_bytes: int = 0,
    strategy: str = "",
) -> Fleet:
    """Return a fleet of existing images and write a manifest beside them; the suffixes are the formats.

    ``strategy``: that of all guests, if it is not the default one.
    """
    members = [Member(path, path.rpartition(".")[2]) for path in (template, *guests)]
    entries = [f"{{path: {os.path.basename(member.path)}, format: {member.format}}}" for member in members]
    manifest = os.path.join(os.path.dirname(template), f"{name}.yaml")
    with open(manifest, "w", encoding="ascii") as file:
        if strategy:
            file.write(f"strategy: {strategy}\n")
        file.write(f"version: 1\ntemplate: {entries[0]}\nguests:\n")
        file.writelines(f"  - {entry}\n" for entry in entries[1:])
    return Fleet(what, members[0], tuple(members[1:]), manifest, changed_bytes)


def described(fleet: Fleet, what: str) -> Fleet:
    """Return the same fleet with another description."""
    return replace(fleet, what=what)


def raw(
    folder: str,
    *,
    size: int,
    guests: int,
    changed: float = 0.04,
    share: float = ALLOCATED_SHARE,
    copy: tuple[str, ...] = _FULL_COPY,
) -> Fleet:
    """Make copies of a raw template; ``changed`` is the share of their clusters that they wrote to."""
    os.makedirs(folder)
    template = os.path.join(folder, "template.raw")
    write_template(template, size, share=share)
    names = [os.path.join(folder, f"guest{number}.raw") for number in range(guests)]
    changed_bytes = 0
    for number, name in enumerate(names):
        if changed == 1:
            write_all_different(name, size)
        else:
            subprocess.run([*copy, template, name], check=True)
            changed_bytes += run_on(name, size, changed, number)
    many = f"{guests} raw guest{'' if guests == 1 else 's'}"
    what = f"{many} of {format_size(size)}, {changed:.0%} changed"
    return fleet_of(what, template, names, changed_bytes=changed_bytes)


def forms(folder: str, *, size: int, guests: int) -> dict[str, Fleet]:
    """Make the same content as raw, as qcow2, and with either as the template of the other."""
    first = raw(folder, size=size, guests=guests)
    template, *names = first.images
    qcow2_template, *qcow2_names = [converted(path) for path in first.images]
    pairs = {
        "raw": (template, names),
        "qcow2 guests": (template, qcow2_names),
        "qcow2 template": (qcow2_template, names),
        "qcow2": (qcow2_template, qcow2_names),
    }
    return {name: fleet_of(first.what, *pair, name=name.replace(" ", "-")) for name, pair in pairs.items()}


def mapped(folder: str, *, size: int, guests: int) -> dict[str, Fleet]:
    """Make the same guests of one raw template as raw, and in each format that QEMU maps for batchdiff."""
    first = raw(folder, size=size, guests=guests)
    template, *names = first.images
    made = {form: [converted(path, form=form) for path in names] for form in MAPPED}
    return {"raw": first} | {form: fleet_of(first.what, template, made[form], name=form) for form in MAPPED}


def exported(folder: str, *, size: int) -> dict[str, Member]:
    """Make an image of each kind that QEMU exports, all with the same compressible content."""
    os.makedirs(folder)
    content = os.path.join(folder, "content.raw")
    write_template(content, size, compressible=True)
    secret = os.path.join(folder, _SECRET)
    with open(secret, "w", encoding="ascii") as file:
        file.write("a secret of the benchmark")
    made = {}
    for kind, (form, *options) in EXPORTED.items():
        own = [option.replace(f"file={_SECRET}", f"file={secret}") for option in options]
        made[kind] = Member(converted(content, *own, form=form), form, secret if own != options else "")
    return made


def compressed(folder: str, kind: str, *, size: int, guests: int, changed: float = 0.04) -> Fleet:
    """Make copies of a compressed qcow2 template, such as a cloud image, with uncompressed changes."""
    os.makedirs(folder)
    content = os.path.join(folder, "template.raw")
    write_template(content, size, compressible=True)
    template = converted(content, "-c", "-o", f"compression_type={kind}")
    os.unlink(content)
    names = [os.path.join(folder, f"guest{number}.qcow2") for number in range(guests)]
    for number, name in enumerate(names):
        subprocess.run(["cp", "--reflink=never", template, name], check=True)
        run_on_qcow2(name, size, changed, number)
    what = f"{guests} copies of a {kind}-compressed template of {format_size(size)}, {changed:.0%} changed"
    return fleet_of(what, template, names)


def sparse(folder: str) -> Fleet:
    """Make an almost empty template and guest of 15 TiB, about the largest file that ext4 allows."""
    os.makedirs(folder)
    names = [os.path.join(folder, f"{name}.raw") for name in ("template", "guest0")]
    for number, name in enumerate(names):
        with open(name, "wb") as file:
            file.truncate(15 * TIB)
            for where in (0, 7 * TIB, 15 * TIB - MIB):
                file.seek(where)
                file.write(random.Random(SEED + number * (where > 0)).randbytes(MIB))
    return fleet_of("1 raw guest of 15 TiB, almost empty", names[0], names[1:])


def thousand(folder: str, *, size: int, guests: int = 1000) -> Fleet:
    """Make very many guests with little data."""
    os.makedirs(folder)
    names = _named(folder, guests)
    rng = random.Random(SEED)
    content = rng.randbytes(256 * KIB)
    for name in names:
        with open(name, "wb") as file:
            file.truncate(size)
            for where in (0, size // 2):
                file.seek(where)
                file.write(content)
            file.seek(size // 2)
            file.write(rng.randbytes(4 * KIB))
    return fleet_of(f"{guests} raw guests of {format_size(size)}, almost empty", names[0], names[1:])


def _named(folder: str, guests: int) -> list[str]:
    """Return the paths of a template and of ``guests`` guests."""
    return [os.path.join(folder, f"{name}.raw") for name in ("template", *(f"guest{n}" for n in range(guests)))]


def trimmed(folder: str, *, size: int, guests: int = 1000, pieces: int = 10_000) -> Fleet:
    """Make very many guests, each trimmed in the many places where the template has small pieces of data."""
    os.makedirs(folder)
    template, *names = _named(folder, guests)
    rng = random.Random(SEED)
    kept, piece = rng.randbytes(MIB), rng.randbytes(8 * KIB)
    for name in (template, *names):
        with open(name, "wb") as file:
            file.truncate(size)
            file.write(kept)
            file.seek(rng.randrange(MIB, size - 4 * KIB))
            file.write(rng.randbytes(4 * KIB))
    with open(template, "r+b") as file:
        for number in range(pieces):
            file.seek(align_up(MIB + number * ((size - MIB) // pieces), 4 * KIB))
            file.write(piece)
    what = f"{guests} raw guests of {format_size(size)}, trimmed in {pieces} places where the template has data"
    return fleet_of(what, template, names)


@contextmanager
def xfs(folder: str, size: int) -> Iterator[str]:
    """Mount an XFS filesystem from a sparse file and yield the path of a folder on it; needs root."""
    os.makedirs(folder)
    disk, mount = os.path.join(folder, "xfs.img"), os.path.join(folder, "mnt")
    with open(disk, "wb") as file:
        file.truncate(size + GIB)
    os.mkdir(mount)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", disk], check=True)
    subprocess.run(["mount", "-o", "loop", disk, mount], check=True)
    try:
        # Without direct I/O, all data would be in the page cache twice, and the fleet would not fit into it.
        findmnt = ["findmnt", "--noheadings", "--output", "SOURCE", mount]
        device = subprocess.run(findmnt, capture_output=True, text=True, check=True).stdout.strip()
        subprocess.run(["losetup", "--direct-io=on", device], check=True)
        yield os.path.join(mount, "fleet")
    finally:
        subprocess.run(["umount", mount], check=True)
