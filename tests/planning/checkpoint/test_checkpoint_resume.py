"""A scan that was stopped goes on where it was, and its plan is the one of a scan that was not."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import notation
import pytest
from filesystems import mounted
from hypothesis import given
from hypothesis import strategies as st
from oracle import source
from real_holders import wait_for
from small_fleet import GUESTS, OTHER, TEMPLATE, checksum, fresh, manifest

from batchdiff.errors import ImageError, WorkerError
from batchdiff.extents import Kind, from_runs
from batchdiff.planning.checkpoint.checkpoint import Checkpoint
from batchdiff.planning.checkpoint.records import Guests, RangeRecord
from batchdiff.planning.checkpoint.resume import ranges_left, take_over
from batchdiff.planning.planner import EarlierResults, make_plan
from batchdiff.planning.scan import one_range
from batchdiff.planning.scan.results import Findings, RangeResult
from batchdiff.units import MIB

pytestmark = pytest.mark.usefixtures("small_ranges")


class Stopper:
    """Progress that presses Ctrl-C after so many ranges, and remembers what it saw."""

    def __init__(self, after=None):
        self.after = after
        self.seen = []

    def __call__(self, done, total):
        self.seen.append((done, total))
        if self.after is not None and len(self.seen) > self.after:
            raise KeyboardInterrupt


@dataclasses.dataclass
class Run:
    plan: object
    said: list
    seen: list

    @property
    def scanned(self):
        """Ranges that were scanned this time."""
        return len(self.seen) - 1


def run(folder, of=None, after=None, jobs=1, plan="p.json", warnings=None):
    """Plans with a checkpoint; stopped after so many ranges."""
    of = of if of is not None else manifest(folder)
    said, stopper = [], Stopper(after)
    warn = warnings.append if warnings is not None else said.append
    found = None
    with closing(Checkpoint(str(folder / plan), warn=warn, begin_after=0)) as checkpoint:
        try:
            earlier = EarlierResults(checkpoint, None, said.append)
            found = make_plan(of, jobs=jobs, progress=stopper, earlier=earlier)
        except KeyboardInterrupt:
            return Run(None, said, stopper.seen)
        checkpoint.discard()
    return Run(found, said, stopper.seen)


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("after", range(1, 6))
def test_it_goes_on_where_it_was(folder, after, jobs):
    assert run(folder, after=after, jobs=jobs).plan is None
    again = run(folder, jobs=jobs)
    assert again.scanned == 6 - after
    assert checksum(again.plan) == fresh(manifest(folder))
    assert "Resuming" in again.said[0]
    assert again.seen[0][0] > 0
    assert again.seen[-1][0] == again.seen[-1][1] == sum(notation.size(t) for t in (TEMPLATE, *GUESTS.values()))
    assert not (folder / "p.json.partial").exists()


def test_stopped_again_and_again(folder):
    for _ in range(5):
        assert run(folder, after=1).plan is None
    again = run(folder)
    assert again.scanned == 1
    assert checksum(again.plan) == fresh(manifest(folder))


def test_all_was_scanned(folder):
    """It was stopped after the last range, while the savings were counted."""
    assert run(folder, after=6).plan is None
    again = run(folder)
    assert again.scanned == 0
    assert checksum(again.plan) == fresh(manifest(folder))


def test_a_guest_that_changed_is_scanned_anew_and_alone(folder):
    run(folder, after=4)
    with (folder / "two.img").open("r+b") as file:
        file.write(b"changed")
    again = run(folder)
    assert again.scanned == 6
    alone = notation.size(TEMPLATE) + notation.size(GUESTS["two.img"])
    assert again.seen[-1][1] - again.seen[0][0] < alone + 2 * 2 * 2 * MIB + 1
    assert checksum(again.plan) == fresh(manifest(folder))


def test_a_change_that_hides_its_time(folder):
    """Same size, mtime set back: ctime tells."""
    run(folder, after=4)
    path = folder / "two.img"
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"changed")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert checksum(run(folder).plan) == fresh(manifest(folder))


def test_a_file_put_in_its_place(folder):
    run(folder, after=4)
    notation.write_raw(folder / "new", OTHER)
    os.rename(folder / "new", folder / "two.img")
    assert checksum(run(folder).plan) == fresh(manifest(folder))


def test_guests_that_came_and_went(folder):
    run(folder, after=4)
    notation.write_raw(folder / "new.img", OTHER)
    of = manifest(folder, ("new.img", "three.qcow2", "one.img"))
    again = run(folder, of)
    assert checksum(again.plan) == fresh(of)
    assert again.scanned < 6 + 7


def test_a_guest_that_came_back(folder):
    """Its findings wait in the file while others are scanned."""
    run(folder, after=3)
    run(folder, manifest(folder, ("two.img",)), after=1)
    again = run(folder)
    assert again.scanned == 3
    assert checksum(again.plan) == fresh(manifest(folder))


def test_another_format_is_another_guest(folder):
    """The same file, once raw and once qcow2: its disks have nothing to do with each other."""
    notation.write_raw(folder / "template.img", "2M:A 1M:- 2M:B")
    run(folder, after=4)
    entries = manifest(folder).guests
    raw = dataclasses.replace(entries[2].image, format=entries[0].image.format)
    of = dataclasses.replace(
        manifest(folder), guests=(*entries[:2], dataclasses.replace(entries[2], image=raw, name="raw"))
    )
    assert checksum(run(folder, of).plan) == fresh(of)


def test_a_template_that_changed_makes_it_all_anew(folder):
    run(folder, after=4)
    with (folder / "template.img").open("r+b") as file:
        file.write(b"changed")
    warnings = []
    again = run(folder, warnings=warnings)
    assert again.scanned == 6
    assert len(warnings) == 1
    assert checksum(again.plan) == fresh(manifest(folder))


def test_a_backing_file_that_changed(folder):
    """Of a guest: that guest alone. Every file of a chain counts."""
    notation.write_raw(folder / "below.img", "12M:P")
    path = folder / "chain.qcow2"
    notation.run(
        "qemu-img", "create", "-q", "-f", "qcow2", "-b", str(folder / "below.img"), "-F", "raw", str(path)
    )
    entry = manifest(folder, ("chain.qcow2",)).guests[0]
    chain = dataclasses.replace(entry.image, backing=(source(folder / "below.img"),))
    guests = (*manifest(folder).guests, dataclasses.replace(entry, image=chain))
    of = dataclasses.replace(manifest(folder), guests=guests)
    run(folder, of, after=4)
    with (folder / "below.img").open("r+b") as file:
        file.write(b"changed")
    assert checksum(run(folder, of).plan) == fresh(of)


def test_other_overlay_options_need_no_other_scan(folder):
    run(folder, after=5)
    of = manifest(folder, cluster_size=None, extended_l2=True)
    again = run(folder, of)
    assert again.scanned == 1
    assert checksum(again.plan) == fresh(of)


def test_a_guest_that_could_not_be_read_is_tried_again(folder, monkeypatch):
    real = one_range.Scanner._compare

    def failing(self, number, *rest):
        if number == 1 and number in self._guests:
            self._give_up(number, ImageError("EIO"))
            return None
        return real(self, number, *rest)

    monkeypatch.setattr(one_range.Scanner, "_compare", failing)
    run(folder, after=4)
    monkeypatch.setattr(one_range.Scanner, "_compare", real)
    again = run(folder)
    assert again.scanned == 6
    assert checksum(again.plan) == fresh(manifest(folder))


def test_a_killed_worker_leaves_what_the_others_found(folder, monkeypatch):
    real = one_range.Scanner.scan

    def scanned(self, number):
        if number == 4:
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, number)

    monkeypatch.setattr(one_range.Scanner, "scan", scanned)
    with pytest.raises(WorkerError):
        run(folder, jobs=2)
    monkeypatch.setattr(one_range.Scanner, "scan", real)
    again = run(folder, jobs=2)
    assert again.scanned < 6
    assert checksum(again.plan) == fresh(manifest(folder))


def test_a_template_of_zeros_is_not_scanned_twice(tmp_path):
    notation.write_raw(tmp_path / "template.img", "6M:0")
    notation.write_raw(tmp_path / "g.img", "2M:0 2M:A 2M:0")
    of = manifest(tmp_path, ("g.img",))
    run(tmp_path, of, after=2)
    again = run(tmp_path, of)
    assert again.scanned == 1
    assert checksum(again.plan) == fresh(of)


def test_block_devices_are_never_taken_over(folder):
    """Their fingerprints say nothing of what is on them."""
    loop = notation.run("losetup", "-f", "--show", str(folder / "one.img")).strip()
    try:
        entry = dataclasses.replace(manifest(folder).guests[0], image=source(Path(loop)))
        of = dataclasses.replace(manifest(folder), guests=(entry, *manifest(folder).guests[1:]))
        run(folder, of, after=4)
        with open(loop, "r+b") as file:
            file.write(b"changed")
            os.fsync(file.fileno())
        assert checksum(run(folder, of).plan) == fresh(of)
        of = dataclasses.replace(of, guests=of.guests[1:], template=source(Path(loop)))
        run(folder, of, after=4)
        assert run(folder, of).scanned == 6
    finally:
        notation.run("losetup", "-d", loop)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_reflink_copies(tmp_path, kind):
    with mounted(tmp_path, kind) as folder:
        notation.write_raw(folder / "template.img", TEMPLATE)
        for number in range(2):
            path = folder / f"{number}.img"
            notation.run("cp", "--reflink=always", str(folder / "template.img"), str(path))
            with path.open("r+b") as file:
                file.seek((number * 3 + 1) * MIB)
                file.write(b"x" * 70000)
        notation.run("sync", "-f", str(folder))
        of = manifest(folder, ("0.img", "1.img"))
        run(folder, of, after=3)
        again = run(folder, of)
        assert again.scanned < 6
        assert checksum(again.plan) == fresh(of)


def test_a_scan_without_sharing_is_not_mixed_with_one_that_shares(tmp_path):
    """A reflink copy of the template, made after the interruption, changes none of its times."""
    with mounted(tmp_path, "xfs") as folder:
        notation.write_raw(folder / "template.img", TEMPLATE)
        notation.write_raw(folder / "one.img", GUESTS["one.img"])
        of = manifest(folder, ("one.img",))
        run(folder, of, after=3)
        notation.run("cp", "--reflink=always", str(folder / "template.img"), str(folder / "copy"))
        warnings = []
        again = run(folder, of, warnings=warnings)
        assert len(warnings) == 1
        assert again.scanned == 6
        assert checksum(again.plan) == fresh(of)


def test_a_guest_that_was_left_out_is_not_known():
    """Nor is anything believed that such a record says of it all the same."""
    found = from_runs([(0, 1, Kind.DATA)])
    records = [Guests(("a", "b")), RangeRecord(RangeResult(3, b"d" * 16, {0: found, 1: found}), frozenset([1]))]
    findings = Findings(sharing=False)
    take_over(findings, records, {"today-b": "b", "today-a": "a"})
    assert findings.covered == {3: {"today-a"}}
    assert findings.differences == {"today-a": {3: found}}
    assert findings.digests == {3: b"d" * 16}


@pytest.mark.parametrize("bad", [{2: None}, {0: None, 7: None}])
def test_guests_that_no_record_names(bad):
    found = from_runs([(0, 1, Kind.DATA)])
    findings = Findings(sharing=False)
    result = RangeResult(3, None, dict.fromkeys(bad, found))
    take_over(findings, [Guests(("a", "b")), RangeRecord(result, frozenset())], {"one": "a", "two": "b"})
    assert findings.covered == {}


@given(st.sets(st.integers(0, 20)), st.dictionaries(st.integers(0, 20), st.frozensets(st.sampled_from("abcd"))))
def test_what_is_left(ranges, covered):
    found = ranges_left(sorted(ranges), covered, "abcd")
    for number in ranges:
        groups = [guests for guests, numbers in found.items() if number in numbers]
        missing = tuple(guest for guest in "abcd" if guest not in covered.get(number, ()))
        assert groups == ([missing] if missing else [])
    assert all(numbers == sorted(numbers) for numbers in found.values())
    assert ranges_left(sorted(ranges), {}, "") == ({(): sorted(ranges)} if ranges else {})


def test_whose_fingerprints_cover_the_content(folder):
    (folder / "x.img").write_bytes(b"x" * 512)
    from batchdiff.image.open import open_image  # noqa: PLC0415
    from batchdiff.planning.candidates import planned_image  # noqa: PLC0415

    with open_image(source(folder / "x.img")) as image:
        assert planned_image(image).vouches_for_content


_PLANNER = """
# "stuck": it scans two ranges, and is not done with the others until somebody stops it.
import os, runpy, sys, time
from batchdiff.planning.scan import one_range as scan
from batchdiff.planning import scan_all as scanning
from batchdiff.planning.checkpoint import checkpoint
for module in (scan, scanning):
    module.RANGE = 2 << 20
checkpoint.Checkpoint.__init__.__kwdefaults__["begin_after"] = 0
real, planner, stuck = scan.Scanner.scan, os.getpid(), sys.argv[-1] == "stuck"
def scanned(self, number):
    while stuck and number >= 2 and planner in {os.getpid(), os.getppid()}:
        time.sleep(0.01)
    return real(self, number)
scan.Scanner.scan = scanned
sys.argv = ["batchdiff", *sys.argv[1:-1]]
runpy.run_module("batchdiff", run_name="__main__")
"""


def command(*options, how):
    return [sys.executable, "-c", _PLANNER, "plan", "fleet.yaml", *options, how]


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_same_command_again(folder, how, jobs):
    guests = "".join(f"  - {{path: {n}, format: {'qcow2' if 'qcow2' in n else 'raw'}}}\n" for n in GUESTS)
    (folder / "fleet.yaml").write_text(
        f"version: 1\ntemplate: {{path: template.img, format: raw}}\nguests:\n{guests}"
    )
    partial, plan = folder / "fleet.plan.json.partial", folder / "fleet.plan.json"
    with subprocess.Popen(
        command("-j", jobs, how="stuck"), cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as process:
        wait_for(lambda: partial.exists() and partial.stat().st_size > 100)
        process.send_signal(how)
        _, said = process.communicate(timeout=60)
    assert process.returncode == (-9 if how == signal.SIGKILL else 130)
    assert partial.exists()
    if how != signal.SIGKILL:
        assert said.decode().endswith(
            f"batchdiff: interrupted; what has been scanned is kept in {partial}. Run the same command again to"
            " continue from there.\n"
        )
    assert not plan.exists()
    done = subprocess.run(command(how="free"), cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    assert "Resuming an interrupted scan" in done.stderr
    assert "Traceback" not in done.stderr
    resumed = json.loads(plan.read_text())["checksum"]
    assert not partial.exists()
    subprocess.run(command(how="free"), cwd=folder, capture_output=True, check=True, timeout=60)
    assert json.loads(plan.read_text())["checksum"] == resumed
