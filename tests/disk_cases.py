"""Small fleets on many filesystems: what a plan promises to save, and what df shows once it was applied.

``python tests/disk_cases.py FOLDER`` prints the table of docs/plan-format.md; that needs root and a minute.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from filesystems import look_again, mounted, settle, tmpfs
from notation import run

from batchdiff.cli import main
from batchdiff.units import GIB, KIB, MIB, format_size

MANIFEST = """\
version: 1
template: {{path: {template}, format: raw}}
defaults: {{format: raw, overlay: {{{overlay}}}}}
guests: [{{glob: '{guests}/guest*.img'}}]
retire: delete
"""
WORDS = [random.Random(seed).randbytes(6) for seed in range(300)]


class Promise(NamedTuple):
    """What a plan says of its total, and by how much free space grew; in bytes."""

    saved: int
    exactness: str
    given_back: int
    on_disk: tuple[int, int]
    """What the overlays take: as planned, and as st_blocks has it."""
    unit: int


class Case(NamedTuple):
    """``place``: makes a folder below another; ``fill``: writes template and guests of ``size`` bytes there."""

    name: str
    place: Callable[[Path], AbstractContextManager[Path]]
    fill: Callable[[Path, int], None]
    exactness: str = "exact"


def noise(rng: random.Random, length: int) -> bytes:
    return rng.randbytes(length)


def text(rng: random.Random, length: int) -> bytes:
    """What zstd makes a fifth of."""
    return b"".join(rng.choices(WORDS, k=length // 6 + 1))[:length]


def write_template(path: Path, size: int, content: Callable[[random.Random, int], bytes] = noise) -> None:
    """Three quarters data, in pieces of 3 MiB."""
    rng = random.Random(3)
    with path.open("wb") as file:
        for offset in range(0, size, 4 * MIB):
            file.seek(offset)
            file.write(content(rng, min(3 * MIB, size - offset)))
        file.truncate(size)


def rewrite(path: Path, size: int, seed: int, content: Callable[[random.Random, int], bytes] = noise) -> None:
    """Some 10 % of it, in blocks, clusters and odd places; a third with zeros, which an overlay has for free."""
    rng = random.Random(seed)
    with path.open("r+b") as file:
        for _ in range(size // MIB):
            length = rng.choice((512, 4 * KIB, 4 * KIB, 20_000, 64 * KIB, 200_001))
            file.seek(rng.randrange(0, size - length, 512))
            file.write(content(rng, length) if rng.random() < 0.7 else bytes(length))
            file.seek(rng.randrange(0, size - 128 * KIB, 64 * KIB))
            file.write(bytes(128 * KIB if rng.random() < 0.3 else 512))
        os.fsync(file.fileno())


def copies(
    reflink: str = "never", content: Callable[[random.Random, int], bytes] = noise
) -> Callable[[Path, int], None]:
    def fill(folder: Path, size: int) -> None:
        write_template(folder / "template.img", size, content)
        run("sync", "-f", str(folder))
        for number in range(2):
            copy(folder / "template.img", folder / f"guest{number}.img", reflink)
            rewrite(folder / f"guest{number}.img", size, number, content)

    return fill


def copy(source: Path, target: Path, reflink: str = "never") -> None:
    run("cp", f"--reflink={reflink}", "--sparse=auto", str(source), str(target))
    run("sync", "-f", str(target))


def clones_of_a_clone(folder: Path, size: int) -> None:
    """Two guests share what the template has not: that comes back with the second of them."""
    write_template(folder / "template.img", size)
    copy(folder / "template.img", folder / "guest0.img")
    rewrite(folder / "guest0.img", size, 1)
    copy(folder / "guest0.img", folder / "guest1.img", "always")
    rewrite(folder / "guest1.img", size, 2)


def with_snapshot(folder: Path, size: int) -> None:
    """A snapshot keeps what the guests were when it was taken."""
    volume = folder / "volume"
    run("btrfs", "subvolume", "create", str(volume))
    copies()(volume, size)
    run("btrfs", "subvolume", "snapshot", "-r", str(volume), str(folder / "snapshot"))
    for number in range(2):
        rewrite(volume / f"guest{number}.img", size, 10 + number)


def with_extent_hint(folder: Path, size: int) -> None:
    """As QEMU leaves its images: space is taken 1 MiB at once."""
    run("xfs_io", "-c", "extsize 1m", str(folder))
    copies()(folder, size)


def filesystem(kind: str, *make: str, options: str = "loop") -> Callable[[Path], AbstractContextManager[Path]]:
    return lambda folder: mounted(folder, kind, GIB, make=make, options=options)


def memory(options: str) -> Callable[[Path], AbstractContextManager[Path]]:
    return lambda folder: tmpfs(folder, options)


@contextlib.contextmanager
def layers(folder: Path) -> Iterator[Path]:
    """An overlayfs whose upper layer is on ext4; ``below`` is its lower one."""
    with mounted(folder, "ext4", GIB) as point:
        for name in ("upper", "work"):
            (point / name).mkdir()
        for name in ("below", "all"):
            (folder / name).mkdir()
        options = f"lowerdir={folder / 'below'},upperdir={point / 'upper'},workdir={point / 'work'}"
        run("mount", "-t", "overlay", "-o", options, "batchdiff-tests", str(folder / "all"))
        try:
            yield folder / "all"
        finally:
            run("umount", "--lazy", str(folder / "all"))


def template_below(folder: Path, size: int) -> None:
    """Taking its write permission copies it to the upper layer."""
    write_template(folder.parent / "below" / "template.img", size)
    look_again(folder)
    for number in range(2):
        copy(folder / "template.img", folder / f"guest{number}.img")
        rewrite(folder / f"guest{number}.img", size, number)


CASES = [
    Case("ext4", filesystem("ext4"), copies()),
    Case("ext4, bigalloc, clusters of 64 KiB", filesystem("ext4", "-O", "bigalloc", "-C", "65536"), copies()),
    Case("XFS", filesystem("xfs"), copies()),
    Case("XFS, blocks of 64 KiB", filesystem("xfs", "-b", "size=65536"), copies()),
    Case("XFS, extent size hint of 1 MiB", filesystem("xfs"), with_extent_hint),
    Case("XFS, reflink copies", filesystem("xfs"), copies("always")),
    Case("XFS, reflink copies of a copy", filesystem("xfs"), clones_of_a_clone, "at_least"),
    Case("btrfs", filesystem("btrfs"), copies()),
    Case("btrfs, reflink copies", filesystem("btrfs"), copies("always")),
    Case("btrfs, with a snapshot", filesystem("btrfs"), with_snapshot, "at_least"),
    Case(
        "btrfs, compressed, of noise",
        filesystem("btrfs", options="loop,compress-force=zstd"),
        copies(),
        "at_least",
    ),
    Case(
        "btrfs, compressed, of text",
        filesystem("btrfs", options="loop,compress-force=zstd"),
        copies(content=text),
        "at_least",
    ),
    Case("tmpfs", memory("size=1g"), copies()),
    Case("tmpfs, huge pages", memory("size=1g,huge=always"), copies(), "at_least"),
    Case("overlayfs, all in the upper layer", layers, copies()),
    Case("overlayfs, template in the lower layer", layers, template_below),
]


def measured(case: Case, folder: Path, size: int, overlay: str = "") -> Promise:
    """Plan and apply a fleet on that filesystem. ``overlay``: the options of its overlays."""
    with case.place(folder) as place:
        case.fill(place, size)
        where = place / "volume" if (place / "volume").exists() else place
        (folder / "fleet.yaml").write_text(
            MANIFEST.format(template=where / "template.img", guests=where, overlay=overlay)
        )
        before = free_bytes(place)
        here("plan", "-q", "-j", "1", folder / "fleet.yaml")
        here("apply", "-q", "--yes", "--unseen", folder / "fleet.plan.json")
        plan = json.loads((folder / "fleet.plan.json").read_text())
        chosen = [guest["savings"] for guest in plan["guests"] if guest["verdict"] == "convert"]
        assert chosen, plan["guests"]
        planned = sum(savings["overlay_disk_bytes"] for savings in chosen)
        taken = sum(
            os.stat(path).st_blocks * 512 for end in ("qcow2", "data.raw") for path in where.glob(f"guest*.{end}")
        )
        saved, unit = plan["totals"]["saved_bytes"], chosen[0]["allocation_unit"]
        return Promise(saved, plan["totals"]["exactness"], grown(place, before, saved), (planned, taken), unit)


def grown(place: Path, before: int, about: int) -> int:
    """By how much the free space has grown: tmpfs may have the last file for some milliseconds more."""
    for _ in range(40):
        found = free_bytes(place) - before
        if found > about * 0.9:
            break
        time.sleep(0.05)
    return found


def free_bytes(place: Path) -> int:
    """What df says when nothing is under way any more."""
    kind = run("stat", "-f", "-c", "%T", str(place)).strip()
    if kind == "xfs":
        # It keeps room with files that were written to by reflink, until some minutes later.
        for mode in ("ro", "rw"):
            run("mount", "-o", f"remount,{mode}", str(place))
    if kind in {"xfs", "btrfs", "ext2/ext3"}:
        settle(place)
    elif kind != "tmpfs":
        run("sync", "-f", str(place))
    status = os.statvfs(place)
    return status.f_bfree * status.f_frsize


def here(*arguments: object) -> str:
    """Run a command in this process, in a tenth of the time."""
    handler, said = signal.getsignal(signal.SIGTERM), io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main.run(list(map(str, arguments)))
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert code == 0, said.getvalue()
    return said.getvalue()


def print_table(folder: Path, size: int) -> None:
    print("| filesystem | planned | df | kind of number |\n|---|---|---|---|")
    for case in CASES:
        with tempfile.TemporaryDirectory(dir=folder) as own:
            found = measured(case, Path(own), size)
        off, kind = found.given_back / found.saved - 1, found.exactness.replace("_", " ")
        sizes = f"{format_size(found.saved)} | {format_size(found.given_back)} ({off:+.1%})"
        print(f"| {case.name} | {sizes} | {kind} |", flush=True)


if __name__ == "__main__":
    print_table(Path(sys.argv[1]), int(sys.argv[2]) * MIB if len(sys.argv) > 2 else 64 * MIB)
