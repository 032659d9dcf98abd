"""The power goes at any moment of an apply: every prefix of what reached the disk, and disks that forget.

The counter-proof: where batchdiff does not sync its overlays, the same test must find guests that are lost.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from recorded_disk import after_power_cut, recorded, records, snapshot, state
from scenes import SCENES, arguments, assert_nothing_is_lost, prepare
from seeds import seeded

MIB = 1 << 20
SIZES = {"ext4": 64 * MIB, "xfs": 320 * MIB, "btrfs": 128 * MIB}

WITHOUT_SYNC = """
import os, stat, sys
sync = os.fsync
def only_the_journal(fd):
    if os.readlink(f"/proc/self/fd/{fd}").endswith(".journal"):
        sync(fd)
os.fsync = only_the_journal
sys.argv[0] = "batchdiff"
from batchdiff.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


def losses(tmp_path, kind: str, states: int, *, synced: bool) -> tuple[int, int]:
    """States that were looked at, and those in which something was lost."""
    rng = seeded()
    scene = SCENES["delete"]
    before = tmp_path / "before"
    with recorded(tmp_path, kind, SIZES[kind]) as recording:
        folder = recording.point / "fleet"
        prepare(folder, scene)
        first = snapshot(recording, before)
        program = ["-m", "batchdiff"] if synced else ["-c", WITHOUT_SYNC]
        subprocess.run([sys.executable, *program, *arguments(scene)], cwd=folder, check=True, timeout=120)
        if not synced:
            subprocess.run(["sync", "-f", str(folder / "fleet.plan.json.journal")], check=True, timeout=60)
    written = records(recording.log)[first:]
    assert written
    lost = 0
    lengths = sorted(rng.sample(range(len(written) + 1), min(states, len(written) + 1)))
    for number, length in enumerate(lengths):
        # Three of four disks have a cache that forgets, each another part of it.
        kept = after_power_cut(written[:length], rng if number % 4 else None)
        with state(before, kept, tmp_path) as point:
            try:
                assert_nothing_is_lost(point / "fleet")
            except AssertionError as error:
                print(f"{kind}, {length} of {len(written)} writes: {error}")
                lost += 1
    return len(lengths), lost


COUNTS = [pytest.param(6, id="some"), pytest.param(170, id="many", marks=pytest.mark.long)]


@pytest.mark.parametrize("states", COUNTS)
@pytest.mark.parametrize("kind", SIZES)
def test_nothing_is_lost(tmp_path, kind, states):
    looked_at, lost = losses(tmp_path, kind, states, synced=True)
    print(f"{kind}: {looked_at} states after power cuts, {lost} losses")
    assert lost == 0


@pytest.mark.long
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_without_syncing_something_is(tmp_path, kind):
    looked_at, lost = losses(tmp_path, kind, 170, synced=False)
    print(f"{kind}, overlays not synced: {looked_at} states after power cuts, {lost} losses")
    assert lost


def test_the_log_has_all_writes(tmp_path):
    """The disk after all of its records is the disk itself."""
    before = tmp_path / "before"
    with recorded(tmp_path, "ext4", SIZES["ext4"]) as recording:
        first = snapshot(recording, before)
        (recording.point / "file").write_bytes(os.urandom(300_000))
    content = bytearray(before.read_bytes())
    for write in records(recording.log)[first:]:
        content[write.offset : write.offset + len(write.data)] = write.data
    assert content == recording.disk.read_bytes()
