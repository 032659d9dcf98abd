"""An estimate as data: for each guest, and for all, the space that overlays take and save, as intervals."""

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

    ``plan``: the guest's entry in a plan, provided that the rest of the guest is like its sample. ``overlay``: the
    bytes that its overlay takes on disk; None if the guest gets no overlay, or was not sampled. ``saved``: the
    bytes that are freed; None if they were not estimated. ``threshold``: the least savings at which a plan
    converts the guest, or has it share blocks. ``probes``: how many of its probes were read; ``read_bytes``: the
    bytes that were read from the guest, and for its probes from the template. ``is_complete``: everything that
    metadata does not settle was read, so the verdict and the figures are those of a plan, with the error that
    they have in a plan.
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
        """The savings that a plan would predict; None if they were not estimated."""
        if self.saved is None:
            return None
        if self.overlay is None:
            return self.plan.sharing
        return None if self.plan.diff is None else self.plan.diff.savings

    @property
    def is_worked_on(self) -> bool:
        """True if a plan would probably convert the guest, or have it share blocks in place."""
        return self.plan.verdict in {Verdict.CONVERT, Verdict.SHARE}

    @property
    def is_undecided(self) -> bool:
        """True if the sample does not show whether a plan would work on the guest or skip it."""
        saved = self.saved
        if saved is None or saved.is_exact or self.is_complete:
            return False
        # The verdict was reached before holes were accounted for: near the threshold, ``saved`` may contradict it.
        converts = saved.estimate >= self.threshold
        return saved.low < self.threshold <= saved.high or converts is not self.is_worked_on

    @property
    def is_exact(self) -> bool:
        """True if sampling adds no uncertainty to the savings; they may still be only a bound (``exactness``)."""
        return self.saved is not None and self.saved.is_exact


@frozen
class EstimateTotals:
    """Sums in bytes over the guests that a plan would work on, and the number of guests with each verdict.

    A plan works on a guest if it converts the guest, or has it share blocks. A verdict that no guest has may be
    left out of ``verdicts``. ``allocated_bytes``: what the guests to work on take on disk; ``sampled_bytes``: what
    all sampled guests take, of which the wanted error is a share. ``undecided``: how many guests a plan may work
    on or skip; what each of them adds to the interval of a sum ranges from nothing to the bounds of its figure.
    """

    verdicts: Mapping[Verdict, int]
    undecided: int
    allocated_bytes: int
    sampled_bytes: int
    overlay: Interval
    saved: Interval

    @property
    def error(self) -> float:
        """Half the width of the interval of the savings, as a share of the allocation of the guests sampled."""
        return self.saved.half_width / self.sampled_bytes if self.sampled_bytes else 0.0


@frozen
class Estimate:
    """The estimate of a fleet.

    ``wanted_error``, ``seed``: the options. ``whole_bytes``: the most that a plan would have to read.
    ``seconds``: the time that the estimate took. ``template_bytes``: the bytes that were read from the template
    once for all guests, besides the samples; 0 if the samples were enough.
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
        """The number of probes that were read."""
        return sum(each.probes for each in self.guests)

    @property
    def read_bytes(self) -> int:
        """The bytes that were read from all images."""
        return self.template_bytes + sum(each.read_bytes for each in self.guests)


def totals_of_estimates(guests: Iterable[GuestEstimate]) -> EstimateTotals:
    """Return the totals of some guests."""
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
    """Return what a guest adds to a sum: nothing if a plan would skip it, a wider interval if it is undecided."""
    if figure is None:
        return exactly(0.0)
    converts = guest.is_worked_on
    if guest.is_undecided:
        return Interval(figure.estimate if converts else 0.0, min(figure.low, 0.0), max(figure.high, 0.0))
    return figure if converts else exactly(0.0)
