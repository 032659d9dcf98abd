"""Images that others made: QEMU's check of them is no reason to refuse, and whether they open QEMU has to say.

Years of work and a few kills leave leaked clusters, harmless, in many an image, and wrong refcounts in some. Those
are refused when they are planned; once there is an overlay, what a VM sees is read by the tables alone. Only an
overlay that was written a moment ago must be flawless.
"""

from __future__ import annotations

import struct
import subprocess

import pytest
from oracle import assert_same, read_all
from patching import Patched
from stage import ASIDE, NAME, Stage, failed, status

from batchdiff.applying.health_check import check_health
from batchdiff.applying.results.finding import Health
from batchdiff.applying.results.outcome import Status
from batchdiff.choices import Retire, VerifyMode
from batchdiff.image import qcow2 as image_qcow2
from batchdiff.qcow2 import header
from batchdiff.qemu import qemu_img

COMPARE, CHECK, OPENS = qemu_img.compare, qemu_img.check, qemu_img.require_opens


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return real_stage(tmp_path, monkeypatch)


def real_stage(folder, monkeypatch, **options):
    """A stage on which qemu-img itself judges."""
    found = Stage(folder, monkeypatch, form="qcow2", **options)
    monkeypatch.setattr(qemu_img, "compare", COMPARE)
    monkeypatch.setattr(qemu_img, "check", CHECK)
    return found


def refcount_block(image):
    return image[image["refcount_offset"]]


def leak(path):
    """A further cluster that has a refcount, and that nothing uses."""
    image = Patched(path)
    number = -(-len(image.data) // image.cluster)
    image.put(number * image.cluster, bytes(image.cluster))
    image.put(refcount_block(image) + 2 * number, struct.pack(">H", 1))
    image.save(path)
    assert checked(path) == 3


def lose_a_refcount(path):
    """A data cluster that is used, and counts as free: the next write may go into it."""
    image = Patched(path)
    last = len(image.data) // image.cluster - 1
    while struct.unpack_from(">H", image.data, refcount_block(image) + 2 * last)[0] != 1:
        last -= 1
    image.put(refcount_block(image) + 2 * last, bytes(2))
    image.save(path)
    assert checked(path) == 2


def checked(path):
    return subprocess.run(["qemu-img", "check", str(path)], capture_output=True, check=False).returncode


def planned(stage, monkeypatch):
    """The plan of an older version, which did not look at refcounts."""
    with monkeypatch.context() as patch:
        patch.setattr(image_qcow2, "check_references", lambda *_, **__: None)
        return stage.planned()


def verified(stage):
    return list(check_health(stage.plan, stage.history, None, stage.stop))


FAULTS = {"leaked": leak, "refcount": lose_a_refcount}


@pytest.mark.parametrize("retire", [Retire.QUARANTINE, Retire.KEEP])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_an_original_with_faults_gets_its_name_back(stage, monkeypatch, fault, retire):
    fault(stage.original())
    before = stage.original().read_bytes()
    stage.plan = planned(stage, monkeypatch)
    assert status(stage.apply(retire)) is Status.CONVERTED
    assert [found.health for found in verified(stage)] == [Health.SOUND, Health.SOUND]
    assert status(stage.restore()) is Status.RESTORED
    assert stage.original().read_bytes() == before
    assert not stage.overlay().exists()


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_an_original_with_faults_is_purged(stage, monkeypatch, fault):
    fault(stage.original())
    stage.plan = planned(stage, monkeypatch)
    stage.apply(Retire.QUARANTINE)
    assert status(stage.purge()) is Status.PURGED
    assert not stage.original(suffix=ASIDE).exists()


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_template_with_faults(tmp_path, monkeypatch, fault):
    stage = real_stage(tmp_path, monkeypatch, template_form="qcow2")
    fault(stage.template)
    stage.plan = planned(stage, monkeypatch)
    assert status(stage.apply(Retire.QUARANTINE)) is Status.CONVERTED
    assert [found.health for found in verified(stage)] == [Health.SOUND, Health.SOUND]
    stage.use()
    assert status(stage.restore()) is Status.RESTORED


@pytest.mark.parametrize("used", [False, True])
def test_an_overlay_whose_vm_was_killed(stage, used):
    """It has leaked clusters; only what its VM sees counts."""
    stage.apply(Retire.QUARANTINE)
    if used:
        stage.use()
    leak(stage.overlay())
    seen = stage.content(stage.overlay(), "qcow2")
    assert verified(stage)[1].health is Health.SOUND
    assert status(stage.restore()) is Status.RESTORED
    assert_same(read_all(stage.original()), seen)


def test_an_overlay_whose_vm_was_killed_before_its_original_is_retired(stage):
    stage.apply(Retire.KEEP)
    leak(stage.overlay())
    assert status(stage.apply(Retire.DELETE)) is Status.RETIRED
    assert not stage.original().exists()


def test_an_overlay_whose_vm_wrote_and_was_killed_before_its_original_is_retired(stage):
    stage.apply(Retire.KEEP)
    stage.use()
    leak(stage.overlay())
    assert "its VM has run on the overlay since" in failed(stage.apply(Retire.DELETE))
    assert stage.original().exists()


@pytest.mark.parametrize("verb", [Stage.restore, lambda stage: stage.purge(used=True)], ids=["restore", "purge"])
def test_what_to_do_about_an_overlay_with_errors(stage, verb):
    """Its VM may have written into clusters that are used twice: that is for a person to see, and to repair."""
    stage.apply(Retire.QUARANTINE)
    stage.use()
    lose_a_refcount(stage.overlay())
    said = failed(verb(stage))
    assert "qemu-img check found errors" in said
    (command,) = [part for part in said.split("`") if part.startswith("qemu-img check -r")]
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    assert status(verb(stage)) in {Status.RESTORED, Status.PURGED}


# QEMU has the last word.


def unreadable_for_qemu(stage, monkeypatch):
    """The template breaks a rule of QEMU's that we know nothing of."""
    monkeypatch.setattr(header, "AUTOCLEAR_RAW_DATA_FILE", 0)
    image = Patched(stage.template)
    image["autoclear"] = 2
    image.save(stage.template)
    stage.plan = stage.planned()


@pytest.mark.parametrize("retire", [Retire.KEEP, Retire.QUARANTINE])
@pytest.mark.parametrize("mode", list(VerifyMode))
def test_nothing_rests_on_a_template_that_qemu_does_not_open(tmp_path, monkeypatch, mode, retire):
    stage = real_stage(tmp_path, monkeypatch, template_form="qcow2", names=(NAME, "web"))
    unreadable_for_qemu(stage, monkeypatch)
    before = {path: (path.stat().st_mode, path.read_bytes()) for path in tmp_path.iterdir()}
    outcomes = stage.apply(retire, verify=mode)
    assert [each.status for each in outcomes] == [Status.FAILED] * 2
    assert all("data-file-raw requires a data file" in each.reason for each in outcomes)
    stage.journal_file.unlink()
    assert {path: (path.stat().st_mode, path.read_bytes()) for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("mode", [VerifyMode.NATIVE, VerifyMode.CHANGED])
def test_qemu_opens_the_first_overlay(tmp_path, monkeypatch, mode):
    stage = real_stage(tmp_path, monkeypatch, names=(NAME, "web", "db"))
    asked = []

    def require_opens(image, *, stopped):
        assert not stage.sidecar.exists()
        assert not stage.overlay().exists()
        assert stage.template.stat().st_mode & 0o200
        asked.append(image.backing[0].path)
        OPENS(image, stopped=stopped)

    monkeypatch.setattr(qemu_img, "require_opens", require_opens)
    assert {each.status for each in stage.apply(verify=mode)} == {Status.CONVERTED}
    # Two may be verified at once.
    assert asked in ([str(stage.template)], [str(stage.template)] * 2)


@pytest.mark.parametrize("mode", [VerifyMode.NATIVE, VerifyMode.CHANGED])
def test_qemu_opens_overlays_on_a_compressed_template(tmp_path, monkeypatch, mode):
    """As cloud images are: their first cluster, too, which `qemu-img map` refuses to show to people."""
    stage = real_stage(tmp_path, monkeypatch, template_form="qcow2")
    whole = stage.template.rename(tmp_path / "whole.qcow2")
    subprocess.run(["qemu-img", "convert", "-c", "-O", "qcow2", whole, stage.template], check=True)
    stage.plan = stage.planned()
    assert status(stage.apply(verify=mode)) is Status.CONVERTED


def test_without_qemu_it_is_said_that_it_has_opened_nothing(tmp_path, monkeypatch):
    stage = real_stage(tmp_path, monkeypatch, names=(NAME, "web"))
    monkeypatch.setattr(qemu_img, "is_installed", lambda: False)
    outcomes = stage.apply(verify=VerifyMode.NATIVE)
    assert [each.status for each in outcomes] == [Status.CONVERTED] * 2
    assert len([notice for notice in stage.notices if "QEMU has not opened any overlay" in notice]) == 1


def test_a_template_that_a_vm_writes_to_is_not_called_damaged(stage, monkeypatch):
    """What qemu-img says of a lock is told as what it is."""
    said = 'Failed to get shared "write" lock\nIs another process using the image?'
    finished = qemu_img.CompletedProgram(("qemu-img",), 1, said)
    monkeypatch.setattr(qemu_img.programs, "run", lambda *_, **__: finished)
    assert "in use" in failed(stage.apply(verify=VerifyMode.NATIVE))
