"""The table of a plan's report, as cells that all forms for people share.

::

    before apply   guest  allocated  overlay            saved  share  cluster  verdict
    after it       guest  allocated  predicted  actual  saved  share           now
"""

from __future__ import annotations

from collections.abc import Sequence

from batchdiff.applying.results.outcome import Status
from batchdiff.choices import Strategy, Verdict
from batchdiff.image.storage.exactness import Exactness
from batchdiff.plan.plan import GuestPlan, GuestToConvert, GuestToShare, Savings, Sharing, Totals
from batchdiff.report.facts import WORKED_ON, PlanFacts, figures_of, share
from batchdiff.report.figures import DASH, SAVINGS_COLUMNS, bounded_size, estimated_size, percent, rounded, size
from batchdiff.report.plan.outliers import outliers_first
from batchdiff.report.printable import printable
from batchdiff.report.table import Align, Column
from batchdiff.units import format_size

_BEFORE = (*SAVINGS_COLUMNS, Column("cluster"), Column("verdict", Align.LEFT))
_GUEST, _ALLOCATED, _, *_SAVED = SAVINGS_COLUMNS
_AFTER = (_GUEST, _ALLOCATED, Column("predicted"), Column("actual"), *_SAVED, Column("now", Align.LEFT))
_WAITING, _RESTORED = "planned", "restored"
"""The same words as in `status`."""


def columns(facts: PlanFacts) -> Sequence[Column]:
    """Return the columns of the table."""
    return _AFTER if facts.is_applied else _BEFORE


def rows(facts: PlanFacts) -> list[GuestToConvert | GuestToShare]:
    """Return the guests whose figures the totals add up, outliers first."""
    chosen = (each for each in facts.guests if each.name not in facts.given_back)
    return outliers_first(each for each in chosen if isinstance(each, GuestToConvert | GuestToShare))


def other_rows(facts: PlanFacts) -> list[GuestPlan]:
    """Return those guests left out by :func:`rows` that are refused or have a diff, outliers first."""
    others = [each for each in facts.guests if each.verdict not in WORKED_ON or each.name in facts.given_back]
    return outliers_first(each for each in others if each.diff is not None or each.verdict is Verdict.REFUSE)


def guest_cells(facts: PlanFacts, guest: GuestPlan) -> tuple[str, ...]:
    """Return a guest's row."""
    cluster = guest.options.cluster_size
    first, figures = printable(guest.name), figures_of(guest)
    allocated = overlay = saved = part = DASH
    if figures is not None:
        error = figures.overlay_error_bytes if isinstance(figures, Savings) else 0
        allocated = format_size(figures.allocated_bytes)
        overlay = estimated_size(figures.overlay_bytes, error) if isinstance(figures, Savings) else DASH
        saved = bounded_size(figures.saved_bytes, figures.exactness, error)
        part = share_words(figures)
    if facts.is_applied:
        done = facts.conversions.get(guest.name)
        actual = size(done.overlay_bytes if done else None)
        return first, allocated, overlay, actual, saved, part, now(facts, guest)
    unit = "auto" if cluster is None else format_size(cluster)
    unit = unit if guest.strategy is Strategy.OVERLAY else DASH
    return first, allocated, overlay, saved, part, unit, guest.verdict.value


def now(facts: PlanFacts, guest: GuestPlan) -> str:
    """Return the fate of the original, or else the guest's state or verdict."""
    done = facts.conversions.get(guest.name)
    if done is not None:
        return done.fate.value
    if guest.name in facts.shared:
        return Status.SHARED.value
    if guest.name in facts.given_back:
        return _RESTORED
    return _WAITING if guest.verdict in WORKED_ON else guest.verdict.value


def total_cells(facts: PlanFacts) -> tuple[str, ...]:
    """Return the row of sums over the guests that :func:`rows` returns."""
    totals = facts.totals
    error = sum(guest.diff.savings.overlay_error_bytes for guest in _converted(facts))
    chosen = totals.convert + totals.share
    name = "total" if totals == facts.predicted else "of these"
    allocated, saved = (
        format_size(totals.allocated_bytes),
        bounded_size(totals.saved_bytes, totals.exactness, error),
    )
    overlay = estimated_size(totals.overlay_bytes, error) if totals.convert else DASH
    part = share_words(totals)
    if facts.is_applied:
        done = [facts.conversions[guest.name] for guest in rows(facts) if guest.name in facts.conversions]
        actual = size(sum(each.overlay_bytes for each in done)) if totals.convert else DASH
        count = len(done) + sum(guest.name in facts.shared for guest in rows(facts))
        return name, allocated, overlay, actual, saved, part, f"{count} of {chosen} done"
    return name, allocated, overlay, saved, part, "", f"{chosen} of {totals.guests}"


def _converted(facts: PlanFacts) -> list[GuestToConvert]:
    return [guest for guest in rows(facts) if isinstance(guest, GuestToConvert)]


def is_rounded(facts: PlanFacts) -> bool:
    """Return True if, because of rounding, the sizes in the table do not add up to the totals."""
    chosen, totals = [each for guest in rows(facts) if (each := figures_of(guest))], facts.totals
    sums = [
        (totals.allocated_bytes, [each.allocated_bytes for each in chosen]),
        (totals.overlay_bytes, [guest.diff.savings.overlay_bytes for guest in _converted(facts)]),
        (totals.saved_bytes + totals.template_copy_bytes, [each.saved_bytes for each in chosen]),
    ]
    return any(rounded(round(sum(map(rounded, parts)))) != rounded(total) for total, parts in sums)


def share_words(figures: Savings | Sharing | Totals) -> str:
    """Return the saved share in percent; a dash if it is unknown, or if nothing is allocated."""
    if figures.exactness is Exactness.UNKNOWN:
        return DASH
    return percent(share(figures.saved_bytes, figures.allocated_bytes))
