"""Faults while several guests are under way: one is written, and the others are verified or wait for that."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import notation
import pytest
from commands import COMMAND, batchdiff
from fake_judge import comparing
from filesystems import tmpfs
from oracle import assert_same
from real_holders import wait_for
from stage import ASIDE, Stage

from batchdiff.applying.checks.space import free_bytes
from batchdiff.applying.journal.records import Step
from batchdiff.applying.swap import apply_task
from batchdiff.choices import Retire
from batchdiff.errors import DifferenceError, StopError, VerificationError

AT_ONCE = [1, 2, 4]
NAMES = ("vm", "web1", "web2", "web3", "web4", "web5")
PATIENCE = 60
"""Seconds after which a test fails that waits for something that must happen."""


class Meeting:
    """Verifications that wait for each other, until as many as that are under way; so fewer fail the test."""

    def __init__(self, number: int) -> None:
        self._barrier = threading.Barrier(number)
        self.most = self._now = 0
        self._lock = threading.Lock()

    def attend(self) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        self._barrier.wait(PATIENCE)
        with self._lock:
            self._now -= 1


@pytest.fixture(params=AT_ONCE)
def stage(tmp_path, monkeypatch, request):
    found = Stage(tmp_path, monkeypatch, names=NAMES[:4])
    found.jobs = request.param
    return found


@pytest.mark.parametrize("retire", Retire)
def test_as_many_are_verified_at_once_as_asked_for(stage, retire):
    meeting = Meeting(stage.jobs)
    stage.judge.asked = meeting.attend
    outcomes = stage.apply(retire)
    assert [each.name for each in outcomes] == list(stage.names)
    assert {each.exit_code for each in outcomes} == {0}
    assert meeting.most == stage.jobs
    # Whatever is verified first, guests are published and retired in their order.
    published = [guest for guest, step in stage.steps if step is Step.PUBLISHED]
    assert published == list(stage.names)
    at_once = [guest for guest, step in stage.steps if step is Step.CHECKED][: stage.jobs]
    assert stage.steps.index((stage.names[0], Step.VERIFIED)) > stage.steps.index((at_once[-1], Step.WRITTEN))


@pytest.mark.parametrize("error", [DifferenceError("the two differ"), VerificationError("it is damaged")])
def test_one_of_several_verifications_fails(stage, error):
    """Its original stays, and its overlay goes; the others are deleted once theirs are verified."""
    meeting = Meeting(stage.jobs)
    stage.judge.asked = meeting.attend
    bad, real = stage.names[1], stage.judge.compare

    def compare(one, other, size, **options):
        real(one, other, size, **options)
        if one.path == str(stage.original(bad)):
            raise error

    stage._patch.setattr("batchdiff.qemu.qemu_img.compare", compare)
    outcomes = stage.apply(Retire.DELETE)
    assert [each.exit_code for each in outcomes] == [0, 6, 0, 0]
    others = {stage.overlay(name).name for name in stage.names if name != bad}
    assert stage.images() == {stage.original(bad).name, *others}
    assert (bad, Step.VERIFIED) not in stage.steps
    stage._patch.setattr("batchdiff.qemu.qemu_img.compare", real)
    stage.judge.asked = lambda: None
    assert {each.exit_code for each in stage.apply(Retire.DELETE)} == {0}
    assert stage.images() == {stage.overlay(name).name for name in stage.names}


def test_no_original_goes_before_its_own_overlay_is_verified(stage):
    """The first verification ends last: until then all originals are there, and no overlay has its name."""
    alone = threading.Event()
    done = itertools.count(1)

    def asked():
        if next(done) == stage.jobs:  # the others are through
            assert stage.images() >= {stage.original(name).name for name in stage.names}
            assert not any(stage.overlay(name).exists() for name in stage.names)
            alone.set()
        elif not alone.is_set() and stage.jobs > 1:
            alone.wait(PATIENCE)

    stage.judge.asked = asked
    stage.apply(Retire.DELETE)
    assert alone.is_set()
    assert stage.images() == {stage.overlay(name).name for name in stage.names}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_disk_is_full_while_several_overlays_wait(stage, number):
    """That guest's temporary file goes; those that wait, and those that come, are converted."""
    real, full = apply_task.write_overlay, stage.names[number]

    def write_overlay(fd, original, *rest, **options):
        real(fd, original, *rest, **options)
        if original.path == str(stage.original(full)):
            raise OSError(errno.ENOSPC, "No space left on device")

    stage._patch.setattr(apply_task, "write_overlay", write_overlay)
    outcomes = stage.apply(Retire.DELETE)
    assert [each.exit_code for each in outcomes] == [int(name == full) for name in stage.names]
    others = {stage.overlay(name).name for name in stage.names if name != full}
    assert stage.images() == {stage.original(full).name, *others}


def test_stopped_while_several_are_verified(stage):
    """All that is under way is undone, none of it is published; the same command again ends the work."""
    meeting = Meeting(stage.jobs)

    def asked():
        meeting.attend()
        stage.stop.ask()
        raise StopError("interrupted")

    stage.judge.asked = asked
    with pytest.raises(StopError):
        stage.apply(Retire.DELETE)
    assert stage.images() == {stage.original(name).name for name in stage.names}
    stage.stop, stage.judge.asked = type(stage.stop)(), lambda: None
    assert {each.exit_code for each in stage.apply(Retire.DELETE)} == {0}


def test_a_bug_while_several_are_verified(stage):
    def asked():
        raise ZeroDivisionError

    stage.judge.asked = asked
    with pytest.raises(ZeroDivisionError):
        stage.apply(Retire.DELETE)
    assert stage.images() == {stage.original(name).name for name in stage.names}


def test_purge_and_restore_compare_as_many_at_once(stage):
    stage.apply(Retire.QUARANTINE)
    again = frozenset(stage.names)
    for verb in (stage.restore, lambda: stage.apply(Retire.QUARANTINE, guests=again), stage.purge):
        meeting = Meeting(stage.jobs)
        stage.judge.asked = meeting.attend
        assert {each.exit_code for each in verb()} == {0}
        assert meeting.most == stage.jobs
    assert not list(stage.folder.glob(f"*{ASIDE}"))


# Real processes: qemu-img compare waits as long as there is a file "hold" beside this one.

HOLDING = """\
#!/bin/sh
if [ "$1" = compare ]; then while [ -e "${0%/*}/hold" ]; do sleep 0.02; done; fi
exec QEMU_IMG "$@"
"""


@pytest.fixture
def hold(tmp_path) -> Path:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/qemu-img"
    program.write_text(HOLDING.replace("QEMU_IMG", str(shutil.which("qemu-img"))))
    program.chmod(0o755)
    (tmp_path / "bin/hold").touch()
    return tmp_path / "bin/hold"


CHANGED = "1M:A 64k:X 3008k:A"
CONTENT = notation.content(CHANGED)


def fleet(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    notation.write_raw(folder / "template.img", "4M:A")
    for name in NAMES:
        notation.write_raw(folder / f"{name}.img", CHANGED)
    (folder / "fleet.yaml").write_text(
        "version: 1\ntemplate: {path: template.img, format: raw}\nretire: delete\n"
        'guests: [{glob: "[vw]*.img", format: raw}]\n'
    )
    batchdiff("plan", "fleet.yaml", "-q", cwd=folder)


def noted(folder: Path, step: Step) -> list[str]:
    """The guests that have reached a step, by the journal."""
    journal = folder / "fleet.plan.json.journal"
    lines = journal.read_text().splitlines() if journal.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return [record["guest"] for record in records if record["step"] == step]


@pytest.mark.parametrize("jobs", AT_ONCE)
def test_killed_while_several_are_under_way(tmp_path, hold, jobs):
    folder = tmp_path / "fleet"
    fleet(folder)
    argv = [*COMMAND, "apply", "fleet.plan.json", "-j", str(jobs), "-q", "--yes"]
    path = {"PATH": f"{hold.parent}:{os.environ['PATH']}"}
    with subprocess.Popen(argv, cwd=folder, env=os.environ | path, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + PATIENCE
        while len(noted(folder, Step.WRITTEN)) < jobs:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.2)  # one more would be begun at once
        assert noted(folder, Step.CHECKED) == noted(folder, Step.WRITTEN) == list(NAMES[:jobs])
        assert len(list(folder.glob(".*.batchdiff-tmp"))) == jobs
        process.kill()
    # What is left of the comparisons would have the images open for a moment once it is let go on.
    for pid in comparing(f"{hold.parent}/qemu-img"):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not comparing(f"{hold.parent}/qemu-img"))
    hold.unlink()
    for name in NAMES:
        assert_same((folder / f"{name}.img").read_bytes(), CONTENT)
    batchdiff("apply", "fleet.plan.json", "-q", "--yes", cwd=folder)
    assert {path.name for path in folder.glob("*.img")} == {"template.img"}
    assert not list(folder.glob(".*"))
    for name in NAMES:
        assert_same(notation.qemu_content(folder / f"{name}.qcow2", "qcow2"), CONTENT)


def test_no_more_overlays_than_the_disk_has_room_for(tmp_path, monkeypatch):
    """Room for three: two beside their originals, and one whose original is being deleted."""
    with tmpfs(tmp_path, "size=16m") as disk:
        stage = Stage(disk, monkeypatch, names=NAMES)
        stage.jobs = 6
        savings = stage.guest().diff.savings
        with (disk / "fleet.ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free_bytes(str(disk)) - savings.overlay_disk_bytes * 7 // 2)
        assert {each.exit_code for each in stage.apply(Retire.DELETE)} == {0}
        (notice,) = stage.notices
        assert notice.startswith("guests in progress at the same time: 2 instead of 6,")
        assert str(disk) in notice
        begun = {step: [at for at, each in enumerate(stage.steps) if each[1] is step] for step in Step}
        for written, retired in zip(begun[Step.WRITTEN][2:], begun[Step.RETIRED], strict=False):
            assert retired < written
        assert stage.images() == {stage.overlay(name).name for name in NAMES}
