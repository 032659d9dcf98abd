"""Ctrl-C, SIGTERM and SIGHUP at any time: undone or finished, said how to go on; a second one ends it at once."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
from commands import COMMAND, assert_no_traceback, batchdiff, rarely
from scenes import SCENES, arguments, assert_ended, assert_nothing_is_lost, prepare, seconds_of
from seeds import seeded

from batchdiff.signals import HELD


def started(folder, scene) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments(scene)], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


# Not in the first third: Python itself ends by a signal, or with a traceback, while it starts.
@pytest.mark.parametrize("rounds", [2, pytest.param(40, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", ["delete", *rarely("rebuild")])
def test_one_signal(tmp_path, name, rounds):
    rng = seeded()
    stopped, whole = 0, seconds_of(tmp_path / "undisturbed", SCENES[name])
    for number in range(rounds):
        folder, scene = tmp_path / str(number), SCENES[name]
        prepare(folder, scene)
        with started(folder, scene) as process:
            time.sleep(rng.uniform(whole / 3, whole))
            process.send_signal(rng.choice(HELD))
            _, said = process.communicate(timeout=60)
        assert process.returncode in {0, 130, *(-number for number in HELD)}, said
        assert_no_traceback(said)
        stopped += process.returncode == 130
        assert_nothing_is_lost(folder)
        left = [entry for entry in os.listdir(folder) if entry.endswith(("-tmp", "-deleting"))]
        assert left == []
        batchdiff(*arguments(scene), cwd=folder)
        assert_ended(folder, scene)
    print(f"{name}: {stopped} of {rounds} were stopped")
    assert stopped or rounds < 10


@pytest.mark.parametrize("rounds", [2, pytest.param(40, marks=pytest.mark.long)])
def test_two_signals(tmp_path, rounds):
    rng = seeded()
    whole = seconds_of(tmp_path / "undisturbed", SCENES["delete"])
    for number in range(rounds):
        folder, scene = tmp_path / str(number), SCENES["delete"]
        prepare(folder, scene)
        with started(folder, scene) as process:
            time.sleep(rng.uniform(whole / 3, whole))
            process.send_signal(signal.SIGINT)
            time.sleep(rng.uniform(0, 0.05))
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
        assert process.returncode in {0, 130, -signal.SIGTERM, -signal.SIGINT}, said
        assert_no_traceback(said)
        assert_nothing_is_lost(folder)
        batchdiff(*arguments(scene), cwd=folder)
        assert_ended(folder, scene)
