"""Check the template, the overlays, and the guests that share blocks, for `batchdiff verify`; change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from batchdiff.applying.apply import choose_guests
from batchdiff.applying.at_once import at_once
from batchdiff.applying.checks.verify import require_judges
from batchdiff.applying.guests.data_files import DataFiles
from batchdiff.applying.journal.records import GuestState, History
from batchdiff.applying.overlay_health import check_overlay
from batchdiff.applying.results.finding import Finding, Health
from batchdiff.applying.session.stop import Stop
from batchdiff.applying.share_guests import is_shared, shared_finding
from batchdiff.applying.template.template_health import check_template
from batchdiff.applying.workload import expect_health_check
from batchdiff.choices import Strategy
from batchdiff.plan.plan import GuestPlan, GuestToConvert, GuestToShare, Plan
from batchdiff.progress import Meter, Phase


def check_health(  # noqa: PLR0913  # options by keyword
    plan: Plan,
    history: History,
    names: tuple[str, ...] | None,
    stop: Stop,
    *,
    jobs: int = 1,
    meter: Meter | None = None,
) -> Iterator[Finding]:
    """Yield findings for the template and for each chosen guest that is converted or shares blocks.

    The template is not checked if the chosen guests only share blocks. ``names``: None for all guests.
    ``jobs``: the maximum number of overlays to check at once.

    :raises UsageError: the plan has no guest with one of the names.
    :raises ProgramError: qemu-img is missing.
    :raises StopError: a stop was requested.
    """
    guests = choose_guests(plan, names)
    shared = [guest for guest in guests if isinstance(guest, GuestToShare) and is_shared(guest.name, history)]
    only_shares = bool(guests) and all(guest.strategy is Strategy.SHARE for guest in guests)
    if only_shares or (shared and not any(isinstance(guest, GuestToConvert) for guest in guests)):
        yield from map(shared_finding, shared)
        yield from () if shared else [_template_not_needed(plan)]
        return
    require_judges()
    converted = _converted(guests, history)
    meter = Meter() if meter is None else meter
    expect_health_check(meter, converted)
    finding, content = check_template(plan, history, [guest for guest, _ in converted], stop, meter)
    yield finding
    meter.begin()
    data_files = DataFiles(plan, history)

    def checked(each: tuple[GuestToConvert, GuestState]) -> Finding:
        guest, state = each
        report = partial(meter.reach, guest.name, Phase.VERIFY)
        found = check_overlay(guest, state, plan, content, history, data_files, stop, report)
        meter.settle(guest.name)
        return found

    with ThreadPoolExecutor(at_once(jobs, [guest for guest, _ in converted], plan.template.source)) as pool:
        try:
            yield from pool.map(checked, converted)
        except BaseException:
            stop.ask()  # the pool waits for running checks, so let them end soon
            raise
    yield from map(shared_finding, shared)


def _template_not_needed(plan: Plan) -> Finding:
    why = "none of the guests to check depends on it, so it was not checked"
    return Finding("template", plan.template.source.path, Health.SOUND, why)


def _converted(guests: list[GuestPlan], history: History) -> list[tuple[GuestToConvert, GuestState]]:
    chosen = [guest for guest in guests if isinstance(guest, GuestToConvert)]
    states = [(guest, history.under_way(guest.name)) for guest in chosen]
    return [(guest, state) for guest, state in states if state is not None and state.published]
