"""kill -9 while overlays with data files are published and restored: no disk is lost, no data file is left over.

Guards applying/swap/new_files.py and applying/swap/other_files.py.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import notation
import pytest
from commands import COMMAND, batchdiff
from seeds import seeded
from test_killed_among_files import strace

TEMPLATE = "256k:A 256k:B"
GUESTS = {"web01": "256k:A 64k:X 192k:B", "web02": "64k:Y 192k:A 256k:B"}
RUN = ("-q", "-j", "1")
APPLY = ("apply", "fleet.plan.json", "--yes", *RUN)
RESTORE = ("restore", "fleet.plan.json", *RUN)
VERBS = {"apply": APPLY, "restore": RESTORE, "rebuild": RESTORE}
SUFFIXES = ("", ".batchdiff-original", ".batchdiff-deleting", ".batchdiff-overlay")


def prepare(folder: Path, verb: str) -> None:
    """Overlays in their guests' own places; to restore them, or to rebuild what was deleted, they are there."""
    folder.mkdir(exist_ok=True)
    notation.write_raw(folder / "template.img", TEMPLATE)
    for name, text in GUESTS.items():
        notation.write_raw(folder / f"{name}.img", text)
    retire = "delete" if verb == "rebuild" else "quarantine"
    (folder / "fleet.yaml").write_text(
        f"version: 1\ntemplate: {{path: template.img, format: raw}}\nretire: {retire}\n"
        "defaults: {format: raw, overlay: {data_file: true, path: same}}\nguests:\n  - glob: web*.img\n"
    )
    batchdiff("plan", "fleet.yaml", *RUN, cwd=folder)
    if verb != "apply":
        batchdiff(*APPLY, cwd=folder)


def disks(folder: Path, name: str) -> list[bytes]:
    """The content of each whole image of a guest: of its original, or of an overlay with its data file."""
    found = []
    for path in (folder / f"{name}.img{suffix}" for suffix in SUFFIXES):
        if path.exists():
            form = "qcow2" if path.read_bytes()[:4] == b"QFI\xfb" else "raw"
            found.append(notation.qemu_content(path, form))
    return found


def assert_nothing_is_lost(folder: Path) -> None:
    """Every image with a name that is not temporary is whole, and each guest has one."""
    for name, text in GUESTS.items():
        assert set(disks(folder, name)) == {notation.content(text)}, sorted(os.listdir(folder))


def assert_ended(folder: Path, verb: str) -> None:
    assert_nothing_is_lost(folder)
    found = {name for name in os.listdir(folder) if not name.startswith(("fleet.", "template.img"))}
    images = {f"{name}.img" for name in GUESTS}
    if verb == "apply":
        images |= {f"{name}{end}" for name in GUESTS for end in (".data.raw", ".img.batchdiff-original")}
    assert found == images


def points(folder: Path, verb: str) -> list[tuple[str, int]]:
    """Every call of an undisturbed run that changes the disk."""
    prepare(folder, verb)
    log = folder.parent / "calls"
    subprocess.run([*strace("-o", str(log)), *COMMAND, *VERBS[verb]], cwd=folder, check=True, timeout=120)
    assert_ended(folder, verb)
    counts = Counter(re.findall(r"^(\w+)\(", log.read_text(), re.MULTILINE))
    return [(call, number) for call, count in sorted(counts.items()) for number in range(1, count + 1)]


def killed(folder: Path, verb: str, call: str, number: int) -> bool:
    prepare(folder, verb)
    inject = strace("-o", "/dev/null", "-e", f"inject={call}:signal=SIGKILL:when={number}")
    done = subprocess.run(
        [*inject, *COMMAND, *VERBS[verb]], cwd=folder, check=False, timeout=120, capture_output=True
    )
    assert_nothing_is_lost(folder)
    batchdiff(*VERBS[verb], cwd=folder, expect=None)  # 2 if the last guest was already restored
    assert_ended(folder, verb)
    return done.returncode != 0


def kill_at(tmp_path: Path, verb: str, chosen: list[tuple[str, int]]) -> int:
    def one(point: tuple[str, int]) -> bool:
        return killed(tmp_path / f"{point[0]}-{point[1]}", verb, *point)

    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(one, chosen))


@pytest.mark.parametrize("verb", ["apply", "restore", pytest.param("rebuild", marks=pytest.mark.long)])
def test_killed_at_some_calls_with_data_files(tmp_path, verb):
    found = points(tmp_path / "counted", verb)
    moves = [point for point in found if point[0] in {"renameat2", "unlink"}]
    assert len(moves) >= 2 * 2  # of two guests, the overlay and its data file
    assert kill_at(tmp_path, verb, list(dict.fromkeys([seeded().choice(moves), seeded().choice(found)])))


@pytest.mark.long
@pytest.mark.parametrize("verb", VERBS)
def test_killed_at_every_call_with_data_files(tmp_path, verb):
    found = points(tmp_path / "counted", verb)
    count = kill_at(tmp_path, verb, found)
    print(f"{verb}: killed at {count} of {len(found)} calls")
    assert count >= 0.95 * len(found)


@pytest.mark.parametrize("number", [2, 3, 4])
def test_restore_after_an_apply_was_killed(tmp_path, number):
    """Once a data file has its name, once the original is quarantined, once the overlay is published."""
    folder = tmp_path / "fleet"
    prepare(folder, "apply")
    inject = strace("-o", "/dev/null", "-e", f"inject=renameat2:signal=SIGKILL:when={number}")
    subprocess.run([*inject, *COMMAND, *APPLY], cwd=folder, check=False, timeout=120, capture_output=True)
    assert_nothing_is_lost(folder)
    assert (folder / "web01.data.raw").exists()
    batchdiff(*RESTORE, cwd=folder)
    assert_ended(folder, "restore")
