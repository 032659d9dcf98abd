"""The exact text with which apply, restore and purge refuse or fail (applying/), each for its real cause.

Guards applying/swap/refusals.py.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable

import notation
import pytest
from stage import ASIDE, NAME, Stage

from batchdiff.applying.checks import space
from batchdiff.applying.journal.records import GuestState, Step
from batchdiff.applying.results.outcome import GuestOutcome
from batchdiff.choices import Retire
from batchdiff.errors import BatchdiffError, DifferenceError, InUseError, VerificationError

Verb = Callable[[], list[GuestOutcome]]
KEEP, QUARANTINE, DELETE = Retire


def write_to_original(stage: Stage, suffix: str = "") -> None:
    notation.qemu_io(stage.original(suffix=suffix), "write -P 9 0 64k", image_format="raw")


def purge_overlay_missing(stage: Stage) -> Verb:
    stage.apply(QUARANTINE)
    stage.overlay().unlink()
    return stage.purge


def restore_overlay_missing(stage: Stage) -> Verb:
    stage.apply(QUARANTINE)
    stage.overlay().unlink()
    return stage.restore


def restore_both_gone(stage: Stage) -> Verb:
    stage.apply(QUARANTINE)
    stage.overlay().unlink()
    stage.original(suffix=ASIDE).unlink()
    return stage.restore


def restore_kept_overlay_missing(stage: Stage) -> Verb:
    stage.apply(KEEP)
    stage.overlay().unlink()
    return stage.restore


def restore_written_overlay_missing(stage: Stage) -> Verb:
    stage.apply(KEEP)
    stage.overlay().unlink()
    write_to_original(stage)
    return stage.restore


def apply_kept_overlay_missing(stage: Stage) -> Verb:
    stage.apply(KEEP)
    stage.overlay().unlink()
    return lambda: stage.apply(QUARANTINE)


def apply_used(stage: Stage) -> Verb:
    stage.apply(KEEP)
    stage.use()
    return lambda: stage.apply(QUARANTINE)


def apply_original_written(stage: Stage) -> Verb:
    stage.apply(KEEP)
    write_to_original(stage)
    return lambda: stage.apply(QUARANTINE)


def apply_original_written_aside(stage: Stage) -> Verb:
    """Restore would refuse to go back to it."""
    stage.apply(QUARANTINE)
    write_to_original(stage, ASIDE)
    return lambda: stage.apply(DELETE)


def discard_original_written_aside(stage: Stage) -> Verb:
    stage.apply(QUARANTINE)
    write_to_original(stage, ASIDE)
    return lambda: stage.restore(discard_changes=True)


def restore_original_written(stage: Stage) -> Verb:
    stage.apply(KEEP)
    write_to_original(stage)
    return stage.restore


def purge_used(stage: Stage) -> Verb:
    stage.apply(QUARANTINE)
    stage.use()
    return stage.purge


def purge_original_written(stage: Stage) -> Verb:
    stage.apply(QUARANTINE)
    write_to_original(stage, ASIDE)
    return lambda: stage.purge(used=True)


def discard_deleted(stage: Stage) -> Verb:
    stage.apply(DELETE)
    return lambda: stage.restore(discard_changes=True)


def restore_clone(stage: Stage) -> Verb:
    stage.apply(QUARANTINE)
    stage.linked_clone(stage.overlay())
    return stage.restore


def both_originals(stage: Stage) -> Verb:
    stage.apply(QUARANTINE)
    shutil.copy(stage.original(suffix=ASIDE), stage.original())
    return stage.restore


def snapshot(stage: Stage) -> Verb:
    stage.apply(DELETE)
    notation.run("qemu-img", "snapshot", "-c", "one", str(stage.overlay()))
    return stage.restore


def not_a_journal(stage: Stage) -> Verb:
    stage.journal_file.write_text("hello\n")
    return stage.apply


def damaged_journal(stage: Stage) -> Verb:
    stage.apply()
    lines = stage.journal_file.read_text()
    stage.journal_file.write_text(f"{lines}x\n{lines}")
    return stage.apply


def two_at_once(stage: Stage) -> Verb:
    def apply() -> list[GuestOutcome]:
        with stage.session():
            return stage.apply()

    return apply


def template_changed(stage: Stage) -> Verb:
    stage.swap_template()
    return stage.apply


def template_changed_later(stage: Stage) -> Verb:
    stage.apply()
    stage.swap_template()
    return lambda: stage.apply(QUARANTINE)


def sidecar_damaged(stage: Stage) -> Verb:
    stage.sidecar.write_text("{")
    return stage.apply


def guest_changed(stage: Stage) -> Verb:
    write_to_original(stage)
    return stage.apply


def quarantined_by_another(stage: Stage) -> Verb:
    stage.original().rename(stage.original(suffix=ASIDE))
    stage.write_guest(NAME)
    return lambda: stage.apply(QUARANTINE)


def another_file_after_a_crash(stage: Stage) -> Verb:
    """No conversion was completed, so purge would find nothing to delete."""
    stage.note(GuestState(Step.RETIRING, moved=True))
    return quarantined_by_another(stage)


def interrupted_restore(stage: Stage) -> Verb:
    def end() -> None:
        raise KeyboardInterrupt

    stage.apply(QUARANTINE)
    stage.on_step[Step.RETIRING] = end
    with pytest.raises(KeyboardInterrupt):
        stage.restore()
    stage.on_step.clear()
    return lambda: stage.apply(QUARANTINE)


def guest_of_another_size(stage: Stage) -> Verb:
    os.truncate(stage.original(), 2 << 20)
    return stage.apply


def template_lost_discard(stage: Stage) -> Verb:
    stage.apply(DELETE)
    stage.swap_template()
    return lambda: stage.restore(discard_changes=True)


def no_qemu(stage: Stage) -> Verb:
    stage.judge.is_installed = False
    return stage.apply


def overlay_differs(stage: Stage) -> Verb:
    stage.judge.refuses["vm.img"] = DifferenceError("a and b differ", why="x")
    return stage.apply


def overlay_unsound(stage: Stage) -> Verb:
    stage.apply(QUARANTINE)
    stage.judge.refuses["vm.qcow2"] = VerificationError("bad overlay", why="x")
    return stage.purge


def overlay_in_use(stage: Stage) -> Verb:
    stage.apply(QUARANTINE)
    stage.judge.refuses["vm.qcow2"] = InUseError("an image is in use", why="x")
    return stage.purge


def both_lost_apply(stage: Stage) -> Verb:
    stage.apply(KEEP)
    stage.overlay().unlink()
    stage.original().unlink()
    return lambda: stage.apply(QUARANTINE)


def overlay_exists(stage: Stage) -> Verb:
    stage.overlay().write_bytes(b"x")
    return stage.apply


def template_changing(stage: Stage) -> Verb:
    stage.judge.asked = stage.swap_template
    return stage.apply


def two_overlays(stage: Stage) -> Verb:
    stage.apply(QUARANTINE)
    shutil.copy(stage.overlay(), stage.overlay(suffix=".batchdiff-overlay"))
    return stage.restore


def journal_folder(stage: Stage) -> Verb:
    stage.journal_file.mkdir()
    return stage.apply


MESSAGES = {
    purge_overlay_missing: (
        "{0}/vm.img.batchdiff-original was not deleted: {0}/vm.qcow2 is missing, so the original may "
        "be all that is left of vm. Bring the missing file back; if it was moved, add `--map "
        "OLD=NEW`. To go back to the original: `batchdiff restore PLAN --guest vm --discard-changes`."
    ),
    restore_overlay_missing: (
        "vm was not restored: its overlay {0}/vm.qcow2 is missing, and with it everything that its VM wrote."
        " Bring the overlay back; if it or the pool was moved, use `--map OLD=NEW`. The original, as "
        "it was before the conversion, is {0}/vm.img.batchdiff-original. To go back to it and give up"
        " what the VM wrote: `batchdiff restore PLAN --guest vm --discard-changes`."
    ),
    restore_both_gone: (
        "vm was not restored: its overlay {0}/vm.qcow2 is missing, and with it everything that its VM wrote."
        " Bring the overlay back; if it or the pool was moved, use `--map OLD=NEW`."
    ),
    restore_kept_overlay_missing: (
        "vm was not restored: its overlay {0}/vm.qcow2 is missing, and with it everything that its VM wrote."
        " Bring the overlay back; if it or the pool was moved, use `--map OLD=NEW`. The original, as "
        "it was before the conversion, is {0}/vm.img. To go back to it and give up what the VM wrote:"
        " `batchdiff restore PLAN --guest vm --discard-changes`."
    ),
    restore_written_overlay_missing: (
        "vm was not restored: its overlay {0}/vm.qcow2 is missing, and with it everything that its VM wrote."
        " Bring the overlay back; if it or the pool was moved, use `--map OLD=NEW`. The original, which has "
        "changed since it was planned, is {0}/vm.img. To go back to it and give up what the VM"
        " wrote: `batchdiff restore PLAN --guest vm --discard-changes`."
    ),
    apply_kept_overlay_missing: (
        "the image published as {0}/vm.qcow2 is gone, and with it what its VM wrote: it has been removed, moved "
        "or replaced since. Bring it back. Its original, as it was before the conversion, is {0}/vm.img. To"
        " go back to the original: `batchdiff restore PLAN --guest vm --discard-changes`."
    ),
    apply_used: (
        "the original of vm was not retired: its VM has run on the overlay since the conversion ({0}/vm.img and "
        "{0}/vm.qcow2 differ). If you trust the overlay, remove {0}/vm.img yourself."
    ),
    apply_original_written: (
        "the original {0}/vm.img was left alone: it has changed (its modification time changed (mtime))"
        " since its overlay {0}/vm.qcow2 was published, so only you know which of the two to keep. If the overlay"
        " is the VM's disk, remove the original yourself. To go back to the original: `batchdiff restore PLAN"
        " --guest vm --discard-changes`."
    ),
    apply_original_written_aside: (
        "the original {0}/vm.img.batchdiff-original was left alone: it has changed (its modification time "
        "changed (mtime)) since its overlay {0}/vm.qcow2 was published, so only you know which of the two to keep."
        " No verb deletes "
        "that original, not even `purge --used`: find out what it contains before you remove it yourself."
    ),
    discard_original_written_aside: (
        "vm was not restored: {0}/vm.img.batchdiff-original is not its original, or was written to after the "
        "conversion. Compare it with the overlay {0}/vm.qcow2. To keep the overlay's content, move "
        "{0}/vm.img.batchdiff-original away and run `batchdiff restore PLAN --guest vm`. To go back to "
        "{0}/vm.img.batchdiff-original, move the overlay away and run `batchdiff restore PLAN --guest vm "
        "--discard-changes`."
    ),
    restore_original_written: (
        "vm was not restored: {0}/vm.img is still there and differs from the overlay {0}/vm.qcow2, so only you "
        "know which of the two to keep. To check the overlay first: `batchdiff verify PLAN --guest vm`. To go "
        "back to {0}/vm.img and delete the overlay: `batchdiff restore PLAN --guest vm --discard-changes`. To "
        "keep the overlay's content, move {0}/vm.img away, then run the same command again."
    ),
    purge_used: (
        "its VM has run on the overlay since the conversion"
        " ({0}/vm.img.batchdiff-original and {0}/vm.qcow2 differ)."
        " To delete the original anyway: `batchdiff purge PLAN --guest vm --used`."
    ),
    discard_deleted: (
        "vm cannot go back to its original: the original was deleted or moved. Run the same command without "
        "`--discard-changes` to rebuild an image from the overlay."
    ),
    restore_clone: (
        "{0}/vm.qcow2 was left alone: {0}/clone.qcow2 cannot be read without it. "
        "Convert that image to a standalone one (`qemu-img convert`) or remove "
        "it, then run the same command again."
    ),
    both_originals: (
        "vm was left alone: both {0}/vm.img and {0}/vm.img.batchdiff-original exist, and either "
        "could be its original. Find out which of the two is its original and move the other away, then run the "
        "same command again."
    ),
    snapshot: (
        "the overlay {0}/vm.qcow2 was left unchanged: it has 1 internal snapshot, which would be lost "
        "with it. `qemu-img info {0}/vm.qcow2` shows the details. To accept that loss: `batchdiff restore"
        " PLAN --guest vm --allow-loss snapshots`."
    ),
    not_a_journal: (
        "{0}/fleet.plan.json.journal is not a journal: it does not start like one. That name"
        " is reserved for the plan's journal: move the file away, then run the same command again."
    ),
    damaged_journal: (
        "{0}/fleet.plan.json.journal is damaged: line 9 is not a batchdiff record. Move the "
        "journal away, then run the same command again. The records are then recovered, as far as the "
        "template's sidecar and the files show them."
    ),
    two_at_once: (
        "another batchdiff command for this plan is running: it has locked "
        "{0}/fleet.plan.json.journal. Wait until it has finished, then run the same command again."
    ),
    template_changed: (
        "the plan is stale, because the content of the template {0}/template.img changed: {0}/template.img: "
        "another file is in its place; its digest differs from the planned one. Shut down any VM or program that "
        "writes to the image, then plan again."
    ),
    template_changed_later: (
        "the content of the template {0}/template.img changed after overlays were created on it: "
        "{0}/template.img: another file is in its place; its digest differs from the planned one, so the "
        "overlay of vm is damaged; do not start a VM on it. The original {0}/vm.img is intact, as before "
        "the conversion. "
        "`batchdiff restore PLAN --guest vm --discard-changes` goes back to it, and discards what"
        " the VM has written since. To keep what was written, you need the template. Bring the "
        "template back from a backup, then run the same command again."
    ),
    sidecar_damaged: (
        "{0}/template.img.batchdiff-template.json cannot be read: it is damaged, is not a regular"
        " file, was written by a newer batchdiff, or cannot be read by this user, so the overlays of the template"
        " are not known. If it names no overlay that you need, move it away, then run the same command again."
    ),
    guest_changed: (
        "the plan is stale: {0}/vm.img: its modification time changed (mtime). Shut down any VM or program"
        " that writes to the image, then plan again."
    ),
    quarantined_by_another: (
        "another file is at {0}/vm.img: the original that was planned is in quarantine as "
        "{0}/vm.img.batchdiff-original. Plan again for the file that is there now. To delete the original in "
        "quarantine: `batchdiff purge PLAN --guest vm --used`."
    ),
    another_file_after_a_crash: (
        "another file is at {0}/vm.img: the original that was planned is in quarantine as "
        "{0}/vm.img.batchdiff-original. Plan again for the file that is there now; or, if no VM uses that "
        "file, move it away, then run the same command again."
    ),
    interrupted_restore: (
        "a `batchdiff restore` of vm was not completed. Finish that first: `batchdiff restore PLAN --guest vm`."
    ),
    purge_original_written: (
        "{0}/vm.img.batchdiff-original was not deleted: it was not found to be identical to what the VM sees now, "
        "and it has changed since it was planned. Find out what it contains before you remove it yourself."
    ),
    guest_of_another_size: (
        "the plan is stale: the virtual size of {0}/vm.img is 2097152 bytes, not 1048576. Plan again."
    ),
    template_lost_discard: (
        "vm cannot go back to its original: the original was deleted or moved. Make the overlay readable again: "
        "bring the planned template back if it is missing or has changed, or repair a copy of the overlay and "
        "replace the overlay with that copy."
    ),
    no_qemu: (
        "cannot verify with QEMU: qemu-img is not installed. Install it (Debian: qemu-utils). Or use "
        "`--verify native`, which does not allow originals to be deleted."
    ),
    overlay_differs: (
        "a and b differ: x. The overlay was discarded, and the original was left alone. If "
        "nothing wrote to the original, test the memory and the disk of this machine, and report "
        "this failure as a bug."
    ),
    overlay_unsound: (
        "bad overlay: x. The original {0}/vm.img.batchdiff-original is intact, as before the conversion. "
        "`batchdiff restore PLAN --guest vm --discard-changes` goes "
        "back to it, and discards what the VM has written since."
    ),
    overlay_in_use: (
        "{0}/vm.qcow2 is in use, so the original cannot be compared with the VM's disk: x."
        " To delete the original anyway: `batchdiff purge PLAN --guest vm --used`."
    ),
    both_lost_apply: (
        "{0}/vm.img is gone, and {0}/vm.qcow2 is missing or cannot be read: both were removed or "
        "moved, or the latter is damaged. Bring one of them back. If the pool was moved, see docs/moving.md."
    ),
    overlay_exists: ("{0}/vm.qcow2 already exists. Move it away, or plan again with another `overlay.path`."),
    template_changing: (
        "{0}/template.img changed while this command ran: another file is in its place. Bring the"
        " former file back, then run the same command again."
    ),
    two_overlays: (
        "vm was left alone: both {0}/vm.qcow2 and {0}/vm.qcow2.batchdiff-overlay exist, and "
        "either could be its overlay. Find out which of the two is its overlay and move the other away, then run "
        "the same command again."
    ),
    journal_folder: (
        "cannot open the journal {0}/fleet.plan.json.journal: {0}/fleet.plan.json.journal is a "
        "folder. Correct the path, or move away what is there, then run the same command again."
    ),
}
"""Causes, each with the message of the verb; ``{0}`` is the folder."""


def message(verb: Verb) -> str:
    """Run a verb for one guest, which it must not carry out, and return the reason."""
    try:
        (outcome,) = verb()
    except BatchdiffError as error:
        return str(error)
    return outcome.reason


@pytest.mark.parametrize(("cause", "text"), MESSAGES.items(), ids=[cause.__name__ for cause in MESSAGES])
def test_message(tmp_path, monkeypatch, cause, text):
    verb = cause(Stage(tmp_path, monkeypatch))
    assert message(verb) == text.format(tmp_path)


def test_an_overlay_in_the_place_of_an_original_that_is_kept(tmp_path, monkeypatch):
    assert message(Stage(tmp_path, monkeypatch, place="same").apply) == (
        "the overlay of vm takes its original's name, so the original cannot keep that name. Use `--retire"
        " quarantine` or `--retire delete`."
    )


def test_too_little_space(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch)
    monkeypatch.setattr(space, "free_bytes", lambda _: 1024)
    assert re.fullmatch(
        f"there is not enough space on the filesystem of {tmp_path}: up to [0-9.]+ KiB is needed at any one time,"
        r" but only 1 KiB is free\. Make room first\.",
        message(stage.apply),
    )


def test_too_little_space_for_a_rebuilt_image(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch)
    stage.apply(DELETE)
    monkeypatch.setattr(space, "free_bytes", lambda _: 1024)
    assert re.fullmatch(
        f"there is not enough space on the filesystem of {tmp_path} to rebuild vm: up to [0-9.]+ MiB is needed,"
        r" but only 1 KiB is free\. Make room, then run the same command again; with `--guest`, it restores only"
        r" the guests that you name\.",
        message(stage.restore),
    )
