"""The journal: what is recorded comes back, whatever a crash left of the last line.

Guards applying/journal/records.py.
"""

import fcntl
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import plans
import pytest

from batchdiff.applying.journal import file as journal_file
from batchdiff.applying.journal.file import Journal, read_history
from batchdiff.applying.journal.records import Fate, Goal, GuestState, History, Step
from batchdiff.errors import PlanError
from batchdiff.image.storage.exactness import Exactness

CHECKSUM = "sha256:" + "ab" * 32
NAME = 'we"b\n01 \udc80'
STEPS = [
    GuestState(Step.CHECKED, temporary="/images/.web.qcow2.00.batchdiff-tmp"),
    GuestState(Step.WRITTEN, temporary="/images/.web.qcow2.00.batchdiff-tmp"),
    GuestState(Step.VERIFIED, temporary="/images/.web.qcow2.00.batchdiff-tmp", overlay=plans.fingerprint(1)),
    GuestState(Step.PUBLISHED, overlay=plans.fingerprint(2), published=True),
    GuestState(
        Step.RETIRED,
        Goal.APPLY,
        overlay=plans.fingerprint(3),
        published=True,
        moved=True,
        deleting=True,
        fate=Fate.QUARANTINED,
        aside="/images/ü",
    ),
]


@pytest.fixture
def plan_path(tmp_path):
    return str(tmp_path / "fleet.plan.json")


def read(plan_path):
    return Path(f"{plan_path}.journal").read_bytes()


def written(plan_path):
    """A journal with every step of a guest, one of another and the template's; its standings by line."""
    journal = Journal(plan_path, CHECKSUM)
    states = [{}]
    for guest, state in [(NAME, step) for step in STEPS] + [("other", STEPS[0])]:
        journal.record(guest, state)
        states.append(states[-1] | {guest: state})
    journal.record_changed(plans.fingerprint(9))
    states.append(states[-1])
    journal.close()
    return states


def reopened(plan_path, checksum=CHECKSUM):
    journal = Journal(plan_path, checksum)
    try:
        found = {name: journal.state(name) for name in (NAME, "other")}
        return {name: state for name, state in found.items() if state}, journal.history.changed
    finally:
        journal.close()


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_new_one(plan_path, mask):
    """It can be read by whom the umask lets, as the plan beside it: `status` needs both."""
    before = os.umask(mask)
    try:
        assert reopened(plan_path) == ({}, set())
    finally:
        os.umask(before)
    assert os.stat(f"{plan_path}.journal").st_mode & 0o777 == 0o666 & ~mask
    assert json.loads(read(plan_path))["plan"] == CHECKSUM


def test_everything_is_found_again(plan_path):
    states = written(plan_path)
    assert reopened(plan_path) == (states[-1], {plans.fingerprint(9)})
    history = read_history(plan_path, CHECKSUM)
    assert history.states == states[-1]
    assert history.published == [NAME]
    assert history.changed == {plans.fingerprint(9)}
    assert set(history.times) == {NAME, "other"}


def test_each_line_is_one_json_object_with_its_time(plan_path):
    written(plan_path)
    lines = read(plan_path).splitlines()
    assert len(lines) == 8
    assert all({"time", "step"} <= set(json.loads(line)) for line in lines)


def test_cut_at_every_byte(plan_path):
    """What was recorded before the cut is there, the cut line is not, and what follows is whole again."""
    states = written(plan_path)
    whole = read(plan_path)
    for length in range(len(whole)):
        with open(f"{plan_path}.journal", "wb") as file:
            file.write(whole[:length])
        lines = whole[:length].count(b"\n")
        found, template = reopened(plan_path)
        assert found == (states[lines - 1] if lines else {})
        assert template == set()
        if length % 13:
            continue
        journal = Journal(plan_path, CHECKSUM)
        journal.record("third", STEPS[3])
        journal.close()
        again = Journal(plan_path, CHECKSUM)
        assert again.state("third") == STEPS[3]
        again.close()


def test_only_one_at_a_time(plan_path):
    journal = Journal(plan_path, CHECKSUM)
    with pytest.raises(PlanError, match="another batchdiff command"):
        Journal(plan_path, CHECKSUM)
    journal.close()
    Journal(plan_path, CHECKSUM).close()


def test_the_lock_goes_with_its_process(plan_path):
    code = (
        "import sys, time; from batchdiff.applying.journal.file import Journal;"
        f"j = Journal({plan_path!r}, {CHECKSUM!r}); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(PlanError, match="another batchdiff command"):
            Journal(plan_path, CHECKSUM)
        holder.kill()
    Journal(plan_path, CHECKSUM).close()


def test_the_journal_of_an_older_plan_is_set_aside(plan_path, tmp_path):
    written(plan_path)
    before = read(plan_path)
    assert reopened(plan_path, "sha256:" + "cd" * 32) == ({}, set())
    aside = [path for path in tmp_path.iterdir() if path.name != "fleet.plan.json.journal"]
    assert [path.read_bytes() for path in aside] == [before]


SAID = {
    "first": "is not a journal",
    "middle": "is damaged: line 5 is not a batchdiff record",
    "last": r"is damaged: line \d+ is not a batchdiff record",
}
"""By where a line is that makes no sense."""


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"{",
        b"\xff\xfe",
        b"5",
        b"[]",
        b"null",
        b"{}",
        b'{"step": "unheard of", "guest": "a"}',
        b'{"step": "checked"}',
        b'{"step": "changed"}',
        b'{"step": "changed", "file": {"inode": 1}}',
        b'{"step": "published", "guest": "a", "overlay": 7}',
        b'{"step": "published", "guest": ["a"]}',
        b"[" * 100_000,
    ],
    ids=range(14),
)
@pytest.mark.parametrize("where", SAID)
def test_damaged(plan_path, line, where):
    written(plan_path)
    path = f"{plan_path}.journal"
    lines = read(plan_path).splitlines()
    lines.insert({"first": 0, "middle": 4, "last": len(lines)}[where], line)
    damaged = b"\n".join(lines) + b"\n"
    with open(path, "wb") as file:
        file.write(damaged)
    for _ in range(2):  # the first try must have given the lock back
        with pytest.raises(PlanError, match=SAID[where]):
            Journal(plan_path, CHECKSUM)
    assert read(plan_path) == damaged


def test_a_failed_write_leaves_no_torn_line(plan_path, monkeypatch):
    """The disk was full for a while: what is recorded later must not follow half a line."""
    journal = Journal(plan_path, CHECKSUM)
    real = os.pwrite

    def full(fd, data, offset):
        if len(data) > 10:
            return real(fd, data[:10], offset)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        journal.record("web", STEPS[0])
    monkeypatch.setattr(os, "pwrite", real)
    assert journal.state("web") is None
    journal.record("other", STEPS[1])
    journal.close()
    assert reopened(plan_path)[0] == {"other": STEPS[1]}


@pytest.mark.parametrize("kind", ["folder", "link", "no folder", "full"])
def test_a_journal_that_cannot_be(plan_path, tmp_path, kind, monkeypatch):
    path = tmp_path / "fleet.plan.json.journal"
    match kind:
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to("/etc/passwd")
        case "no folder":
            plan_path = str(tmp_path / "none" / "plan.json")
        case "full":

            def full(*_):
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(PlanError, match="journal"):
        Journal(plan_path, CHECKSUM)


def test_every_record_is_on_disk_when_it_counts(plan_path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_size), real(fd)))
    journal = Journal(plan_path, CHECKSUM)
    for state in STEPS:
        synced.clear()
        journal.record("web", state)
        assert synced == [os.path.getsize(journal.path)]
    journal.close()


@pytest.mark.parametrize("text", [None, b"", b"nonsense\n", b'{"step": "begin"}\n', b'{"file": 5}\n[]\n'])
def test_read_notes_without_one(plan_path, text):
    if text is not None:
        with open(f"{plan_path}.journal", "wb") as file:
            file.write(text)
    assert replace(read_history(plan_path, CHECKSUM), is_damaged=False) == History()


@pytest.mark.parametrize(
    ("change", "is_damaged"),
    [
        (lambda text: text, False),
        (lambda text: text[:-5], False),  # cut short by a crash: that step does not count
        (lambda text: text.replace(b'"step": "written"', b'"step": "written'), True),
        (lambda text: text.replace(b'"step": "written"', b'"step": "wrote"'), True),
        (lambda text: text[:-5] + b"\n", True),
    ],
)
def test_lines_that_cannot_be_read_are_known(plan_path, change, is_damaged):
    written(plan_path)
    Path(f"{plan_path}.journal").write_bytes(change(read(plan_path)))
    assert read_history(plan_path, CHECKSUM).is_damaged == is_damaged


def test_a_whole_last_line_without_its_end_counts_for_nobody(plan_path):
    """What reports show is what the next apply, restore or purge knows."""
    journal = Journal(plan_path, CHECKSUM)
    journal.record(NAME, STEPS[0])
    journal.close()
    Path(journal.path).write_bytes(read(plan_path).removesuffix(b"\n"))
    assert read_history(plan_path, CHECKSUM) == History()
    assert reopened(plan_path) == ({}, set())


OUT_OF_RANGE = ["1e999", "Infinity", "NaN", "1.5", '"1"', "null", "[]", str(10**400)]


@pytest.mark.parametrize("value", OUT_OF_RANGE, ids=lambda value: value[:8])
@pytest.mark.parametrize(
    "key", ["shared_bytes", "came_back_bytes", "to_free_bytes", "overlay", "parts", "changed"]
)
def test_a_number_that_is_none_is_damage(plan_path, key, value):
    """A journal is untrusted input; no number in it ends a command as a bug."""
    written(plan_path)
    file = f'{{"device": 1, "inode": 1, "size": {value}, "mtime_ns": 1, "ctime_ns": 1}}'
    values = {"overlay": file, "parts": f'[["/x", {file}]]'}
    line = f'"guest": "g", "step": "sharing", "goal": "apply", "{key}": {values.get(key, value)}'
    if key == "changed":
        line = f'"step": "changed", "file": {file}'
    with open(f"{plan_path}.journal", "a") as journal:
        journal.write(f'{{"time": "2026-01-01T00:00:00Z", {line}}}\n')
    assert read_history(plan_path, CHECKSUM).is_damaged
    with pytest.raises(PlanError, match="is damaged: line 9 is not a batchdiff record"):
        Journal(plan_path, CHECKSUM)


@pytest.mark.parametrize("to_free", [None, 0, 5])
@pytest.mark.parametrize("exactness", [None, *Exactness])
def test_nothing_to_free_is_not_the_same_as_an_unknown_amount(to_free, exactness):
    """Older journals have neither key."""
    state = GuestState(Step.SHARING, came_back_bytes=3, to_free_bytes=to_free, exactness=exactness)
    record = json.loads(json.dumps(state.record()))
    assert {"to_free_bytes", "exactness"} - set(record) == {
        name for name, value in (("to_free_bytes", to_free), ("exactness", exactness)) if value is None
    }
    history = History()
    history.take_in({"time": "", "guest": "web01"} | record)
    assert history.states == {"web01": state}


def test_the_notes_of_another_plan_are_none(plan_path):
    written(plan_path)
    assert read_history(plan_path, "sha256:" + "cd" * 32) == History()


def test_a_failure_is_noted_beside_the_standing(plan_path):
    written(plan_path)
    journal = Journal(plan_path, CHECKSUM)
    journal.record_failure(NAME, "it is in use")
    journal.close()
    history = read_history(plan_path, CHECKSUM)
    assert history.failures == {NAME: "it is in use"}
    assert history.states[NAME] == STEPS[-1]
    journal = Journal(plan_path, CHECKSUM)
    journal.record(NAME, STEPS[-1])
    journal.close()
    assert read_history(plan_path, CHECKSUM).failures == {}


@pytest.mark.parametrize("published", [False, True])
def test_the_time_of_a_failure_is_the_last_one_unless_the_guest_was_published(published):
    history = History()
    if published:
        history.take_in({"time": "1", "guest": NAME} | GuestState(Step.PUBLISHED, published=True).record())
    for time in ("2", "3"):
        history.take_in({"time": time, "guest": NAME, "step": "failed", "reason": f"why {time}"})
    assert history.failures == {NAME: "why 3"}
    assert history.times == {NAME: "1" if published else "3"}


def test_a_restored_guest_stands_where_it_began(plan_path):
    written(plan_path)
    journal = Journal(plan_path, CHECKSUM)
    journal.record(NAME, GuestState(Step.RESTORED, Goal.RESTORE))
    journal.close()
    assert NAME not in reopened(plan_path)[0]


@pytest.mark.parametrize("content", [b"\0" * 5000, b"my notes", b"my notes\n", b'{"a": 1}\n{'])
def test_a_file_that_is_no_journal_is_left_alone(plan_path, content):
    Path(f"{plan_path}.journal").write_bytes(content)
    with pytest.raises(PlanError, match="not a journal"):
        Journal(plan_path, CHECKSUM)
    assert read(plan_path) == content


def test_after_a_failed_sync_nothing_more_is_noted(plan_path, monkeypatch):
    """The kernel may call the pages clean that it could not write."""
    journal = Journal(plan_path, CHECKSUM)
    real = os.fsync

    def fail(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        journal.record("web", STEPS[0])
    monkeypatch.setattr(os, "fsync", real)
    with pytest.raises(OSError, match="Input/output"):
        journal.record("web", STEPS[0])
    journal.close()


def test_reading_the_note_takes_no_lock(plan_path):
    written(plan_path)
    fd = os.open(f"{plan_path}.journal", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert read_history(plan_path, CHECKSUM).published == [NAME]
    os.close(fd)


@pytest.mark.parametrize(
    ("words", "fate", "aside"),
    [
        ("kept", Fate.KEPT, None),
        ("deleted", Fate.DELETED, None),
        (
            "quarantined as /images/web01.img.batchdiff-original",
            Fate.QUARANTINED,
            "/images/web01.img.batchdiff-original",
        ),
        ("gone: an earlier run deleted it, or somebody moved it", Fate.GONE, None),
    ],
)
def test_journals_that_had_sentences_are_still_read(words, fate, aside):
    """As batchdiff wrote them before what became of an original got a word of its own."""
    history = History()
    record = {"time": "2026-01-01T00:00:00Z", "guest": "web01", "step": "retired", "goal": "apply"}
    history.take_in(record | {"published": True, "moved": True, "original": words})
    assert (history.states["web01"].fate, history.states["web01"].aside) == (fate, aside)


def test_a_restored_guest_is_done_with_unless_an_older_original_is_left():
    history = History()
    record = {"time": "2026-01-01T00:00:00Z", "guest": "web01", "step": "restored", "goal": "restore"}
    history.take_in(record | {"fate": "quarantined", "aside": "/images/web01.img.batchdiff-original"})
    assert history.under_way("web01") is None
    assert history.states["web01"].aside == "/images/web01.img.batchdiff-original"
    history.take_in(record)
    assert history.states == {}


def test_who_was_given_back():
    """From a restore until an apply begins with the guest again, or a later plan is to convert it."""
    history = History()

    def line(second, step, goal, **more):
        when = f"2026-01-01T00:00:{second:02}.500Z"
        history.take_in({"time": when, "guest": "web01", "step": step, "goal": goal} | more)

    def back(made="2026-01-01T00:00:00Z"):
        return history.given_back(made)

    aside = {"fate": "quarantined", "aside": "/images/web01.img.batchdiff-original"}
    line(1, "restored", "restore", **aside)
    assert not back(), "found by recovery, which does not know who did that"
    line(2, "published", "apply", published=True)
    line(3, "written", "restore", published=True)
    assert not back()
    line(4, "restored", "restore", **aside)
    line(5, "retiring", "purge", **aside)
    line(6, "restored", "purge")
    assert back() == back("2026-01-01T00:00:04Z") == {"web01"}
    assert not back("2026-01-01T00:00:05Z")
    line(7, "checked", "apply")
    assert not back()


AWAY = (
    " Move the journal away, then run the same command again. The records are then recovered, as far as the"
    " template's sidecar and the files show them."
)


def refusals(plan_path):
    """What both say that open a journal: the one that writes, and the one that only reads."""
    for verb in (Journal, read_history):
        with pytest.raises(PlanError) as caught:
            verb(plan_path, CHECKSUM)
        yield str(caught.value)


def test_a_fifo_or_a_device_is_no_empty_history(plan_path):
    """It would hide what was converted."""
    os.mkfifo(f"{plan_path}.journal")
    said = f"cannot use the journal {plan_path}.journal: it is not a regular file.{AWAY}"
    assert list(refusals(plan_path)) == [said, said]


@pytest.mark.parametrize("cut", [0, 5])
def test_a_journal_that_is_too_large_is_left_as_it_is(plan_path, monkeypatch, cut):
    """Nothing after the limit is taken for a line that a crash cut short."""
    written(plan_path)
    whole = read(plan_path)
    monkeypatch.setattr(journal_file, "LARGEST_DOCUMENT", len(whole) - 1 - cut)
    for said in refusals(plan_path):
        assert said.startswith(f"cannot use the journal {plan_path}.journal: it is larger than ")
        assert said.endswith(AWAY)
    assert read(plan_path) == whole
    monkeypatch.setattr(journal_file, "LARGEST_DOCUMENT", len(whole))
    assert reopened(plan_path)[0] == read_history(plan_path, CHECKSUM).states


def test_a_read_that_returns_less_cuts_nothing_off(plan_path, monkeypatch):
    states = written(plan_path)
    whole = read(plan_path)
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, at: real(fd, min(length, 100), at))
    assert reopened(plan_path)[0] == states[-1]
    assert read(plan_path) == whole
