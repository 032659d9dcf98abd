"""Open a plan's journal for a command that changes files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from batchdiff.applying.guests.recovery import recover_states
from batchdiff.applying.journal.file import Journal
from batchdiff.applying.journal.records import GuestState, mapped_history
from batchdiff.errors import PlanError
from batchdiff.files.filenames import shell_path
from batchdiff.linux.call_failures import explain
from batchdiff.linux.permissions import Deed
from batchdiff.plan.head import plan_head
from batchdiff.plan.path_map import PathMap
from batchdiff.plan.plan import Plan


@contextmanager
def plan_journal(path: str, plan: Plan, path_map: PathMap) -> Iterator[Journal]:
    """Open the journal of the plan at ``path``, and add missing records, as far as files prove them.

    Inside the block, no other batchdiff command can change the journal or replace the plan.

    :raises PlanError: the plan has been replaced, or its journal cannot be used now.
    :raises ImageError: a file cannot be examined.
    """
    with closing(Journal(path, plan.checksum)) as journal:
        _require_still_there(path, plan)
        journal.history = mapped_history(journal.history, path_map)
        _record_recovered(journal, recover_states(plan, journal.history, path_map))
        yield journal


def _record_recovered(journal: Journal, states: dict[str, GuestState]) -> None:
    try:
        for name, state in states.items():
            journal.record(name, state)
    except OSError as error:
        fault = explain(error, Deed.WRITE, journal.path)
        raise PlanError(f"cannot use the journal {journal.path}", why=fault.why, remedy=fault.remedy) from error


def _require_still_there(path: str, plan: Plan) -> None:
    """Refuse a plan that another one has replaced; while the journal is locked, no other can replace it."""
    head = plan_head(path)
    if head is not None and head.checksum != plan.checksum:
        raise PlanError(
            f"{path} has been replaced by another plan",
            remedy=f"Review it with `batchdiff show {shell_path(path)}`, then run the same command again.",
        )
