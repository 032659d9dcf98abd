"""The facts that reports show, whatever their form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from batchdiff.applying.results.conversion import Conversion, FreedSpace, OlderOriginal
from batchdiff.applying.results.finding import Finding, Health
from batchdiff.applying.results.outcome import GuestOutcome, Status
from batchdiff.choices import Strategy, Verdict
from batchdiff.image.storage.exactness import Exactness
from batchdiff.plan.plan import GuestPlan, GuestToConvert, GuestToShare, Plan, Savings, Sharing, Totals
from batchdiff.plan.totals import PLANNED_AT_ONCE, peak_extra_bytes, savings_meanwhile, totals_of

WORKED_ON = frozenset({Verdict.CONVERT, Verdict.SHARE})
"""The verdicts of guests that apply works on."""


def figures_of(guest: GuestPlan) -> Savings | Sharing | None:
    """Return a guest's savings or sharing; None if the plan has none."""
    if guest.strategy is Strategy.SHARE:
        return guest.sharing
    return None if guest.diff is None else guest.diff.savings


class SharedReason(NamedTuple):
    """Guests with the same verdict for the same reason; ``reason`` may be empty."""

    verdict: Verdict
    reason: str
    names: list[str]


class InexactSavings(NamedTuple):
    """Guests whose savings are inexact for the same reason, and the sum of their savings."""

    exactness: Exactness
    note: str
    names: list[str]
    saved_bytes: int


class PlanFacts(NamedTuple):
    """The facts of a plan's report; mappings are by guest name.

    ``stale``: notices of files that have changed since planning. ``jobs``: the maximum number of guests that apply
    works on at a time without ``--jobs``. ``path``: the plan's, for recommended commands; empty if they must not
    name it. ``selection``: the guests to report; None: all. ``older``: a plan to compare with. ``conversions``:
    those that restore has not undone. ``read_only``: the template has no write permission. ``given_back``: guests
    that restore gave back; predictions do not include them. ``older_originals``: originals of restored guests,
    still in quarantine. ``shared``: the space that came back from guests that share blocks now.
    """

    plan: Plan
    stale: Sequence[str] = ()
    jobs: int = PLANNED_AT_ONCE
    path: str = ""
    selection: Sequence[GuestPlan] | None = None
    older: Plan | None = None
    conversions: Mapping[str, Conversion] = MappingProxyType({})
    read_only: bool = False
    older_conversions: Mapping[str, Conversion] = MappingProxyType({})
    given_back: frozenset[str] = frozenset()
    older_originals: Mapping[str, OlderOriginal] = MappingProxyType({})
    shared: Mapping[str, FreedSpace] = MappingProxyType({})

    @property
    def to_convert(self) -> list[GuestToConvert]:
        """The guests to convert, without those that restore gave back."""
        return [guest for guest in self.plan.to_convert if guest.name not in self.given_back]

    @property
    def to_share(self) -> list[GuestToShare]:
        """The guests that still have to share blocks."""
        return [guest for guest in self.plan.to_share if guest.name not in self.shared]

    @property
    def savings(self) -> list[Savings]:
        """The savings of :attr:`to_convert`."""
        return [guest.diff.savings for guest in self.to_convert]

    @property
    def pending(self) -> list[GuestToConvert]:
        """The guests that apply still has to convert."""
        return [guest for guest in self.to_convert if guest.name not in self.conversions]

    @property
    def is_applied(self) -> bool:
        """True if apply has converted a guest, even one restored since, or has had a guest share blocks."""
        return bool(self.conversions or self.given_back or self.shared)

    @property
    def freed(self) -> dict[str, FreedSpace]:
        """The space that has come back from guests that were converted or share blocks, by name."""
        found = dict(self.shared)
        for guest in self.plan.to_convert:
            done = self.conversions.get(guest.name)
            if done is not None:
                exactness = guest.diff.savings.exactness if done.has_freed_space else Exactness.EXACT
                found[guest.name] = FreedSpace(done.came_back_bytes, exactness)
        return found

    @property
    def predicted(self) -> Totals:
        """The sums over all guests, without those that restore gave back."""
        return self._sums(self.plan.guests)

    @property
    def guests(self) -> Sequence[GuestPlan]:
        """The guests to report."""
        return self.plan.guests if self.selection is None else self.selection

    @property
    def has_conversions_in_view(self) -> bool:
        """False if none of the guests to convert or to share is reported, although the plan has some."""
        is_worked_on = any(guest.verdict in WORKED_ON for guest in self.guests)
        return is_worked_on or not (self.plan.to_convert or self.plan.to_share)

    @property
    def has_overlays_in_view(self) -> bool:
        """True if a guest to convert is reported."""
        return any(isinstance(guest, GuestToConvert) for guest in self.guests)

    @property
    def totals(self) -> Totals:
        """The sums over the guests to report, without those that restore gave back."""
        if len(self.guests) == len(self.plan.guests):
            return self.predicted
        return self._sums(self.guests)

    def _sums(self, guests: Sequence[GuestPlan]) -> Totals:
        left = [guest for guest in guests if guest.name not in self.given_back]
        if len(left) == len(self.plan.guests):
            return self.plan.totals  # with the space that a copy of the template takes
        return totals_of(left, self.plan.retire)

    @property
    def error_bytes(self) -> int:
        """The possible error of the sum of the overlays' sizes."""
        return sum(each.overlay_error_bytes for each in self.savings)

    @property
    def overlay_disk_bytes(self) -> int:
        """The predicted space of all overlays on disk."""
        return sum(each.overlay_disk_bytes for each in self.savings)

    @property
    def has_shared_space(self) -> bool:
        """True if the savings of a guest to convert leave out a part of its allocation."""
        return any(each.saved_bytes != each.allocated_bytes - each.overlay_disk_bytes for each in self.savings)

    def space_at_once(self, jobs: int) -> int:
        """Return the bytes that apply needs at the peak."""
        copied = 0 if self.conversions else self.plan.totals.template_copy_bytes
        return peak_extra_bytes(savings_meanwhile(self.pending), self.plan.retire, at_once=jobs) + copied


def guests_not_converted(guests: Sequence[GuestPlan]) -> list[SharedReason]:
    """Return why guests are not converted, grouped by verdict and reason.

    A guest to convert or to share is included if it has a reason, which is then a remark.
    """
    found: dict[tuple[Verdict, str], list[str]] = {}
    for guest in guests:
        if guest.reason or guest.verdict not in WORKED_ON:
            found.setdefault((guest.verdict, guest.reason), []).append(guest.name)
    return [SharedReason(verdict, reason, names) for (verdict, reason), names in found.items()]


def inexact(guests: Iterable[GuestToConvert | GuestToShare]) -> list[InexactSavings]:
    """Return the savings that are not exact, grouped by reason."""
    alike: dict[tuple[Exactness, str], list[tuple[str, int]]] = {}
    for guest in guests:
        savings = figures_of(guest)
        if savings is not None and savings.exactness is not Exactness.EXACT:
            alike.setdefault((savings.exactness, savings.note), []).append((guest.name, savings.saved_bytes))
    return [
        InexactSavings(exactness, note, [name for name, _ in found], sum(saved for _, saved in found))
        for (exactness, note), found in alike.items()
    ]


def share(saved: int, allocated: int) -> float | None:
    """Return the fraction of an allocation that is saved; None if nothing is allocated."""
    return saved / allocated if allocated else None


class SizeTotals(NamedTuple):
    """The sums of overlays' sizes and space on disk, in bytes."""

    predicted: int
    actual: int
    actual_on_disk: int


def size_sums(outcomes: Iterable[GuestOutcome]) -> SizeTotals:
    """Return the sums over the overlays whose actual size is known."""
    whole = [outcome for outcome in outcomes if outcome.actual_overlay_bytes is not None]
    return SizeTotals(
        sum(outcome.predicted_overlay_bytes or 0 for outcome in whole),
        sum(outcome.actual_overlay_bytes or 0 for outcome in whole),
        sum(outcome.actual_overlay_disk_bytes or 0 for outcome in whole),
    )


_CHANGES_DISKS = {Status.CONVERTED, Status.SHARED, Status.RETIRED, Status.RESTORED, Status.PURGED}


def gained_bytes(outcomes: Iterable[GuestOutcome]) -> int | None:
    """Return the bytes that a run has freed, negative if it took more; guests that failed do not count.

    None: no guest has a status that implies a change on disk, or a figure is unknown.
    """
    changes = [outcome.gained_bytes for outcome in outcomes if outcome.status in _CHANGES_DISKS]
    known = [each for each in changes if each is not None]
    return sum(known) if known and len(known) == len(changes) else None


def by_status(outcomes: Iterable[GuestOutcome]) -> dict[Status, int]:
    """Return the number of guests with each status that occurs."""
    count = Counter(outcome.status for outcome in outcomes)
    return {status: count[status] for status in Status if count[status]}


def skipped_alike(outcomes: Iterable[GuestOutcome]) -> dict[str, list[str]]:
    """Return the names of skipped guests, by reason; empty if no two share a reason."""
    found: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.status is Status.SKIPPED:
            found.setdefault(outcome.reason, []).append(outcome.name)
    return found if any(len(names) > 1 for names in found.values()) else {}


def by_health(findings: Iterable[Finding]) -> dict[Health, int]:
    """Return the number of files in each condition that occurs."""
    return dict(Counter(each.health for each in findings))
