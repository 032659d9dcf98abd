"""An estimate as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from batchdiff.choices import Verdict
from batchdiff.frozen import frozen
from batchdiff.image_source import ImageSource
from batchdiff.plan.plan import GuestPlan, Savings, Sharing
from batchdiff.sampling.interval import Interval, exactly, sum_of


@frozen
class GuestEstimate:
    """The estimate for one guest.

    ``plan``: the guest's part of a plan if the rest of the guest is like its sample. ``overlay``, ``saved``: the
    bytes that an overlay would take on disk, and those that would be freed; None if not estimated. ``threshold``:
    the least savings, in bytes, with which a plan works on the guest; 0 if the figures were not estimated from
    samples. ``read_bytes``: the bytes read from the
    guest and, for its probes, from the template. ``is_complete``: the verdict and the figures are those of a plan.
    """

    plan: GuestPlan
    overlay: Interval | None = None
    saved: Interval | None = None
    threshold: float = 0.0
    probes: int = 0
    read_bytes: int = 0
    is_complete: bool = False

    @property
    def savings(self) -> Savings | Sharing | None:
        """The plan's savings; its sharing if the guest would get no overlay; None if ``saved`` is None."""
        if self.saved is None:
            return None
        if self.overlay is None:
            return self.plan.sharing
        return None if self.plan.diff is None else self.plan.diff.savings

    @property
    def is_worked_on(self) -> bool:
        """True if a plan would probably work on the guest."""
        return self.plan.verdict in {Verdict.CONVERT, Verdict.SHARE}

    @property
    def is_undecided(self) -> bool:
        """True if the sample does not show whether a plan would work on the guest or skip it."""
        saved = self.saved
        if saved is None or saved.is_exact or self.is_complete:
            return False
        # ``saved`` may have been corrected after the verdict was reached. Near the threshold, they may disagree.
        converts = saved.estimate >= self.threshold
        return saved.low < self.threshold <= saved.high or converts is not self.is_worked_on

    @property
    def is_exact(self) -> bool:
        """True if ``saved`` is a single value, which may still be only a bound (``exactness``)."""
        return self.saved is not None and self.saved.is_exact


@frozen
class EstimateTotals:
    """The totals of a fleet; sums are in bytes.

    ``verdicts`` may lack a verdict that no guest has. ``undecided``: the number of guests that a plan might
    either work on or skip. ``allocated_bytes``: the allocation of the guests that a plan would work on;
    ``sampled_bytes``: that of all guests whose savings were estimated.
    """

    verdicts: Mapping[Verdict, int]
    undecided: int
    allocated_bytes: int
    sampled_bytes: int
    overlay: Interval
    saved: Interval

    @property
    def error(self) -> float:
        """Half the width of the interval ``saved``, as a share of ``sampled_bytes``; 0 if that is 0."""
        return self.saved.half_width / self.sampled_bytes if self.sampled_bytes else 0.0


@frozen
class Estimate:
    """The estimate of a fleet.

    ``whole_bytes``: about the bytes that a plan would read, not counting data that is reread for compression.
    ``template_bytes``: the template's part of ``whole_bytes`` if a plan was made for its figures; otherwise 0.
    """

    generator: str
    created: str
    manifest_path: str
    manifest_sha256: str
    template: ImageSource
    template_size: int
    guests: tuple[GuestEstimate, ...]
    totals: EstimateTotals
    wanted_error: float
    seed: int
    whole_bytes: int
    seconds: float
    template_bytes: int = 0

    @property
    def probes(self) -> int:
        """The sum of the guests' ``probes``."""
        return sum(each.probes for each in self.guests)

    @property
    def read_bytes(self) -> int:
        """The sum of the guests' ``read_bytes``, plus ``template_bytes``."""
        return self.template_bytes + sum(each.read_bytes for each in self.guests)


def totals_of_estimates(guests: Iterable[GuestEstimate]) -> EstimateTotals:
    """Return the totals of these guests."""
    each = list(guests)
    converted = [guest for guest in each if guest.is_worked_on]
    return EstimateTotals(
        verdicts=Counter(guest.plan.verdict for guest in each),
        undecided=sum(guest.is_undecided for guest in each),
        allocated_bytes=sum(guest.savings.allocated_bytes for guest in converted if guest.savings),
        sampled_bytes=sum(guest.savings.allocated_bytes for guest in each if guest.savings),
        overlay=sum_of(_if_converted(guest, guest.overlay) for guest in each),
        saved=sum_of(_if_converted(guest, guest.saved) for guest in each),
    )


def _if_converted(guest: GuestEstimate, figure: Interval | None) -> Interval:
    """Return a figure; 0 if the guest is not worked on, and an interval that includes 0 if that is undecided."""
    if figure is None:
        return exactly(0.0)
    converts = guest.is_worked_on
    if guest.is_undecided:
        return Interval(figure.estimate if converts else 0.0, min(figure.low, 0.0), max(figure.high, 0.0))
    return figure if converts else exactly(0.0)
