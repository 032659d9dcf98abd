"""The figures of a plan that is not written, for a fleet that takes less work to plan than to sample.

::

    samples    guest 1 + template, guest 2 + template, ...    each guest is read with the template beside it
    plan       template, guest 1, guest 2, ...                the template is read once for all guests
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
    """Return the figures of a plan for all guests. ``samples``: the samples that were taken, by guest.

    ``progress`` is called with the bytes read so far, and those to read; ``observer``, at every read.

    :raises ImageError: the template cannot be read, or changed meanwhile.
    :raises WorkerError: a worker process died.
    """
    plan = make_plan(
        manifest, jobs=jobs, progress=progress, earlier=EarlierResults(plans=plans), observer=observer
    )
    return tuple(_as_estimate(guest, samples.get(guest.name)) for guest in plan.guests)


def _as_estimate(guest: GuestPlan, sample: GuestSample | None) -> GuestEstimate:
    """Return the figures of a plan for a guest as an estimate: as certain as a plan is."""
    overlay = saved = None
    if guest.strategy is Strategy.SHARE:
        saved = None if guest.sharing is None else exactly(float(guest.sharing.saved_bytes))
    elif guest.diff is not None:
        savings = guest.diff.savings
        more = savings.overlay_error_bytes
        less = min(more, savings.overlay_disk_bytes)
        overlay = exactly(float(savings.overlay_disk_bytes)).widened(below=less, above=more)
        saved = exactly(float(savings.saved_bytes)).widened(below=more, above=less)
    # A plan reads again what was sampled before.
    probes, read = (0, 0) if sample is None else (sample.probes, sample.read_bytes + sample.frame.open_bytes)
    return GuestEstimate(guest, overlay, saved, probes=probes, read_bytes=read, is_complete=True)
