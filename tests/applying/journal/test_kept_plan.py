"""A plan that can still be undone outlives the plan that takes its name, whatever dies when."""

import dataclasses
import errno
import fcntl
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import plans
import pytest

from batchdiff.applying.journal.file import Journal, read_history
from batchdiff.applying.journal.kept_plan import name_to_keep, replace_plan
from batchdiff.applying.journal.records import OF_SHARING, Fate, Goal, GuestState, Step
from batchdiff.errors import PlanError, UsageError
from batchdiff.plan.file import read_plan, write_plan
from batchdiff.plan.head import plan_head

OLD = plans.small_plan(plans.guest_plan("web01"), plans.guest_plan("web02"))
NEW = plans.small_plan(plans.guest_plan("web03"), created="2026-02-03T04:05:06Z")
KEPT = "fleet.2026-01-02T030405Z.plan.json"
ASIDE = "/srv/clones/web01.img.batchdiff-original"
QUARANTINED = GuestState(Step.RETIRED, published=True, fate=Fate.QUARANTINED, aside=ASIDE)


@pytest.fixture
def path(tmp_path):
    """Where a plan is whose first guest is in quarantine."""
    path = str(tmp_path / "fleet.plan.json")
    begun(path, web01=QUARANTINED)
    return path


def begun(path, plan=OLD, **states):
    write_plan(plan, path)
    journal = Journal(path, read_plan(path).checksum)
    for guest, state in states.items():
        journal.record(guest, state)
    journal.close()


def names(path):
    return sorted(os.listdir(os.path.dirname(path)))


def in_folder(path, name):
    return os.path.join(os.path.dirname(path), name)


def guests_at(path):
    """The guests of a plan and those that its journal knows."""
    plan = read_plan(path)
    return [guest.name for guest in plan.guests], list(read_history(path, plan.checksum).states)


def test_the_older_plan_and_its_journal_get_another_name(path):
    journal = os.stat(f"{path}.journal")
    assert name_to_keep(path, {}) == in_folder(path, KEPT)
    assert names(path) == ["fleet.plan.json", "fleet.plan.json.journal"], "nothing is done yet"
    kept = replace_plan(NEW, path, {})
    assert kept.path == in_folder(path, KEPT)
    assert kept.guests == {Fate.QUARANTINED: ["web01"]}
    assert names(path) == [KEPT, f"{KEPT}.journal", "fleet.plan.json"]
    assert guests_at(path) == (["web03"], [])
    assert guests_at(kept.path) == (["web01", "web02"], ["web01"])
    assert os.path.samestat(journal, os.stat(f"{kept.path}.journal"))


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("x.plan.json", "x.2026-01-02T030405Z.plan.json"),
        ("x.json", "x.2026-01-02T030405Z.json"),
        ("a.b.c", "a.b.2026-01-02T030405Z.c"),
        ("plan", "plan.2026-01-02T030405Z"),
        (".plan.json", ".2026-01-02T030405Z.plan.json"),
    ],
)
def test_names(tmp_path, monkeypatch, name, kept):
    monkeypatch.chdir(tmp_path)
    begun(name, web01=QUARANTINED)
    assert replace_plan(NEW, name, {}).path == kept
    assert guests_at(kept)[1] == ["web01"]


@pytest.mark.parametrize("taken", [KEPT, f"{KEPT}.journal"])
def test_a_name_that_is_taken(path, taken):
    Path(in_folder(path, taken)).write_text("mine")
    second = "fleet.2026-01-02T030405Z-2.plan.json"
    assert name_to_keep(path, {}) == in_folder(path, second)
    assert replace_plan(NEW, path, {}).path == in_folder(path, second)
    assert guests_at(in_folder(path, second))[1] == ["web01"]
    assert Path(in_folder(path, taken)).read_text() == "mine"


def test_behind_a_symbolic_link(path, tmp_path):
    """The journal lies beside the link, and so does what is kept."""
    (tmp_path / "deep").mkdir()
    os.rename(path, tmp_path / "deep" / "x")
    os.symlink("deep/x", path)
    kept = replace_plan(NEW, path, {})
    assert os.path.islink(path)
    assert guests_at(path) == (["web03"], [])
    assert guests_at(kept.path) == (["web01", "web02"], ["web01"])


FATES = {
    Fate.QUARANTINED: QUARANTINED,
    Fate.KEPT: GuestState(Step.RETIRED, published=True, fate=Fate.KEPT),
    Fate.DELETED: GuestState(Step.RETIRED, published=True, fate=Fate.DELETED),
    Goal.APPLY: GuestState(Step.CHECKED, temporary="/x"),
    Goal.RESTORE: GuestState(Step.VERIFIED, Goal.RESTORE, published=True),
    Goal.PURGE: GuestState(Step.RETIRING, Goal.PURGE, published=True),
}


@pytest.mark.parametrize("fate", FATES)
def test_whatever_was_begun_is_kept(tmp_path, fate):
    path = str(tmp_path / "fleet.plan.json")
    begun(path, web01=FATES[fate])
    assert replace_plan(NEW, path, {}).guests == {fate: ["web01"]}


def test_an_original_that_a_restore_left_in_quarantine(tmp_path):
    path = str(tmp_path / "fleet.plan.json")
    begun(path, web01=GuestState(Step.RESTORED, Goal.RESTORE, fate=Fate.QUARANTINED, aside=ASIDE))
    assert replace_plan(NEW, path, {}).guests == {Fate.QUARANTINED: ["web01"]}


def test_a_purged_guest_can_be_rebuilt_from_its_overlay(tmp_path):
    path = str(tmp_path / "fleet.plan.json")
    begun(path, web01=GuestState(Step.PURGED, Goal.PURGE, published=True, fate=Fate.DELETED))
    assert replace_plan(NEW, path, {}).guests == {Fate.DELETED: ["web01"]}


def restored(path):
    journal = Journal(path, read_plan(path).checksum)
    journal.record("web01", GuestState(Step.RESTORED, Goal.RESTORE))
    journal.close()


@pytest.mark.parametrize("case", ["no journal", "restored", "failed", "empty"])
def test_a_plan_without_anything_to_undo_is_replaced(path, case):
    match case:
        case "no journal":
            os.unlink(f"{path}.journal")
        case "restored":
            restored(path)
        case "failed":
            os.unlink(f"{path}.journal")
            journal = Journal(path, read_plan(path).checksum)
            journal.record_failure("web01", "it is in use")
            journal.close()
        case "empty":
            os.truncate(f"{path}.journal", 0)
    before = names(path)
    assert name_to_keep(path, {}) is None
    assert replace_plan(NEW, path, {}) is None
    assert names(path) == before
    assert guests_at(path) == (["web03"], [])


def test_the_journal_of_yet_another_plan_stays_where_it_is(path):
    """A crash may have left it there; its plan is kept under another name already."""
    write_plan(NEW, path)
    before = Path(f"{path}.journal").read_bytes()
    assert replace_plan(OLD, path, {}) is None
    assert names(path) == ["fleet.plan.json", "fleet.plan.json.journal"]
    assert Path(f"{path}.journal").read_bytes() == before


@pytest.mark.parametrize("step", sorted(OF_SHARING))
def test_guests_that_do_not_share_blocks_any_longer_do_so_again(tmp_path, step):
    """With the same files, a new plan has the checksum of the older one, and so would have its journal."""
    path = str(tmp_path / "fleet.plan.json")
    begun(path, web01=GuestState(step))
    journal = Path(f"{path}.journal")
    content, when = journal.read_bytes(), journal.stat().st_mtime_ns
    assert replace_plan(dataclasses.replace(OLD, created="2026-02-03T04:05:06Z"), path, {}) is None
    assert guests_at(path) == (["web01", "web02"], [])
    assert Path(f"{path}.journal.{when}").read_bytes() == content, "what was done is not forgotten"
    begun(path, web01=GuestState(step), web02=QUARANTINED)
    assert replace_plan(OLD, path, {}) is None
    assert guests_at(path) == (["web01", "web02"], ["web01", "web02"]), "what can be undone can still be undone"


def test_a_journal_gives_way_only_to_a_plan_that_is_written(tmp_path, monkeypatch):
    """And until then its lock keeps an apply from starting."""
    path, order = str(tmp_path / "fleet.plan.json"), []
    begun(path, web01=GuestState(Step.SHARED))

    def write(plan, where):
        with pytest.raises(PlanError, match="is running"):
            Journal(path, read_plan(path).checksum)
        order.append("written")
        if len(order) == 1:
            raise PlanError("no space is left")

    module = "batchdiff.applying.journal.kept_plan"
    monkeypatch.setattr(f"{module}.write_plan", write)
    monkeypatch.setattr(f"{module}.sync_folder", lambda folder: order.append(sorted(os.listdir(folder))[1:]))
    with pytest.raises(PlanError, match="no space"):
        replace_plan(OLD, path, {})
    assert guests_at(path) == (["web01", "web02"], ["web01"])
    when = os.stat(f"{path}.journal").st_mtime_ns
    replace_plan(OLD, path, {})
    assert order == ["written", "written", [f"fleet.plan.json.journal.{when}"]], "renamed, and then synced"


def test_a_damaged_journal_may_hide_more_than_sharing(tmp_path):
    path = str(tmp_path / "fleet.plan.json")
    begun(path, web01=GuestState(Step.SHARED), web02=QUARANTINED)
    journal = Path(f"{path}.journal")
    journal.write_bytes(journal.read_bytes().replace(b'"step": "retired"', b'"step": "retired'))
    replace_plan(OLD, path, {})
    assert names(path) == ["fleet.plan.json", "fleet.plan.json.journal"]


def test_the_same_plan_again_keeps_its_journal(path):
    assert replace_plan(OLD, path, {}) is None
    assert guests_at(path) == (["web01", "web02"], ["web01"])
    assert names(path) == ["fleet.plan.json", "fleet.plan.json.journal"]


@pytest.mark.parametrize("journal", ["none", "another"])
def test_a_lost_journal_takes_no_plan_away(path, journal):
    """The sidecar says that guests were converted by it."""
    checksum = read_plan(path).checksum
    os.unlink(f"{path}.journal")
    if journal == "another":
        Journal(path, "sha256:" + "00" * 32).close()
    assert name_to_keep(path, {checksum: ["web01"]}) == in_folder(path, KEPT)
    kept = replace_plan(NEW, path, {checksum: ["web01"]})
    assert kept.guests == {None: ["web01"]}
    assert guests_at(kept.path) == (["web01", "web02"], [])
    assert not os.path.exists(f"{kept.path}.journal")


@pytest.mark.parametrize("damage", ["plan cut", "first line", "in the middle"])
def test_damaged_ones_are_kept_as_they_are(path, damage):
    journal = Path(f"{path}.journal")
    match damage:
        case "plan cut":
            os.truncate(path, 40)
        case "first line":
            journal.write_bytes(b"x" + journal.read_bytes())
        case "in the middle":
            journal.write_bytes(journal.read_bytes().replace(b'"step": "retired"', b'"step": "retired'))
            with journal.open("ab") as file:
                file.write(json.dumps({"time": "", "guest": "web02"} | QUARANTINED.record()).encode() + b"\n")
    content = (Path(path).read_bytes(), journal.read_bytes())
    kept = replace_plan(NEW, path, {})
    assert (Path(kept.path).read_bytes(), Path(f"{kept.path}.journal").read_bytes()) == content
    assert not journal.exists()


@pytest.mark.parametrize("function", [name_to_keep, lambda path, known: replace_plan(NEW, path, known)])
def test_while_its_apply_is_running(path, function):
    with open(f"{path}.journal", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(PlanError, match="another batchdiff command for this plan is running"):
            function(path, {})
    assert names(path) == ["fleet.plan.json", "fleet.plan.json.journal"]
    assert guests_at(path) == (["web01", "web02"], ["web01"])


def test_no_apply_begins_while_a_plan_without_journal_is_replaced(path, monkeypatch):
    os.unlink(f"{path}.journal")
    checksum = read_plan(path).checksum
    tried = []

    def write(plan, where):
        # The other command is a `batchdiff plan`, so the message must not claim that it is one of the other verbs.
        with pytest.raises(PlanError, match=r"^another batchdiff command for this plan is running: it has locked"):
            Journal(path, checksum)
        tried.append(where)

    monkeypatch.setattr("batchdiff.applying.journal.kept_plan.write_plan", write)
    replace_plan(NEW, path, {})
    assert tried == [path]
    assert names(path) == ["fleet.plan.json"]


def test_a_journal_that_was_renamed_before_it_was_locked_is_not_taken(path, monkeypatch):
    """Else steps would go into the journal of another plan, or into a file without a name."""
    flock = fcntl.flock

    def renamed_just_before(fd, how):
        monkeypatch.setattr(fcntl, "flock", flock)
        os.rename(f"{path}.journal", f"{path}.elsewhere")
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", renamed_just_before)
    before = Path(f"{path}.journal").read_bytes()
    Journal(path, "sha256:" + "00" * 32).close()
    assert Path(f"{path}.elsewhere").read_bytes() == before
    assert b"00000000" in Path(f"{path}.journal").read_bytes()


def without_links(monkeypatch, code, after=0):
    link, calls = os.link, itertools.count()

    def failing(source, target):
        if next(calls) >= after:
            raise OSError(code, os.strerror(code), source, None, target)
        link(source, target)

    monkeypatch.setattr(os, "link", failing)


@pytest.mark.parametrize("code", [errno.EPERM, errno.EXDEV, errno.ENAMETOOLONG, errno.EMLINK])
@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("function", [name_to_keep, lambda path, known: replace_plan(NEW, path, known)])
def test_where_no_second_name_can_be_had(path, monkeypatch, code, after, function):
    without_links(monkeypatch, code, after)
    with pytest.raises(UsageError) as caught:
        function(path, {})
    assert caught.value.what == f"cannot rename the plan {path}, which restore or purge may still need"
    assert caught.value.remedy == "Write the new plan elsewhere with `-o`."
    assert names(path) == ["fleet.plan.json", "fleet.plan.json.journal"]
    assert guests_at(path) == (["web01", "web02"], ["web01"])


def test_a_plan_that_cannot_be_written_changes_nothing(path, monkeypatch):
    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("batchdiff.files.atomic_write.os.fsync", full)
    monkeypatch.setattr("batchdiff.applying.journal.kept_plan.sync_folder", lambda folder: None)
    with pytest.raises(PlanError, match="No space left"):
        replace_plan(NEW, path, {})
    assert names(path) == ["fleet.plan.json", "fleet.plan.json.journal"]
    assert guests_at(path) == (["web01", "web02"], ["web01"])


REPLACE = """
import sys
from batchdiff.applying.journal.kept_plan import replace_plan
from batchdiff.plan.file import read_plan
replace_plan(read_plan("new.json"), "fleet.plan.json", {})
"""
CALLS = "link,linkat,rename,renameat,renameat2,unlink,unlinkat,fsync"


def run(folder, *options):
    return subprocess.run(
        ["strace", "-qq", "-e", f"trace={CALLS}", *options, sys.executable, "-c", REPLACE],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


def scene(folder):
    folder.mkdir()
    begun(str(folder / "fleet.plan.json"), web01=QUARANTINED)
    write_plan(NEW, str(folder / "new.json"))
    return folder


def assert_nothing_is_lost(folder):
    """The plan's name has a whole plan, and somewhere the older one stands together with its journal."""
    old = {f"{name}.journal" for name in os.listdir(folder)} & set(os.listdir(folder))
    pairs = [str(folder / name.removesuffix(".journal")) for name in old]
    assert (["web01", "web02"], ["web01"]) in [guests_at(pair) for pair in pairs]
    for path in folder.glob("fleet.2*.plan.json"):
        assert Path(f"{path}.journal").exists(), "a plan that seems to have none would mislead"
    read_plan(str(folder / "fleet.plan.json"))


def test_killed_at_every_call(tmp_path):
    log = tmp_path / "calls"
    assert run(scene(tmp_path / "counted"), "-o", str(log)).returncode == 0
    calls = re.findall(r"^(\w+)\(", log.read_text(), re.MULTILINE)
    points = [(call, number) for call in sorted(set(calls)) for number in range(1, calls.count(call) + 1)]
    order = " ".join(call.removesuffix("at") for call in calls)
    assert re.fullmatch(r"link link fsync fsync rename fsync unlink fsync", order), (
        "names last before the next step"
    )
    for call, number in points:
        folder = scene(tmp_path / f"{call}-{number}")
        run(folder, "-o", "/dev/null", "-e", f"inject={call}:signal=SIGKILL:when={number}")
        assert_nothing_is_lost(folder)
        path = str(folder / "fleet.plan.json")
        # What may come next: the plan that stands there is applied, or the same is planned again.
        Journal(path, plan_head(path).checksum).close()
        assert_nothing_is_lost(folder)
        assert run(folder, "-o", "/dev/null").returncode == 0
        assert_nothing_is_lost(folder)
        assert guests_at(path) == (["web03"], [])
        assert sum(name.startswith("fleet.2026") for name in os.listdir(folder)) == 2, os.listdir(folder)
