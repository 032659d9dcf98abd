"""The filesystem goes down in the middle: what was not synced is gone at the next mount."""

from __future__ import annotations

import shutil
import subprocess
import time

import pytest
from commands import COMMAND, batchdiff
from filesystems import MAKE, wait_until_unmounted
from notation import run
from scenes import SCENES, arguments, assert_ended, assert_nothing_is_lost, prepare, seconds_of
from seeds import seeded

MIB = 1 << 20


@pytest.mark.parametrize("rounds", [2, pytest.param(30, marks=pytest.mark.long)])
@pytest.mark.parametrize(("kind", "size"), [("ext4", 64 * MIB), ("xfs", 320 * MIB)])
def test_shut_down_at_any_time(tmp_path, kind, size, rounds):
    rng = seeded()
    image, point = tmp_path / "disk", tmp_path / "mnt"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    run(*MAKE[kind], str(image))
    device = run("losetup", "--find", "--show", str(image)).strip()
    try:
        run("mount", device, str(point))
        whole = seconds_of(point / "undisturbed", SCENES["delete"])
        shutil.rmtree(point / "undisturbed")
        disturbed = 0
        for number in range(rounds):
            folder, scene = point / str(number), SCENES[rng.choice(["delete", "quarantine", "keep"])]
            prepare(folder, scene)
            run("sync", "-f", str(folder))
            verb, plan, *rest = arguments(scene)
            # Not in the folder itself: Python could not even find its own modules there any more.
            argv = [*COMMAND, verb, str(folder / plan), *rest]
            with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
                time.sleep(rng.uniform(whole / 3, whole))
                flags = rng.choice([[], ["-f"]])  # with -f the journal of the filesystem still reaches the disk
                run("xfs_io", "-x", "-c", " ".join(["shutdown", *flags]), str(point))
                _, said = process.communicate(timeout=60)
            disturbed += process.returncode != 0
            assert b"Traceback" not in said, said
            run("umount", str(point))
            wait_until_unmounted(device)
            run("mount", device, str(point))
            assert_nothing_is_lost(folder)
            batchdiff(*arguments(scene), cwd=folder)
            assert_ended(folder, scene)
            shutil.rmtree(folder)
        print(f"{kind}: {disturbed} of {rounds} were disturbed")
        assert disturbed or rounds < 10
    finally:
        subprocess.run(["umount", str(point)], check=False, timeout=60)
        run("losetup", "--detach", device)
