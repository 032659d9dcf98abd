"""Let guests share blocks in place with the template, one after the other; no byte of a guest changes.

::

    recorded      what happens
    nothing       hold the guest, record `sharing`, share, record `shared`
    sharing       the same, for the blocks that are not shared yet
    shared        nothing, even if the guest's VM has written since
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from batchdiff.applying.checks.staleness import check_unchanged, with_accepted
from batchdiff.applying.guests.file_names import require_examinable
from batchdiff.applying.journal.records import GuestState, History, Step
from batchdiff.applying.pipeline import EXPECTED, error_to_report
from batchdiff.applying.results.conversion import FreedSpace, freed_by_sharing, freed_in_all, so_far
from batchdiff.applying.results.finding import Finding, Health
from batchdiff.applying.results.outcome import GuestOutcome, Status
from batchdiff.applying.session.session import Run
from batchdiff.applying.sharing.share import share_blocks
from batchdiff.choices import VerifyMode
from batchdiff.errors import BatchdiffError, PlanError, StopError
from batchdiff.image.image import Image
from batchdiff.image.in_use.check import Purpose, users
from batchdiff.image.in_use.hold import Held, hold
from batchdiff.image.open import inspect, open_image
from batchdiff.image.storage.exactness import Exactness, of_sum
from batchdiff.image.storage.left_to_share import gain_left, shareable_left
from batchdiff.image.storage.shared_blocks import BlockRuns
from batchdiff.linux.call_failures import explain
from batchdiff.plan.extents import ranges_to_share
from batchdiff.plan.plan import GuestToShare
from batchdiff.progress import Meter, Phase, summing
from batchdiff.units import format_size


def is_shared(guest: str, history: History) -> bool:
    """Return whether an apply has finished sharing a guest's blocks."""
    state = history.states.get(guest)
    return state is not None and state.step is Step.SHARED


def expect_sharing(meter: Meter, guests: Iterable[GuestToShare]) -> None:
    """Expect the work of sharing blocks of these guests."""
    for guest in guests:
        meter.expect(guest.name, Phase.SHARE, guest.sharing.shareable_bytes)


def unchanged_outcome(guest: GuestToShare) -> GuestOutcome:
    """Return the outcome of a guest whose blocks an earlier apply has shared."""
    return GuestOutcome(guest.name, Status.UNCHANGED, "its blocks were shared by an earlier apply")


def shared_finding(guest: GuestToShare) -> Finding:
    """Return the finding for a guest that shares blocks; its content is not compared."""
    path = guest.source.path
    try:
        if who := users(path):
            return Finding(guest.name, path, Health.IN_USE, f"{who}, so it was not checked")
        require_examinable(path)
        if not os.path.lexists(path):
            return Finding(guest.name, path, Health.UNKNOWN, "it is gone; if it was moved, add `--map OLD=NEW`")
        with open_image(guest.source) as image:
            inspect(image)
            size = image.virtual_size
    except BatchdiffError as error:
        return Finding(guest.name, path, Health.UNKNOWN, str(error))
    except OSError as error:
        return Finding(guest.name, path, Health.UNKNOWN, ". ".join(explain(error)))
    if size < guest.image.virtual_size:
        planned = guest.image.virtual_size
        why = f"the size of its disk is {size} bytes, but was {planned} bytes when the plan was made"
        return Finding(guest.name, path, Health.DAMAGED, why)
    why = "sharing blocks does not make it depend on the template, so its content was not compared"
    return Finding(guest.name, path, Health.SOUND, why)


def share_guests(run: Run, guests: Iterable[GuestToShare]) -> Iterator[GuestOutcome]:
    """Let guests share blocks with the template; the failure of one does not stop the others.

    :raises StopError: a stop was requested.
    """
    for guest in guests:
        run.stop.check()
        if is_shared(guest.name, run.journal.history):
            yield unchanged_outcome(guest)
            continue
        try:
            yield _share(guest, run)
        except StopError:
            raise
        except EXPECTED as error:
            reported = error_to_report(guest.name, error)
            with contextlib.suppress(OSError):
                run.journal.record_failure(guest.name, str(reported))
            yield GuestOutcome(guest.name, Status.FAILED, str(reported), exit_code=reported.exit_code)


def _share(guest: GuestToShare, run: Run) -> GuestOutcome:
    run.session.require_no_domain(guest.source.path)
    with ExitStack() as opened:
        image = opened.enter_context(open_image(guest.source))
        _check_not_the_template(guest, image, run.template)
        held = opened.enter_context(hold(image, Purpose.GUEST))
        # The kernel compares every byte, so a changed ctime does not matter.
        planned = with_accepted(guest.image, run.template)
        check_unchanged(image, planned, run.journal.history, VerifyMode.FULL)
        inspect(image)
        equal = ranges_to_share(guest)
        before = _to_free(run, image, equal)
        earlier = _came_back_earlier(guest, run.journal.history.states.get(guest.name), before)
        exactness = of_sum([earlier.exactness, before.exactness])
        begun = GuestState(
            Step.SHARING, came_back_bytes=earlier.size, to_free_bytes=before.size, exactness=exactness
        )
        _record(guest, run, begun)
        try:
            found = share_blocks(
                run.template,
                image,
                shareable_left(run.template, image, equal),
                check=partial(_check, run, held),
                advance=summing(run.reporter(guest.name, Phase.SHARE)),
            )
        except EXPECTED:
            # The amount is only for reports: failing to determine it must not hide the error.
            with contextlib.suppress(*EXPECTED):
                freed = freed_in_all([earlier, _gained(before, _to_free(run, image, equal))])
                run.journal.record(guest.name, _with_freed(begun, freed))
            raise
        gained = _gained(before, _to_free(run, image, equal))
        _record_fingerprints(guest, image, run)
        ended = GuestState(Step.SHARED, shared_bytes=found.shared)
        _record(guest, run, _with_freed(ended, freed_in_all([earlier, gained])))
    return _outcome(guest, found.shared, gained, sum(each.length for each in found.differing))


def _to_free(run: Run, image: Image, equal: BlockRuns) -> FreedSpace:
    gain = gain_left(run.template, image, equal)
    return FreedSpace(gain.freed, gain.exactness)


def _gained(before: FreedSpace, left: FreedSpace) -> FreedSpace:
    """Return the space freed: in the difference, blocks that are not shared yet cancel out."""
    return FreedSpace(before.size - left.size, of_sum(so_far(each.exactness) for each in (before, left)))


def _came_back_earlier(guest: GuestToShare, state: GuestState | None, before: FreedSpace) -> FreedSpace:
    """Return the space that unfinished earlier runs have freed; ``before``: what this run can still free.

    What a killed run freed is known only if no other file used any of the blocks, then or now. Older journals lack
    ``to_free_bytes``; the plan's prediction replaces it.
    """
    if state is None or state.step is not Step.SHARING:
        return FreedSpace()
    to_free, kind = state.to_free_bytes, state.exactness
    if to_free is None or kind is None:
        to_free, kind = guest.sharing.saved_bytes, guest.sharing.exactness
    was_recorded = to_free == 0
    is_known = was_recorded or {kind, before.exactness} == {Exactness.EXACT}
    killed = FreedSpace(max(to_free - before.size, 0), Exactness.EXACT if is_known else Exactness.UNKNOWN)
    return freed_in_all([freed_by_sharing(guest, state), killed])


def _with_freed(state: GuestState, freed: FreedSpace) -> GuestState:
    """Return the state with all space freed so far, so that no run estimates it again."""
    return replace(state, came_back_bytes=freed.size, to_free_bytes=0, exactness=freed.exactness)


def _check_not_the_template(guest: GuestToShare, image: Image, template: Image) -> None:
    """Refuse a guest if one of its own files is in the template's chain: a plan is input, which may be wrong."""
    files = [os.fstat(layer.fd) for layer in template.layers]
    if any(os.path.samestat(os.fstat(layer.fd), file) for layer in image.own_files for file in files):
        raise PlanError(f"guest {guest.name} is the template, or a part of it", remedy="Plan again.")


def _check(run: Run, held: Held) -> None:
    run.stop.check()
    if held.is_broken() or run.held.is_broken():
        held.check()
        run.held.check()


def _record(guest: GuestToShare, run: Run, state: GuestState) -> None:
    run.journal.record(guest.name, state)
    run.session.watch.step(guest.name, state.step)


def _record_fingerprints(guest: GuestToShare, image: Image, run: Run) -> None:
    """Record the ctimes that sharing has changed: the changes must not make a plan stale."""
    for path, before in zip(guest.image.paths, guest.image.fingerprints, strict=True):
        now = next((layer.fingerprint() for layer in image.own_files if layer.path == path), before)
        if now != before and before.is_unwritten(now):
            run.journal.record_changed(now)


def _outcome(guest: GuestToShare, shared: int, gained: FreedSpace, differing: int) -> GuestOutcome:
    reason = f"it now shares {format_size(shared)} more with the template"
    remarks: tuple[str, ...] = ()
    if differing:
        remarks = (
            f"{format_size(differing)} could not be shared: some of it differs from the template, although all of"
            " it was equal when the plan was made. A program has written to one of the two images without changing"
            " the image's mtime",
        )
    known = gained.size if gained.exactness is Exactness.EXACT else None
    return GuestOutcome(guest.name, Status.SHARED, reason, gained_bytes=known, remarks=remarks)
