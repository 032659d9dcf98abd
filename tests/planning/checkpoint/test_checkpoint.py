"""The file of an unfinished scan: every cut, every forgery, every place that it might be a trap in.

Guards planning/checkpoint/file.py, planning/checkpoint/records.py.
"""

import io
import os
import signal
import stat
import subprocess
import sys
from dataclasses import replace

import pytest
from access import as_user
from clocks import Clock
from hypothesis import given
from hypothesis import strategies as st

from batchdiff.errors import ImageError
from batchdiff.extents import Kind, empty, from_runs
from batchdiff.planning.checkpoint import checkpoint as module
from batchdiff.planning.checkpoint.checkpoint import Checkpoint
from batchdiff.planning.checkpoint.records import (
    CHECKPOINT_MAGIC,
    Binding,
    Guests,
    RangeRecord,
    decode,
    encode_record,
)
from batchdiff.planning.scan.results import RangeResult


@pytest.fixture
def plan(tmp_path):
    return tmp_path / "p.json"


@pytest.fixture
def partial(tmp_path):
    return tmp_path / "p.json.partial"


class Told(list):
    def __call__(self, text):
        self.append(text)


def opened(plan, told=None, begin_after=0.0):
    return Checkpoint(str(plan), warn=told if told is not None else forbidden, begin_after=begin_after)


def forbidden(text):
    raise AssertionError(text)


def result(number, *runs, digest=b"d" * 16, failures=()):
    differences = {1: from_runs(runs)} if runs else {}
    replaced = dict.fromkeys(differences, 2)
    return RangeResult(number, digest, differences, {guest: ImageError("x") for guest in failures}, 9, replaced)


RESULTS = [result(0, (0, 5, Kind.DATA), (7, 1, Kind.ZERO)), result(3, digest=None), result(4, failures=[0])]


def written(plan, results=RESULTS, binding="b"):
    checkpoint = opened(plan)
    assert checkpoint.load(binding) == []
    checkpoint.begin(("one", "two"))
    for each in results:
        checkpoint.add(each)
    checkpoint.close()


def recorded(results):
    plain = [replace(each, failures={}) for each in results]
    return [RangeRecord(plain[n], frozenset(r.failures)) for n, r in enumerate(results)]


def loaded(plan, told=None, binding="b"):
    checkpoint = opened(plan, told)
    try:
        return checkpoint.load(binding)
    finally:
        checkpoint.close()


RUNS = st.lists(
    st.tuples(st.integers(0, 2**40), st.integers(1, 2**20), st.sampled_from([Kind.DATA, Kind.ZERO, Kind.SAME]))
)


@given(
    st.integers(0, 2**40),
    st.none() | st.binary(min_size=16, max_size=16),
    st.dictionaries(st.integers(0, 5), RUNS),
    st.sets(st.integers(0, 5)),
)
def test_a_result_comes_back(tmp_path_factory, number, digest, runs, failed):
    plan = tmp_path_factory.mktemp("p") / "p.json"
    differences = {guest: spread(found) for guest, found in runs.items()}
    error = ImageError("x")
    replaced = {guest: len(found) for guest, found in differences.items()}
    written(plan, [RangeResult(number, digest, differences, dict.fromkeys(failed, error), 7, replaced)])
    guests, record = loaded(plan)
    assert guests == Guests(("one", "two"))
    assert record == RangeRecord(RangeResult(number, digest, differences, {}, 7, replaced), frozenset(failed))


def spread(runs):
    """Runs made disjoint by putting a gap before each."""
    at, found = 0, []
    for gap, count, kind in runs:
        found.append((at + gap + 1, count, kind))
        at += gap + 1 + count
    return from_runs(found) if found else empty()


def test_what_was_found_comes_back(plan):
    written(plan)
    assert loaded(plan) == [Guests(("one", "two")), *recorded(RESULTS)]


def test_nothing_is_written_of_a_short_scan(plan, partial, monkeypatch):
    monkeypatch.setattr(module, "time", clock := Clock())
    checkpoint = opened(plan, begin_after=0.3)
    checkpoint.load("b")
    checkpoint.begin(("one",))
    checkpoint.add(result(0))
    assert not partial.exists()
    clock.sleep(0.31)
    assert not partial.exists()
    checkpoint.add(result(1))
    checkpoint.close()
    assert loaded(plan) == [Guests(("one",)), *recorded([result(0), result(1)])]


def test_results_for_another_state_are_not_kept_for_this_one(plan):
    written(plan)
    checkpoint = opened(plan, told := Told())
    checkpoint.load("another state")
    assert told
    assert not checkpoint.is_kept
    checkpoint.begin(("one",))
    checkpoint.add(result(0))
    assert checkpoint.is_kept
    checkpoint.close()


def test_every_cut_leaves_what_was_whole(plan, partial):
    """A power cut, at any byte; and what is added then is found, too."""
    written(plan)
    whole = partial.read_bytes()
    complete = [Guests(("one", "two")), *recorded(RESULTS)]
    seen = set()
    for length in range(len(whole) + 1):
        partial.write_bytes(whole[:length])
        told = Told()
        found = loaded(plan, told)
        assert found == complete[: len(found)]
        assert bool(told) is not_yet_bound(length)
        seen.add(len(found))
        checkpoint = opened(plan, told)
        checkpoint.load("b")
        checkpoint.begin(("new",))
        checkpoint.add(result(9))
        checkpoint.close()
        assert loaded(plan) == [*found, Guests(("new",)), *recorded([result(9)])]
    assert seen == set(range(len(complete) + 1))


def not_yet_bound(length):
    return length < len(CHECKPOINT_MAGIC) + len(encode_record(Binding("b")))


def test_a_changed_byte_is_never_believed(plan, partial):
    written(plan)
    whole = partial.read_bytes()
    complete = [Guests(("one", "two")), *recorded(RESULTS)]
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x41
        partial.write_bytes(damaged)
        told = Told()
        found = loaded(plan, told)
        assert found == complete[: len(found)]
        assert len(found) < len(complete)
        assert told or found or at > len(CHECKPOINT_MAGIC)


def test_what_follows_damage_never_comes_back(plan, partial):
    """A record as long as the damaged one takes its place; what was behind it had other guests in mind."""
    written(plan, [result(0), result(1), result(2)])
    content = bytearray(partial.read_bytes())
    content[-len(encode_record(result(1))) * 2 + 30] ^= 1
    partial.write_bytes(content)
    checkpoint = opened(plan)
    assert checkpoint.load("b") == [Guests(("one", "two")), *recorded([result(0)])]
    checkpoint.add(result(9))
    checkpoint.close()
    assert loaded(plan) == [Guests(("one", "two")), *recorded([result(0), result(9)])]


def test_zeros_after_a_power_cut(plan, partial):
    written(plan)
    with partial.open("ab") as file:
        file.write(bytes(5000))
    assert loaded(plan) == [Guests(("one", "two")), *recorded(RESULTS)]


def test_another_binding(plan):
    written(plan)
    told = Told()
    assert loaded(plan, told, binding="c") == []
    assert "not used" in told[0]
    written_again = opened(plan, told)
    assert written_again.load("c") == []
    written_again.begin(("one",))
    written_again.add(result(1))
    written_again.close()
    assert loaded(plan, binding="c") == [Guests(("one",)), *recorded([result(1)])]


@pytest.mark.parametrize(
    "payload", [b"X", b"R", b"G{}", b"G[1]", b"B\xff", b"R" + bytes(36), b"R" + bytes(38), b"R" + b"\xff" * 37]
)
def test_whole_records_that_make_no_sense(plan, partial, payload):
    import xxhash  # noqa: PLC0415

    written(plan)
    frame = len(payload).to_bytes(4, "little") + xxhash.xxh3_128_digest(payload)
    with partial.open("ab") as file:
        file.write(frame + payload + encode_record(result(77)))
    found = loaded(plan)
    assert found[:4] == [Guests(("one", "two")), *recorded(RESULTS)]
    assert 77 not in [record.result.number for record in found[1:]]


@pytest.mark.parametrize("runs", [[(5, 0, 3)], [(5, 2, 3), (6, 1, 3)], [(-1, 2, 3)], [(0, 1, 0)], [(0, 1, 9)]])
def test_runs_that_no_scan_gives(plan, runs):
    """Records with a right checksum, from another hand."""
    import numpy as np  # noqa: PLC0415

    from batchdiff.extents import Extents  # noqa: PLC0415

    columns = np.array(runs)
    forged = Extents(columns[:, 0], columns[:, 1], columns[:, 2].astype(np.uint8))
    written(plan, [RangeResult(1, None, {0: forged})])
    assert loaded(plan) == [Guests(("one", "two"))]


@pytest.mark.parametrize(
    "trap",
    [
        "link",
        "link to a good one",
        "hardlink",
        "fifo",
        "folder",
        "foreign",
        "theirs",
        "writable",
        "device",
    ],
)
def test_what_is_not_ours_is_left_alone(tmp_path, plan, partial, trap):
    other = tmp_path / "other"
    match trap:
        case "link":
            other.write_bytes(b"precious")
            partial.symlink_to(other)
        case "link to a good one":
            written(plan)
            partial.rename(other)
            partial.symlink_to(other)
        case "hardlink":
            written(plan)
            os.link(partial, other)
        case "fifo":
            os.mkfifo(partial)
        case "folder":
            partial.mkdir()
        case "foreign":
            partial.write_bytes(b"the plan of another program")
        case "theirs":
            written(plan)
            os.chown(partial, 12345, -1)
        case "writable":
            written(plan)
            partial.chmod(0o666)
        case "device":
            os.mknod(partial, 0o600 | stat.S_IFBLK, os.makedev(250, 250))
    content = {path: path.read_bytes() for path in (partial, other) if path.is_file()}
    before = partial.lstat()
    told = Told()
    checkpoint = opened(plan, told)
    assert checkpoint.load("b") == []
    checkpoint.begin(("one",))
    checkpoint.add(result(1))
    checkpoint.discard()
    checkpoint.close()
    assert len(told) == 1
    assert "partial" in told[0]
    after = partial.lstat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert {path: path.read_bytes() for path in (partial, other) if path.is_file()} == content


def test_a_link_that_is_put_there_while_it_scans(tmp_path, plan, partial):
    told = Told()
    checkpoint = opened(plan, told)
    checkpoint.load("b")
    partial.symlink_to(tmp_path / "other")
    checkpoint.add(result(1))
    checkpoint.close()
    assert len(told) == 1
    assert not (tmp_path / "other").exists()


def test_discarded_when_all_is_done(plan, partial):
    checkpoint = opened(plan)
    checkpoint.load("b")
    checkpoint.add(result(1))
    assert partial.exists()
    assert stat.S_IMODE(partial.stat().st_mode) == 0o600
    checkpoint.discard()
    assert not partial.exists()


def test_that_it_cannot_be_discarded_is_explained(plan, partial):
    told = Told()
    checkpoint = opened(plan, told)
    checkpoint.load("b")
    checkpoint.add(result(1))
    subprocess.run(["chattr", "+i", str(partial)], check=True)
    try:
        checkpoint.discard()
    finally:
        subprocess.run(["chattr", "-i", str(partial)], check=True)
    assert told == [
        f"could not remove {partial}: {partial} is immutable (attribute i, see lsattr), which stops even root; you"
        " can delete it yourself"
    ]


def test_only_its_own_file_is_discarded(plan, partial):
    checkpoint = opened(plan)
    checkpoint.load("b")
    checkpoint.add(result(1))
    partial.unlink()
    partial.write_bytes(b"another")
    checkpoint.discard()
    assert partial.read_bytes() == b"another"


def test_nothing_to_discard_is_no_reason_to_warn(plan, partial):
    checkpoint = opened(plan)
    checkpoint.load("b")
    checkpoint.add(result(1))
    partial.unlink()
    checkpoint.discard()


_HOLDER = """
import sys, time
from batchdiff.planning.checkpoint.checkpoint import Checkpoint
from batchdiff.planning.scan.results import RangeResult
checkpoint = Checkpoint(sys.argv[1], warn=print, begin_after=0)
checkpoint.load("b")
checkpoint.begin(("one", "two"))
checkpoint.add(RangeResult(5))
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_two_at_once(plan, partial, when):
    """The second says so and goes without; the first one's findings stay as they are, also when it is killed."""
    told = Told()
    ours = opened(plan, told)
    if when == "meanwhile":
        ours.load("b")
    with subprocess.Popen([sys.executable, "-c", _HOLDER, str(plan)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        before = partial.read_bytes()
        if when == "before":
            assert ours.load("b") == []
        ours.begin(("one",))
        ours.add(result(1))
        ours.discard()
        assert len(told) == 1
        user = "another `batchdiff plan` is using it"
        if when == "meanwhile":
            user = "another process, perhaps a `batchdiff plan`, created it meanwhile"
        assert told[0].endswith(f"because {partial} cannot be used: {user}")
        assert partial.read_bytes() == before
        holder.send_signal(signal.SIGKILL)
    assert loaded(plan) == [Guests(("one", "two")), *recorded([RangeResult(5)])]


def test_a_forked_worker_does_not_hold_it(plan):
    """It may live on for a range when its planner was killed; the next plan must not wait for it."""
    code = _HOLDER.replace('print("held", flush=True)', "import os\nus = os.getpid()\nif os.fork(): os._exit(0)")
    code = code.replace(
        "time.sleep(60)", "while os.getppid() == us: pass\nprint('held', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, str(plan)], stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert len(loaded(plan)) == 2


def test_a_full_disk(plan, monkeypatch):
    told = Told()
    checkpoint = opened(plan, told)
    checkpoint.load("b")
    checkpoint.add(result(1))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    checkpoint.add(result(2))
    checkpoint.add(result(3))
    checkpoint.close()
    assert told == [
        "if this scan is interrupted, only its earlier results are kept, because the filesystem of"
        f" {plan.parent} has no space left"
    ]
    assert len(loaded(plan)) == 1


@pytest.mark.parametrize("earlier", [[], [result(1)]])
def test_what_a_full_disk_left_is_discarded(plan, partial, monkeypatch, earlier):
    checkpoint = opened(plan, Told())
    checkpoint.load("b")
    for each in earlier:
        checkpoint.add(each)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    checkpoint.add(result(2))
    assert partial.exists()
    assert not checkpoint.is_kept
    checkpoint.discard()
    assert not partial.exists()


def test_a_disk_that_is_full_from_the_start(plan, monkeypatch):
    told = Told()
    checkpoint = opened(plan, told)
    checkpoint.load("b")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    checkpoint.add(result(1))
    checkpoint.close()
    assert len(told) == 1
    assert told[0].startswith("if this scan is interrupted, it cannot be resumed, because ")


SOMEBODY = 3001


def told_to_somebody(folder):
    """The warning that another user gets, for whom the folder is the root of all files."""

    def warnings():
        told = Told()
        checkpoint = opened("/p.json", told)
        checkpoint.load("b")
        checkpoint.add(result(1))
        checkpoint.close()
        return list(told)

    (warning,) = as_user(SOMEBODY, folder, warnings)
    return warning


def test_a_file_of_another_user(plan, partial):
    """Nobody is using it."""
    written(plan)
    plan.parent.chmod(0o755)
    assert told_to_somebody(partial.parent) == (
        "if this scan is interrupted, it cannot be resumed, because the user with uid 3001 may not write to"
        " /p.json.partial, which belongs to uid 0 and has mode 600"
    )


def test_a_folder_that_may_not_be_written_to(tmp_path):
    tmp_path.chmod(0o755)
    assert told_to_somebody(tmp_path) == (
        "if this scan is interrupted, it cannot be resumed, because the user with uid 3001 may not write to the"
        " folder /, which belongs to uid 0 and has mode 755"
    )


def test_no_folder_to_write_to(tmp_path):
    told = Told()
    checkpoint = opened(tmp_path / "none" / "p.json", told)
    checkpoint.load("b")
    checkpoint.add(result(1))
    checkpoint.add(result(2))
    assert len(told) == 1


def test_synced_now_and_then(plan, monkeypatch):
    monkeypatch.setattr(module, "time", clock := Clock())
    monkeypatch.setattr(module, "_SYNC_EVERY", 0.2)
    synced = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (synced.append(fd), real(fd)))
    checkpoint = opened(plan)
    checkpoint.load("b")
    for number in range(5):
        checkpoint.add(result(number))
        clock.sleep(0.11)
    checkpoint.close()
    assert len(synced) == 2


def test_a_file_that_another_program_shortens_ends_early():
    record = encode_record(Binding("0" * 64))
    whole = io.BytesIO(record)
    assert [end for _, end in decode(whole, len(record))] == [len(record)]
    for length in range(len(record)):
        assert list(decode(io.BytesIO(record[:length]), len(record))) == []
