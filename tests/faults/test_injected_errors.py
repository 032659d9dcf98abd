"""EIO and ENOSPC from every call that writes, and disks that are really full."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from commands import COMMAND, assert_no_traceback, batchdiff, rarely
from scenes import GUESTS, OVERLAYS, SCENES, arguments, assert_ended, assert_nothing_is_lost, make_fleet, prepare
from seeds import seeded
from test_kills import counted, points

WRITING = {"pwrite64", "fsync", "ftruncate", "renameat2", "rename", "unlink", "fchmod", "copy_file_range"}


def failed(folder: Path, scene, call: str, number: int, error: str) -> None:
    """One call fails: no traceback, no half-made file under a name that counts, and the next run ends well."""
    prepare(folder, scene)
    inject = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
    inject += ["-e", f"inject={call}:error={error}:when={number}"]
    argv = [*inject, *COMMAND, *arguments(scene)]
    done = subprocess.run(argv, cwd=folder, check=False, timeout=120, capture_output=True, text=True)
    assert_no_traceback(done.stderr)
    assert done.returncode in {0, 1, 4, 5}, done.stderr
    assert_nothing_is_lost(folder)
    if "apply" in scene.verb[0]:
        converted = [name for name in GUESTS if (folder / OVERLAYS[name]).exists()]
        assert all((folder / name).exists() for name in GUESTS if name not in converted)
    batchdiff(*arguments(scene), cwd=folder)
    assert_ended(folder, scene)


@pytest.mark.parametrize("error", ["ENOSPC", *rarely("EIO", "EDQUOT", "EFBIG")])
@pytest.mark.parametrize("name", ["delete", *rarely("rebuild")])
def test_some_calls_fail(tmp_path, name, error):
    rng = seeded()
    prepare(tmp_path / "counted", SCENES[name])
    chosen = [point for point in points(counted(tmp_path / "counted", SCENES[name])) if point[0] in WRITING]
    for call, number in rng.sample(chosen, 2):
        failed(tmp_path / f"{call}-{number}", SCENES[name], call, number, error)


@pytest.mark.long
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("name", SCENES)
def test_every_call_fails(tmp_path, name, error):
    prepare(tmp_path / "counted", SCENES[name])
    chosen = [point for point in points(counted(tmp_path / "counted", SCENES[name])) if point[0] in WRITING]
    for call, number in chosen:
        failed(tmp_path / f"{call}-{number}", SCENES[name], call, number, error)
    print(f"{name}: {len(chosen)} calls failed with {error}")


def test_a_limit_on_the_size_of_files(tmp_path):
    """EFBIG in the middle of each overlay: each guest is given up cleanly, with the way out."""
    make_fleet(tmp_path / "fleet")
    before = set(os.listdir(tmp_path / "fleet"))
    limit = ["prlimit", "--fsize=150000", *COMMAND, "apply", "fleet.plan.json", "--retire", "delete", "--yes"]
    done = subprocess.run(limit, cwd=tmp_path / "fleet", check=False, timeout=120, capture_output=True, text=True)
    assert_no_traceback(done.stderr)
    assert done.returncode == 1
    assert done.stderr.count("ulimit -f") == len(GUESTS)
    assert_nothing_is_lost(tmp_path / "fleet")
    assert set(os.listdir(tmp_path / "fleet")) - before == {"fleet.plan.json.journal"}
    batchdiff("apply", "fleet.plan.json", "--retire", "delete", "--yes", cwd=tmp_path / "fleet")
    assert_ended(tmp_path / "fleet", SCENES["delete"])


def without_plan_of_space(folder: Path) -> None:
    """The plan promises that nothing is needed: space runs out in the middle."""
    path = folder / "fleet.plan.json"
    import json  # noqa: PLC0415

    from batchdiff.plan.file import checksum_of  # noqa: PLC0415

    document = json.loads(path.read_text())
    for guest in document["guests"]:
        guest["savings"]["overlay_disk_bytes"] = 0
    document["checksum"] = checksum_of(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("count", [5, pytest.param(20, marks=pytest.mark.long)])
def test_full_disks(tmp_path, count):
    """A tmpfs with room for the fleet and a little more, of so many sizes."""
    failures = 0
    for number in range(count):
        point = tmp_path / f"tmpfs-{number}"
        point.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(point)], check=True, timeout=30)
        try:
            make_fleet(point / "fleet")
            without_plan_of_space(point / "fleet")
            info = os.statvfs(point)
            left = (info.f_blocks - info.f_bfree) * info.f_frsize + 16384 + number * (400_000 // count)
            subprocess.run(["mount", "-o", f"remount,size={left}", str(point)], check=True, timeout=30)
            done = batchdiff(
                "apply",
                "fleet.plan.json",
                "--retire",
                "delete",
                "--yes",
                "--json",
                cwd=point / "fleet",
                expect=None,
            )
            failures += done.returncode != 0
            assert_nothing_is_lost(point / "fleet")
            assert not [name for name in os.listdir(point / "fleet") if re.search("-tmp$|-deleting$", name)]
        finally:
            subprocess.run(["umount", str(point)], check=True, timeout=30)
    print(f"{failures} of {count} disks were full")
    assert failures
