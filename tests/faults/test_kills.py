"""kill -9 at every call that changes a disk, and at random times; then the same command again ends the work."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commands import COMMAND, batchdiff, rarely
from scenes import SCENES, arguments, assert_ended, assert_nothing_is_lost, prepare
from seeds import seeded

CHANGING = (
    "renameat2,rename,unlink,unlinkat,pwrite64,write,ftruncate,fsync,fchmod,fchown,fsetxattr,copy_file_range"
)
"""Every call by which batchdiff changes a disk; those of its main thread, which alone does."""


def strace(*options: str) -> list[str]:
    return ["strace", "-qq", "-e", f"trace={CHANGING}", *options]


def counted(folder: Path, scene) -> Counter[str]:
    """How often each call is made where nobody disturbs."""
    log = folder.parent / f"{folder.name}.strace"
    subprocess.run(
        [*strace("-o", str(log)), *COMMAND, *arguments(scene)],
        cwd=folder,
        check=True,
        timeout=120,
        capture_output=True,
    )
    assert_ended(folder, scene)
    return Counter(re.findall(r"^(\w+)\(", log.read_text(), re.MULTILINE))


def killed(folder: Path, scene, call: str, number: int) -> bool:
    """Whether the verb was killed at that call; then its invariant was true, and the next run ended well."""
    prepare(folder, scene)
    inject = strace("-o", "/dev/null", "-e", f"inject={call}:signal=SIGKILL:when={number}")
    done = subprocess.run(
        [*inject, *COMMAND, *arguments(scene)], cwd=folder, check=False, timeout=120, capture_output=True
    )
    assert_nothing_is_lost(folder)
    batchdiff(*arguments(scene), cwd=folder)
    assert_ended(folder, scene)
    return done.returncode != 0


def points(counts: Counter[str]) -> list[tuple[str, int]]:
    return [(call, number) for call, count in sorted(counts.items()) for number in range(1, count + 1)]


def kill_at(tmp_path: Path, scene, chosen: list[tuple[str, int]]) -> int:
    """Kills at each of the points, two at a time; how many there were."""

    def one(point: tuple[str, int]) -> bool:
        return killed(tmp_path / f"{point[0]}-{point[1]}", scene, *point)

    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(one, chosen))


@pytest.mark.parametrize("name", [*list(SCENES)[::2], *rarely(*list(SCENES)[1::2])])
def test_killed_at_some_calls(tmp_path, name):
    rng = seeded()
    prepare(tmp_path / "counted", SCENES[name])
    all_points = points(counted(tmp_path / "counted", SCENES[name]))
    renames = [point for point in all_points if point[0] in {"renameat2", "unlink"}]
    chosen = list(dict.fromkeys([*rng.sample(renames, min(1, len(renames))), *rng.sample(all_points, 1)]))
    assert kill_at(tmp_path, SCENES[name], chosen)


@pytest.mark.long
@pytest.mark.parametrize("name", SCENES)
def test_killed_at_every_call(tmp_path, name):
    prepare(tmp_path / "counted", SCENES[name])
    all_points = points(counted(tmp_path / "counted", SCENES[name]))
    count = kill_at(tmp_path, SCENES[name], all_points)
    print(f"{name}: killed at {count} of {len(all_points)} calls")
    assert count >= 0.95 * len(all_points)


def killed_after(folder: Path, scene, seconds: float) -> bool:
    with subprocess.Popen(
        [*COMMAND, *arguments(scene)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    ) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return True
    return False


@pytest.mark.parametrize("rounds", [2, pytest.param(70, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", ["rebuild", *rarely("delete", "quarantine")])
def test_killed_at_random_times(tmp_path, name, rounds):
    """Killed up to five times in a row before it may come through."""
    rng = seeded()
    kills = 0
    for number in range(rounds):
        folder = tmp_path / str(number)
        prepare(folder, SCENES[name])
        for _ in range(rng.randrange(1, 6)):
            kills += killed_after(folder, SCENES[name], rng.uniform(0.05, 0.5))
            assert_nothing_is_lost(folder)
        batchdiff(*arguments(SCENES[name]), cwd=folder)
        assert_ended(folder, SCENES[name])
    print(f"{name}: {kills} kills at random times")
    assert kills
