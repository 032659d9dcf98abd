"""What verify says of a template and of overlays, case by case.

Guards applying/overlay_health.py.
"""

from __future__ import annotations

import errno
import os
import shutil

import encrypted
import notation
import pytest
from oracle import source
from plans import guest_plan, small_plan
from stage import ASIDE, TEMPLATE, Stage, failed, status

from batchdiff.applying import health_check, overlay_health
from batchdiff.applying.checks import verify as judging
from batchdiff.applying.guests.guest_files import on_disk
from batchdiff.applying.guests.status import Written
from batchdiff.applying.health_check import check_health
from batchdiff.applying.journal.records import History
from batchdiff.applying.results.finding import Health
from batchdiff.applying.results.outcome import Status
from batchdiff.applying.session.stop import Stop
from batchdiff.applying.template import template_health
from batchdiff.choices import Retire, Strategy, Verdict
from batchdiff.errors import ImageError, InUseError, ProgramError, StopError, UsageError, VerificationError
from batchdiff.linux.call_failures import AGAIN


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch)


@pytest.fixture
def quarantined(stage):
    stage.apply(Retire.QUARANTINE)
    return stage


def findings(stage, names=None):
    return list(check_health(stage.plan, stage.history, names, Stop()))


def template(stage):
    found = findings(stage)[0]
    assert (found.name, found.path) == ("template", str(stage.template))
    return found


def overlay(stage):
    (_, found) = findings(stage)
    assert (found.name, found.path) == ("vm", str(stage.overlay()))
    return found


def make_writable(path):
    path.chmod(0o644)


# The template.


def test_a_template_as_it_was_left(quarantined):
    """By fingerprints alone: no byte is read."""
    assert (template(quarantined).health, template(quarantined).why) == (Health.SOUND, "as planned")


def test_a_template_that_was_touched(quarantined):
    os.utime(quarantined.template)
    found = template(quarantined)
    assert found.health is Health.TOUCHED
    assert "its modification time changed (mtime)" in found.why
    assert "its content is unchanged" in found.why


def test_a_template_whose_mode_was_changed(quarantined):
    """Nothing claims that its content changed, for it did not."""
    quarantined.template.chmod(0o400)
    quarantined.template.chmod(0o440)
    found = template(quarantined)
    assert found.health is Health.TOUCHED
    said = "it changed, perhaps only in its mode or name (ctime); its digest shows that its content is unchanged"
    assert found.why == f"{quarantined.template}: {said}"


@pytest.mark.parametrize("retire", [Retire.KEEP, Retire.QUARANTINE, Retire.DELETE])
def test_a_template_whose_content_changed(stage, retire):
    """The originals that are whole are named, with the way back to them."""
    stage.apply(retire)
    make_writable(stage.template)
    with stage.template.open("r+b") as file:
        file.write(b"?")
    found = template(stage)
    assert found.health is Health.DAMAGED
    assert "changed after overlays were created on it" in found.why
    where = {Retire.KEEP: stage.original(), Retire.QUARANTINE: stage.original(suffix=ASIDE)}
    named = str(where[retire]) if retire in where else ""
    assert named in found.why
    assert ("batchdiff restore PLAN --guest vm --discard-changes" in found.why) is (retire is not Retire.DELETE)


def test_a_template_that_is_missing(quarantined):
    quarantined.template.unlink()
    found = template(quarantined)
    assert found.health is Health.DAMAGED
    assert "Bring it back" in found.why
    assert str(quarantined.original(suffix=ASIDE)) in found.why


@pytest.mark.parametrize("change", ["gone", "written"])
def test_a_template_that_nothing_rests_on_yet(stage, change):
    """No guest was converted: the plan is stale, and nothing is damaged."""
    if change == "gone":
        stage.template.unlink()
    else:
        stage.template.write_bytes(b"?" * stage.template.stat().st_size)
    (found,) = findings(stage)
    assert (found.name, found.health) == ("template", Health.STALE)
    assert "needed by" not in found.why
    assert "plan again" in found.why.lower()


def test_a_template_that_another_guest_rests_on(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch, names=("vm", "web"))
    stage.apply(Retire.QUARANTINE, guests=("vm",))
    stage.template.unlink()
    (found,) = findings(stage, ("web",))
    assert found.health is Health.DAMAGED
    assert "needed by all overlays" in found.why


def change_template(stage):
    make_writable(stage.template)
    with stage.template.open("r+b") as file:
        file.seek(900 << 10)
        file.write(b"?")


def test_a_changed_template_damages_overlays_that_no_original_proves(stage):
    """Its own tables are sound, but the VM would read the changed content."""
    stage.apply(Retire.DELETE)
    change_template(stage)
    found = overlay(stage)
    assert found.health is Health.DAMAGED
    assert "there is no original to compare the overlay with" in found.why
    assert f"the template {stage.template}, whose content has changed" in found.why
    assert "Bring the template back from a backup, then run the same command again." in found.why


@pytest.mark.parametrize("retire", [Retire.KEEP, Retire.QUARANTINE])
@pytest.mark.parametrize("written", ["overlay", "original"])
def test_a_changed_template_and_a_vm_that_has_written(stage, retire, written):
    stage.apply(retire)
    if written == "overlay":
        stage.use()
    else:
        with stage.original(suffix=ASIDE if retire is Retire.QUARANTINE else "").open("r+b") as file:
            file.write(b"?")
    change_template(stage)
    assert overlay(stage).health is Health.DAMAGED
    assert "whose content has changed, so do not start a VM on this overlay" in overlay(stage).why


def test_a_changed_template_does_not_matter_to_what_is_proven_or_flattened(tmp_path, monkeypatch):
    """The guest has its own data where the template changed; another one was flattened."""
    stage = Stage(tmp_path, monkeypatch, names=("vm", "web"))
    stage.apply(Retire.QUARANTINE)
    notation.run("qemu-img", "rebase", "-f", "qcow2", "-b", "", str(stage.overlay("web")))
    stage.original("web", suffix=ASIDE).unlink()
    make_writable(stage.template)
    with stage.template.open("r+b") as file:
        file.seek(260 << 10)
        file.write(b"?")
    about, *overlays = findings(stage)
    assert about.health is Health.DAMAGED
    assert [each.health for each in overlays] == [Health.SOUND, Health.SOUND]
    assert "identical to its original" in overlays[0].why


def test_a_missing_template_leaves_overlays_unknown(stage):
    stage.apply(Retire.DELETE)
    stage.template.unlink()
    assert overlay(stage).health is Health.UNKNOWN


def test_a_template_without_a_digest(stage):
    """Nothing was recorded of it: that is no damage, but it cannot be told."""
    import dataclasses  # noqa: PLC0415

    stage.plan = dataclasses.replace(stage.plan, template_digest="")
    os.utime(stage.template)
    found = template(stage)
    assert found.health is Health.UNKNOWN
    assert "the plan has no digest of the template" in found.why


def test_overlays_on_a_template_without_a_digest(stage):
    """What their VMs read cannot be told either."""
    import dataclasses  # noqa: PLC0415

    stage.apply(Retire.DELETE)
    stage.plan = dataclasses.replace(stage.plan, template_digest="")
    for sidecar in stage.folder.glob("*.batchdiff-template.json"):
        sidecar.unlink()
    os.utime(stage.template)
    found = overlay(stage)
    assert found.health is Health.UNKNOWN
    assert "whose content may have changed; see what is reported about the template" in found.why


def test_a_template_on_a_device_is_sound_by_its_digest(quarantined, monkeypatch):
    monkeypatch.setattr(template_health, "doubt", lambda *_: "it is on a block device")
    asked = []
    monkeypatch.setattr(template_health, "require_content", lambda *args, **_: asked.append(args[3]))
    monkeypatch.setattr("batchdiff.files.fingerprint.Fingerprint.vouches_for_content", False)
    found = template(quarantined)
    assert (found.health, found.why) == (Health.SOUND, "its digest matches the plan")
    assert asked == ["it is on a block device"]


# Overlays.


def test_as_in_its_original(quarantined):
    found = overlay(quarantined)
    assert found.health is Health.SOUND
    assert found.why == "identical to its original (vm.img.batchdiff-original)"


def test_a_vm_has_written_to_it(quarantined):
    quarantined.use()
    found = overlay(quarantined)
    assert found.health is Health.SOUND
    assert "a VM has written to the overlay since the conversion" in found.why
    assert quarantined.judge.checked[-1] == ("vm.qcow2", True)


def test_the_original_was_written_to(quarantined):
    """They differ, and both may be right."""
    with quarantined.original(suffix=ASIDE).open("r+b") as file:
        file.write(b"?")
    found = overlay(quarantined)
    assert found.health is Health.SOUND
    aside = quarantined.original(suffix=ASIDE)
    assert f"its original {aside}, which is in quarantine, has changed since the overlay was made" in found.why
    assert "a VM has written to the overlay" not in found.why


@pytest.mark.parametrize("used", [False, True])
def test_a_kept_original_was_written_to(stage, used):
    """Perhaps its VM was never told of the overlay, so nobody may call that one the disk."""
    stage.apply()
    if used:
        stage.use()
    with stage.original().open("r+b") as file:
        file.write(b"?")
    found = overlay(stage)
    assert found.health is Health.UNKNOWN
    assert (
        f"its original {stage.original()} has changed since the overlay was made: its modification time changed"
        in found.why
    )
    assert "only you know which of the two to keep" in found.why
    assert "`batchdiff restore PLAN --guest vm --discard-changes`" in found.why
    there = on_disk(stage.plan, stage.history)["vm"]
    assert there.written == Written.ORIGINAL | (Written.OVERLAY if used else Written.NONE)


def test_a_kept_original_whose_attributes_changed(stage):
    """That is no write to it."""
    stage.apply()
    stage.original().chmod(0o600)
    assert "identical to its original" in overlay(stage).why
    assert on_disk(stage.plan, stage.history)["vm"].written is Written.NONE
    stage.use()
    assert overlay(stage).why == "no error found; a VM has written to the overlay since the conversion"
    assert on_disk(stage.plan, stage.history)["vm"].written is Written.OVERLAY


def test_they_differ_although_neither_was_written_to(quarantined):
    times = quarantined.overlay().stat()
    notation.qemu_io(quarantined.overlay(), "write -P 7 256k 64k")  # where it has a cluster of its own already
    os.utime(quarantined.overlay(), ns=(times.st_atime_ns, times.st_mtime_ns))
    found = overlay(quarantined)
    assert found.health is Health.DAMAGED
    assert "neither image has been written to" in found.why


def test_no_original_to_compare_with(stage):
    stage.apply(Retire.DELETE)
    stage.judge.checked.clear()
    found = overlay(stage)
    assert found.health is Health.SOUND
    assert found.why == "no error found; there is no original to compare the overlay with"
    assert stage.judge.checked == [("vm.qcow2", True)]
    assert stage.judge.comparisons == 1  # that of apply


def test_a_link_to_the_overlay_at_the_original_s_path_is_no_original(stage):
    """So the VM's definition can stay as it is."""
    stage.apply(Retire.DELETE)
    stage.original().symlink_to(stage.overlay())
    assert overlay(stage).why == "no error found; there is no original to compare the overlay with"
    taken = failed(stage.restore())
    assert taken == f"{stage.original()} already exists. Find out what it is and move it away, {AGAIN}"
    stage.original().unlink()
    assert status(stage.restore()) is Status.RESTORED


@pytest.mark.parametrize("retire", Retire)
def test_missing(stage, retire):
    stage.apply(retire)
    stage.overlay().unlink()
    found = overlay(stage)
    assert found.health is Health.DAMAGED
    assert found.why.startswith("it is missing")
    where = {Retire.KEEP: stage.original(), Retire.QUARANTINE: stage.original(suffix=ASIDE)}
    assert str(where.get(retire, "")) in found.why
    assert ("its original" in found.why) is (retire is not Retire.DELETE)


def test_missing_with_an_original_that_cannot_be_examined(stage, monkeypatch):
    stage.apply(Retire.KEEP)
    stage.overlay().unlink()

    def closed(*_):
        raise ImageError(
            f"cannot examine {stage.original()}", why="Input/output error", path=str(stage.original())
        )

    monkeypatch.setattr("batchdiff.applying.overlay_health.find_original", closed)
    assert overlay(stage).why == f"it is missing; cannot examine {stage.original()}: Input/output error"


@pytest.mark.parametrize("retire", [Retire.QUARANTINE, Retire.DELETE])
@pytest.mark.parametrize("damage", ["garbage", "cut off", "an error that QEMU finds"])
def test_damaged(stage, retire, damage):
    stage.apply(retire)
    match damage:
        case "garbage":
            stage.overlay().write_bytes(b"garbage")
        case "cut off":
            os.truncate(stage.overlay(), 3 << 16)
        case _:
            stage.judge.refuses["vm.qcow2"] = VerificationError("qemu-img check found errors")
    assert overlay(stage).health is Health.DAMAGED


@pytest.mark.parametrize("retire", [Retire.QUARANTINE, Retire.DELETE])
def test_a_corrupt_table(stage, retire):
    """Its header is sound, and an entry of its L1 table leads past the end of the file."""
    stage.apply(retire)
    with stage.overlay().open("r+b") as file:
        file.seek(40)
        file.seek(int.from_bytes(file.read(8), "big"))
        file.write((1 << 63 | 1 << 40).to_bytes(8, "big"))
    found = overlay(stage)
    assert found.health is Health.DAMAGED
    assert "lies past the end of the file" in found.why
    assert "Restore it from a backup." in found.why
    assert "manifest" not in found.why
    assert (str(stage.original(suffix=ASIDE)) in found.why) is (retire is Retire.QUARANTINE)


def test_tables_that_a_running_vm_is_writing(quarantined, monkeypatch):
    """They may be inconsistent for a moment, so nothing is said of them."""
    quarantined.judge.refuses["vm.qcow2"] = VerificationError("qemu-img check found errors")
    monkeypatch.setattr(overlay_health, "users", lambda _: "it is in use by qemu (process 7)")
    found = overlay(quarantined)
    assert (found.health, found.why) == (
        Health.IN_USE,
        "it is in use by qemu (process 7), so it was not checked",
    )


def test_another_template(quarantined):
    """Its header is sound: perhaps the pool moved, and then both are as good as before."""
    other = notation.write_raw(quarantined.folder / "template.other", TEMPLATE)
    arguments = ["-u", "-f", "qcow2", "-F", "raw", "-b", str(other), str(quarantined.overlay())]
    notation.run("qemu-img", "rebase", *arguments)
    found = overlay(quarantined)
    assert found.health is Health.UNKNOWN
    assert f"its header names the backing file {other}" in found.why
    assert "qemu-img rebase" in found.why


def test_flattened(quarantined):
    """It needs no template, and is as good as it was."""
    notation.run("qemu-img", "rebase", "-f", "qcow2", "-b", "", str(quarantined.overlay()))
    assert overlay(quarantined).health is Health.SOUND


def test_its_vm_runs(quarantined):
    quarantined.judge.refuses["vm.qcow2"] = InUseError("an image is in use by a VM", why="Failed to get lock")
    found = overlay(quarantined)
    assert found.health is Health.IN_USE
    assert found.why == "an image is in use by a VM, so it was not checked"


@pytest.mark.parametrize("error", [ProgramError("qemu-img failed"), OSError(5, "Input/output error")])
def test_what_cannot_be_asked_is_not_known(quarantined, error):
    quarantined.judge.refuses["vm.qcow2"] = error
    found = overlay(quarantined)
    assert found.health is Health.UNKNOWN
    assert found.why.startswith(("qemu-img failed", "Input/output error. The disk"))


@pytest.fixture(params=[Retire.KEEP, Retire.QUARANTINE], ids=str)
def of_qcow2(request, tmp_path, monkeypatch):
    """A converted qcow2 guest with an original beside its overlay."""
    stage = Stage(tmp_path, monkeypatch, form="qcow2")
    stage.apply(request.param)
    return stage


def the_original(stage):
    aside = stage.original(suffix=ASIDE)
    return aside if aside.exists() else stage.original()


def damage_the_original(stage, *, keep_times):
    """Its header is overwritten, with or without the times of a write."""
    path = the_original(stage)
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(50)
        file.write(b"\xff")
    if keep_times:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_damaged_original_is_no_fault_of_the_overlay(of_qcow2, keep_times):
    """But if it kept its name and was written to, it may be the disk of a VM."""
    of_qcow2.judge.checked.clear()
    damage_the_original(of_qcow2, keep_times=keep_times)
    found = overlay(of_qcow2)
    path = the_original(of_qcow2)
    where = "" if path == of_qcow2.original() else ", which is in quarantine,"
    about = f"no error found, but its original {path}{where} cannot be read: cannot use {path} as qcow2: "
    assert found.why.startswith(about)
    assert of_qcow2.judge.checked == [("vm.qcow2", True)]
    in_doubt = not where and not keep_times
    assert found.health is (Health.UNKNOWN if in_doubt else Health.SOUND)
    assert ("only you know which of the two to keep" in found.why) is in_doubt


def test_an_overlay_and_an_original_that_are_both_damaged(of_qcow2):
    damage_the_original(of_qcow2, keep_times=False)
    of_qcow2.judge.refuses["vm.qcow2"] = VerificationError("qemu-img check found errors")
    found = overlay(of_qcow2)
    assert (found.health, found.why[:27]) == (Health.DAMAGED, "qemu-img check found errors")


def test_a_damaged_original_of_an_overlay_whose_template_has_changed(of_qcow2):
    damage_the_original(of_qcow2, keep_times=True)
    change_template(of_qcow2)
    found = overlay(of_qcow2)
    assert found.health is Health.DAMAGED
    assert "cannot be read" in found.why
    assert "whose content has changed, so do not start a VM on this overlay" in found.why


def test_an_original_that_a_vm_uses(of_qcow2, monkeypatch):
    """It is named, and the overlay is checked by itself."""
    path = the_original(of_qcow2)
    of_qcow2.judge.refuses[path.name] = InUseError("an image is in use by a VM", why="Failed to get lock")
    monkeypatch.setattr(overlay_health, "users", lambda each: "a VM uses it" if each == str(path) else "")
    of_qcow2.judge.checked.clear()
    found = overlay(of_qcow2)
    assert ("vm.qcow2", True) in of_qcow2.judge.checked
    if path == of_qcow2.original():
        assert found.health is Health.UNKNOWN
        assert found.why.startswith(f"no error found, but its original {path} is in use: a VM uses it. A VM may ")
    else:
        assert found.health is Health.SOUND
        where = ", which is in quarantine, is in use: a VM uses it"
        assert found.why == f"no error found, but its original {path}{where}"


def test_an_overlay_that_was_encrypted_since(quarantined):
    """It is as sound as before, but only its owner can open it."""
    secret = encrypted.secret_file(quarantined.folder / "secret")
    encrypted.create_overlay(quarantined.overlay(), secret, source(quarantined.template), 1 << 20)
    found = overlay(quarantined)
    assert found.health is Health.UNKNOWN
    assert "put a decrypted copy of it in its place" in found.why


@pytest.mark.parametrize(("module", "opener"), [(overlay_health, "open_layer"), (judging, "open_image")])
def test_a_missing_program_is_no_sign_of_damage(quarantined, monkeypatch, module, opener):
    """An encrypted overlay cannot be read without qemu-nbd."""

    def fail(_source):
        raise ImageError("cannot read it", why="not found") from ProgramError("cannot run qemu-nbd")

    monkeypatch.setattr(module, opener, fail)
    assert overlay(quarantined).health is Health.UNKNOWN


@pytest.mark.parametrize(
    "error", [VerificationError("qemu-img check found errors"), InUseError("an image is in use")]
)
def test_whose_users_cannot_be_looked_up(quarantined, monkeypatch, error):
    """Perhaps its VM is writing to it, so nothing is said of its tables; and the next one is checked."""

    def limited(_path):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(overlay_health, "users", limited)
    quarantined.judge.refuses["vm.qcow2"] = error
    found = overlay(quarantined)
    assert found.health is Health.UNKNOWN
    assert found.why.startswith("Too many open files. Raise the limit on open files")


def test_two_files_that_could_be_it(quarantined):
    """Only a person can tell."""
    quarantined.overlay(suffix=".batchdiff-overlay").write_bytes(quarantined.overlay().read_bytes())
    found = overlay(quarantined)
    assert found.health is Health.UNKNOWN
    assert "either could be its overlay" in found.why


@pytest.mark.parametrize("missing", [False, True])
def test_two_files_that_could_be_its_original(quarantined, missing):
    """The overlay that is missing is the worse of two faults."""
    shutil.copy(quarantined.original(suffix=ASIDE), quarantined.original())
    if missing:
        quarantined.overlay().unlink()
    found = overlay(quarantined)
    assert found.health is (Health.DAMAGED if missing else Health.UNKNOWN)
    both = f"both {quarantined.original()} and {quarantined.original(suffix=ASIDE)} exist, and either could be"
    assert both in found.why
    assert ("it is missing" in found.why) is missing
    assert ("Find out which of the two is its original" in found.why) is not missing


# All of them.


def test_only_what_was_published_is_looked_at(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch, names=("vm", "web"))
    stage.apply(guests=("web",))
    assert [each.name for each in findings(stage)] == ["template", "web"]
    assert [each.name for each in findings(stage, ("vm",))] == ["template"]
    with pytest.raises(UsageError):
        findings(stage, ("db",))
    stage.restore()
    assert [each.name for each in findings(stage)] == ["template"]


@pytest.mark.parametrize("where", ["template", "between guests", "judge"])
def test_stopped(tmp_path, monkeypatch, where):
    stage = Stage(tmp_path, monkeypatch, names=("vm", "web"))
    stage.apply(Retire.QUARANTINE)
    stop = Stop()
    match where:
        case "template":
            os.utime(stage.template)
            stop.ask()
        case "between guests":
            stage.judge.asked = stop.ask
        case _:
            stage.judge.refuses["web.qcow2"] = StopError("interrupted")
    seen = []
    with pytest.raises(StopError):
        seen.extend(each.name for each in check_health(stage.plan, stage.history, None, stop))


def test_a_plan_that_only_shares_needs_no_template(monkeypatch):
    """Nor QEMU, even if it has nothing left to share."""
    monkeypatch.setattr(health_check, "require_judges", lambda: pytest.fail("QEMU is not needed"))
    plan = small_plan(guest_plan(verdict=Verdict.SKIP, strategy=Strategy.SHARE))
    (found,) = check_health(plan, History(), None, Stop())
    assert (found.name, found.health) == ("template", Health.SOUND)
    assert "it was not checked" in found.why
