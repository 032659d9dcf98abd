"""What an apply did, with what was predicted beside it."""

from dataclasses import replace

import pytest

from batchdiff.applying.journal.records import Fate
from batchdiff.applying.results.outcome import GuestOutcome, Original, Status
from batchdiff.report.results_text import results_text, undone_text
from batchdiff.report.table import cells
from batchdiff.units import MIB

WEB = GuestOutcome(
    name="web01",
    status=Status.CONVERTED,
    predicted_overlay_bytes=512 * MIB,
    actual_overlay_bytes=512 * MIB,
    predicted_overlay_disk_bytes=500 * MIB,
    actual_overlay_disk_bytes=500 * MIB,
    original=Original(Fate.QUARANTINED, "/srv/clones/web01.img.batchdiff-original"),
    gained_bytes=-500 * MIB,
)
DB = GuestOutcome(
    name="db01",
    status=Status.CONVERTED,
    predicted_overlay_bytes=100 * MIB,
    actual_overlay_bytes=99 * MIB,
    predicted_overlay_disk_bytes=100 * MIB,
    actual_overlay_disk_bytes=101 * MIB,
    original=Original(Fate.DELETED),
    gained_bytes=700 * MIB,
)
FULL = GuestOutcome(
    name="full",
    status=Status.FAILED,
    reason="No space left on device",
    predicted_overlay_bytes=64 * MIB,
    predicted_overlay_disk_bytes=64 * MIB,
)
CACHE = GuestOutcome(name="cache", status=Status.SKIPPED, reason="it would save 3.1%")


def test_the_whole_report():
    assert results_text([WEB, DB, CACHE, FULL]) == (
        "                    overlay  overlay       on\n"
        "guest  status     predicted   actual     disk  original\n"
        "web01  converted    512 MiB  512 MiB  500 MiB  quarantined\n"
        "db01   converted    100 MiB   99 MiB  101 MiB  deleted\n"
        "cache  skipped            -        -        -  untouched\n"
        "full   failed        64 MiB        -        -  untouched\n"
        "total               612 MiB  611 MiB  601 MiB\n"
        "\n"
        "converted  web01: the original is quarantined as /srv/clones/web01.img.batchdiff-original\n"
        "skipped    cache: it would save 3.1%\n"
        "failed     full: No space left on device\n"
        "\n"
        "4 guests: 2 converted, 1 skipped, 1 failed. 200 MiB came back.\n"
    )


@pytest.mark.parametrize(
    ("gained", "words"),
    [
        ([-MIB], "1 guest: 1 converted. 1 MiB of disk space was taken.\n"),
        ([3 * MIB, -MIB], "2 guests: 2 converted. 2 MiB came back.\n"),
        ([0], "1 guest: 1 converted. 0 B came back.\n"),
        ([3 * MIB, None], "2 guests: 2 converted.\n"),  # part of a sum is not the sum
    ],
)
def test_it_ends_with_the_space_that_came_back(gained, words):
    outcomes = [GuestOutcome(str(bytes_), Status.CONVERTED, gained_bytes=bytes_) for bytes_ in gained]
    assert results_text(outcomes).endswith(words)


def test_a_purge_ends_with_the_space_that_came_back():
    purged = GuestOutcome("a", Status.PURGED, original=Original(Fate.DELETED), gained_bytes=18 * MIB)
    kept = GuestOutcome("b", Status.KEPT, "its VM has run")
    assert undone_text([purged, kept]) == (
        "purged     a: the original is deleted\nkept       b: its VM has run\n"
        "2 guests: 1 kept, 1 purged. 18 MiB came back.\n"
    )


def test_what_would_be_done_is_english():
    outcome = GuestOutcome("a", Status.WOULD_PURGE, "/a.img would be deleted")
    assert undone_text([outcome]) == "would be purged  a: /a.img would be deleted\n1 guest: 1 would be purged.\n"


def test_originals_in_quarantine_are_one_line_if_there_are_many():
    many = [
        GuestOutcome(f"web{number}", Status.CONVERTED, original=Original(Fate.QUARANTINED, f"/{number}"))
        for number in range(100)
    ]
    report = results_text(many)
    assert "note       web0, web1 and 98 more: the originals are quarantined under" in report
    assert len(report.splitlines()) < 110


def test_no_word_is_broken_on_80_columns():
    widest = GuestOutcome(
        "n" * 60, Status.UNCHANGED, "", *[1023 * MIB + 900 * 1024] * 4, original=Original(Fate.QUARANTINED)
    )
    lines = results_text([widest, WEB], width=80).splitlines()
    assert max(map(cells, lines)) <= 80
    assert lines[2].startswith("nnn")
    assert lines[2].split()[1:] == ["unchanged", *["1023.9", "MiB"] * 3, "quarantined"]


def test_notes_are_listed():
    noted = GuestOutcome(
        "a",
        Status.CONVERTED,
        original=Original(Fate.KEPT),
        remarks=("an attribute was not copied", "another"),
    )
    report = results_text([noted])
    assert "converted  a: an attribute was not copied\nconverted  a: another\n" in report
    assert "1 guest: 1 converted." in report
    assert "the original is" not in report


def test_the_table_has_the_fate_in_one_word():
    gone = GuestOutcome("a", Status.UNCHANGED, original=Original(Fate.GONE))
    (_, _, row, *_, note, _, _) = results_text([gone], width=200).splitlines()
    assert row.endswith("  gone")
    assert note == "unchanged  a: the original is gone: an earlier run or another program deleted or moved it"


def test_no_guests_at_all():
    assert results_text([]) == "There is nothing to do: the plan has no guests.\n"


def test_nothing_reaches_the_terminal_raw():
    evil = GuestOutcome(
        "\x1b[2J\n",
        Status.FAILED,
        "\x1b[2J\n",
        original=Original(Fate.QUARANTINED, "\x1b[2J\n"),
        remarks=("\x1b[2J\n",),
    )
    report = results_text([evil])
    assert report.replace("\n", "").isprintable()
    assert report.count("\\x1b[2J\\n") == 7  # three times with the name before it, and in the table


def test_the_report_fits_the_terminal():
    long = GuestOutcome("n" * 60, Status.CONVERTED, "word " * 50, 1 << 40, 1 << 40, 1 << 40, 1 << 40)
    assert max(map(cells, results_text([long, WEB], width=100).splitlines())) <= 100


def test_guests_that_were_skipped_for_one_reason_are_one_line():
    done = [
        GuestOutcome(f"web{number:02}", Status.SKIPPED, reason="done by /srv/p.json") for number in range(2, 102)
    ]
    report = results_text([*done, WEB, CACHE])
    assert "skipped    web02, web03 and 98 more: done by /srv/p.json\n" in report
    assert "skipped    cache: it would save 3.1%\n" in report
    assert report.endswith("102 guests: 1 converted, 101 skipped. 500 MiB of disk space was taken.\n")
    assert len(report.splitlines()) < 15
    assert results_text(done) == (
        "skipped    web02, web03 and 98 more: done by /srv/p.json\n\n100 guests: 100 skipped.\n"
    )


def test_guests_that_share_blocks_have_no_columns_of_overlays():
    shared = GuestOutcome("web01", Status.SHARED, gained_bytes=36 * MIB)
    same = GuestOutcome("db01", Status.UNCHANGED)
    text = results_text([shared, same])
    assert text.startswith(
        "guest  status     came back\nweb01  shared        36 MiB\ndb01   unchanged          -\n\n"
    )
    again = results_text([same, replace(same, name="db02")])
    assert again == "guest  status\ndb01   unchanged\ndb02   unchanged\n\n2 guests: 2 unchanged.\n"
    with_overlay = results_text([shared, WEB])
    assert "overlay" in with_overlay
    assert "\ntotal " in with_overlay


def test_either_all_skipped_guests_are_in_the_table_or_none():
    alike = [GuestOutcome(name, Status.SKIPPED, "it has nothing to share") for name in ("q1", "qs")]
    lines = results_text([WEB, *alike, CACHE]).splitlines()
    assert not [line for line in lines if line.startswith(("q1", "qs", "cache"))]
    assert "skipped    q1 and qs: each has nothing to share" in lines
    assert "skipped    cache: it would save 3.1%" in lines


def test_restore_lists_guests_with_one_reason_together():
    alike = [GuestOutcome(name, Status.SKIPPED, "there is nothing to undo") for name in ("q1", "qs")]
    assert undone_text(alike) == "skipped    q1 and qs: there is nothing to undo\n2 guests: 2 skipped.\n"
