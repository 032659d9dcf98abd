"""What an apply did, with what was predicted beside it."""

from batchdiff.applying.journal.records import Fate
from batchdiff.applying.results.outcome import GuestOutcome, Original, Status
from batchdiff.report.results_text import results_text
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
)
DB = GuestOutcome(
    name="db01",
    status=Status.CONVERTED,
    predicted_overlay_bytes=100 * MIB,
    actual_overlay_bytes=99 * MIB,
    predicted_overlay_disk_bytes=100 * MIB,
    actual_overlay_disk_bytes=101 * MIB,
    original=Original(Fate.DELETED),
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
        "                    overlay  overlay            on disk  on disk\n"
        "guest  status     predicted   actual  off by  predicted   actual  original\n"
        "web01  converted    512 MiB  512 MiB     0 B    500 MiB  500 MiB  quarantined\n"
        "db01   converted    100 MiB   99 MiB  -1 MiB    100 MiB  101 MiB  deleted\n"
        "cache  skipped            -        -       -          -        -  untouched\n"
        "full   failed        64 MiB        -       -     64 MiB        -  untouched\n"
        "total               612 MiB  611 MiB  -1 MiB    600 MiB  601 MiB\n"
        "\n"
        "converted  web01: the original is quarantined as /srv/clones/web01.img.batchdiff-original\n"
        "skipped    cache: it would save 3.1%\n"
        "failed     full: No space left on device\n"
        "\n"
        "4 guests: 2 converted, 1 skipped, 1 failed.\n"
    )


def test_more_than_predicted_has_a_sign():
    more = GuestOutcome("a", Status.CONVERTED, predicted_overlay_bytes=1, actual_overlay_bytes=4097)
    assert "+4 KiB" in results_text([more])


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
    assert note == "unchanged  a: the original is gone: an earlier run deleted it, or it was moved"


def test_no_guests_at_all():
    assert results_text([]).endswith("Nothing was done.\n")


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
    assert report.endswith("102 guests: 1 converted, 101 skipped.\n")
    assert len(report.splitlines()) < 15
    assert results_text(done) == (
        "skipped    web02, web03 and 98 more: done by /srv/p.json\n\n100 guests: 100 skipped.\n"
    )
