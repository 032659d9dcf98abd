"""The plan that a new one replaces."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import TYPE_CHECKING

from batchdiff.plan.file import write_plan

if TYPE_CHECKING:
    from batchdiff.applying.journal.kept_plan import KeptPlan, NamesByPlan
    from batchdiff.plan.plan import Plan


def leftovers_at(path: str) -> Collection[str]:
    """Return the paths of unmodified overlays that restores of the plan at ``path`` left behind.

    :raises PlanError: the journal cannot be read.
    """
    if not os.path.isfile(path):
        return ()
    from batchdiff.applying.journal.leftovers import leftovers  # noqa: PLC0415

    return leftovers(path)


def name_to_keep_at(path: str, converted: NamesByPlan) -> str | None:
    """Return the name under which the older plan will be kept; None if it need not be kept.

    :raises UsageError: it cannot be kept.
    :raises PlanError: its journal cannot be used.
    """
    if not os.path.isfile(path):
        return None
    from batchdiff.applying.journal.kept_plan import name_to_keep  # noqa: PLC0415

    return name_to_keep(path, converted)


def replace_plan_at(path: str, plan: Plan, converted: NamesByPlan) -> KeptPlan | None:
    """Write a plan, and return the older one if it was kept.

    :raises UsageError, PlanError: as for :func:`name_to_keep_at`, or the new plan cannot be written.
    """
    if not os.path.isfile(path):
        write_plan(plan, path)
        return None
    from batchdiff.applying.journal.kept_plan import replace_plan  # noqa: PLC0415

    return replace_plan(plan, path, converted)
