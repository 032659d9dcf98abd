"""What others do between two steps of a guest: nothing is lost by it, and whoever was refused is told why.

Each happens at a moment of the test's choosing, in this process: no race is needed to see what it would do.

Guards applying/swap/incoming.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil

import notation
import pytest
import real_holders
from oracle import assert_same
from patching import Patched
from stage import ASIDE, DELETING, GUEST, OVERLAY_ASIDE, TEMPLATE, Stage, failed, nothing, status

from batchdiff.applying.guests.guest_files import on_disk
from batchdiff.applying.guests.status import status_rows
from batchdiff.applying.journal.records import Step
from batchdiff.applying.results.outcome import Status
from batchdiff.applying.session.stop import Stop
from batchdiff.choices import Retire
from batchdiff.errors import ImageError, PlanError, StopError
from batchdiff.files.fingerprint import fingerprint_at

RETIRES = list(Retire)
REMOVING = [Retire.QUARANTINE, Retire.DELETE]
SWAPPED = "another file is in its place"


@pytest.fixture(params=["beside", "same"])
def placed(request, tmp_path, monkeypatch):
    """A guest whose overlay has a path of its own, or takes its guest's."""
    return Stage(tmp_path, monkeypatch, place=request.param)


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch)


def assert_untouched(stage, original=None):
    """The original is whole under its name, and nothing else is there."""
    original = original or stage.original()
    assert_same(original.read_bytes(), notation.content(GUEST))
    assert stage.images() == {original.name}


def moments(stage):
    """Ways to let something happen: while the two are compared, once one has its name, before one is unlinked."""
    return {
        "compared": lambda act: setattr(stage.judge, "asked", act),
        "published": lambda act: stage.on_step.update({Step.PUBLISHED: act}),
        "deleting": lambda act: stage.after_move(DELETING, act),
    }


# The template is replaced. All overlays would show other bytes from then on.


@pytest.mark.parametrize("retire", RETIRES)
def test_another_template_while_qemu_compares(placed, retire):
    if placed.overlay() == placed.original() and retire is Retire.KEEP:
        retire = Retire.QUARANTINE
    placed.judge.asked = placed.swap_template
    assert SWAPPED in failed(placed.apply(retire))
    assert_untouched(placed)


@pytest.mark.parametrize("retire", REMOVING)
@pytest.mark.parametrize("moment", ["published", "deleting"])
def test_another_template_before_the_original_goes(stage, retire, moment):
    if moment == "deleting":
        retire = Retire.DELETE
    moments(stage)[moment](stage.swap_template)
    assert SWAPPED in failed(stage.apply(retire))
    assert_same(stage.original().read_bytes(), notation.content(GUEST))
    assert stage.images() == {stage.original().name, stage.overlay().name}


@pytest.mark.parametrize("moment", ["compared", "deleting"])
@pytest.mark.parametrize("used", [False, True])
def test_another_template_while_purge_is_at_work(placed, moment, used):
    placed.apply(Retire.QUARANTINE)
    if used:
        placed.use()
    moments(placed)[moment](placed.swap_template)
    assert SWAPPED in failed(placed.purge(used=used))
    assert_same(placed.original(suffix=ASIDE).read_bytes(), notation.content(GUEST))


@pytest.mark.parametrize("retire", RETIRES)
@pytest.mark.parametrize("moment", ["compared", "published", "deleting"])
def test_another_template_while_restore_is_at_work(stage, retire, moment):
    """The overlay stays, in case that the template comes back."""
    if retire is Retire.KEEP and moment == "published":
        moment = "compared"
    stage.apply(retire)
    before = stage.overlay().read_bytes()
    moments(stage)[moment](stage.swap_template)
    assert SWAPPED in failed(stage.restore())
    assert_same(stage.overlay().read_bytes(), before)
    if moment == "compared":
        assert (
            stage.images()
            == {stage.overlay().name}
            | {
                Retire.KEEP: {stage.original().name},
                Retire.QUARANTINE: {stage.original(suffix=ASIDE).name},
                Retire.DELETE: set(),
            }[retire]
        )


def test_another_template_while_its_digest_is_taken(stage, monkeypatch):
    """Its times have changed, so its content is read; what is read is not what stands there at the end."""
    from batchdiff.applying.template import check as template_module  # noqa: PLC0415

    os.utime(stage.template)
    real = template_module.content_digest

    def digest(image, *, check, **_):
        found = real(image, check=check)
        stage.swap_template()
        return found

    monkeypatch.setattr(template_module, "content_digest", digest)
    with pytest.raises(PlanError, match=SWAPPED):
        stage.apply()
    assert_untouched(stage)


# Somebody opens what is to go. A VM that waits for a migration takes no lock.


@pytest.mark.parametrize(("retire", "moment"), [(Retire.QUARANTINE, "published"), (Retire.DELETE, "published")])
def test_a_reader_that_comes_before_the_rename(stage, retire, moment):
    with contextlib.ExitStack() as others:
        moments(stage)[moment](lambda: others.enter_context(stage.original().open("rb")))
        assert "has it open" in failed(stage.apply(retire))
        assert stage.images() == {stage.original().name, stage.overlay().name}


def test_a_reader_that_comes_before_the_unlink_is_named(stage):
    """The last look: the original gets its name back under the reader's eyes."""
    with contextlib.ExitStack() as others:
        aside = stage.original(suffix=DELETING)
        names = []
        stage.after_move(DELETING, lambda: names.append(others.enter_context(real_holders.reader(aside))))
        reason = failed(stage.apply(Retire.DELETE))
    assert f"{names[0]} has it open" in reason
    assert_same(stage.original().read_bytes(), notation.content(GUEST))
    assert stage.images() == {stage.original().name, stage.overlay().name}


@pytest.mark.parametrize("verb", ["purge", "restore", "rebuild"])
def test_a_reader_of_what_purge_and_restore_are_about_to_unlink(placed, verb):
    placed.apply(Retire.DELETE if verb == "rebuild" else Retire.QUARANTINE)
    goes = placed.original(suffix=ASIDE) if verb == "purge" else placed.overlay()
    aside = goes.with_name(goes.name.removesuffix(ASIDE) + DELETING)
    before = goes.read_bytes()
    with contextlib.ExitStack() as others:
        placed.after_move(DELETING, lambda: others.enter_context(aside.open("rb")))
        assert "has it open" in failed(placed.purge() if verb == "purge" else placed.restore())
    in_place = placed.overlay() == placed.original()
    kept = placed.overlay(suffix=OVERLAY_ASIDE) if verb != "purge" and in_place else goes
    assert_same(kept.read_bytes(), before)
    assert not aside.exists()
    assert status(placed.purge() if verb == "purge" else placed.restore()) is not Status.FAILED
    assert not kept.exists() or kept == placed.original()


# A linked clone is made on what is to go. It takes no lock while its VM is off.


@pytest.mark.parametrize("retire", REMOVING)
def test_a_clone_that_is_there_before(placed, retire):
    """Nothing is begun that could not be ended: no overlay is written."""
    clone = placed.linked_clone(placed.original())
    reason = failed(placed.apply(retire))
    assert str(clone) in reason
    assert placed.steps == []
    clone.unlink()
    assert_untouched(placed)


@pytest.mark.parametrize("hindrance", ["clone", "reader"])
@pytest.mark.parametrize("verb", ["apply", "purge", "restore"])
def test_the_name_in_a_message_is_the_one_that_the_file_has_afterwards(placed, verb, hindrance):
    """It is found while the file is set aside for its deletion; then the file gets another name back."""
    in_place = placed.overlay() == placed.original()
    if verb != "apply":
        placed.apply(Retire.QUARANTINE)
    goes = placed.overlay() if verb == "restore" else placed.original()
    suffix = OVERLAY_ASIDE if verb == "restore" else ASIDE
    aside = goes.with_name(goes.name + DELETING)
    later = goes.with_name(goes.name + suffix) if in_place or verb == "purge" else goes
    with contextlib.ExitStack() as others:
        if hindrance == "clone":
            placed.after_move(DELETING, lambda: placed.linked_clone(aside))
        else:
            placed.after_move(DELETING, lambda: others.enter_context(aside.open("rb")))
        reason = failed(placed.apply(Retire.DELETE) if verb == "apply" else getattr(placed, verb)())
    assert later.exists()
    assert not aside.exists()
    assert reason.startswith(f"{later} was left ")


@pytest.mark.parametrize("retire", REMOVING)
@pytest.mark.parametrize("moment", ["compared", "published", "deleting"])
def test_a_clone_that_is_made_meanwhile(stage, retire, moment):
    """By the name that the original had, or by the one that it has for a moment."""
    if moment == "deleting":
        retire = Retire.DELETE
    for below in (
        [stage.original()] if moment != "deleting" else [stage.original(), stage.original(suffix=DELETING)]
    ):
        moments(stage)[moment](lambda below=below: stage.linked_clone(below))
        assert "clone.qcow2" in failed(stage.apply(retire))
        (stage.folder / "clone.qcow2").unlink()
        assert_same(stage.original().read_bytes(), notation.content(GUEST))
        assert stage.images() == {stage.original().name, stage.overlay().name}


def test_a_clone_does_not_matter_to_an_original_that_stays(stage):
    stage.linked_clone(stage.original())
    assert status(stage.apply(Retire.KEEP)) is Status.CONVERTED


@pytest.mark.parametrize("moment", ["before", "compared", "deleting"])
@pytest.mark.parametrize("used", [False, True])
def test_a_clone_on_the_original_in_quarantine(placed, moment, used):
    placed.apply(Retire.QUARANTINE)
    if used:
        placed.use()
    aside = placed.original(suffix=ASIDE)
    if moment == "before":
        placed.linked_clone(aside)
    else:
        moments(placed)[moment](lambda: placed.linked_clone(aside))
    assert "clone.qcow2" in failed(placed.purge(used=used))
    assert_same(aside.read_bytes(), notation.content(GUEST))
    if moment == "before":
        assert placed.judge.comparisons == 1  # that of apply


@pytest.mark.parametrize("moment", ["before", "compared", "published", "deleting"])
@pytest.mark.parametrize("retire", REMOVING)
def test_a_snapshot_on_the_overlay_that_goes(stage, moment, retire):
    stage.apply(retire)
    before = stage.overlay().read_bytes()
    if moment == "before":
        stage.linked_clone(stage.overlay())
    else:
        moments(stage)[moment](lambda: stage.linked_clone(stage.overlay()))
    assert "clone.qcow2" in failed(stage.restore())
    assert_same(stage.overlay().read_bytes(), before)


def test_a_clone_on_an_original_that_would_get_its_name_back(stage):
    """It knows the original by its name in quarantine, and would lose it by the rename."""
    stage.apply(Retire.QUARANTINE)
    stage.judge.asked = lambda: stage.linked_clone(stage.original(suffix=ASIDE))
    assert "clone.qcow2" in failed(stage.restore())
    assert stage.original(suffix=ASIDE).exists()
    assert stage.overlay().exists()


# What was compared is exchanged before it gets its name.


def temporary_of(stage):
    (found,) = [path for path in stage.folder.iterdir() if path.name.endswith(".batchdiff-tmp")]
    return found


def replaced(path):
    """By a copy, which has another inode."""
    copy = path.with_name("copy")
    shutil.copy2(path, copy)
    copy.rename(path)


def written_to(path):
    with path.open("r+b") as file:
        file.write(file.read(1))


@pytest.mark.parametrize("exchange", [replaced, written_to])
@pytest.mark.parametrize("retire", REMOVING)
def test_an_overlay_that_is_exchanged_after_it_was_verified(placed, exchange, retire):
    placed.judge.asked = lambda: exchange(temporary_of(placed))
    assert "it is not the file that was verified" in failed(placed.apply(retire))
    assert_untouched(placed)


@pytest.mark.parametrize("exchange", [replaced, written_to])
def test_an_original_that_is_exchanged_before_it_gets_its_name_back(placed, exchange):
    placed.apply(Retire.QUARANTINE)
    before = placed.overlay().read_bytes()
    placed.judge.asked = lambda: exchange(placed.original(suffix=ASIDE))
    assert "it is not the file that was verified" in failed(placed.restore())
    assert_same(placed.overlay().read_bytes(), before)
    assert placed.original(suffix=ASIDE).exists()


# A plan is input like any other: its fingerprints say nothing of whether tables are sound.


def damage(path):
    """Sets a reserved bit of the refcount table: all bytes can still be read, and are right."""
    image = Patched(path)
    image[image["refcount_offset"]] ^= 1 << 3
    image.save(path)


def as_it_is_now(planned):
    return dataclasses.replace(planned, fingerprints=(fingerprint_at(planned.source.path),))


@pytest.mark.parametrize("retire", RETIRES)
def test_a_forged_plan_of_a_damaged_guest(tmp_path, monkeypatch, retire):
    stage = Stage(tmp_path, monkeypatch, form="qcow2")
    damage(stage.original())
    guest = dataclasses.replace(stage.guest(), image=as_it_is_now(stage.guest().image))
    stage.plan = dataclasses.replace(stage.plan, guests=(guest,))
    before = stage.original().read_bytes()
    assert "refcount" in failed(stage.apply(retire))
    assert stage.steps == []
    assert_same(stage.original().read_bytes(), before)
    assert stage.images() == {stage.original().name}


@pytest.mark.parametrize("verb", ["apply", "restore", "purge"])
def test_a_forged_plan_of_a_damaged_template(tmp_path, monkeypatch, verb):
    stage = Stage(tmp_path, monkeypatch, template_form="qcow2")
    if verb != "apply":
        stage.apply(Retire.QUARANTINE)
    before = stage.images()
    damage(stage.template)
    stage.plan = dataclasses.replace(stage.plan, template=as_it_is_now(stage.plan.template))
    with pytest.raises(ImageError, match="refcount"):
        getattr(stage, verb)()
    assert stage.images() == before


# Order.


def steps(text):
    return [Step(word) for word in text.split()]


@pytest.mark.parametrize(
    ("retire", "expected"),
    [
        (Retire.KEEP, "checked written verified published"),
        (Retire.QUARANTINE, "checked written verified published retiring retired"),
        (Retire.DELETE, "checked written verified published retiring retired"),
    ],
)
def test_the_steps_of_apply(stage, retire, expected):
    stage.apply(retire)
    assert [step for _, step in stage.steps] == steps(expected)


def test_an_original_makes_way_before_the_overlay_takes_its_name(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch, place="same")
    stage.apply(Retire.DELETE)
    found = [step for _, step in stage.steps]
    assert found == steps("checked written verified retiring published retiring retired")


@pytest.mark.parametrize(
    ("retire", "expected"),
    [
        (Retire.KEEP, "verified retiring restored"),
        (Retire.QUARANTINE, "published retiring restored"),
        (Retire.DELETE, "checked written verified published retiring restored"),
    ],
)
def test_the_steps_of_restore(stage, retire, expected):
    stage.apply(retire)
    stage.steps.clear()
    stage.restore()
    assert [step for _, step in stage.steps] == steps(expected)


def test_the_steps_of_purge(stage):
    stage.apply(Retire.QUARANTINE)
    stage.steps.clear()
    stage.purge()
    assert [step for _, step in stage.steps] == steps("verified retiring purged")


def test_guests_go_their_ways_in_their_order(tmp_path, monkeypatch):
    """What changes a disk happens in the order of the plan; the second is written while the first is compared."""
    stage = Stage(tmp_path, monkeypatch, names=("vm", "web"))
    stage.apply(Retire.DELETE)
    finished = [guest for guest, step in stage.steps if step in {Step.PUBLISHED, Step.RETIRED}]
    assert finished == ["vm", "vm", "web", "web"]
    assert stage.steps.index(("web", Step.WRITTEN)) < stage.steps.index(("vm", Step.VERIFIED))


def test_the_template_is_protected_and_named_before_the_original_goes(stage):
    seen = []
    stage.after_move(
        DELETING, lambda: seen.append((stage.sidecar.exists(), stage.template.stat().st_mode & 0o222))
    )
    stage.apply(Retire.DELETE)
    assert seen == [(True, 0)]
    assert_same(stage.template.read_bytes(), notation.content(TEMPLATE))


# Somebody asks to stop.


@pytest.mark.parametrize("moment", ["written", "compared", "in quarantine"])
def test_what_was_rolled_back_is_as_planned(placed, moment):
    """And `status` says so: there is nothing to clean up."""
    match moment:
        case "written":
            placed.on_step[Step.WRITTEN] = placed.stop.ask
        case "compared":
            placed.judge.asked = placed.stop.ask
        case _:
            placed.after_move(ASIDE, placed.stop.ask)
    with contextlib.suppress(StopError):
        placed.apply(Retire.QUARANTINE)
    if moment == "in quarantine" and placed.overlay() != placed.original():
        return  # the overlay was published before
    assert_untouched(placed)
    (line,) = status_rows(placed.plan, placed.history, on_disk(placed.plan, placed.history))
    assert (line.step, line.next) == ("planned", "apply: write the overlay")
    assert placed.restore() == []
    placed.stop, placed.judge.asked = Stop(), nothing
    placed.on_step.clear()
    assert status(placed.apply(Retire.QUARANTINE)) is Status.CONVERTED
