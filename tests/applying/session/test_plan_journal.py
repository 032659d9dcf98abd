"""The journal that a command opens: what it lacks is added, or the command does not begin."""

from __future__ import annotations

import errno
import os

import pytest
from stage import NAME, Stage

from batchdiff.applying.journal import file as journal_file
from batchdiff.applying.session.plan_journal import plan_journal
from batchdiff.choices import Retire
from batchdiff.errors import PlanError
from batchdiff.plan.path_map import NOTHING_MOVED


@pytest.fixture
def converted(tmp_path, monkeypatch):
    """A converted guest whose journal was lost."""
    stage = Stage(tmp_path, monkeypatch)
    stage.apply(Retire.QUARANTINE)
    stage.journal_file.unlink()
    return stage


def test_a_lost_conversion_is_recorded(converted):
    with plan_journal(converted.plan_path, converted.plan, NOTHING_MOVED) as journal:
        assert journal.history.states[NAME].published
    assert converted.state().published


@pytest.mark.parametrize("call", ["write_all", "fsync"])
def test_a_disk_that_is_full(converted, monkeypatch, call):
    """It has room for the first line only. That is no fault of batchdiff, so it must not look like one."""
    with plan_journal(converted.plan_path, converted.plan, NOTHING_MOVED):
        pass
    first = converted.journal_file.read_bytes().splitlines(keepends=True)[0]
    converted.journal_file.write_bytes(first)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(journal_file if call == "write_all" else os, call, full)
        with (
            pytest.raises(PlanError) as caught,
            plan_journal(converted.plan_path, converted.plan, NOTHING_MOVED),
        ):
            pytest.fail("nothing may be done that cannot be recorded")
    assert str(caught.value) == (
        f"cannot use the journal {converted.journal_file}: the filesystem of {converted.folder} has no space left."
        " Make room, then run the same command again."
    )
    assert converted.journal_file.read_bytes() == first


def test_an_error_of_the_work_itself_is_left_as_it_is(converted):
    with (
        pytest.raises(OSError, match="of the work"),
        plan_journal(converted.plan_path, converted.plan, NOTHING_MOVED),
    ):
        raise OSError("of the work")
