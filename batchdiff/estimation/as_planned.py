"""The exact figures of a fleet of which samples would be as much as a plan reads: those of a plan, not written.

::

    samples    guest 1 + template, guest 2 + template, ...    each guest is read with the template beside it
    plan       template, guest 1, guest 2, ...                the template is read once for all guests
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from batchdiff.choices import Strategy
from batchdiff.estimation.estimate import GuestEstimate
from batchdiff.estimation.frame import Frame, ProbeClass
from batchdiff.image.files import ReadObserver
from batchdiff.manifest.manifest import Manifest
from batchdiff.plan.earlier_plans import EarlierPlans
from batchdiff.plan.plan import GuestPlan
from batchdiff.planning.planner import EarlierResults, make_plan
from batchdiff.sampling.interval import exactly


def planned_guests(  # noqa: PLR0913  # options by keyword
    manifest: Manifest,
    frames: Mapping[str, Frame],
    plans: EarlierPlans,
    *,
    jobs: int,
    progress: Callable[[int, int], None],
    observer: ReadObserver | None,
) -> tuple[GuestEstimate, ...]:
    """Return the figures of a plan for all guests; ``frames``: those of the guests that are to be compared.

    ``progress`` is called with the bytes read so far, and those to read; ``observer``, at every read.

    :raises ImageError: the template cannot be read, or changed meanwhile.
    :raises WorkerError: a worker process died.
    """
    plan = make_plan(
        manifest, jobs=jobs, progress=progress, earlier=EarlierResults(plans=plans), observer=observer
    )
    return tuple(_exact(guest, frames.get(guest.name)) for guest in plan.guests)


def _exact(guest: GuestPlan, frame: Frame | None) -> GuestEstimate:
    """Return what a plan found for a guest, as an estimate without any doubt."""
    probes = 0 if frame is None else frame.count(ProbeClass.ADDED) + frame.count(ProbeClass.COMPARED)
    read = 0 if frame is None else frame.open_bytes
    if guest.strategy is Strategy.SHARE and guest.sharing is not None:
        saved = exactly(float(guest.sharing.saved_bytes))
        return GuestEstimate(guest, saved=saved, probes=probes, read_bytes=read)
    if guest.diff is None or guest.strategy is Strategy.SHARE:
        return GuestEstimate(guest, probes=probes, read_bytes=read)
    savings = guest.diff.savings
    overlay, saved = exactly(float(savings.overlay_disk_bytes)), exactly(float(savings.saved_bytes))
    return GuestEstimate(guest, overlay, saved, probes=probes, read_bytes=read)
