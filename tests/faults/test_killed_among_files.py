"""kill -9 while an original of several files is deleted: nothing that matters is lost; the next run ends it."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import many_files
import notation
import pytest
from commands import COMMAND, batchdiff
from filesystems import mounted
from seeds import seeded

from batchdiff.image.open import open_image
from batchdiff.image_source import ImageFormat, ImageSource

TEMPLATE = "256k:A 256k:B"
CHANGED = "256k:A 64k:X 192k:B"
KINDS = (many_files.FLAT, many_files.DATA_FILE)
CHANGING = "renameat2,rename,unlink,pwrite64,write,ftruncate,fsync,fchmod,copy_file_range"
APPLY = ("apply", "fleet.plan.json", "--retire", "delete", "--yes", "-q")
PURGE = ("purge", "fleet.plan.json", "--yes", "-q")


def prepare(folder: Path, verb: tuple[str, ...]) -> None:
    folder.mkdir(exist_ok=True)
    notation.write_raw(folder / "template.img", TEMPLATE)
    lines = ["version: 1", "template: {path: template.img, format: raw}", "guests:"]
    for kind in KINDS:
        path = folder / f"{kind}.vmdk"
        many_files.write(path, kind, notation.content(CHANGED))
        lines.append(
            f"  - {{path: {path.name}, format: {many_files.form_of(kind)}, overlay: {{path: {kind}.new}}}}"
        )
    (folder / "fleet.yaml").write_text("\n".join(lines))
    batchdiff("plan", "fleet.yaml", "-q", "-j", "1", cwd=folder)
    if verb is PURGE:
        batchdiff("apply", "fleet.plan.json", "--retire", "quarantine", "-q", cwd=folder)


def strace(*options: str) -> list[str]:
    return ["strace", "-qq", "-e", f"trace={CHANGING}", *options]


def points(folder: Path, verb: tuple[str, ...]) -> list[tuple[str, int]]:
    """Every call of an undisturbed run that changes the disk."""
    prepare(folder, verb)
    log = folder.parent / "calls"
    subprocess.run([*strace("-o", str(log)), *COMMAND, *verb], cwd=folder, check=True, timeout=120)
    assert_ended(folder)
    counts = Counter(re.findall(r"^(\w+)\(", log.read_text(), re.MULTILINE))
    return [(call, number) for call, count in sorted(counts.items()) for number in range(1, count + 1)]


def assert_nothing_is_lost(folder: Path) -> None:
    """Each guest is a whole original, under one of its names, or an overlay; whatever is there is right."""
    for kind in KINDS:
        overlay = folder / f"{kind}.new"
        names = [f"{kind}.vmdk{suffix}" for suffix in ("", ".batchdiff-original", ".batchdiff-deleting")]
        there = [folder / name for name in names if (folder / name).exists()]
        assert there or overlay.exists(), sorted(os.listdir(folder))
        for path in there:
            assert notation.qemu_content(path, many_files.form_of(kind)) == notation.content(CHANGED)
        if overlay.exists():
            assert notation.qemu_content(overlay, "qcow2") == notation.content(CHANGED)


def assert_ended(folder: Path) -> None:
    assert_nothing_is_lost(folder)
    found = {name for name in os.listdir(folder) if not name.startswith(("fleet.", "template.img"))}
    assert found == {f"{kind}.new" for kind in KINDS}


def killed(
    folder: Path,
    verb: tuple[str, ...],
    call: str,
    number: int,
    *,
    then: tuple[str, ...] = (),
    before: Callable[[Path], None] = lambda _: None,
    between: Callable[[Path], None] = lambda _: None,
) -> bool:
    prepare(folder, verb)
    before(folder)
    inject = strace("-o", "/dev/null", "-e", f"inject={call}:signal=SIGKILL:when={number}")
    done = subprocess.run([*inject, *COMMAND, *verb], cwd=folder, check=False, timeout=120, capture_output=True)
    assert_nothing_is_lost(folder)
    between(folder)
    batchdiff(*(then or verb), cwd=folder)
    if not then:
        assert_ended(folder)
    return done.returncode != 0


def test_status_names_what_is_left(tmp_path):
    folder = tmp_path / "fleet"
    assert killed(folder, APPLY, "unlink", 3, then=("status", "fleet.plan.json"))
    shown = " ".join(batchdiff("status", "fleet.plan.json", cwd=folder).stdout.split())
    assert "apply: delete what is left of its original" in shown
    batchdiff(*APPLY, cwd=folder)
    assert_ended(folder)


def kill_at(tmp_path: Path, verb: tuple[str, ...], chosen: list[tuple[str, int]]) -> int:
    def one(point: tuple[str, int]) -> bool:
        return killed(tmp_path / f"{point[0]}-{point[1]}", verb, *point)

    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(one, chosen))


@pytest.mark.parametrize("verb", [APPLY, pytest.param(PURGE, marks=pytest.mark.long)], ids=lambda verb: verb[0])
def test_killed_at_some_calls(tmp_path, verb):
    found = points(tmp_path / "counted", verb)
    unlinks = [point for point in found if point[0] == "unlink"]
    assert len(unlinks) >= 2 + 3 + 1  # two originals, three extents and a data file
    chosen = dict.fromkeys([*seeded().sample(unlinks, 2), *seeded().sample(found, 2)])
    assert kill_at(tmp_path, verb, list(chosen))


@pytest.mark.long
@pytest.mark.parametrize("verb", [APPLY, PURGE], ids=lambda verb: verb[0])
def test_killed_at_every_call(tmp_path, verb):
    found = points(tmp_path / "counted", verb)
    count = kill_at(tmp_path, verb, found)
    print(f"{verb[0]}: killed at {count} of {len(found)} calls")
    assert count >= 0.95 * len(found)


RESTORE = ("restore", "fleet.plan.json", "-q")


@pytest.mark.parametrize("number", [3, *(pytest.param(each, marks=pytest.mark.long) for each in (1, 2, 4, 5, 6))])
def test_restore_after_a_kill_leaves_no_extents(tmp_path, number):
    """From the second unlink to the fourth, the first guest's descriptor is gone, and extents are still there."""
    folder = tmp_path / "fleet"
    assert killed(folder, APPLY, "unlink", number, then=RESTORE)
    assert_restored(folder)
    assert len(list(folder.glob(f"{KINDS[0]}-f*"))) == (3 if number == 1 else 0)


def test_nor_if_the_rebuilt_image_gets_the_originals_inode_number(tmp_path):
    numbers = []

    def remember(folder: Path) -> None:
        numbers.append((folder / f"{KINDS[0]}.vmdk").stat().st_ino)

    def free_it_first(folder: Path) -> None:
        """Use up all lower numbers: ext4 gives a new file the lowest free one."""
        for count in range(1000):
            filler = folder / f"fleet.filler-{count}"
            filler.touch()
            if filler.stat().st_ino == numbers[0]:
                filler.unlink()
                return
        raise AssertionError("the number of the deleted original was not given to any new file")

    with mounted(tmp_path, "ext4") as point:
        folder = point / "fleet"
        assert killed(folder, APPLY, "unlink", 3, then=RESTORE, before=remember, between=free_it_first)
        remember(folder)
        assert numbers[0] == numbers[1], "the case that this test is about"
        assert_restored(folder)


def assert_restored(folder: Path) -> None:
    for kind in KINDS:
        path, form = folder / f"{kind}.vmdk", many_files.form_of(kind)
        assert notation.qemu_content(path, form) == notation.content(CHANGED)
        with open_image(ImageSource(str(path), ImageFormat(form))) as image:
            assert {str(each) for each in folder.glob(f"{kind}[.-]*")} == set(image.source.files)
