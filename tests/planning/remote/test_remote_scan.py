"""What a worker on another host checks before it scans, without any other host.

Guards planning/remote/remote_scan.py, planning/remote/crew.py.
"""

import errno
import os
import pickle
from dataclasses import replace
from unittest.mock import Mock

import notation
import pytest
from filesystems import mounted, tmpfs
from oracle import source
from scan_jobs import scan_job
from small_fleet import checksum, manifest, write_fleet

from batchdiff.choices import Verdict
from batchdiff.errors import ImageError
from batchdiff.image.open import open_image
from batchdiff.plan.plan import PlannedImage
from batchdiff.planning.planner import make_plan
from batchdiff.planning.remote import crew, file_proof, remote_scan
from batchdiff.planning.remote.file_proof import proofs_of
from batchdiff.planning.remote.remote_scan import RemoteScanJob, RemoteScans
from batchdiff.throttle.options import ScanLimits


class Elsewhere:
    """An executor with one worker, in this process, that gets nothing but what is pickled."""

    def __init__(self):
        self.jobs = []

    def __call__(self, job, tasks):
        there = pickle.loads(pickle.dumps(job))
        self.jobs.append(there)
        assert there.objection() == ""
        with there.begin() as scan:
            yield from [pickle.loads(pickle.dumps(scan(task))) for task in tasks]

    def close(self):
        pass


def recorded(path):
    with open_image(source(path)) as image:
        return PlannedImage(image.source, image.virtual_size, image.fingerprints())


def job_of(*paths, **changes):
    records = [recorded(path) for path in paths]
    job = scan_job(paths[0], *records[1:])
    return RemoteScanJob(replace(job, **changes), proofs_of(records, seed=1).files, ScanLimits())


def test_too_few_descriptors(tmp_path, monkeypatch):
    job = job_of(notation.write_raw(tmp_path / "a.img", "1M:A"), notation.write_raw(tmp_path / "b.img", "1M:B"))
    assert job.objection() == ""
    monkeypatch.setattr(remote_scan, "free_descriptors", lambda: 17)
    assert job.objection() == "it can open only 17 of the 18 files that the scan needs (`ulimit -n`)"


def test_a_host_that_does_not_see_shared_blocks(tmp_path):
    """On tmpfs, which has no FIEMAP; only if the planner has not settled all of them."""
    with tmpfs(tmp_path) as folder:
        template = notation.write_raw(folder / "a.img", "1M:A")
        guest = notation.write_raw(folder / "b.img", "1M:B")
        found = job_of(template, guest, sharing=True, shared=(None,)).objection()
        assert found.startswith("its mount does not show which blocks the images share (FIEMAP)")
        assert job_of(template, guest, sharing=True, shared=(([], []),)).objection() == ""


def test_the_same_plan_of_reflink_copies(tmp_path):
    """The planner settles shared blocks of raw guests, and workers those of others."""
    with mounted(tmp_path, "xfs") as folder:
        write_fleet(folder)
        notation.run("cp", "--reflink=always", str(folder / "template.img"), str(folder / "copy.img"))
        notation.run("cp", "--reflink=always", str(folder / "three.qcow2"), str(folder / "other.qcow2"))
        of = manifest(folder, ("one.img", "copy.img", "three.qcow2"))
        elsewhere = Elsewhere()
        found = make_plan(of, jobs=1, remote=RemoteScans(elsewhere, ScanLimits()))
        assert checksum(found) == checksum(make_plan(of, jobs=1))
        assert [job.scan.sharing for job in elsewhere.jobs] == [True]
        assert None in elsewhere.jobs[0].scan.shared


def broken_for_proofs(monkeypatch, name):
    """The disk fails under the blocks that a proof takes of one file."""
    real = file_proof._excerpt

    def fail(file, offset):
        if file.path.endswith(name):
            raise ImageError(f"cannot read {file.path}: Input/output error")
        return real(file, offset)

    monkeypatch.setattr(file_proof, "_excerpt", fail)


def test_only_a_guest_that_cannot_be_read_here_is_refused(tmp_path, monkeypatch):
    write_fleet(tmp_path)
    of = manifest(tmp_path)
    expected = {guest.name: guest for guest in make_plan(of, jobs=1).guests}
    broken_for_proofs(monkeypatch, "two.img")
    elsewhere = Elsewhere()
    found = {
        guest.name: guest for guest in make_plan(of, jobs=1, remote=RemoteScans(elsewhere, ScanLimits())).guests
    }
    assert found["two.img"].verdict is Verdict.REFUSE
    assert found["two.img"].reason == f"cannot read {tmp_path}/two.img: Input/output error"
    for name in ("one.img", "three.qcow2"):
        assert found[name] == expected[name]
    (job,) = elsewhere.jobs
    assert [proof.path for proof in job.proofs] == [
        f"{tmp_path}/{name}" for name in ("template.img", "one.img", "three.qcow2")
    ]


def results(template, *guests):
    """The results of the first range, scanned elsewhere; ``guests`` are records."""
    with open_image(source(template)) as image:
        return list(RemoteScans(Elsewhere(), ScanLimits()).results(scan_job(template, *guests), image, [0]))


def test_only_a_guest_that_changed_before_its_batch_is_refused(tmp_path):
    template, one, two = (notation.write_raw(tmp_path / f"{name}.img", f"1M:{name}") for name in "ABC")
    records = [recorded(one), recorded(two)]
    os.utime(two, (1, 1))
    (result,) = results(template, *records)
    assert result.differences.keys() == {0}
    assert result.failures.keys() == {1}
    assert result.failures[1].reason.startswith(f"it changed while this command was running ({two}: ")


def test_a_template_that_cannot_be_read_here_ends_the_scan(tmp_path, monkeypatch):
    template, guest = (notation.write_raw(tmp_path / f"{name}.img", f"1M:{name}") for name in "AB")
    broken_for_proofs(monkeypatch, "A.img")
    with pytest.raises(ImageError, match=r"A\.img: Input/output error"):
        results(template, recorded(guest))


def test_a_check_before_each_read(tmp_path):
    job = job_of(notation.write_raw(tmp_path / "a.img", "1M:A"), notation.write_raw(tmp_path / "b.img", "1M:B"))
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise KeyError("enough")

    with job.begin(check) as scan, pytest.raises(KeyError, match="enough"):
        scan(0)
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("python", "reason"),
    [
        ("3.9.2", "it runs Python 3.9.2, but the planner runs 3.11.4 (use the same version on all hosts)"),
        ("3.11.9", ""),
    ],
)
def test_another_python(monkeypatch, python, reason):
    monkeypatch.setattr(crew.platform, "python_version", lambda: "3.11.4")
    assert crew._objection(crew._Question.PYTHON, python) == reason


def test_a_worker_without_batchdiff():
    found = crew._failure(crew._Question.VERSION, ModuleNotFoundError("No module named 'batchdiff'"))
    assert found.startswith("it cannot import batchdiff (No module named 'batchdiff'); install the same")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'numpy'"), " (No module named 'numpy')"),
        (OSError(errno.EIO, "Input/output error", "/a.img"), " (/a.img: Input/output error)"),
        (OSError(errno.EIO, "Input/output error"), " (Input/output error)"),
        (AssertionError(), ""),
    ],
)
def test_a_worker_that_fails(error, words):
    found = crew._failure(crew._Question.FILES, error)
    assert found == f"it failed when asked about its files{words}; see its log for the cause"


def test_a_worker_that_does_not_answer(monkeypatch):
    """A hard mount of a server that is gone waits for ever; the operator learns which worker it is, once."""

    class Deaf:
        """A client with one worker, which gets what is submitted and never answers."""

        scheduler = Mock()

        def sync(self, *_, **__):
            return {"workers": {"tcp://a:1": {"last_seen": now[0]}}}

        def submit(self, *_, **__):
            return object()

    now, warned = [0.0], []
    monkeypatch.setattr(crew.time, "monotonic", lambda: now[0])
    found = crew.Crew(Deaf(), None, print, warned.append, set())
    for now[0] in (1, 20, 40, 60, 80):
        found.look()
    assert warned == ["the worker tcp://a:1 does not answer: it is busy, or its storage hangs"]
    assert [asked.worker for asked in found.asked.values()] == ["tcp://a:1"]
