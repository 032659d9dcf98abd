"""What has changed between two plans. Guards report/plan/comparison.py."""

import dataclasses

import pytest
from plans import guest_plan, refused_guest, savings, small_plan

from batchdiff.applying.journal.records import Fate
from batchdiff.applying.results.conversion import Conversion
from batchdiff.choices import Verdict
from batchdiff.image.storage.exactness import Exactness
from batchdiff.report.facts import PlanFacts
from batchdiff.report.plan.comparison import SizeChange, compared, comparison_report, sentences
from batchdiff.report.plan.json_form import plan_report
from batchdiff.units import GIB, MIB, format_size

OLD = small_plan(guest_plan("web01"), guest_plan("web02"), guest_plan("db01"), refused_guest("log01"))
NEW = small_plan(
    guest_plan("web01"),
    guest_plan("db01", savings=savings(2 * GIB, 300 * MIB)),
    guest_plan("log01", savings=savings(GIB, 100 * MIB)),
    guest_plan("app01", savings=savings(GIB, 100 * MIB)),
)


def test_what_came_went_grew_and_was_decided_otherwise():
    found = compared(OLD, NEW)
    assert (found.appeared, found.gone) == (["app01"], ["web02"])
    assert found.verdicts == [("log01", "refuse", "convert")]
    assert found.changes == [SizeChange("db01", 256 * MIB, 300 * MIB)]


def test_in_words():
    assert list(sentences(compared(OLD, NEW))) == [
        "Saved: 5.2 GiB in the plan of 2026-01-02T03:04:05Z, 5.3 GiB now.",
        "1 guest is not in the older plan: app01.",
        "1 guest is only in the older plan: web02.",
        "log01: refuse in the older plan, convert now.",
        "db01: its overlay grew from 256 MiB to 300 MiB.",
    ]


def test_the_largest_growth_comes_first():
    old = small_plan(*(guest_plan(name, savings=savings(GIB, 100 * MIB)) for name in "abc"))
    sizes = {"a": 90, "b": 101, "c": 150}
    new = small_plan(*(guest_plan(name, savings=savings(GIB, size * MIB)) for name, size in sizes.items()))
    assert [change.name for change in compared(old, new).changes] == ["c", "b", "a"]
    assert list(sentences(compared(old, new)))[-1] == "a: its overlay shrank from 100 MiB to 90 MiB."


def test_guests_that_are_done_are_no_loss():
    reason = "done by /srv/old.plan.json"
    new = small_plan(
        *(guest_plan(name, verdict=Verdict.SKIP, reason=reason) for name in ("web01", "web02")),
        guest_plan("db01"),
        guest_plan("log01", verdict=Verdict.SKIP, reason="it is small"),
    )
    old = small_plan(*(guest_plan(name) for name in ("web01", "web02", "db01", "log01")))
    back = {
        "web01": Conversion(Fate.DELETED, MIB, MIB, False, 200 * MIB),
        "web02": Conversion(Fate.KEPT, MIB, MIB, False, 0),
    }
    planned = format_size(2 * guest_plan("web01").diff.savings.saved_bytes)
    assert list(sentences(compared(old, new), back))[1:] == [
        f"web01 and web02: convert in the older plan, done now; 200 MiB of {planned} planned has come back so far."
        " The new plan's savings include neither figure.",
        "log01: convert in the older plan, skip now.",
    ]
    assert list(sentences(compared(old, new)))[1].endswith(f"do not include those planned for them ({planned}).")


@pytest.mark.parametrize("exactness", [Exactness.UNKNOWN, Exactness.AT_LEAST])
def test_nothing_has_come_back_as_long_as_originals_are_kept(exactness):
    """That is exact, whatever the savings will be."""
    guest = guest_plan("web01", savings=dataclasses.replace(savings(4 * MIB, MIB), exactness=exactness))
    new = small_plan(guest_plan("web01", verdict=Verdict.SKIP, reason="done by /srv/old.plan.json"))
    back = {"web01": Conversion(Fate.KEPT, MIB, MIB, False, 0)}
    planned = "an unknown amount" if exactness is Exactness.UNKNOWN else "at least 3 MiB"
    assert list(sentences(compared(small_plan(guest), new), back))[1] == (
        f"web01: convert in the older plan, done now; 0 B of {planned} planned has come back so far."
        " The new plan's savings include neither figure."
    )


def test_conversions_that_took_space():
    costly = guest_plan("web01", savings=savings(MIB, 3 * MIB))
    new = small_plan(guest_plan("web01", verdict=Verdict.SKIP, reason="done by /srv/old.plan.json"))
    back = {"web01": Conversion(Fate.DELETED, MIB, MIB, False, -2 * MIB)}
    assert list(sentences(compared(small_plan(costly), new), back))[1] == (
        "web01: convert in the older plan, done now; free space has changed by -2 MiB so far (-2 MiB planned)."
        " The new plan's savings include neither figure."
    )


def test_nothing_has_changed():
    assert list(sentences(compared(OLD, OLD)))[1:] == ["Guests, verdicts and overlay sizes are the same."]


def test_another_template_or_content():
    digest = dataclasses.replace(OLD, template_digest="xxh3-128-64m-512k:" + "1f" * 16)
    assert "The template's content has changed since the older plan." in sentences(compared(OLD, digest))
    # Once guests share their blocks with it, a plan has no digest of the template.
    sharing = dataclasses.replace(OLD, template_digest="")
    assert list(sentences(compared(OLD, sharing)))[1:] == ["Guests, verdicts and overlay sizes are the same."]
    copied = [dataclasses.replace(each, device=99, inode=99, filesystem="") for each in OLD.template.fingerprints]
    moved = dataclasses.replace(OLD.template, fingerprints=tuple(copied))
    found = compared(OLD, dataclasses.replace(sharing, template=moved))
    assert list(sentences(found))[1:] == ["Guests, verdicts and overlay sizes are the same."]
    assert comparison_report(found)["template_changed"] is False
    written = [dataclasses.replace(each, mtime_ns=1) for each in OLD.template.fingerprints]
    changed = dataclasses.replace(OLD.template, fingerprints=tuple(written))
    found = compared(OLD, dataclasses.replace(sharing, template=changed))
    may = (
        "The size or mtime of the template, or the number of its files, has changed since the older plan, so its"
        " content may have changed."
    )
    assert may in sentences(found)
    source = dataclasses.replace(OLD.template.source, path="/srv/images/debian-11.qcow2")
    other = dataclasses.replace(OLD, template=dataclasses.replace(OLD.template, source=source))
    assert "The older plan is for another template, /srv/images/debian-11.qcow2." in list(
        sentences(compared(other, OLD))
    )


def test_as_json():
    against = plan_report(PlanFacts(NEW, older=OLD))["against"]
    assert against["overlay_bytes"] == [{"name": "db01", "older": 256 * MIB, "newer": 300 * MIB}]
    assert "against" not in plan_report(PlanFacts(NEW))


def test_savings_that_are_not_known():
    unknown = guest_plan("web01", savings=savings(exactness=Exactness.UNKNOWN, note="x"))
    old = small_plan(unknown)
    skipped = guest_plan("web01", verdict=Verdict.SKIP, reason="done by /srv/old.plan.json")
    assert next(sentences(compared(old, old))) == (
        "Saved: an unknown amount in the plan of 2026-01-02T03:04:05Z, an unknown amount now."
    )
    assert list(sentences(compared(old, small_plan(skipped))))[1].endswith("planned for it (an unknown amount).")
