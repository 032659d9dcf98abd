"""A guest's plan to share blocks in place, as its strategy or as the alternative to an overlay."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

from batchdiff.choices import Verdict
from batchdiff.errors import ImageError
from batchdiff.extents import Extents
from batchdiff.image.image import Image
from batchdiff.image.storage.allocation import allocated_bytes
from batchdiff.image.storage.raw_shareable import TemplateBlocks
from batchdiff.image.storage.sharing_obstacle import obstacle_to_sharing
from batchdiff.linux.fiemap import ExtentTable
from batchdiff.plan.plan import GuestPlan, GuestToShare, Similarity
from batchdiff.plan.runs import NO_RUNS
from batchdiff.planning.candidates import Candidate
from batchdiff.planning.guest_plans import entry_fields, untouched_guest
from batchdiff.planning.sharing_survey import survey_sharing
from batchdiff.planning.verdicts import sharing_verdict


def or_share(
    plan: GuestPlan,
    template: TemplateBlocks | None,
    guest: Image,
    units: Callable[[], Extents],
    known: ExtentTable | None,
) -> GuestPlan:
    """Return the plan for an overlay; if possible, with what sharing in place would save instead.

    ``template``: None if no file can share blocks with it. ``units``, ``known``: see :func:`survey_sharing`.
    """
    if template is None or plan.diff is None or obstacle_to_sharing(template.image, guest) is not None:
        return plan
    with contextlib.suppress(ImageError, OSError):  # the overlay does not depend on sharing
        sharing = survey_sharing(template, guest, units(), known, plan.diff.savings.allocated_bytes)
        return replace(plan, sharing=replace(sharing, runs=NO_RUNS))
    return plan


def plan_to_share(  # noqa: PLR0913, PLR0917  # one caller
    candidate: Candidate,
    template: TemplateBlocks | None,
    guest: Image,
    compared: tuple[Extents, Similarity],
    overlay: GuestPlan | None,
    known: ExtentTable | None,
    minimum: float,
) -> GuestPlan:
    """Return the plan of a guest with the strategy share.

    ``overlay``: its plan for an overlay, None if none is possible. ``known``: see :func:`survey_sharing`.
    ``minimum``: see :func:`sharing_verdict`.

    :raises ImageError: a table or the filesystem cannot be read.
    """
    if template is None:
        raise AssertionError(f"{guest.path} cannot share blocks, and should have been refused")
    units, similarity = compared
    diff = None if overlay is None else overlay.diff
    try:
        allocated = (
            sum(allocated_bytes(layer.fd, layer.path) for layer in guest.own_files)
            if diff is None
            else diff.savings.allocated_bytes
        )
        sharing = survey_sharing(template, guest, units, known, allocated)
    except OSError as error:
        raise ImageError(
            f"cannot find the blocks of {guest.path} or of the template",
            path=guest.path,
            why=error.strerror or str(error),
        ) from error
    verdict, reason = sharing_verdict(sharing, similarity, minimum)
    entry = candidate.entry if overlay is None else replace(candidate.entry, options=overlay.options)
    if verdict is not Verdict.SHARE:
        untouched = untouched_guest(entry, candidate.record, verdict, reason, diff)
        return replace(untouched, sharing=replace(sharing, runs=NO_RUNS))
    fields = entry_fields(entry, candidate.record, reason)
    return GuestToShare(**fields, image=candidate.record, sharing=sharing, diff=diff)
