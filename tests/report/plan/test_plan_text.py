"""The savings report of a plan, as an operator reads it.

Guards report/facts.py, report/figures.py, report/plan/words.py, report/plan/remarks.py.
"""

import dataclasses
import os

import pytest
from hypothesis import given, settings
from plans import guest_plan, planned_image, plans, refused_guest, savings, small_plan

from batchdiff.choices import Retire, Verdict
from batchdiff.files.fingerprint import Fingerprint
from batchdiff.image.storage.exactness import Exactness
from batchdiff.image.storage.overlayfs import CopyUp
from batchdiff.plan.overlay_options import Compat, Compression, Encryption, OverlayOptions
from batchdiff.plan.plan import Similarity, why_unlike
from batchdiff.plan.totals import totals_of
from batchdiff.report.facts import PlanFacts
from batchdiff.report.figures import of_several
from batchdiff.report.plan import text as form
from batchdiff.report.plan.words import main_figures
from batchdiff.report.table import cells
from batchdiff.units import GIB, MIB, few

WEB = guest_plan("web01", savings=savings(10 * GIB, 512 * MIB))
CACHE = guest_plan(
    "cache01",
    verdict=Verdict.SKIP,
    reason="it would save 3.1%, which is below the minimum of 5.0%",
    savings=savings(4 * GIB, 4 * GIB - 127 * MIB),
)
PACKED = guest_plan(
    "db01",
    options=OverlayOptions(cluster_size=131072, compression=Compression.ZSTD),
    savings=savings(12 * GIB, 1100 * MIB, 11 * MIB),
)


def plan_text(plan, *, width=100, **facts):
    return form.plan_text(PlanFacts(plan, **facts), width)


def line_of(report, name):
    return next(line for line in report.splitlines() if line.startswith(name))


def flat(report):
    return " ".join(report.split())


def test_who_has_encrypted_overlays_is_told_to_keep_the_secrets():
    options = OverlayOptions(encryption=Encryption("/srv/keys/web02"))
    report = flat(plan_text(small_plan(WEB, guest_plan("web02", options=options))))
    assert "web02: the overlay is encrypted. Its VM needs the secret" in report
    assert "web01: the overlay" not in report
    two = [guest_plan(name, options=options) for name in ("web02", "web03")]
    several = flat(plan_text(small_plan(*two)))
    assert "web02 and web03: the overlays are encrypted. Their VMs need the secrets" in several


def test_the_whole_report():
    report = plan_text(small_plan(WEB, CACHE, refused_guest("old", "it is in use")))
    assert report == (
        "3 guests on the template /srv/images/template.qcow2 (qcow2, 8 MiB)\n"
        "planned 2026-01-02T03:04:05Z from /srv/fleet.yaml\n"
        "\n"
        "refuse  old: it is in use\n"
        "skip    cache01: it would save 3.1%, which is below the minimum of 5.0%\n"
        "\n"
        "guest    allocated  overlay    saved  share  cluster  verdict\n"
        "web01       10 GiB  512 MiB  9.5 GiB  95.0%   64 KiB  convert\n"
        "total       10 GiB  512 MiB  9.5 GiB  95.0%           1 of 3\n"
        "\n"
        "old              -        -        -      -   64 KiB  refuse\n"
        "cache01      4 GiB  3.9 GiB  127 MiB   3.1%   64 KiB  skip\n"
        "\n"
        "`batchdiff apply` will write 1 overlay beside its guest, verify it against its original, and keep\n"
        "the original: the 9.5 GiB comes back only once you delete it.\n"
        "While apply runs, it needs up to 512 MiB of free disk space.\n"
        "The template will lose its write permission: a write to it would damage every overlay.\n"
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            OverlayOptions(cluster_size=131072, extended_l2=True),
            "subclusters of 4 KiB (extended_l2, from QEMU 5.2 on)",
        ),
        (OverlayOptions(compression=Compression.ZSTD), "zstd compression (from QEMU 5.1 on)"),
        (
            OverlayOptions(compression=Compression.ZSTD, compression_level=19, refcount_bits=1),
            "zstd level 19 compression (from QEMU 5.1 on), refcounts of 1 bit",
        ),
        (
            OverlayOptions(compression=Compression.ZLIB, compression_level=9, compat=Compat.V2),
            "qcow2 version 2 (compat 0.10), zlib level 9 compression",
        ),
        (OverlayOptions(refcount_bits=64, lazy_refcounts=True), "refcounts of 64 bits, lazy refcounts"),
    ],
)
def test_options_that_decide_who_can_read_an_overlay(options, sentence):
    one, two = (guest_plan(name, options=options, savings=savings()) for name in ("a", "b"))
    assert f"note a: the overlay uses {sentence}. " in flat(plan_text(small_plan(one)))
    assert f"note a and b: the overlays use {sentence}. " in flat(plan_text(small_plan(one, WEB, two)))


def test_usual_options_need_no_note():
    usual = guest_plan("a", options=OverlayOptions(4096, compression=Compression.ZLIB), savings=savings())
    assert "note" not in plan_text(small_plan(usual, WEB))


def test_one_guest_needs_no_totals():
    report = plan_text(small_plan(WEB))
    assert report.startswith("1 guest on the template")
    assert "total" not in report


def test_what_is_stale_comes_before_the_numbers():
    report = plan_text(small_plan(WEB), stale=["/srv/clones/web01.img: its modification time changed (mtime)"])
    assert "WARNING: this plan is stale" in report
    assert report.index("  - /srv/clones/web01.img: its modification time changed (mtime)") < report.index(
        "allocated"
    )
    assert "WARNING" not in plan_text(small_plan(WEB))


def test_an_estimate_is_marked_with_its_error():
    report = plan_text(small_plan(WEB, PACKED))
    assert "~1.1 GiB ±11 MiB" in line_of(report, "db01")
    assert "~1.6 GiB ±11 MiB" in line_of(report, "total")
    assert "~10.9 GiB" in line_of(report, "db01")
    assert "~20.4 GiB" in line_of(report, "total")
    assert "~" not in line_of(report, "web01")
    assert "~ marks the estimated size" in report
    assert "~" not in plan_text(small_plan(WEB))


@pytest.mark.parametrize(
    ("retire", "said"),
    [
        (Retire.KEEP, "and keep the originals: the 20.4 GiB comes back only once you delete them."),
        (
            Retire.QUARANTINE,
            "and then quarantine the originals as NAME.batchdiff-original: the 20.4 GiB comes back only with"
            " `batchdiff purge`.",
        ),
        (Retire.DELETE, "and then delete the originals, which frees 20.4 GiB."),
    ],
)
def test_the_fate_of_the_originals(retire, said):
    assert said in flat(plan_text(small_plan(WEB, PACKED, retire=retire)))


DEVICE = Fingerprint(device=1, inode=0, size=2 * GIB, mtime_ns=0, ctime_ns=0)


def on_device(name, **changes):
    image = dataclasses.replace(planned_image(f"/dev/vg/{name}"), fingerprints=(DEVICE,))
    return guest_plan(name, image=image, overlay_path=f"/srv/{name}.qcow2", **changes)


@pytest.mark.parametrize("retire", Retire)
@pytest.mark.parametrize(
    ("guests", "said"),
    [
        ([on_device("a")], "the 1.8 GiB comes back only once you remove it, or discard what is on it."),
        (
            [on_device("a", savings=savings(overlay=3 * GIB)), on_device("b", savings=savings(overlay=2 * GIB))],
            "even after you remove them, or discard what is on them, there will be 1 GiB less free space",
        ),
    ],
)
def test_no_block_device_can_be_deleted(retire, guests, said):
    plan = small_plan(*guests, retire=retire)
    assert said in flat(plan_text(plan))
    figures = {label: f"{figure}, {remark}" for label, figure, remark in main_figures(PlanFacts(plan))}
    assert figures["originals"] == "kept, the space comes back once you remove them, or discard what is on them"


def test_files_can_be_deleted():
    larger = guest_plan("web02", savings=savings(overlay=5 * GIB))
    for retire, end in ((Retire.KEEP, ":"), (Retire.QUARANTINE, " as NAME.batchdiff-original:")):
        said = flat(plan_text(small_plan(larger, retire=retire)))
        assert f"the original{end} even after you delete it, there will be 3 GiB less free space than now." in said


def test_the_space_is_that_of_the_command_that_is_advised():
    """With deletion fewer overlays at once need less; without it, it is all of them in any case."""
    guests = [guest_plan(name, path=f"/srv/{name}.img", savings=savings(GIB, 100 * MIB)) for name in "abcdef"]
    plan = small_plan(*guests, retire=Retire.DELETE)
    said = "it needs up to 500 MiB of free disk space with 4 guests in progress (`-j 4`), or 200 MiB with"
    assert f"{said} `-j 1`. With less than 500 MiB free, it works on fewer" in flat(plan_text(plan, jobs=4))
    assert "up to 600 MiB of free disk space with 6 guests in progress (`-j 16`), or" in flat(
        plan_text(plan, jobs=16)
    )
    assert "up to 200 MiB of free disk space." in flat(plan_text(plan, jobs=1))
    for retire in (Retire.KEEP, Retire.QUARANTINE):
        assert "up to 600 MiB of free disk space." in flat(plan_text(small_plan(*guests, retire=retire)))


def test_an_unprotected_template_is_not_said_to_be_protected():
    assert "write permission" in plan_text(small_plan(WEB))
    assert "write permission" not in plan_text(small_plan(WEB, protect_template=False))
    assert "write permission" not in plan_text(small_plan(WEB), read_only=True)


def test_what_is_saved_is_counted_by_what_the_overlay_takes_on_disk():
    thin = guest_plan(savings=savings(10 * GIB, GIB, overlay_disk_bytes=256 * MIB, saved_bytes=9984 * MIB))
    packed = guest_plan("db01", overlay_path="/x", savings=savings(GIB, 100 * MIB, MIB))
    note = '"saved" is based on the disk space that the overlays take, '
    said = (
        '"saved" is based on the disk space that the overlay takes, 256 MiB, not on the length of its file,'
        " which has holes."
    )
    assert said in flat(plan_text(small_plan(thin)))
    assert f"{note}about 356 MiB in all, not on the length of their files, which have holes." in flat(
        plan_text(small_plan(thin, packed))
    )
    assert note not in plan_text(small_plan(WEB, packed))
    small = guest_plan(savings=savings(10 * GIB, 3 * 512, overlay_disk_bytes=4096))
    said = "the disk space that the overlay takes, 4 KiB, not on the length of its file."
    assert said in flat(plan_text(small_plan(small)))
    assert "shared with other files" not in plan_text(small_plan(thin))


def test_that_shared_blocks_keep_the_table_from_adding_up_is_said():
    shared = guest_plan(savings=savings(10 * GIB, GIB, reclaimable_bytes=2 * GIB, saved_bytes=GIB))
    assert '"saved" does not count space that is shared with other files' in plan_text(small_plan(shared))


def test_overlays_in_the_place_of_their_guests():
    one, two = (guest_plan(name, overlay_path=f"/srv/clones/{name}.img") for name in ("a", "b"))
    beside = guest_plan("c")
    assert "write 1 overlay in place of its guest, verify" in flat(plan_text(small_plan(one)))
    assert "write 2 overlays in place of their guests, verify" in flat(plan_text(small_plan(one, two)))
    report = flat(plan_text(small_plan(one, two, beside)))
    assert "write 3 overlays, 2 of them in place of their guests, verify" in report


def test_where_the_overlays_go():
    there = guest_plan("a", overlay_path="/thin/a.qcow2")
    elsewhere = guest_plan("b", overlay_path="/other/b.qcow2")
    assert "2 overlays beside their guests" in flat(plan_text(small_plan(WEB, PACKED)))
    assert "1 overlay in /thin," in flat(plan_text(small_plan(there)))
    assert "3 overlays in 3 folders" in flat(plan_text(small_plan(WEB, there, elsewhere)))


def test_a_guest_that_would_grow_shows_it():
    grown = guest_plan("full", verdict=Verdict.SKIP, reason="!", savings=savings(GIB, GIB + 100 * MIB))
    assert "-100 MiB  -9.8%" in line_of(plan_text(small_plan(grown)), "full")


def test_an_empty_guest_has_no_share():
    empty = guest_plan("void", verdict=Verdict.SKIP, reason="!", savings=savings(0, 0))
    assert line_of(plan_text(small_plan(empty)), "void").split()[-4:] == ["-", "64", "KiB", "skip"]


def test_a_guest_to_convert_may_have_a_note_too():
    assert "convert web01: it lost a bitmap" in flat(plan_text(small_plan(guest_plan(reason="it lost a bitmap"))))


def test_a_cluster_size_that_was_never_chosen_is_auto():
    guest = refused_guest("old", options=OverlayOptions(cluster_size=None))
    assert line_of(plan_text(small_plan(guest)), "old").split() == [
        "old",
        "-",
        "-",
        "-",
        "-",
        "auto",
        "refuse",
    ]


@pytest.mark.parametrize("guests", [(refused_guest(),), (CACHE, refused_guest())])
def test_nothing_to_convert_is_said(guests):
    report = plan_text(small_plan(*guests))
    assert report.endswith("There is nothing to convert.\n")
    assert "apply" not in report


def test_a_plan_without_guests_is_shown():
    assert "0 guests on the template" in plan_text(
        small_plan(guests=(), totals=small_plan(refused_guest()).totals)
    )


def test_no_name_path_or_reason_reaches_the_terminal_raw():
    evil = os.fsdecode(b"\x1b[2J\n\xe2\x80\xae\xff")
    plan = small_plan(
        guest_plan(evil, verdict=Verdict.SKIP, reason=evil, overlay_path=f"/{evil}/x"),
        guest_plan("b", path=f"/{evil}.img"),
        template=planned_image(f"/{evil}"),
        manifest_path=f"/{evil}",
        created=evil,
    )
    report = plan_text(plan, stale=[evil])
    assert report.replace("\n", "").isprintable()
    assert report.encode().count(b"\\x1b[2J\\n\\u202e\\udcff") == 7


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_report_fits_the_terminal(width):
    guests = [
        guest_plan(f"clone-of-a-template-with-quite-a-long-name-{n:04}", savings=PACKED.diff.savings)
        for n in range(3)
    ]
    report = plan_text(small_plan(*guests, CACHE, refused_guest(reason="word " * 60)), width=width)
    assert max(map(cells, report.splitlines())) <= width
    assert "0002  " in report


@settings(max_examples=50)
@given(plans())
def test_any_plan_can_be_shown(plan):
    report = plan_text(plan)
    assert report.replace("\n", "").isprintable()
    assert len(report.splitlines()) > len(plan.guests) + 3


def done_guest(name, plan="/srv/fleet.2026-01-01T000000Z.plan.json"):
    return refused_guest(name, f"done by {plan}", verdict=Verdict.SKIP)


def test_guests_that_are_done_are_one_line():
    done = [done_guest(f"web{number:02}") for number in range(2, 102)]
    other = done_guest("old", "/srv/older.json")
    report = plan_text(small_plan(*done[:50], WEB, other, *done[50:]))
    assert "skip    web02, web03 and 98 more: done by /srv/fleet.2026-01-01T000000Z.plan.json\n" in report
    assert "skip    old: done by /srv/older.json\n" in report
    assert report.startswith("102 guests on the template")
    assert line_of(report, "total").endswith("1 of 102")
    assert len(report.splitlines()) < 20


def test_guests_that_were_compared_keep_their_numbers():
    alike = [guest_plan(name, verdict=Verdict.SKIP, reason="!", savings=savings(GIB, GIB)) for name in "abc"]
    report = plan_text(small_plan(*alike))
    assert all(line_of(report, name).endswith("skip") for name in "abc")
    assert "skip    a, b and c: !\n" in report


def test_a_reason_of_several_guests_is_in_the_plural():
    reason = why_unlike(Similarity(0, 1))
    guests = [guest_plan(name, verdict=Verdict.SKIP, reason=reason, savings=savings(1, 2)) for name in "ab"]
    one, two = (" ".join(plan_text(small_plan(*chosen)).split()) for chosen in (guests[:1], guests))
    assert "skip a: it has nothing in common with the template: was it copied from another one?" in one
    assert "skip a and b: they have nothing in common with the template: were they copied from another" in two


def test_discover_is_named_only_if_a_guest_is_unlike_the_template():
    note = "`batchdiff discover` finds the template of a guest that was copied from another template."
    unlike = guest_plan("other", similarity=Similarity(0, 1))
    assert f"note {note}" in " ".join(plan_text(small_plan(unlike)).split())
    assert "discover" not in plan_text(small_plan(guest_plan("web", similarity=Similarity(9, 10))))


@pytest.mark.parametrize(
    ("one", "several"),
    [
        ("it is already an overlay of this template", "each is already an overlay of this template"),
        ("its overlay would not be smaller", "the overlay of each would not be smaller"),
        ("done by /srv/p.json", "done by /srv/p.json"),
        (
            "its disk is smaller than the template's (1 MiB and 2 MiB). Was it copied from another template?",
            "the disk of each is smaller than the template's (1 MiB and 2 MiB). Were they copied from another"
            " template?",
        ),
        (
            "ext4 cannot let existing files share blocks (FIDEDUPERANGE). Use `strategy: overlay` for this"
            " guest, or"
            " move template and guest to XFS or btrfs",
            "ext4 cannot let existing files share blocks (FIDEDUPERANGE). Use `strategy: overlay` for these"
            " guests,"
            " or move template and guests to XFS or btrfs",
        ),
        (
            "only QEMU can read its data, because it is compressed or encrypted; use `strategy: overlay` for this"
            " guest",
            "only QEMU can read their data, because it is compressed or encrypted; use `strategy: overlay` for"
            " these guests",
        ),
    ],
)
def test_reasons_of_several_guests(one, several):
    assert of_several(one) == several


def test_guests_that_are_refused_for_one_reason_are_one_line_and_all_in_the_table():
    refused = [refused_guest(name) for name in ("aa", "bb", "cc", "dd")]
    report = plan_text(small_plan(*refused[:2], refused_guest("other", "it is damaged"), *refused[2:]))
    assert "refuse  aa, bb and 2 more: each is in use\nrefuse  other: it is damaged\n" in report
    assert all(line_of(report, name).endswith("refuse") for name in ("aa", "bb", "cc", "dd", "other"))


def test_nothing_but_guests_that_are_done_is_no_table():
    report = plan_text(small_plan(done_guest("a"), done_guest("b\x1b")))
    assert report.endswith(
        "\n\nskip    a and b\\x1b: done by /srv/fleet.2026-01-01T000000Z.plan.json\n\n"
        "There is nothing to convert.\n"
    )
    assert "verdict" not in report


@pytest.mark.parametrize(
    ("names", "text"),
    [("", ""), ("a", "a"), ("ab", "a and b"), ("abc", "a, b and c"), ("abcd", "a, b and 2 more")],
)
def test_few_names(names, text):
    assert few(names) == text


def bounded(name, exactness, note, saved=9 * GIB):
    return guest_plan(
        name, overlay_path=f"/x/{name}", savings=savings(exactness=exactness, note=note, saved_bytes=saved)
    )


def test_on_which_side_a_number_may_be_off_is_said_in_words():
    least = [bounded(name, Exactness.AT_LEAST, "btrfs compresses it") for name in ("a", "b")]
    report = plan_text(small_plan(WEB, *least, retire=Retire.DELETE))
    assert "at least 9 GiB" in next(line for line in report.splitlines() if line.startswith("a "))
    assert 'a and b: "saved" is at least 18 GiB in all, because btrfs compresses it.' in flat(report)
    assert "frees at least 27.5 GiB." in flat(report)
    most = bounded("c", Exactness.AT_MOST, "it may be in a lower layer")
    assert 'c: "saved" is at most 9 GiB, because it may be in a lower layer.' in flat(plan_text(small_plan(most)))
    assert "original: at most 9 GiB comes back only" in flat(plan_text(small_plan(most)))


@pytest.mark.parametrize(
    ("exactness", "saved", "said", "lost"),
    [
        (Exactness.AT_MOST, 0, "at most 0 B", "at most 0 B comes back only"),
        (Exactness.AT_LEAST, 0, "at least 0 B", "at least 0 B comes back only"),
        (
            Exactness.AT_LEAST,
            -MIB,
            "-1 MiB, a lower bound",
            "there will be at most 1 MiB less free space than now",
        ),
        (Exactness.AT_MOST, -MIB, "-1 MiB, an upper bound", "there will be at least 1 MiB less free space than"),
    ],
)
def test_a_bound_is_called_one_even_if_nothing_is_saved(exactness, saved, said, lost):
    report = flat(plan_text(small_plan(bounded("a", exactness, "nobody knows", saved))))
    assert f'a: "saved" is {said}, because nobody knows.' in report
    assert lost in report
    two = [bounded(name, Exactness.AT_LEAST, "nobody knows", -MIB) for name in "ab"]
    assert '"saved" is -2 MiB in all, a lower bound, because' in flat(plan_text(small_plan(*two)))
    totals = totals_of([bounded("a", Exactness.EXACT, "", saved)], Retire.KEEP)
    totals = dataclasses.replace(totals, exactness=exactness, note="so it is")
    assert f'total: "saved" is {said}, because so it is.' in flat(plan_text(small_plan(WEB, totals=totals)))


def test_what_is_not_known_has_no_number():
    report = plan_text(
        small_plan(WEB, bounded("z", Exactness.UNKNOWN, "nobody measured zfs"), retire=Retire.DELETE)
    )
    assert 'z: "saved" is unknown, because nobody measured zfs.' in report
    assert "frees an unknown amount of space" in flat(report)
    assert "it needs about" in report
    assert "90.0%" not in report


def test_opposite_bounds_leave_nothing_known():
    guests = [bounded("a", Exactness.AT_LEAST, "x"), bounded("b", Exactness.AT_MOST, "y")]
    assert "frees an unknown amount" in flat(plan_text(small_plan(*guests, retire=Retire.DELETE)))


def test_what_protecting_the_template_takes_is_said():
    totals = totals_of([WEB], Retire.KEEP, protecting=CopyUp(3 * GIB))
    assert "copies 3 GiB to the upper layer of the template's overlayfs." in flat(
        plan_text(small_plan(WEB, totals=totals))
    )
    totals = totals_of([WEB], Retire.KEEP, protecting=CopyUp(0, Exactness.AT_LEAST, "it may be copied"))
    assert 'total: "saved" is at most 9.5 GiB, because it may be copied.' in flat(
        plan_text(small_plan(WEB, totals=totals))
    )
