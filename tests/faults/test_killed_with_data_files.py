"""kill -9 while overlays with data files are published and restored: no disk is lost, no data file is left over.

Guards applying/swap/new_files.py and applying/swap/other_files.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import notation
import pytest
from commands import COMMAND, rarely, run_here
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
    run_here("plan", folder / "fleet.yaml", *RUN)
    if verb != "apply":
        run_here("apply", folder / "fleet.plan.json", *APPLY[2:])


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
    run_here(VERBS[verb][0], folder / "fleet.plan.json", *VERBS[verb][2:], expect=None)  # 2 if all was done
    assert_ended(folder, verb)
    return done.returncode != 0


@pytest.mark.parametrize("verb", ["apply", "restore", pytest.param("rebuild", marks=pytest.mark.long)])
def test_killed_at_some_call_with_data_files(tmp_path, verb):
    found = points(tmp_path / "counted", verb)
    moves = [point for point in found if point[0] in {"renameat2", "unlink"}]
    assert len(moves) >= 2 * 2  # of two guests, the overlay and its data file
    assert killed(tmp_path / "killed", verb, *seeded().choice([*moves, *moves, *found]))


@pytest.mark.long
@pytest.mark.parametrize("verb", VERBS)
def test_killed_at_every_call_with_data_files(tmp_path, verb):
    found = points(tmp_path / "counted", verb)
    count = sum(killed(tmp_path / f"{call}-{number}", verb, call, number) for call, number in found)
    print(f"{verb}: killed at {count} of {len(found)} calls")
    assert count >= 0.95 * len(found)


@pytest.mark.parametrize("number", [2, *rarely(3, 4)])
def test_restore_after_an_apply_was_killed(tmp_path, number):
    """Once a data file has its name, once the original is quarantined, once the overlay is published."""
    folder = tmp_path / "fleet"
    prepare(folder, "apply")
    inject = strace("-o", "/dev/null", "-e", f"inject=renameat2:signal=SIGKILL:when={number}")
    subprocess.run([*inject, *COMMAND, *APPLY], cwd=folder, check=False, timeout=120, capture_output=True)
    assert_nothing_is_lost(folder)
    assert (folder / "web01.data.raw").exists()
    run_here("restore", folder / "fleet.plan.json", *RUN)
    assert_ended(folder, "restore")


def test_restore_after_an_apply_was_killed_before_it_recorded_a_publication(tmp_path):
    """The overlay has its name, and the journal still names its temporary file: the data file is in use."""
    folder = tmp_path / "fleet"
    prepare(folder, "apply")
    log = tmp_path / "calls"
    subprocess.run([*strace("-o", str(log)), *COMMAND, *APPLY], cwd=folder, check=True, timeout=120)
    calls = re.findall(r"^(\w+)\(", log.read_text(), re.MULTILINE)
    renamed = [at for at, call in enumerate(calls) if call == "renameat2"][2]
    number = calls[: calls.index("fsync", renamed) + 1].count("fsync")
    shutil.rmtree(folder)
    prepare(folder, "apply")
    inject = strace("-o", "/dev/null", "-e", f"inject=fsync:signal=SIGKILL:when={number}")
    subprocess.run([*inject, *COMMAND, *APPLY], cwd=folder, check=False, timeout=120, capture_output=True)
    assert (folder / "web01.img").read_bytes()[:4] == b"QFI\xfb"
    assert '"published"' not in (folder / "fleet.plan.json.journal").read_text()
    assert_nothing_is_lost(folder)
    run_here("restore", folder / "fleet.plan.json", *RUN)
    assert_ended(folder, "restore")
