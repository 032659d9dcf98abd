"""The figures of a plan that is made, but not written.

The order in which images are read::

    samples    guest 1 + template, guest 2 + template, ...    each guest is read with the template beside it
    plan       template, guest 1, guest 2, ...                the template is read once for many guests
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from batchdiff.choices import Strategy
from batchdiff.estimation.estimate import GuestEstimate
from batchdiff.estimation.guest_sample import GuestSample
from batchdiff.image.files import ReadObserver
from batchdiff.manifest.manifest import Manifest
from batchdiff.plan.earlier_plans import EarlierPlans
from batchdiff.plan.plan import GuestPlan
from batchdiff.planning.planner import EarlierResults, make_plan
from batchdiff.sampling.interval import exactly


def planned_guests(  # noqa: PLR0913  # options by keyword
    manifest: Manifest,
    samples: Mapping[str, GuestSample],
    plans: EarlierPlans,
    *,
    jobs: int,
    progress: Callable[[int, int], None],
    observer: ReadObserver | None,
) -> tuple[GuestEstimate, ...]:
    """Make a plan, and return its figures for all guests.

    ``progress`` is called with the bytes done and the total.

    :raises ImageError: the template cannot be used, or has changed.
    :raises WorkerError: a worker failed.
    """
    plan = make_plan(
        manifest, jobs=jobs, progress=progress, earlier=EarlierResults(plans=plans), observer=observer
    )
    return tuple(_as_estimate(guest, samples.get(guest.name)) for guest in plan.guests)


def _as_estimate(guest: GuestPlan, sample: GuestSample | None) -> GuestEstimate:
    overlay = saved = None
    if guest.strategy is Strategy.SHARE:
        saved = None if guest.sharing is None else exactly(float(guest.sharing.saved_bytes))
    elif guest.diff is not None:
        savings = guest.diff.savings
        more = savings.overlay_error_bytes
        less = min(more, savings.overlay_disk_bytes)
        overlay = exactly(float(savings.overlay_disk_bytes)).widened(below=less, above=more)
        saved = exactly(float(savings.saved_bytes)).widened(below=more, above=less)
    # Both count: the plan has read the sampled bytes again.
    probes, read = (0, 0) if sample is None else (sample.probes, sample.read_bytes + sample.frame.open_bytes)
    return GuestEstimate(guest, overlay, saved, probes=probes, read_bytes=read, is_complete=True)
