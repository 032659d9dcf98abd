"""From a journal and from what stands on disk to where each guest is and what is next for it."""

from __future__ import annotations

from dataclasses import replace

import plans
import pytest

from batchdiff.applying.guests.status import OnDisk, TemplateIs, Written, status_rows
from batchdiff.applying.journal.records import Fate, Goal, GuestState, History, Step
from batchdiff.choices import Verdict
from batchdiff.image.storage.exactness import Exactness
from batchdiff.units import MIB

OWN, ASIDE = "/vm.img", "/vm.img.batchdiff-original"
BOTH, QUARANTINE = OnDisk("/vm.qcow2", OWN), OnDisk("/vm.qcow2", ASIDE)
PUBLISHED = {"overlay": None, "published": True}


def told(state, there=BOTH, failure=""):
    """The line of one guest."""
    history = History()
    if state is not None:
        history.states["web01"] = state
        history.times["web01"] = "2026-01-02T03:04:05Z"
    if failure:
        history.failures["web01"] = failure
    plan = plans.small_plan()
    (guest,) = plan.guests
    guest = replace(guest, source=replace(guest.source, path=OWN))
    (line,) = status_rows(replace(plan, guests=(guest,)), history, {} if there is None else {"web01": there})
    assert line.name == "web01"
    return line


def test_nothing_was_done():
    line = told(None, None)
    assert (line.step, line.since, line.failure, line.next) == ("planned", "", "", "apply: write the overlay")


def test_when_and_why():
    line = told(GuestState(Step.CHECKED, temporary="/x"), failure="it is in use")
    assert (line.step, line.since, line.failure) == ("checked", "2026-01-02T03:04:05Z", "it is in use")


@pytest.mark.parametrize(
    ("planned", "recorded", "back"),
    [
        (Exactness.EXACT, Exactness.EXACT, "freed 3 MiB"),
        (Exactness.EXACT, Exactness.AT_MOST, "freed at most 3 MiB"),
        (Exactness.AT_MOST, Exactness.EXACT, "freed 3 MiB"),
        (Exactness.AT_MOST, None, "freed at most 3 MiB"),  # older journals
        (Exactness.AT_LEAST, None, "freed 3 MiB"),
        (Exactness.UNKNOWN, None, "freed an unknown amount of space"),
    ],
)
def test_a_bound_is_not_stated_as_a_fact(planned, recorded, back):
    guest = plans.shared_guest("web01")
    guest = replace(guest, sharing=replace(guest.sharing, exactness=planned))
    state = GuestState(Step.SHARED, came_back_bytes=3 * MIB, exactness=recorded)
    (line,) = status_rows(plans.small_plan(guest), History({"web01": state}), {})
    assert line.next == f"nothing: sharing {back}, and the guest does not need the template"


@pytest.mark.parametrize(("created", "step"), [("2026-01-02T03:04:05Z", "restored"), ("2027", "planned")])
def test_given_back(created, step):
    """Nothing is to be done, until a later plan is to convert it again."""
    plan = replace(plans.small_plan(), created=created)
    history = History(restored={"web01": "2026-01-02T03:04:05.678Z"})
    (line,) = status_rows(plan, history, {})
    assert line.step == step
    assert line.next.startswith("nothing; to convert it again: " if step == "restored" else "apply: write")


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (OnDisk(None, OWN), "nothing; to convert it again: "),
        (
            OnDisk(None, OWN, left="/vm.qcow2"),
            "rm /vm.qcow2, or rename it: restore left it behind, and it is needed only to recover what the VM"
            " wrote",
        ),
        (
            OnDisk(None, None, left="/vm.qcow2", missing="/vm.img is missing"),
            "bring back the image that restore gave the guest: /vm.img is missing; its overlay /vm.qcow2 is still"
            " there",
        ),
        (
            OnDisk(None, None, missing="/vm.img is missing"),
            "bring back the image that restore gave the guest: /vm.img is missing",
        ),
    ],
)
def test_given_back_what_is_there_still(there, expected):
    """An overlay that may be all that is left of a guest is not to be removed."""
    history = History(restored={"web01": "2026-01-02T03:04:05.678Z"})
    (line,) = status_rows(plans.small_plan(), history, {"web01": there})
    assert line.next.startswith(expected)
    assert ("rm " in line.next) is (there.missing == "" and there.left is not None)


@pytest.mark.parametrize(
    ("verdict", "step", "reason"),
    [(Verdict.SKIP, "skipped", "it would save nothing"), (Verdict.REFUSE, "refused", "it is in use")],
)
def test_guests_that_are_not_converted(verdict, step, reason):
    """Whatever a journal says of them."""
    guest = plans.guest_plan(verdict=verdict, reason=reason)
    history = History({"web01": GuestState(Step.RETIRED, published=True)})
    (line,) = status_rows(plans.small_plan(guest), history, {})
    what = "nothing" if verdict is Verdict.SKIP else "plan again once this is fixed"
    assert (line.step, line.next) == (step, f"{what}: {reason}")


AGAIN = "apply --retire quarantine: verify again and retire the original; or restore"
CLEAN = "apply: clean up, then write the overlay"
QUARANTINED = GuestState(Step.RETIRED, published=True, fate=Fate.QUARANTINED, aside=ASIDE)
PURGED = GuestState(Step.PURGED, Goal.PURGE, published=True)
RESTORED = GuestState(Step.RESTORED, Goal.RESTORE, aside=ASIDE)
NEXT = {
    "checked": (GuestState(Step.CHECKED, temporary="/x"), BOTH, CLEAN),
    "written": (GuestState(Step.WRITTEN, temporary="/x"), BOTH, CLEAN),
    "verified": (GuestState(Step.VERIFIED, temporary="/x"), BOTH, CLEAN),
    "retiring in place": (GuestState(Step.RETIRING, moved=True), BOTH, CLEAN),
    "published": (GuestState(Step.PUBLISHED, published=True), BOTH, AGAIN),
    "verified again": (GuestState(Step.VERIFIED, published=True), BOTH, AGAIN),
    "retiring": (GuestState(Step.RETIRING, published=True, moved=True), BOTH, AGAIN),
    "quarantined": (QUARANTINED, QUARANTINE, "purge: delete the original in quarantine; or restore"),
    "quarantined, not looked at": (QUARANTINED, None, "purge: delete the original in quarantine; or restore"),
    "quarantined and removed": (
        QUARANTINED,
        OnDisk("/vm.qcow2", None),
        "nothing: its original was removed from quarantine; or restore: rebuild it from the overlay",
    ),
    "quarantined, the overlay was written to": (
        QUARANTINED,
        replace(QUARANTINE, written=Written.OVERLAY),
        "purge --used: delete the original in quarantine, though the VM has run on its overlay; or restore",
    ),
    "quarantined and written to": (
        QUARANTINED,
        replace(QUARANTINE, written=Written.ORIGINAL),
        f"verify: the original in quarantine, {ASIDE}, has changed since the conversion; or restore",
    ),
    "quarantined, and renamed back by the operator": (QUARANTINED, BOTH, AGAIN),
    "quarantined, renamed back and written to": (
        QUARANTINED,
        replace(BOTH, written=Written.ORIGINAL),
        "verify: its original has changed since the conversion, so only you know whether to keep it or"
        " the overlay; or restore --discard-changes to go back to /vm.img",
    ),
    "published, the overlay was written to": (
        GuestState(Step.PUBLISHED, published=True),
        replace(BOTH, written=Written.OVERLAY),
        "remove the original /vm.img if you trust the overlay, which has been written to since the conversion; or"
        " restore --discard-changes to go back to /vm.img",
    ),
    "published, the original was written to": (
        GuestState(Step.PUBLISHED, published=True),
        replace(BOTH, written=Written.ORIGINAL | Written.OVERLAY),
        "verify: its original has changed since the conversion, so only you know whether to keep it or"
        " the overlay; or restore --discard-changes to go back to /vm.img",
    ),
    "deleted": (
        GuestState(Step.RETIRED, published=True, fate=Fate.DELETED),
        OnDisk("/vm.qcow2", None),
        "nothing; or restore: rebuild the original from the overlay",
    ),
    "purged": (
        PURGED,
        OnDisk("/vm.qcow2", None),
        "nothing; or restore: rebuild the original from the overlay",
    ),
    "purged, and its original is back": (PURGED, BOTH, AGAIN),
    "purge": (
        GuestState(Step.RETIRING, Goal.PURGE, published=True),
        BOTH,
        "purge: finish the purge that was started",
    ),
    "restore": (
        GuestState(Step.CHECKED, Goal.RESTORE, published=True),
        BOTH,
        "restore: finish the restore that was started",
    ),
    "restored": (
        RESTORED,
        OnDisk(None, ASIDE),
        f"purge --used: delete the older original {ASIDE}",
    ),
    "restored, not looked at": (RESTORED, None, f"purge --used: delete the older original {ASIDE}"),
    "restored, the older original was written to": (
        RESTORED,
        OnDisk(None, ASIDE, written=Written.ORIGINAL),
        f"find out what is in the older original {ASIDE}: purge keeps it, because it has changed",
    ),
    "restored, the older original was removed": (
        RESTORED,
        OnDisk(None, None),
        f"nothing: the older original {ASIDE} was removed, and purge would only record that",
    ),
    "restored, the rebuilt image is missing": (
        RESTORED,
        OnDisk(None, ASIDE, missing="/vm.img is missing"),
        "bring back the image that restore gave the guest: /vm.img is missing; its older original"
        f" {ASIDE} is left",
    ),
    "restored, both are missing": (
        RESTORED,
        OnDisk(None, None, missing="/vm.img is missing"),
        "bring back the image that restore gave the guest: /vm.img is missing",
    ),
    "doubt": (QUARANTINED, OnDisk(None, None, "move one away: a and b"), "move one away: a and b"),
    "overlay missing": (
        QUARANTINED,
        OnDisk(None, "/vm.img.aside"),
        "its overlay is missing: bring it back, or restore --discard-changes to go back to /vm.img.aside",
    ),
    "both missing": (
        QUARANTINED,
        OnDisk(None, None),
        "its overlay is missing, and so is its original: if they were moved, add --map OLD=NEW",
    ),
    "template missing": (
        QUARANTINED,
        OnDisk("/vm.qcow2", "/vm.img.aside", template=TemplateIs.MISSING),
        "its template is missing: bring it back, or restore --discard-changes to go back to /vm.img.aside",
    ),
    "template and original missing": (
        QUARANTINED,
        OnDisk("/vm.qcow2", None, template=TemplateIs.MISSING),
        "its template is missing: bring it back; if it was moved, add --map OLD=NEW",
    ),
    "template written to": (
        QUARANTINED,
        OnDisk("/vm.qcow2", "/vm.img.aside", template=TemplateIs.WRITTEN_TO),
        "verify: the size or mtime of the template changed, so the overlay may be damaged",
    ),
    "template written to, overlay missing": (
        QUARANTINED,
        OnDisk(None, "/vm.img.aside", template=TemplateIs.WRITTEN_TO),
        "its overlay is missing: bring it back, or restore --discard-changes to go back to /vm.img.aside",
    ),
    "template not to be examined": (
        QUARANTINED,
        OnDisk("/vm.qcow2", "/vm.img.aside", template=TemplateIs.UNKNOWN),
        "verify: a file of the template cannot be examined, perhaps for lack of permission",
    ),
    "template missing, nothing published": (
        GuestState(Step.CHECKED, temporary="/x"),
        OnDisk(None, "/vm.img", template=TemplateIs.MISSING),
        CLEAN,
    ),
    "no overlay yet": (GuestState(Step.CHECKED, temporary="/x"), OnDisk(None, "/vm.img"), CLEAN),
}


@pytest.mark.parametrize(("state", "there", "expected"), NEXT.values(), ids=NEXT)
def test_what_is_next(state, there, expected):
    line = told(state, there)
    assert line.next == expected
    assert line.step == state.step.value


def test_what_was_rolled_back_is_as_planned():
    line = told(GuestState(Step.CHECKED), failure="it is in use")
    assert (line.step, line.failure, line.next) == ("planned", "it is in use", "apply: write the overlay")


def test_in_the_order_of_the_plan():
    names = ["web03", "web01", "web02"]
    plan = plans.small_plan(*[plans.guest_plan(name) for name in names])
    history = History({"web02": GuestState(Step.CHECKED), "other": GuestState(Step.CHECKED)})
    assert [line.name for line in status_rows(plan, history, {})] == names


@pytest.mark.parametrize("guest", [plans.guest_plan("vm"), plans.shared_guest("vm")], ids=["overlay", "share"])
def test_a_stale_guest_is_to_be_planned_again(guest):
    history = History(failures={"vm": "the plan is stale: its modification time changed (mtime). Plan again."})
    (line,) = status_rows(plans.small_plan(guest), history, {})
    assert line.next.startswith("plan again: ")
    (line,) = status_rows(plans.small_plan(guest), History(failures={"vm": "it is in use"}), {})
    assert line.next.startswith("apply: ")


def test_an_original_that_others_depend_on_must_stay():
    bound = replace(BOTH, dependents=("/a.qcow2", "/b.qcow2"))
    state = GuestState(Step.PUBLISHED, published=True)
    stay = "nothing: the original /vm.img must stay, because /a.qcow2 and /b.qcow2 depend on it; or restore"
    assert told(state, bound).next == stay
    used = told(state, replace(bound, written=Written.OVERLAY)).next
    assert used == f"{stay} --discard-changes to go back to /vm.img"
