"""The exact text of messages that an operator acts on, and that no other test quotes whole.

Guards cli/new_plan/plan_warnings.py, cli/run_session.py, cli/verbs/purge.py, cli/verbs/restore.py.
"""

from __future__ import annotations

import errno
import types
from dataclasses import replace

import pytest
from plans import guest_plan, savings, small_plan

from batchdiff.applying.checks import space
from batchdiff.applying.guests.status import OnDisk, TemplateIs, Written
from batchdiff.applying.journal.kept_plan import KeptPlan
from batchdiff.applying.journal.records import Fate, Goal, GuestState, History, Step
from batchdiff.applying.results.outcome import GuestOutcome, Original, Status
from batchdiff.applying.swap.purge_task import PurgeOptions
from batchdiff.cli import earlier_plans, journal_history, main, run_session, warnings
from batchdiff.cli.console import Console
from batchdiff.cli.new_plan import plan_warnings
from batchdiff.cli.verbs import apply, purge, restore
from batchdiff.errors import GuestError, UsageError


def outcome(fate: Fate, status: Status = Status.CONVERTED) -> GuestOutcome:
    return GuestOutcome("web01", status, original=Original(fate, "/a"))


def test_how_space_comes_back_from_originals_that_were_kept(capsys):
    apply._print_next_steps(Console(), "fleet.plan.json", small_plan(), [outcome(Fate.KEPT)] * 2)
    assert capsys.readouterr().err == (
        "The space is freed once the originals are deleted. Before their VMs run on the overlays, `batchdiff apply"
        " fleet.plan.json --retire quarantine` (or `--retire delete`) can retire them. If a VM has already"
        " written to its overlay, delete the original yourself once you trust the overlay.\n"
    )


def test_how_space_comes_back_from_one_original_that_was_kept(capsys):
    apply._print_next_steps(Console(), "fleet.plan.json", small_plan(), [outcome(Fate.KEPT)])
    assert capsys.readouterr().err == (
        "The space is freed once the original is deleted. Before its VM runs on the overlay, `batchdiff apply"
        " fleet.plan.json --retire quarantine` (or `--retire delete`) can retire it. If the VM has already"
        " written to its overlay, delete the original yourself once you trust the overlay.\n"
    )


@pytest.mark.parametrize(("count", "kept"), [(1, "original"), (2, "originals")])
def test_the_question_of_apply(count, kept):
    question = apply._question([("/a.img", 3 << 20), ("/b.img", 4 << 20)][:count], small_plan())
    assert question.otherwise == f"Use `--retire keep` or `--retire quarantine` to keep the {kept}."
    assert ("their VMs" in question.what, "full images" in question.remains) == (count == 2, count == 2)


def test_how_space_comes_back_from_quarantine(capsys):
    apply._print_next_steps(
        Console(), "fleet.plan.json", small_plan(), [outcome(Fate.QUARANTINED), outcome(Fate.KEPT, Status.FAILED)]
    )
    assert capsys.readouterr().err == (
        "The space is freed once the original in quarantine is deleted. Once the VM runs well on its overlay,"
        " delete the original with `batchdiff purge fleet.plan.json --used`. To go back, use `batchdiff restore"
        " fleet.plan.json`.\n"
    )
    apply._print_next_steps(Console(), "fleet.plan.json", small_plan(), [outcome(Fate.QUARANTINED)] * 2)
    assert capsys.readouterr().err == (
        "The space is freed once the originals in quarantine are deleted. Once the VMs run well on their overlays,"
        " delete the originals with `batchdiff purge fleet.plan.json --used`. To go back, use `batchdiff restore"
        " fleet.plan.json`.\n"
    )


@pytest.mark.parametrize(
    ("used", "words"),
    [
        (
            False,
            "2 originals, 7 MiB on disk, will be deleted, each only if QEMU finds it identical to its VM's disk:",
        ),
        (
            True,
            "2 originals, 7 MiB on disk, will be deleted even if their VMs have run since the conversion (the"
            " state from before the conversion cannot be restored afterwards):",
        ),
    ],
)
def test_the_question_of_purge(used, words):
    originals = [("/a.img.batchdiff-original", 3 << 20), ("/b.img.batchdiff-original", 4 << 20)]
    question = purge._question(originals, {}, purge._remains(small_plan(), 2, []), used=used)
    assert question.what == words
    assert question.lines == ["3 MiB  /a.img.batchdiff-original", "4 MiB  /b.img.batchdiff-original"]
    assert question.remains == (
        "What remains: their overlays, which need the template /srv/images/template.qcow2."
    )
    assert question.last == "Type yes to delete 2 originals (7 MiB): "
    assert question.otherwise == "The originals are still in quarantine."


@pytest.mark.parametrize(
    ("count", "rebuilt", "words"),
    [
        (1, ["/a.img"], "the image that restore rebuilt, /a.img"),
        (2, ["/a.img", "/b.img"], "the images that restore rebuilt, /a.img and /b.img"),
        (
            2,
            ["/a.img"],
            "the image that restore rebuilt, /a.img; and the other guest's overlay, which needs the template"
            " /srv/images/template.qcow2",
        ),
        (
            4,
            ["/a.img", "/b.img"],
            "the images that restore rebuilt, /a.img and /b.img; and the other guests' overlays, which need the"
            " template /srv/images/template.qcow2",
        ),
    ],
)
def test_what_remains_after_a_purge_of_older_originals(count, rebuilt, words):
    """A rebuilt image does not need the template."""
    assert purge._remains(small_plan(), count, rebuilt) == words


def test_the_question_of_purge_names_an_original_that_is_half_deleted(tmp_path, monkeypatch):
    """An earlier purge was interrupted between renaming it and deleting it."""
    source = replace(guest_plan().source, path=f"{tmp_path}/a.img")
    guest, asked = guest_plan("a", source=source, savings=savings(3 << 20)), []
    (tmp_path / "a.img.batchdiff-deleting").touch()
    history = History(states={"a": GuestState(Step.WRITTEN, goal=Goal.PURGE, published=True)})
    monkeypatch.setattr(purge, "confirm", lambda _console, _verb, question: asked.append(question))
    purge._ask(Console(), small_plan(guest), PurgeOptions(), history, yes=False)
    assert asked[0].lines == [f"3 MiB  {tmp_path}/a.img.batchdiff-deleting"]
    assert asked[0].otherwise == "The original is still there."


@pytest.mark.parametrize("used", [False, True])
def test_the_question_of_purge_promises_no_more_than_is_certain(monkeypatch, used):
    """The VM of the second guest has written to its overlay, so its original is probably kept."""
    guests, asked = [guest_plan("a", savings=savings(3 << 20)), guest_plan("b", savings=savings(4 << 20))], []
    there = {
        guest.name: OnDisk(guest.overlay_path, None, written=written)
        for guest, written in zip(guests, (Written.NONE, Written.OVERLAY), strict=True)
    }
    states = [GuestState(Step.RETIRED, published=True), GuestState(Step.RESTORED)]
    monkeypatch.setattr(purge, "purgeable", lambda *_: list(zip(guests, states, strict=True)))
    monkeypatch.setattr(purge, "on_disk", lambda *_: there)
    monkeypatch.setattr(purge, "confirm", lambda _console, _verb, question: asked.append(question))
    purge._ask(Console(), small_plan(*guests), PurgeOptions(used=used), History(), yes=False)
    purge._ask(Console(), small_plan(*guests), PurgeOptions(used=used), History(), yes=True)
    (question,) = asked
    count, much = ("2 originals", "7 MiB") if used else ("up to 2 originals", "at most 7 MiB")
    assert question.what.startswith(f"{count}, {much} on disk, will be deleted")
    assert question.last == f"Type yes to delete {count} ({much}): "
    assert question.remains == (
        "What remains: the image that restore rebuilt, /srv/clones/b.img; and the other guest's overlay, which"
        " needs the template /srv/images/template.qcow2."
    )
    may_stay = (
        ""
        if used
        else " (its overlay has changed since the conversion, so the original is kept if QEMU finds a difference)"
    )
    assert question.lines == [
        "3 MiB  /srv/clones/a.img.batchdiff-original",
        f"4 MiB  /srv/clones/b.img.batchdiff-original{may_stay}",
    ]


@pytest.mark.parametrize(
    ("names", "lost", "written", "said"),
    [
        (
            "a",
            "",
            "",
            "all changes in 1 guest since the conversion will be discarded, including all snapshots in its"
            " overlay (0 B on disk):|What remains: the"
            " original, as it was before the conversion, and the overlay, if it cannot be read.",
        ),
        (
            "abc",
            "c",
            "",
            "all changes in 2 guests since the conversion will be discarded, including all snapshots in their"
            " overlays (0 B on disk):|What remains: the"
            " originals, as they were before the conversion, and any overlay that cannot be read.",
        ),
        (
            "a",
            "",
            "a",
            "all changes in 1 guest since the conversion will be discarded, including all snapshots in its"
            " overlay (0 B on disk):|What remains: the"
            " full image at the guest's path, and the overlay, if it cannot be read.",
        ),
        (
            "abc",
            "c",
            "b",
            "all changes in 2 guests since the conversion will be discarded, including all snapshots in their"
            " overlays (0 B on disk):|What remains: the"
            " full images at the guests' paths, and any overlay that cannot be read.",
        ),
    ],
)
def test_the_question_before_changes_are_discarded(monkeypatch, capsys, names, lost, written, said):
    """It promises no original that is gone, and names those that a VM has used since."""
    asked = []
    monkeypatch.setattr(restore, "confirm", lambda _console, _verb, question: asked.append(question))
    found = [(guest_plan(name), None) for name in names]
    there = {
        name: OnDisk(
            None, None if name in lost else "/a", written=Written.ORIGINAL if name in written else Written.NONE
        )
        for name in names
    }
    restore._ask_to_discard(Console(), found, there, yes=False)
    (question,) = asked
    assert f"{question.what}|{question.remains}" == said
    note = " (its original has changed since it was planned)"
    assert question.lines == [
        f"{name}: everything written to /srv/clones/{name}.qcow2{note if name in written else ''}"
        for name in names
        if name not in lost
    ]
    assert capsys.readouterr().err == (
        "batchdiff: c will not be restored: the original of this guest was deleted or moved\n" if lost else ""
    )


@pytest.mark.parametrize("names", ["a", "ab"])
def test_without_the_template_overlays_are_kept(monkeypatch, names):
    """So no changes are discarded, and what remains includes the overlays."""
    asked = []
    monkeypatch.setattr(restore, "confirm", lambda _console, _verb, question: asked.append(question))
    found = [(guest_plan(name), None) for name in names]
    there = {name: OnDisk(f"/{name}.qcow2", f"/{name}", template=TemplateIs.MISSING) for name in names}
    restore._ask_to_discard(Console(), found, there, yes=False)
    (question,) = asked
    guests, its, vm, what = ("1 guest", "its original", "VM has", "original, as it was")
    if len(names) > 1:
        guests, its, vm, what = ("2 guests", "their originals", "VMs have", "originals, as they were")
    assert question.what == (
        f"the template is missing, so {guests} will go back to {its} without what has been written since the"
        " conversion:"
    )
    assert question.otherwise == f"Bring the template back to keep what the {vm} written."
    overlays = "overlay" if len(names) == 1 else "overlays"
    assert question.remains == f"What remains: the {what} before the conversion, and the {overlays}."


REBUILD_ONE = "Run the same command without `--discard-changes` to rebuild a full image from the overlay."


@pytest.mark.parametrize(
    ("files", "remedy"),
    [
        ([OnDisk("/a.qcow2", None)], REBUILD_ONE),
        (
            [OnDisk("/a.qcow2", None)] * 2,
            REBUILD_ONE.replace("a full image from the overlay", "full images from the overlays"),
        ),
        ([OnDisk(None, None)], "Bring the original back; if it was moved, add `--map OLD=NEW`."),
        (
            [OnDisk("/a.qcow2", None, template=TemplateIs.MISSING)],
            "Bring the original back; if it was moved, add `--map OLD=NEW`.",
        ),
        (
            [OnDisk("/a.qcow2", None), OnDisk(None, None)],
            "Bring the originals back; if they were moved, add `--map OLD=NEW`.",
        ),
    ],
)
def test_what_else_to_do_without_an_original(files, remedy):
    """Nothing can be rebuilt without an overlay and its template."""
    found = [(guest_plan(name), GuestState(Step.RETIRED, published=True)) for name in "ab"[: len(files)]]
    there = dict(zip("ab", files, strict=False))
    with pytest.raises(UsageError) as caught:
        restore._ask_to_discard(Console(), found, there, yes=False)
    assert caught.value.remedy == remedy


def test_an_image_that_an_interrupted_restore_rebuilt_is_no_original(monkeypatch):
    monkeypatch.setattr(restore, "rebuilt_is_in_place", lambda *_: True)
    there = {"a": OnDisk("/a.qcow2", "/a.img.batchdiff-original")}
    assert restore._what_remains([(guest_plan("a"), GuestState(Step.RETIRING))], there) == (
        "the full image at the guest's path"
    )


INCLUDED = "; changes that other programs made meanwhile are included."
OTHERS = ": other programs wrote meanwhile, or the filesystem has yet to free what was deleted."


@pytest.mark.parametrize(
    ("status", "fate", "grown", "words", "rest"),
    [
        (Status.CONVERTED, Fate.DELETED, 3 << 20, "3 MiB more", INCLUDED),
        (Status.CONVERTED, Fate.DELETED, -(3 << 20), "3 MiB less", INCLUDED),
        (Status.RESTORED, Fate.BACK, -(3 << 20), "3 MiB less", INCLUDED),
        (Status.PURGED, Fate.DELETED, 3 << 20, "3 MiB more", INCLUDED),
        (Status.PURGED, Fate.DELETED, -(3 << 20), "3 MiB less", OTHERS),
    ],
)
def test_free_space(capsys, status, fate, grown, words, rest):
    space = types.SimpleNamespace(grown=lambda *, deleted, expected: {"/images": grown} if deleted else {})
    run_session.report_space(Console(), space, [outcome(fate, status)])
    assert capsys.readouterr().err == (
        f"df: {words} free space on the filesystem of /images than before this command{rest}\n"
    )


def test_free_space_that_is_the_same(capsys):
    space = types.SimpleNamespace(grown=lambda *, deleted, expected: {"/images": 0})
    run_session.report_space(Console(), space, [outcome(Fate.DELETED, Status.RETIRED)])
    assert capsys.readouterr().err == (
        f"df: as much free space on the filesystem of /images as before this command{INCLUDED}\n"
    )


@pytest.mark.parametrize(
    ("status", "fate"),
    [(Status.CONVERTED, Fate.KEPT), (Status.CONVERTED, Fate.QUARANTINED), (Status.RETIRED, Fate.QUARANTINED)],
)
def test_free_space_is_not_news_if_nothing_was_deleted(capsys, status, fate):
    """Only an event has it, for programs; a guest that was skipped changes nothing about that."""
    space = types.SimpleNamespace(grown=lambda *, deleted, expected: {"/images": 4096})
    outcomes = [
        outcome(fate, status),
        outcome(Fate.UNTOUCHED, Status.SKIPPED),
    ]
    run_session.report_space(Console(json=True), space, outcomes)
    said = capsys.readouterr()
    assert said.err == ""
    assert '"grown_bytes": 4096' in said.out


@pytest.mark.parametrize(
    ("times", "lacks"),
    [
        ({}, "is missing, or has no record of this plan"),
        ({"web02": "2026-01-02T03:04:05Z"}, "lacks its last lines"),
    ],
)
def test_a_journal_that_was_recovered(capsys, monkeypatch, times, lacks):
    monkeypatch.setattr(journal_history, "read_history", lambda *_: History(times=times))
    monkeypatch.setattr(journal_history, "recover_unrecorded", lambda *_: {"web01": None})
    journal_history.history_of(Console(), types.SimpleNamespace(plan="p.json"), small_plan())
    assert capsys.readouterr().err == (
        f"batchdiff: warning: the journal p.json.journal {lacks}; if you have a complete copy, put it back, then"
        " run the same command again. The record of what apply did for web01 was recovered from the template's"
        " sidecar and from the files themselves\n"
    )


def test_a_plan_that_was_kept_aside(capsys):
    kept = KeptPlan("/images/fleet.1.plan.json", {None: ["web01", "web02"]})
    earlier_plans.say_kept(Console(), "fleet.plan.json", kept)
    assert capsys.readouterr().err == (
        "batchdiff: the plan that was in fleet.plan.json can still be undone, so it was renamed to"
        " /images/fleet.1.plan.json (web01 and web02: converted). Use that name with status, verify, restore and"
        " purge for these guests, as in: batchdiff status /images/fleet.1.plan.json\n"
    )


def test_raw_guests_in_place():
    assert warnings._raw_in_place([f"/{name}.img" for name in "abcdefg"], "qcow2") == (
        "warning: qcow2 overlays will take the place of raw images: /a.img, /b.img, /c.img, /d.img, /e.img and 2"
        " more. A VM whose definition still has the format raw would overwrite its overlay and so destroy it."
        " After `apply`, and before the VMs start, change the format in their definitions to qcow2; or leave out"
        " `overlay: {path: same}`"
    )
    assert warnings._raw_in_place(["/a.img"], "qcow2") == (
        "warning: a qcow2 overlay will take the place of the raw image /a.img. A VM whose definition still has the"
        " format raw would overwrite its overlay and so destroy it. After `apply`, and before the VM starts,"
        " change the format in its definition to qcow2; or leave out `overlay: {path: same}`"
    )


@pytest.mark.parametrize("remedy", ["Make room first.", "Make room first, or choose fewer guests with `--guest`."])
def test_too_little_space(capsys, monkeypatch, remedy):
    def refuse(*_args: object) -> None:
        raise GuestError("/images has too little space", why="it is full", remedy=remedy)

    monkeypatch.setattr(plan_warnings, "check_space", refuse)
    plan_warnings.warn_of_space(Console(), small_plan(guest_plan()))
    assert capsys.readouterr().err == (
        "batchdiff: warning: `batchdiff apply` would refuse this plan: /images has too little space: it is full."
        f" {remedy}\n"
    )


def test_space_that_cannot_be_determined(capsys, monkeypatch):
    """Its advice must not be the same command again, because that would be `plan`."""

    def fail(_path: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(space, "_device", lambda _path: 1)
    monkeypatch.setattr(space.os, "statvfs", fail)
    plan_warnings.warn_of_space(Console(), small_plan(guest_plan()))
    assert capsys.readouterr().err == (
        "batchdiff: warning: `batchdiff apply` would refuse this plan: cannot determine the free space of"
        " /srv/clones: Input/output error (/srv/clones). Fix that before you apply the plan.\n"
    )


@pytest.mark.parametrize(
    ("error", "text", "code"),
    [
        (MemoryError(), "out of memory. Free some memory, then run the same command again.", 1),
        (
            OSError(errno.EMFILE, "Too many open files", "/a"),
            "cannot continue: Too many open files (/a). Raise the limit on open files (`ulimit -n`,"
            " `LimitNOFILE=` of a service), and run the same command again.",
            1,
        ),
        (
            OSError(errno.ENFILE, "Too many open files in system"),
            "cannot continue: Too many open files in system. The system has too many open files: raise"
            " the limit (`sysctl -w fs.file-max=NUMBER`) or end the programs that opened them, and run the same"
            " command again.",
            1,
        ),
    ],
)
def test_a_limit_that_no_verb_handles(capsys, error, text, code):
    assert main._unexpected(Console(), error) == code
    assert capsys.readouterr().err == f"batchdiff: {text}\n"


def test_a_bug(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert main._unexpected(Console(), KeyError("x")) == 70
    (report,) = tmp_path.iterdir()
    assert capsys.readouterr().err == (
        "batchdiff: this is a bug in batchdiff (KeyError: 'x'); no original was deleted without a verified"
        f" overlay. Traceback: {report}. Please report the bug and attach that file, which contains your command"
        " and the code that failed, but no image data and no secrets.\n"
    )
