"""What apply has to do with a guest, from wherever it stands."""

from __future__ import annotations

import types

import plans
import pytest
from stage import Stage, failed, status

from batchdiff.applying.checks.verify import Check
from batchdiff.applying.journal.file import MemoryJournal
from batchdiff.applying.journal.records import Goal, GuestState, History, Step
from batchdiff.applying.results.outcome import Status
from batchdiff.applying.swap import apply_task
from batchdiff.applying.swap.apply_task import ApplyOptions, ApplyTask
from batchdiff.applying.swap.task import is_in_place
from batchdiff.choices import Retire, VerifyMode
from batchdiff.errors import GuestError
from batchdiff.progress import ignore
from batchdiff.qcow2.faults import FormatError

TEMPLATE = plans.planned_image("/srv/images/template.qcow2", "qcow2")


def task(state=None, retire=Retire.KEEP, guest=None, verify=VerifyMode.FULL, publication=None):
    history = History() if state is None else History({"web01": state})
    stop = types.SimpleNamespace(check=lambda: None)
    run = types.SimpleNamespace(
        journal=MemoryJournal(history), check_template=lambda: None, stop=stop, reporter=lambda *_: ignore
    )
    return ApplyTask(guest or plans.guest_plan(), TEMPLATE, run, ApplyOptions(retire, verify), publication)


@pytest.mark.parametrize("goal", [Goal.RESTORE, Goal.PURGE])
@pytest.mark.parametrize("step", Step)
def test_what_another_verb_has_begun_is_carried_on_by_it(goal, step):
    """A purge that is done leaves nothing open; nor does a restore, after which apply begins anew."""
    state = GuestState(step, goal, published=True)
    if step in {Step.PURGED, Step.RESTORED}:
        assert task(state).goal is Goal.APPLY
        return
    with pytest.raises(GuestError, match=f"a `batchdiff {goal}` of web01 was not completed") as caught:
        task(state)
    assert f"`batchdiff {goal} PLAN --guest web01`" in caught.value.remedy


@pytest.mark.parametrize("step", [Step.CHECKED, Step.VERIFIED, Step.PUBLISHED, Step.RETIRED])
@pytest.mark.parametrize("published", [False, True])
def test_what_apply_has_begun_is_carried_on(step, published):
    overlay = plans.fingerprint(9)
    found = task(GuestState(step, overlay=overlay, published=published), Retire.DELETE)
    assert found.incoming.was_published is published
    assert found.incoming.known is (overlay if published else None)
    assert (found.retire, found.final) == (Retire.DELETE, Step.RETIRED)
    assert found.outgoing.known == plans.guest_plan().image.fingerprints[0]


def test_from_the_beginning():
    found = task()
    assert (found.incoming.known, found.incoming.ready, found.incoming.was_published) == (None, None, False)
    assert [each.path for each in found.incoming.source.backing] == [TEMPLATE.source.path]
    assert not is_in_place(found)


def test_an_original_cannot_keep_a_name_that_its_overlay_takes():
    guest = plans.guest_plan(overlay_path=plans.guest_plan().source.path)
    with pytest.raises(GuestError, match="takes its original's name"):
        task(guest=guest)
    for retire in (Retire.QUARANTINE, Retire.DELETE):
        assert is_in_place(task(retire=retire, guest=guest))


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("mode", VerifyMode)
def test_of_an_overlay_that_a_vm_may_have_used_every_byte_is_compared(monkeypatch, published, mode):
    """What was written says nothing of that; and it may have the leaks of a VM that was killed."""
    asked, opened = [], []
    publication = types.SimpleNamespace(ask_qemu=lambda *arguments: opened.append(arguments))
    monkeypatch.setattr(apply_task, "verify", lambda *arguments: asked.append(arguments))
    state = GuestState(Step.PUBLISHED, published=True) if published else None
    guest = plans.guest_plan()
    ended = object()
    way = task(state, verify=mode, publication=publication)
    way.verify(types.SimpleNamespace(source=guest.source), "the overlay", ended)
    ((comparison, how, until, _),) = asked
    assert (comparison.outgoing, comparison.incoming) == (guest.source, "the overlay")
    assert (comparison.written is None) is published
    assert (how, until) == (mode, ended)
    assert comparison.check is (Check.LEAKS_ALLOWED if published else Check.FLAWLESS)
    assert opened == ([] if mode is VerifyMode.FULL else [("the overlay", ended)])
    if not published:
        assert comparison.written[1] == guest.diff.unit


def test_an_overlay_that_does_not_fit(monkeypatch):
    """The advice is for the manifest, so no other verb gives it."""

    def write_overlay(*_, **__):
        raise FormatError("too many clusters")

    monkeypatch.setattr(apply_task, "write_overlay", write_overlay)
    monkeypatch.setattr(apply_task, "prepare", lambda *_: [])
    original = types.SimpleNamespace(layers=[types.SimpleNamespace(fd=-1)])
    publication = types.SimpleNamespace(check=lambda _: None)
    with pytest.raises(GuestError, match="cannot write the overlay of web01: too many clusters") as caught:
        task(publication=publication).write(-1, original)
    assert "`overlay.cluster_size`" in caught.value.remedy


def test_an_original_whose_quarantine_was_not_recorded(tmp_path, monkeypatch):
    """An apply died just before its last line, and purge leaves its guest alone: so apply must come first."""
    stage = Stage(tmp_path, monkeypatch, place="same")
    stage.apply(Retire.QUARANTINE)
    lines = stage.journal_file.read_bytes().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if b'"step": "retired"' in line)
    stage.journal_file.write_bytes(b"".join(lines[:last]))
    stage.use()
    assert stage.purge(used=True) == []
    assert failed(stage.apply(Retire.DELETE)).endswith(
        "If you trust the overlay, first run `batchdiff apply PLAN --guest vm --retire quarantine`; then run"
        " `batchdiff purge PLAN --guest vm --used`."
    )
    assert status(stage.apply(Retire.QUARANTINE, guests=("vm",))) is Status.UNCHANGED
    said = failed(stage.apply(Retire.DELETE))
    assert said.endswith("If you trust the overlay, run `batchdiff purge PLAN --guest vm --used`.")
    assert status(stage.purge(used=True)) is Status.PURGED
