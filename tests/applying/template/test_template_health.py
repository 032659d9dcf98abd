"""A template that is lost or changed, while no record shows which overlays rest on it."""

from __future__ import annotations

import errno

import pytest
from stage import ASIDE, DELETING, Stage

from batchdiff.applying.guests.recovery import recover_states
from batchdiff.applying.health_check import check_health
from batchdiff.applying.journal.records import GuestState, Step
from batchdiff.applying.results.finding import Health
from batchdiff.applying.session.stop import Stop
from batchdiff.applying.template import template_health
from batchdiff.choices import Retire
from batchdiff.errors import ImageError, ProgramError


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch)


def template(stage):
    found, *_ = check_health(stage.plan, stage.history, None, Stop())
    assert found.name == "template"
    return found


def lose_records(stage):
    """As beside a copy of the plan, while the template's pool is not mounted."""
    stage.journal_file.unlink()
    stage.sidecar.unlink()
    assert recover_states(stage.plan, stage.history) == {}


@pytest.mark.parametrize(
    ("retire", "place"), [(Retire.KEEP, "beside"), (Retire.DELETE, "beside"), (Retire.DELETE, "same")]
)
def test_the_headers_of_overlays_show_that_they_rest_on_a_missing_template(tmp_path, monkeypatch, retire, place):
    stage = Stage(tmp_path, monkeypatch, place=place)
    stage.apply(retire)
    stage.template.unlink()
    lose_records(stage)
    found = template(stage)
    assert found.health is Health.DAMAGED
    assert f"it is needed by {stage.overlay()}" in found.why
    assert "plan again" not in found.why.lower()


def test_a_changed_template_below_overlays_that_any_plan_may_have_made(stage):
    """If this plan did, they are damaged; if a later one did, they are sound."""
    stage.apply(Retire.DELETE)
    stage.template.chmod(0o644)
    stage.template.write_bytes(b"?" * stage.template.stat().st_size)
    lose_records(stage)
    found = template(stage)
    assert found.health is Health.UNKNOWN
    assert f"the template is the backing file of {stage.overlay()}" in found.why
    assert "plan again" not in found.why.lower()


@pytest.mark.parametrize("change", ["a bad sector", "empty"])
def test_a_template_that_cannot_be_read_and_that_nothing_rests_on(stage, monkeypatch, change):
    """That is no sign of another content, and the error's own advice is the right one."""
    remedy = "If it should have content, restore it from a backup"
    if change == "empty":
        stage.template.write_bytes(b"")
    else:
        remedy = "Replace the disk."
        error = ImageError("cannot read it", why="Input/output error", remedy=remedy)

        def fail(_source):
            raise error from OSError(5, "Input/output error")

        monkeypatch.setattr(template_health, "open_image", fail)
    found = template(stage)
    assert found.health is Health.UNKNOWN
    assert remedy in found.why
    assert "manifest" not in found.why


@pytest.mark.parametrize("retire", [Retire.KEEP, Retire.DELETE])
def test_nothing_can_be_left_out_of_the_manifest_once_there_are_overlays(stage, retire):
    """A guest is reported with the fault of its template."""
    stage.apply(retire)
    stage.template.chmod(0o644)
    stage.template.write_bytes(b"")
    found = [str(each.why) for each in check_health(stage.plan, stage.history, None, Stop())]
    assert len(found) == 2
    assert "manifest" not in "".join(found)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_template_that_is_there_need_not_be_brought_back(stage, monkeypatch, recorded):
    """A bad sector or a damaged header has advice of its own."""
    stage.apply(Retire.DELETE)
    if not recorded:
        lose_records(stage)
    error = ImageError("cannot read it", why="Input/output error", remedy="Replace the disk.")

    def fail(_source):
        raise error from OSError(5, "Input/output error")

    monkeypatch.setattr(template_health, "open_image", fail)
    found = template(stage)
    assert found.health is Health.DAMAGED
    assert found.why.startswith("cannot read it: Input/output error; it is needed by ")
    assert found.why.endswith(" Replace the disk.")


@pytest.mark.parametrize(
    "cause", [ProgramError("cannot run qemu-nbd"), OSError(errno.EMFILE, "Too many open files")], ids=str
)
def test_a_missing_program_or_resource_is_no_sign_of_damage(stage, monkeypatch, cause):
    stage.apply(Retire.DELETE)

    def fail(_source):
        raise ImageError("cannot read it", why=str(cause), remedy="Install it.") from cause

    monkeypatch.setattr(template_health, "open_image", fail)
    found = template(stage)
    assert found.health is Health.UNKNOWN
    assert "needed by" not in found.why


@pytest.mark.parametrize("suffix", [ASIDE, DELETING])
def test_no_new_plan_is_proposed_once_an_original_was_renamed(tmp_path, monkeypatch, suffix):
    stage = Stage(tmp_path, monkeypatch, place="same")
    stage.note(GuestState(Step.RETIRING, moved=True))
    stage.original().rename(stage.original(suffix=suffix))
    stage.template.unlink()
    found = template(stage)
    assert found.health is Health.STALE
    assert "--map OLD=NEW" in found.why
    assert "plan again" not in found.why.lower()
