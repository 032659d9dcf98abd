"""What a report says after apply, quarantine and purge. Guards report/plan/done.py, report/plan/words.py."""

import csv
import io
import json
from dataclasses import replace

import pytest
from plans import guest_plan, refused_guest, savings, shared_guest, small_plan, untouched

from batchdiff.applying.journal.records import Fate
from batchdiff.applying.results.conversion import Conversion, OlderOriginal
from batchdiff.choices import Retire, Verdict
from batchdiff.image.storage.exactness import Exactness
from batchdiff.image_source import ImageFormat
from batchdiff.report.facts import PlanFacts
from batchdiff.report.plan.csv_form import plan_csv
from batchdiff.report.plan.done import done_figures
from batchdiff.report.plan.html_form import plan_html
from batchdiff.report.plan.json_form import plan_json
from batchdiff.report.plan.markdown_form import plan_markdown
from batchdiff.report.plan.text import plan_text
from batchdiff.report.plan.words import next_commands
from batchdiff.units import GIB, MIB

GUESTS = [guest_plan(name, savings=savings(2 * GIB, 100 * MIB)) for name in ("one", "two", "three")]
SAVED = 2 * GIB - 100 * MIB
DEVICE = replace(GUESTS[0].image.fingerprints[0], inode=0)


def conversion(fate, **changes):
    back = SAVED if fate in {Fate.DELETED, Fate.GONE} else 0
    fields = {"overlay_bytes": 100 * MIB, "overlay_disk_bytes": 100 * MIB, "used": False, "came_back_bytes": back}
    return Conversion(fate, **fields | changes)


def facts(*fates, retire=Retire.KEEP, **changes):
    done = {guest.name: conversion(fate, **changes) for guest, fate in zip(GUESTS, fates, strict=False)}
    return PlanFacts(small_plan(*GUESTS, retire=retire), path="fleet.plan.json", conversions=done)


def end_of_report(*fates, **changes):
    return plan_text(facts(*fates, **changes)).split("done\n\n")[-1]


def test_after_an_apply_that_kept_the_originals():
    assert end_of_report(*[Fate.KEPT] * 3) == (
        "3 overlays are in place, and had a total length of 300 MiB when written, as predicted; on disk now:\n"
        "300 MiB (300 MiB predicted).\n"
        "Originals: 3 kept.\n5.7 GiB comes back once you delete the originals that are kept.\n"
    )


def test_after_quarantine_and_a_purge_of_one():
    assert end_of_report(Fate.DELETED, Fate.QUARANTINED, Fate.QUARANTINED).endswith(
        "Originals: 1 deleted, 2 in quarantine.\n"
        "1.9 GiB has come back so far, net of the overlays.\n"
        "3.8 GiB comes back once `batchdiff purge fleet.plan.json --used` deletes the originals in\nquarantine.\n"
    )


def test_after_the_last_purge():
    assert end_of_report(*[Fate.DELETED] * 3).endswith(
        "Originals: 3 deleted.\n5.7 GiB came back, net of the overlays.\n"
    )


def test_space_that_is_lost_does_not_come_back():
    """Two images of 1 byte, for example, take 8 KiB, and their overlays more."""
    costly = [guest_plan(name, savings=savings(4 * MIB, 10 * MIB)) for name in ("one", "two")]

    def costs(fate, back=0):
        done = {guest.name: conversion(fate, came_back_bytes=back) for guest in costly}
        return PlanFacts(small_plan(*costly), path="fleet.plan.json", conversions=done)

    kept, gone = costs(Fate.KEPT), costs(Fate.DELETED, -6 * MIB)
    texts = [" ".join(plan_text(each).split()) for each in (kept, gone)]
    assert texts[0].endswith(
        "Originals: 2 kept. There will be 12 MiB less free space than before `apply`, even once you delete the"
        " originals that are kept."
    )
    assert texts[1].endswith(
        "Originals: 2 deleted. There is 12 MiB less free space than before: the overlays take more than deleting"
        " the originals freed."
    )
    so_far = kept._replace(conversions=dict(kept.conversions) | {"one": conversion(Fate.GONE, came_back_bytes=-1)})
    assert "So far, there is 1 B less free space than before: " in " ".join(plan_text(so_far).split())
    planned = kept._replace(conversions={})
    assert "- comes back: **nothing** (there will be 12 MiB less free space than now)" in plan_markdown(planned)
    assert "- came back: **0 B** (12 MiB less free space planned)" in plan_markdown(kept)
    lost = "12 MiB less free space than before; 12 MiB less free space planned"
    assert f"- came back: **nothing** ({lost})" in plan_markdown(gone)
    assert lost in plan_html(gone)


def test_originals_that_the_operator_removed():
    assert end_of_report(*[Fate.GONE] * 3).endswith(
        "Originals: 3 gone (batchdiff recorded no deletion).\n5.7 GiB came back, net of the overlays.\n"
    )


def test_one_original_is_not_several():
    one = facts(Fate.QUARANTINED)
    one = one._replace(plan=small_plan(GUESTS[0]))
    older = {"one": OlderOriginal("/srv/one.img.batchdiff-original", GIB)}

    def said(fate, **changes):
        done = {"one": conversion(fate, **changes)} if fate else {}
        given_back = {} if fate else {"given_back": frozenset({"one"}), "older_originals": older}
        return " ".join(plan_text(one._replace(conversions=done, **given_back)).split())

    assert "1.9 GiB comes back once you delete the original that is kept." in said(Fate.KEPT)
    assert "--used` deletes the original in quarantine." in said(Fate.QUARANTINED)
    assert "1.9 GiB came back, net of the overlay." in said(Fate.DELETED)
    assert "the overlay takes more than deleting the original freed." in said(Fate.DELETED, came_back_bytes=-1)
    assert "--used` deletes the original in quarantine." in said(None)
    two = " ".join(end_of_report(Fate.KEPT, Fate.QUARANTINED).split())
    assert "deletes the original in quarantine and once you delete the original that is kept." in two


@pytest.mark.parametrize(
    ("devices", "fates", "dependents", "ways"),
    [
        (
            (0,),
            "KK",
            "",
            "once you delete the kept original file, and remove the kept block device or discard what is on",
        ),
        ((0, 1), "KK", "", "once you remove the block devices that are kept, or discard what is on them."),
        ((0,), "KQ", "", "and once you remove the block device that is kept, or discard what is on it."),
        (
            (0,),
            "KKK",
            "three",
            "delete the kept original file that no other image depends on, and remove the kept block device"
            " that no"
            " other image depends on or discard what is on it.",
        ),
        (
            (0, 1),
            "KKK",
            "three",
            "remove the kept block devices that no other image depends on, or discard what is",
        ),
    ],
)
def test_kept_originals_on_block_devices(devices, fates, dependents, ways):
    """They are not deleted; an original in quarantine is no kept one."""
    of = {"K": Fate.KEPT, "Q": Fate.QUARANTINED}
    guests = [
        replace(guest, image=replace(guest.image, fingerprints=(DEVICE,))) if number in devices else guest
        for number, guest in enumerate(GUESTS[: len(fates)])
    ]
    done = {
        guest.name: conversion(of[fate], dependents=("/srv/new.qcow2",) if guest.name == dependents else ())
        for guest, fate in zip(guests, fates, strict=True)
    }
    found = PlanFacts(small_plan(*guests, retire=Retire.KEEP), path="fleet.plan.json", conversions=done)
    assert ways in " ".join(plan_text(found).split())


def test_an_overlay_that_has_been_replaced_is_no_overlay_to_be_replaced():
    plan = small_plan(GUESTS[0])
    source = replace(GUESTS[0].source, format=ImageFormat.QCOW2, backing=(plan.template.source,))
    plan = small_plan(replace(GUESTS[0], source=source), retire=Retire.KEEP)
    before, after = (plan_text(PlanFacts(plan, conversions=done)) for done in ({}, {"one": conversion(Fate.KEPT)}))
    assert "one is an overlay of the template now" in before
    assert "an overlay of the template now" not in after


def test_an_original_whose_state_is_uncertain_is_not_called_kept():
    said = " ".join(end_of_report(Fate.UNKNOWN, Fate.KEPT, Fate.DELETED).split())
    assert (
        "comes back once you delete the original that is kept and once the original whose state is uncertain has"
        " been deleted."
    ) in said
    assert "comes back once the originals whose state is uncertain have been deleted." in " ".join(
        end_of_report(Fate.UNKNOWN, Fate.UNKNOWN, Fate.DELETED).split()
    )


def test_what_is_left_to_do_is_counted_by_itself():
    said = " ".join(end_of_report(Fate.DELETED, Fate.DELETED).split())
    assert "2 overlays are in place" in said
    assert (
        "`batchdiff apply` will write 1 overlay beside its guest, verify it against its original, and keep the"
        " original: the 1.9 GiB comes back only once you delete it. While apply runs, it needs up to 100 MiB of"
        " free disk space"
    ) in said


def test_no_prediction_includes_a_restored_guest():
    """And what its rebuilt image left in quarantine is not forgotten."""
    older = {"three": OlderOriginal("/srv/three.img.batchdiff-original", 3 * GIB)}
    found = facts(Fate.DELETED, Fate.QUARANTINED)._replace(given_back=frozenset({"three"}), older_originals=older)
    said = " ".join(plan_text(found).split())
    assert "total 4 GiB 200 MiB 200 MiB 3.8 GiB 95.1% 2 of 2 done" in said
    assert "three 2 GiB 100 MiB - 1.9 GiB 95.1% restored" in said
    assert "Originals: 1 deleted, 1 in quarantine, 1 older original in quarantine." in said
    assert "three was restored, and no total includes it. `batchdiff apply fleet.plan.json --guest three`" in said
    assert (
        "--guest three` converts it again. For an image that was rebuilt or has changed since, make a new plan."
        in said
    )
    assert "The older original of three, still in quarantine, takes 3 GiB on disk" in said
    assert "will write" not in said
    assert "- came back: **1.9 GiB** (of 3.8 GiB planned)" in plan_markdown(found)
    assert "- guests converted: **2 of 2** (1 restored since)" in plan_markdown(found)
    assert "purge" in [command.split()[1] for _, command in next_commands(found)]
    assert "restored since" in plan_html(found)


def test_all_guests_were_restored():
    found = facts()._replace(given_back=frozenset({"one", "two", "three"}))
    said = " ".join(plan_text(found).split())
    assert "one, three and two were restored, and no total includes them" in said
    assert "--guest NAME` converts one of them again." in said
    assert "nothing to convert" not in said
    assert "total" not in said.partition("one, three")[0]
    assert "apply" not in [command.split()[1] for _, command in next_commands(found)]


def test_predictions_that_were_wrong_are_shown():
    said = " ".join(end_of_report(Fate.KEPT, overlay_bytes=101 * MIB, overlay_disk_bytes=90 * MIB).split())
    assert "1 overlay is in place, and had a length of 101 MiB when written (100 MiB predicted)" in said
    assert "on disk now: 90 MiB (100 MiB predicted)" in said


def test_overlays_that_vms_have_used_or_that_are_gone():
    assert "The mtime of 2 of them has changed since: their VMs have probably run on them." in " ".join(
        end_of_report(Fate.KEPT, Fate.KEPT, used=True).split()
    )
    alone = " ".join(end_of_report(Fate.KEPT, used=True).split())
    assert "Its mtime has changed since: its VM has probably run on it." in alone
    some = facts(Fate.KEPT, Fate.KEPT)
    used = dict(some.conversions) | {"one": conversion(Fate.KEPT, used=True)}
    said = " ".join(plan_text(some._replace(conversions=used)).split())
    assert "The mtime of 1 of them has changed since: its VM has probably run on it." in said
    lost = " ".join(end_of_report(Fate.KEPT, overlay_disk_bytes=None).split())
    assert lost.startswith("1 overlay cannot be found or read now. Originals: 1 kept.")


def test_overlays_that_are_gone_are_not_in_place():
    found = facts(Fate.KEPT, Fate.KEPT)
    found = found._replace(
        conversions=dict(found.conversions) | {"one": conversion(Fate.KEPT, overlay_disk_bytes=None)}
    )
    assert (
        "1 overlay is in place, and had a length of 100 MiB when written, as predicted; on disk now: 100 MiB"
        " (100 MiB predicted). 1 overlay cannot be found or read now. Originals: 2 kept."
    ) in " ".join(plan_text(found).split())
    assert "- overlays take: **100 MiB** (on disk now; predicted 100 MiB)" in plan_markdown(found)


def test_every_form_has_predicted_beside_actual():
    found = facts(Fate.DELETED, Fate.QUARANTINED, overlay_bytes=101 * MIB, aside="/srv/two.img.batchdiff-original")
    one = json.loads(plan_json(found))["guests"][0]["conversion"]
    assert one == {
        "original": "deleted",
        "quarantined_as": "/srv/two.img.batchdiff-original",
        "actual_overlay_bytes": 101 * MIB,
        "actual_overlay_disk_bytes": 100 * MIB,
        "used": False,
        "came_back_bytes": SAVED,
        "dependents": [],
    }
    line = next(csv.DictReader(io.StringIO(plan_csv(found))))
    names = ("overlay_bytes", "actual_overlay_bytes", "original", "came_back_bytes")
    assert [line[name] for name in names] == [str(100 * MIB), str(101 * MIB), "deleted", str(SAVED)]
    assert "| one | 2 GiB | 100 MiB | 101 MiB | 1.9 GiB | 95.1% | deleted |" in plan_markdown(found)
    assert "- came back: **1.9 GiB** (of 5.7 GiB planned)" in plan_markdown(found)
    page = plan_html(found)
    assert '<td class="number">100 MiB</td><td class="number">1.9 GiB</td>' not in page
    assert "the overlay was 101 MiB long when written (100 MiB predicted)" in page
    assert page.count('data-key="actual"') == 1
    assert "no longer" not in page


@pytest.mark.parametrize(
    ("fates", "verbs"),
    [
        ((), ["apply", "status", "restore"]),
        ((Fate.KEPT,), ["apply", "definitions", "status", "restore"]),
        ((Fate.QUARANTINED,) * 3, ["definitions", "status", "purge", "restore"]),
        ((Fate.DELETED,) * 3, ["definitions", "status", "restore"]),
    ],
)
def test_the_commands_are_those_that_make_sense_now(fates, verbs):
    assert [command.split()[1] for _, command in next_commands(facts(*fates))] == verbs


def test_nothing_to_convert_has_no_originals_and_no_purge():
    skipped = guest_plan("one", verdict=Verdict.SKIP, reason="!", savings=savings())
    report = plan_markdown(PlanFacts(small_plan(skipped, retire=Retire.QUARANTINE), path="fleet.plan.json"))
    assert "purge" not in report
    assert "originals" not in report
    assert "total" not in report


@pytest.mark.parametrize("form", [plan_text, plan_markdown])
@pytest.mark.parametrize("fates", [[], [Fate.DELETED, Fate.KEPT]])
def test_a_selection_without_guests_to_convert_ends_with_its_own_guests(form, fates):
    """A footnote or a total is about the guests in the table."""
    skipped = guest_plan("small", verdict=Verdict.SKIP, reason="it is small")
    plan = small_plan(*GUESTS, skipped, refused_guest())
    whole = facts(*fates)._replace(plan=plan)
    end = form(whole._replace(selection=[skipped])).rstrip().splitlines()[-1]
    assert end.lstrip("| ").startswith("small ")
    assert not form(whole).rstrip().splitlines()[-1].lstrip("| ").startswith("small ")


@pytest.mark.parametrize("form", [plan_text, plan_markdown, plan_html])
def test_a_selection_without_a_guest_is_a_sentence(form):
    found = PlanFacts(small_plan(guest_plan(), refused_guest()), selection=[])
    said = " ".join(form(found).split())
    assert "No guest of the plan has a verdict chosen with" in said
    assert "of these" not in said


def test_commands_in_sentences_are_code_on_the_page():
    page = plan_html(facts(*[Fate.QUARANTINED] * 3))
    assert "comes back once <code>batchdiff purge fleet.plan.json --used</code> deletes" in page
    assert "`" not in page.split("<script>")[0]


def test_an_original_that_others_depend_on_is_named_and_left_out_of_the_sum():
    """The operator may have made it a template since."""
    done = facts(*[Fate.KEPT] * 3)
    bound = conversion(Fate.KEPT, dependents=("/srv/new.qcow2", "/srv/newer.qcow2"))
    both = done._replace(conversions=dict(done.conversions) | {"two": bound})
    said = " ".join(plan_text(both).split())
    assert (
        "Originals: 3 kept. 3.8 GiB comes back once you delete the kept originals that no other image depends on."
        in said
    )
    assert (
        f"Do not delete {GUESTS[1].source.path} while any image depends on it: /srv/new.qcow2 and"
        " /srv/newer.qcow2." in said
    )
    of = {guest["name"]: guest["conversion"]["dependents"] for guest in json.loads(plan_json(both))["guests"]}
    assert of["two"] == ["/srv/new.qcow2", "/srv/newer.qcow2"]
    assert sum(map(len, of.values())) == 2
    alone = " ".join(end_of_report(*[Fate.KEPT] * 3, dependents=("/srv/new.qcow2",)).split())
    assert "comes back once you delete" not in alone
    assert alone.count(" while any image depends on it: /srv/new.qcow2.") == 3


def test_a_plan_with_both_strategies_speaks_of_both():
    overlay, share = guest_plan("one"), shared_guest("other")
    mixed = PlanFacts(small_plan(overlay, share), path="p.json")
    assert next_commands(mixed)[0] == (
        "Convert guests, and let the others share blocks:",
        "batchdiff apply p.json",
    )
    skipped = [untouched(guest, Verdict.SKIP, "!") for guest in (overlay, share)]
    for guests, work in (
        (skipped, "convert or to share"),
        (skipped[:1], "convert"),
        (skipped[1:], "share"),
    ):
        assert plan_text(PlanFacts(small_plan(*guests))).endswith(f"There is nothing to {work}.\n")


@pytest.mark.parametrize("back", [100, -100])
def test_savings_that_are_not_known_are_an_amount(back):
    unknown = guest_plan("one", savings=savings(4 * MIB, MIB, exactness=Exactness.UNKNOWN, note="x"))
    known = guest_plan("two", savings=savings(4 * MIB, MIB))
    for done in ((unknown,), (known,)):
        conversions = {guest.name: conversion(Fate.DELETED, came_back_bytes=back) for guest in done}
        figures = done_figures(PlanFacts(small_plan(unknown, known), conversions=conversions))
        remarks = {label: remark for label, _, remark in figures}
        lost = "100 B less free space than before; " if back < 0 and done == (known,) else ""
        assert remarks["came back"] == f"{lost}an unknown amount planned"


def test_a_share_that_is_not_known_is_left_out():
    unknown = guest_plan("one", savings=savings(4 * MIB, MIB, exactness=Exactness.UNKNOWN, note="x"))
    assert "- comes back: **unknown** (of 4 MiB)" in plan_markdown(PlanFacts(small_plan(unknown)))
