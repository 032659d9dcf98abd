"""`batchdiff status` as text: whole rows in a pipe, and rows that fit on a terminal."""

import time

import pytest

from batchdiff.applying.results.status_row import StatusRow
from batchdiff.report.status_text import status_text
from batchdiff.report.table import cells

PURGE = "purge: delete the original in quarantine; or restore"
ROWS = [
    *(StatusRow(f"web{number:02}", "retired", "2026-01-02T03:04:05.678Z", "", PURGE) for number in range(94)),
    StatusRow("db01", "planned", "", "No space left on device", "apply: write the overlay"),
    StatusRow("old", "refused", "", "", "plan again once this is fixed: it is in use: qemu-nbd (pid 17208)"),
    StatusRow("lost", "published", "2026-01-02T03:04:05Z", "", "its template is missing: bring it back"),
    StatusRow("n" * 50, "published", "", "", "apply --retire quarantine: verify again and retire the original"),
]


@pytest.fixture
def zone(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_times_are_local_and_to_the_second(zone):
    assert "web00  retired  2026-01-02 08:34:05  purge: delete" in status_text(ROWS[:1])


def test_a_pipe_has_whole_rows():
    lines = status_text(ROWS).splitlines()
    assert [line for line in lines if line.startswith("n" * 50)]
    assert lines[1].endswith(PURGE)


@pytest.mark.parametrize("width", [80, 100])
def test_it_fits_the_terminal(width):
    lines = status_text(ROWS, width=width).splitlines()
    assert max(map(cells, lines)) <= width
    assert lines[1].endswith("  purge")
    said = " ".join(" ".join(lines).split())
    assert "next web00, web01 and 92 more: purge: delete the original in quarantine; or restore next db01:" in said
    assert sum("delete the original in quarantine" in line for line in lines) == 1


def test_what_to_do_is_one_word_beside_each_guest():
    lines = status_text(ROWS, width=80).splitlines()[95:99]
    assert [line.split("  ")[-1] for line in lines] == [
        "apply",
        "plan again",
        "see below",
        "apply --retire quarantine",
    ]


def test_whole_rows_if_they_fit():
    assert status_text(ROWS[:1], width=120) == status_text(ROWS[:1])


def test_failures_come_last():
    assert status_text(ROWS).endswith("\nfailed  db01: No space left on device\n")


def test_a_plan_without_guests():
    assert status_text([]) == "The plan has no guests.\n"
