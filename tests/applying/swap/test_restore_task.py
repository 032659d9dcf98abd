"""What restore decides: from what stands on disk, what the journal knows and what was asked for, to a task.

Guards applying/swap/rebuild_task.py, applying/swap/guest_to_restore.py.
"""

from __future__ import annotations

import dataclasses
import types

import notation
import plans
import pytest
from oracle import assert_same
from stage import ASIDE, DELETING, GUEST, NAME, OVERLAY_ASIDE, Stage, failed, status

from batchdiff.applying.checks.verify import Check
from batchdiff.applying.journal.file import MemoryJournal
from batchdiff.applying.journal.records import Fate, Goal, GuestState, History, Step
from batchdiff.applying.results.outcome import Status
from batchdiff.applying.swap import guest_to_restore, rebuild_task, retire
from batchdiff.applying.swap import restore_task as restore_module
from batchdiff.applying.swap.guest_to_restore import RestoreOptions
from batchdiff.applying.swap.rebuild_task import RebuildTask
from batchdiff.applying.swap.restore_task import restore_task
from batchdiff.choices import Loss, Retire
from batchdiff.errors import GuestError, ImageError
from batchdiff.files.fingerprint import NO_FILE, fingerprint_at
from batchdiff.plan.sidecar import read_sidecar
from batchdiff.progress import ignore
from batchdiff.units import MIB

COMPARISONS = {
    (Check.NONE,): "identical",
    (Check.FLAWLESS,): "rebuilt_right",
    ("sound", Check.LEAKS_ALLOWED): "still_right",
}
PLAIN, DISCARD = RestoreOptions(), RestoreOptions(discard_changes=True)


@pytest.fixture(scope="module")
def overlay_bytes(tmp_path_factory):
    """An empty overlay of 1 MiB."""
    folder = tmp_path_factory.mktemp("overlay")
    notation.write_raw(folder / "template.img", "1M:A")
    path = notation.write_qcow2(folder / "vm.qcow2", "1M:-", backing=folder / "template.img")
    return path.read_bytes()


class Scene:
    """The files of one guest, and what the journal says of it."""

    def __init__(self, folder, overlay_bytes, *, in_place=False):
        self.folder, self.overlay_bytes = folder, overlay_bytes
        path = str(folder / "vm.img")
        own = path if in_place else str(folder / "vm.qcow2")
        self.original = NO_FILE
        self.state = GuestState(Step.RETIRED, published=True)
        self.guest = plans.guest_plan(name="vm", path=path, overlay_path=own)

    def put_overlay(self, suffix=""):
        path = f"{self.guest.overlay_path}{suffix}"
        with open(path, "wb") as file:
            file.write(self.overlay_bytes)
        self.state = dataclasses.replace(self.state, overlay=fingerprint_at(path))

    def rebased(self):
        """The overlay's path, on a template that is there: QEMU will not open it otherwise."""
        template = notation.write_raw(self.folder / "template.img", "1M:A")
        arguments = ["-u", "-f", "qcow2", "-F", "raw", "-b", str(template), self.guest.overlay_path]
        notation.run("qemu-img", "rebase", *arguments)
        return self.guest.overlay_path

    def put_original(self, suffix="", *, used=False):
        path = self.folder / f"vm.img{suffix}"
        path.write_bytes(b"the original")
        self.original = fingerprint_at(str(path))
        if used:
            path.write_bytes(b"somebody else wrote to it")

    def put_rebuilt(self):
        path = self.folder / "vm.img"
        path.write_bytes(b"a rebuilt image")
        self.state = dataclasses.replace(self.state, rebuilt=fingerprint_at(str(path)), goal=Goal.RESTORE)

    def decide(self, options=PLAIN):
        image = dataclasses.replace(plans.planned_image(self.guest.source.path), fingerprints=(self.original,))
        self.guest = dataclasses.replace(self.guest, image=image)
        run = types.SimpleNamespace(journal=MemoryJournal(History()), reporter=lambda *_: ignore)
        template = plans.planned_image(str(self.folder / "template.img"))
        return restore_task(self.guest, template, run, self.state, options)

    def words(self, options=PLAIN):
        """The task in words: what comes, how it is compared, what else may happen, what goes, what stays."""
        task = self.decide(options)
        assert task.goal is Goal.RESTORE
        assert task.final is Step.RESTORED
        assert task.retire is Retire.DELETE
        assert task.guest == "vm"
        return ", ".join(
            (
                self._incoming(task.incoming),
                self._comparison(task) if task.needs_comparison else "unseen",
                self._if_different(task),
                "no overlay" if task.outgoing.known is NO_FILE else f"overlay {self._suffix_of_overlay(task)}",
                "nothing stays" if task.older is None else f"stays {self._suffix(task.older)}",
            )
        )

    def _incoming(self, incoming):
        if incoming.ready is not None:
            assert incoming.known == fingerprint_at(incoming.ready)
            return f"original {self._suffix(incoming.ready)}"
        if incoming.known is None:
            return "rebuilt"
        return "rebuilt before" if incoming.known is self.state.rebuilt else "original own"

    def _comparison(self, task):
        """What QEMU is asked, of the incoming file and of the overlay."""
        asked = []
        with pytest.MonkeyPatch.context() as patch:
            for module in (restore_module, rebuild_task):
                patch.setattr(module, "check_used", lambda *_: asked.append("sound"))
                patch.setattr(module, "verify", lambda comparison, *_: asked.append(comparison.check))
            task.verify(types.SimpleNamespace(source="overlay"), "disk", None)
        return COMPARISONS[tuple(asked)]

    def _if_different(self, task):
        if isinstance(task, RebuildTask) or task.outgoing.known is NO_FILE:
            assert task.if_different() is None
            return "or nothing"
        if task.incoming.ready is None:
            with pytest.raises(GuestError, match="only you know which of the two to keep"):
                task.if_different()
            return "or two disks"
        other = task.if_different()
        assert isinstance(other, RebuildTask)
        assert other.if_different() is None
        stays = "nothing" if other.older is None else self._suffix(other.older)
        return f"or {self._incoming(other.incoming)} beside {stays}"

    def _suffix_of_overlay(self, task):
        assert task.outgoing.names.own == self.guest.overlay_path
        now = task.outgoing.known
        found = [s for s in ("", OVERLAY_ASIDE, DELETING) if fingerprint_at(self.guest.overlay_path + s) == now]
        return found[0].removeprefix(".batchdiff-") or "own"

    def _suffix(self, path):
        return path.removeprefix(str(self.folder / "vm.img")).removeprefix(".batchdiff-") or "own"


@pytest.fixture(params=["beside", "in place"])
def scene(request, tmp_path, overlay_bytes):
    return Scene(tmp_path, overlay_bytes, in_place=request.param == "in place")


@pytest.fixture
def beside(tmp_path, overlay_bytes):
    return Scene(tmp_path, overlay_bytes)


def test_quarantined(scene):
    scene.put_overlay()
    scene.put_original(ASIDE)
    assert scene.words() == "original original, identical, or rebuilt beside original, overlay own, nothing stays"
    assert scene.words(DISCARD) == (
        "original original, unseen, or rebuilt beside original, overlay own, nothing stays"
    )


def test_a_deletion_that_apply_has_begun(scene):
    """If the two differ, the original goes into quarantine."""
    scene.put_overlay()
    scene.put_original(DELETING)
    assert scene.words() == "original deleting, identical, or rebuilt beside original, overlay own, nothing stays"


def test_kept(beside):
    beside.put_overlay()
    beside.put_original()
    assert beside.words() == "original own, identical, or two disks, overlay own, nothing stays"
    assert beside.words(DISCARD) == "original own, unseen, or two disks, overlay own, nothing stays"


def test_kept_and_used(beside):
    """QEMU will find that they differ."""
    beside.put_overlay()
    beside.put_original(used=True)
    assert beside.words() == "original own, identical, or two disks, overlay own, nothing stays"


def test_deleted(scene):
    scene.put_overlay()
    assert scene.words() == "rebuilt, rebuilt_right, or nothing, overlay own, nothing stays"
    with pytest.raises(GuestError, match="cannot go back to its original"):
        scene.words(DISCARD)


@pytest.mark.parametrize("suffix", [OVERLAY_ASIDE, DELETING])
def test_an_overlay_that_an_earlier_restore_has_moved(beside, suffix):
    beside.put_overlay(suffix)
    beside.put_original()
    found = suffix.removeprefix(".batchdiff-")
    assert beside.words() == f"original own, identical, or two disks, overlay {found}, nothing stays"


@pytest.mark.parametrize("suffix", ["", ASIDE, None])
def test_an_overlay_that_is_missing(scene, suffix):
    if suffix is not None:
        scene.put_original(suffix)
    with pytest.raises(GuestError, match="is missing, and with it everything that its VM wrote") as caught:
        scene.decide()
    assert ("--discard-changes" in caught.value.remedy) is (suffix is not None)
    if suffix is None:
        with pytest.raises(GuestError, match=r"both its original .* and its overlay .* are gone"):
            scene.decide(DISCARD)
        return
    assert f"vm.img{suffix}." in caught.value.remedy
    where = "own" if not suffix else "original"
    assert scene.words(DISCARD) == f"original {where}, unseen, or nothing, no overlay, nothing stays"


@pytest.mark.parametrize("suffix", ["", ASIDE])
def test_an_overlay_that_restore_has_deleted(scene, suffix):
    """It was about to be unlinked, so that it is gone was our doing: nothing is asked of the operator."""
    scene.put_original(suffix)
    scene.state = dataclasses.replace(scene.state, goal=Goal.RESTORE, deleting=True)
    where = "own" if not suffix else "original"
    assert scene.words() == f"original {where}, unseen, or nothing, no overlay, nothing stays"


@pytest.mark.parametrize(
    "noted",
    [{"goal": Goal.RESTORE}, {"goal": Goal.APPLY, "deleting": True}, {"goal": Goal.PURGE, "deleting": True}],
)
def test_an_overlay_that_no_record_says_was_deleted(scene, noted):
    """The same without the note, or with one that was about the original."""
    scene.put_original(ASIDE)
    scene.state = dataclasses.replace(scene.state, **noted)
    with pytest.raises(GuestError, match="is missing, and with it everything that its VM wrote"):
        scene.decide()


@pytest.mark.parametrize("suffix", ["", ASIDE, DELETING])
def test_what_was_never_published(scene, suffix):
    """Apply died before: the original gets its name back."""
    scene.put_original(suffix)
    scene.state = GuestState(Step.RETIRING, moved=True)
    where = suffix.removeprefix(".batchdiff-") or "own"
    assert scene.words() == f"original {where}, unseen, or nothing, no overlay, nothing stays"


def test_an_unpublished_file_at_the_overlays_path_is_not_ours(beside):
    beside.put_original()
    beside.put_overlay()
    beside.state = GuestState(Step.CHECKED, temporary="/x")
    assert beside.words() == "original own, unseen, or nothing, no overlay, nothing stays"


@pytest.mark.parametrize("older", [False, True])
def test_a_rebuilt_image_and_its_overlay(beside, older):
    """A restore has died in between. If they differ by now, only a person knows which one counts."""
    beside.put_overlay()
    beside.put_rebuilt()
    if older:
        beside.put_original(ASIDE)
    stays = "stays original" if older else "nothing stays"
    assert beside.words() == f"rebuilt before, still_right, or two disks, overlay own, {stays}"
    assert beside.words(DISCARD) == f"rebuilt before, unseen, or two disks, overlay own, {stays}"


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("options", [PLAIN, DISCARD])
def test_a_rebuilt_image_whose_overlay_has_gone(scene, older, options):
    scene.put_rebuilt()
    if older:
        scene.put_original(ASIDE)
    stays = "stays original" if older else "nothing stays"
    scene.state = dataclasses.replace(scene.state, deleting=True)
    assert scene.words(options) == f"rebuilt before, unseen, or nothing, no overlay, {stays}"


def test_a_rebuilt_image_whose_overlay_was_removed(scene):
    """It may have held more than was rebuilt."""
    scene.put_rebuilt()
    with pytest.raises(GuestError, match="is missing; an interrupted restore had rebuilt"):
        scene.decide()
    assert scene.words(DISCARD) == "rebuilt before, unseen, or nothing, no overlay, nothing stays"


def test_an_original_that_got_its_name_back_is_no_rebuilt_image(beside):
    """The journal has its identity in the same place."""
    beside.put_original()
    beside.put_overlay()
    beside.state = dataclasses.replace(beside.state, rebuilt=beside.original, goal=Goal.RESTORE)
    assert beside.words() == "original own, identical, or two disks, overlay own, nothing stays"


def test_two_files_that_could_be_the_overlay(beside):
    beside.put_overlay()
    beside.put_overlay(DELETING)
    beside.put_original(ASIDE)
    with pytest.raises(GuestError, match="either could be its overlay"):
        beside.decide()


@pytest.mark.parametrize("loss", [Loss.SNAPSHOTS, Loss.BITMAPS])
@pytest.mark.parametrize("original", [None, ASIDE])
def test_losses(scene, loss, original):
    """Snapshots and bitmaps are lost only if the operator says so; with --discard-changes he has."""
    scene.put_overlay()
    if original:
        scene.put_original(original)
    verb = ["snapshot", "-c", "one"] if loss is Loss.SNAPSHOTS else ["bitmap", "--add", "-f", "qcow2"]
    notation.write_raw(scene.folder / "template.img", "1M:A")
    path = scene.guest.overlay_path
    notation.run(
        "qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", str(scene.folder / "template.img"), path
    )
    notation.run("qemu-img", *verb, path, *(["one"] if loss is Loss.BITMAPS else []))
    other = next(each for each in Loss if each is not loss)
    for allowed in (frozenset(), frozenset({other})):
        with pytest.raises(GuestError, match=f"--allow-loss {loss}"):
            scene.decide(RestoreOptions(losses=allowed))
    scene.decide(RestoreOptions(losses=frozenset({loss})))
    if original:
        scene.decide(DISCARD)


def test_an_overlay_that_is_no_image(beside):
    """What it is cannot be told, so neither can what would be lost; only --discard-changes looks no further."""
    beside.put_overlay()
    (beside.folder / "vm.qcow2").write_bytes(b"a note to myself")
    beside.put_original(ASIDE)
    with pytest.raises(ImageError):
        beside.decide()
    assert beside.words(DISCARD).startswith("original original, unseen")


def test_a_flattened_overlay_needs_no_template(beside):
    beside.put_overlay()
    beside.put_original(ASIDE)
    assert [each.path for each in beside.decide().outgoing.source.backing] == [str(beside.folder / "template.img")]
    notation.run("qemu-img", "rebase", "-f", "qcow2", "-b", "", beside.rebased())
    assert beside.decide().outgoing.source.backing == ()


# What comes of the tasks.


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch)


def test_sizes_of_rebuilt_images(tmp_path, monkeypatch):
    """A raw file that was no multiple of 512 gets its size back, unless the disk was resized."""
    monkeypatch.setattr("stage.GUEST", "256k:A 64k:X 192k:B 512k:C 100:Z")
    stage = Stage(tmp_path, monkeypatch)
    stage.apply(Retire.DELETE)
    stage.restore()
    assert stage.original().stat().st_size == MIB + 100
    stage.plan = stage.planned()
    stage.apply(Retire.DELETE)
    notation.run("qemu-img", "resize", "-q", "-f", "qcow2", str(stage.overlay()), str(2 * MIB))
    stage.restore()
    assert stage.original().stat().st_size == 2 * MIB


def test_notes_of_a_rebuilt_image(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch, form="qcow2")
    stage.apply(Retire.QUARANTINE)
    stage.use()
    (outcome,) = stage.restore()
    assert outcome.original.fate is Fate.REBUILT
    history = " ".join(outcome.remarks)
    assert f"The older original is still at {stage.original(suffix=ASIDE)}" in history
    assert stage.history.states[NAME].aside == str(stage.original(suffix=ASIDE))


def test_no_space_is_noticed_before_the_first_byte(stage, monkeypatch):
    stage.apply(Retire.DELETE)
    stage.steps.clear()
    before = stage.images()

    def full(*_):
        raise GuestError("there is not enough space")

    monkeypatch.setattr(rebuild_task, "check_space_for_image", full)
    monkeypatch.setattr(rebuild_task, "write_standalone", lambda *_, **__: pytest.fail("it writes"))
    assert "not enough space" in failed(stage.restore())
    assert stage.images() == before


def test_a_damaged_overlay_is_not_rebuilt_from(stage, monkeypatch):
    """QEMU finds an error in it, though both images read as the same."""
    from batchdiff.errors import VerificationError  # noqa: PLC0415
    from batchdiff.qemu import qemu_img  # noqa: PLC0415

    stage.apply(Retire.DELETE)

    def check(image, *_, **__):
        if image.path == str(stage.overlay()):
            raise VerificationError("an error in it")

    monkeypatch.setattr(qemu_img, "check", check)
    monkeypatch.setattr(rebuild_task, "write_standalone", lambda *_, **__: pytest.fail("it writes"))
    assert "an error in it" in failed(stage.restore())
    assert stage.images() == {stage.overlay().name}


def test_a_rebuilt_image_that_differs_is_not_published(stage):
    stage.apply(Retire.DELETE)

    def spoil():
        raise GuestError("the judge says no")

    stage.judge.asked = spoil
    assert "the judge says no" in failed(stage.restore())
    assert stage.images() == {stage.overlay().name}


@pytest.mark.parametrize("hindrance", ["second name", "clone"])
@pytest.mark.parametrize("given", [False, True])
def test_a_data_file_that_the_operator_has_given_the_overlay(tmp_path, monkeypatch, given, hindrance):
    """It stays, so it may have other names, and other images may need it."""
    stage = Stage(tmp_path, monkeypatch, place="data")
    stage.apply(Retire.DELETE)
    data = stage.data_file()
    if given:
        data = data.rename(stage.folder / "vm.mine.raw")
        header = stage.overlay().read_bytes()
        old, new = (str(path).encode() for path in (stage.data_file(), data))
        stage.overlay().write_bytes(header.replace(old, new))
    before = data.read_bytes()
    if hindrance == "clone":
        stage.linked_clone(data)
    else:
        data.with_name("fleet.link").hardlink_to(data)
    if not given:
        assert str(data) in failed(stage.restore())
        return
    assert status(stage.restore()) is Status.RESTORED
    assert_same(stage.original().read_bytes(), notation.content(GUEST))
    assert_same(data.read_bytes(), before)


def test_the_sidecar_forgets_the_overlay(stage, monkeypatch):
    stage.apply(Retire.QUARANTINE)
    stage.restore()
    assert read_sidecar(str(stage.sidecar)).overlays == {}
    stage.apply(Retire.QUARANTINE, guests=frozenset(stage.names))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(guest_to_restore, "forget_overlay", full)
    (outcome,) = stage.restore()
    assert outcome.status is Status.RESTORED
    assert "still names the overlay (No space left on device)" in outcome.remarks[0]


def test_an_original_goes_back_into_quarantine_before_an_image_is_rebuilt(stage):
    """Apply had begun to delete it when it died; since then the VM has run."""
    stage.apply(Retire.KEEP)
    stage.original().rename(stage.original(suffix=DELETING))
    stage.use()
    assert status(stage.restore()) is Status.RESTORED
    assert stage.images() == {stage.original().name, stage.original(suffix=ASIDE).name}
    assert_same(stage.original(suffix=ASIDE).read_bytes(), notation.content(GUEST))


def test_an_original_that_vanishes_once_the_task_is_made(tmp_path, monkeypatch):
    """Restore writes no image in its place: what the original held is not known to be what the overlay shows."""
    stage = Stage(tmp_path, monkeypatch)
    stage.apply()

    def made(*arguments):
        task = restore_task(*arguments)
        stage.original().rename(stage.folder / "elsewhere")
        return task

    monkeypatch.setattr("batchdiff.applying.undo.restore_task", made)
    reason = failed(stage.restore())
    assert reason == (
        f"{stage.original()} is gone: it was removed or moved while this command ran. Bring it back, then run the"
        " same command again."
    )
    assert stage.images() == {stage.overlay().name, "elsewhere"}


def test_a_rebuilt_image_stays_one_if_the_restore_is_interrupted(stage, monkeypatch):
    """What its VM wrote is in it, and the older original takes space until it is purged."""
    stage.apply(Retire.QUARANTINE)
    notation.qemu_io(stage.overlay(), "write -P 3 512k 64k")

    def broken(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(retire, "delete", broken)
        failed(stage.restore())
    (outcome,) = stage.restore()
    assert (outcome.status, outcome.original.fate) == (Status.RESTORED, Fate.REBUILT)
    assert "The older original is still at" in "".join(outcome.remarks)
