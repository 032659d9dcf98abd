"""From a journal's notes to where each guest stands, and what is next for it; pure."""

from __future__ import annotations

from batchdiff.applying.notes import Goal, Notes, Standing, Step
from batchdiff.model.plan import GuestPlan, Plan, Verdict
from batchdiff.model.standing import GuestStanding

_VERDICTS = {Verdict.SKIP: "skipped", Verdict.REFUSE: "refused"}


def standings_of(plan: Plan, notes: Notes) -> list[GuestStanding]:
    """The guests of a plan in its order."""
    return [_standing(guest, notes) for guest in plan.guests]


def _standing(guest: GuestPlan, notes: Notes) -> GuestStanding:
    known = notes.standings.get(guest.name)
    if guest.verdict is not Verdict.CONVERT:
        return GuestStanding(guest.name, _VERDICTS[guest.verdict], "", "", f"nothing: {guest.reason}")
    return GuestStanding(
        name=guest.name,
        step="planned" if known is None else known.step.value,
        since=notes.times.get(guest.name, ""),
        failure=notes.failures.get(guest.name, ""),
        next="apply: write the overlay" if known is None else _next(known),
    )


def _next(known: Standing) -> str:
    if known.goal is not Goal.APPLY and known.step not in {Step.PURGED, Step.RESTORED}:
        return f"{known.goal}: it was begun, and goes on"
    match known.step:
        case Step.VERIFIED | Step.PUBLISHED | Step.RETIRING if known.published:
            return "apply: verify again and retire the original; or restore"
        case Step.RETIRED if known.original.startswith("quarantined"):
            return "purge: delete the original in quarantine; or restore"
        case Step.RETIRED | Step.PURGED:
            return "nothing; or restore: rebuild the original from the overlay"
        case _:
            return "apply: clear up, then write the overlay"
