"""The benchmark's pure parts: what it makes of its figures."""

import dataclasses
import os
from pathlib import Path

import pytest
from bench.contestants import APPLY_ONE, CHECKS, LIMIT, ONE_JOB, PLAN, REBASE, UNTIL_OPEN
from bench.document import BEGIN, END, with_figures
from bench.examinations import DUPEREMOVE_PARTIAL, GIVEN_BACK, PLAN_SHARE, TEMPLATE_READS, bytes_read
from bench.machine import Work
from bench.report import Fact, Point, Race, Report, Series, from_json, to_json
from bench.scaling import GUESTS, TWO_JOBS
from bench.tables import markdown
from bench.targets import TARGETS, judged

from batchdiff.units import MIB

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


def race(fleet: str, cache: str = "warm", **seconds: tuple[float, ...]) -> Race:
    names = {"plan": PLAN, "limit": LIMIT, "rebase": REBASE, "start": UNTIL_OPEN, "one": ONE_JOB}
    names |= {"apply_one": APPLY_ONE, "checks": CHECKS, "share": PLAN_SHARE, "partial": DUPEREMOVE_PARTIAL}
    series = tuple(Series(names[name], times, 20 * MIB) for name, times in seconds.items())
    return Race(fleet, f"a fleet {fleet}", cache, series)


def point(guests: int, contestant: str, seconds: float) -> Point:
    return Point(GUESTS, guests, contestant, seconds, 33 * MIB, 44 * MIB)


REPORT = Report(
    machine="2 x Something",
    version="0.1.0",
    date="2026-01-01",
    seed=1,
    jobs=2,
    others=0.03,
    races=(
        race("raw", plan=(1.0, 2.0, 1.0), limit=(0.8, 1.6, 0.8), rebase=(3.0, 6.0, 90.0), start=(0.2, 0.4, 0.2)),
        race("reflink", plan=(0.4,), one=(0.5,), rebase=(9.0,), start=(0.2,)),
        race("small", apply_one=(3.2,), checks=(1.6,)),
        race("raw", "cold", plan=(9.0, 9.0, 9.0), rebase=(9.0, 9.0, 9.0)),
        race("duplicates", share=(2.0, 1.0), partial=(8.0, 8.0)),
        race("different", plan=(2.5,), limit=(1.0,)),
        Race("mapped", "", "warm", (Series("raw", (1.0, 1.0), 1), Series("vdi", (1.0, 1.5), 1))),
        Race("mapped, apply", "", "warm", (Series("raw", (1.0, 1.0), 1), Series("vdi", (1.25, 1.5), 1))),
    ),
    facts=(
        Fact("worker memory, 4 GiB", 121 * MIB, "bytes"),
        Fact(TEMPLATE_READS.format(4), 1.0, "times"),
        Fact(GIVEN_BACK.format(PLAN_SHARE), 0.9, "of the copies' space"),
        Fact(GIVEN_BACK.format(DUPEREMOVE_PARTIAL), 0.6, "of the copies' space"),
    ),
    points=(
        point(1, TWO_JOBS, 1.0),
        point(1, REBASE, 2.0),
        point(64, TWO_JOBS, 10.0),
        point(64, REBASE, 60.0),
    ),
)


def verdicts(report: Report) -> dict[str, tuple[float | None, str]]:
    return {each.target.name: (each.measured, each.verdict) for each in judged(report)}


def test_a_report_comes_back_from_its_json():
    assert from_json(to_json(REPORT)) == REPORT


def test_ratios_are_taken_round_by_round_and_outliers_do_not_count():
    found = REPORT.race("raw")
    assert found is not None
    assert found.ratio(REBASE, PLAN) == 3.0
    assert found.ratio(PLAN, LIMIT) == 1.25
    assert found.ratio(PLAN, "nobody") is None


@pytest.mark.parametrize(
    ("name", "measured", "verdict"),
    [
        ("plan, 4 raw guests, against create + rebase", 3.0, "missed by 67%"),
        ("plan against the read limit", 1.25, "reached"),
        ("plan without start-up against the read limit", 1.0, "reached"),
        ("plan, cold cache, against the read limit", None, "not measured"),
        ("sharing in place, full copies on XFS, against duperemove", 6.0, "reached"),
        ("given back by sharing in place, against duperemove", 1.5, "reached"),
        ("plan without start-up, reflink copies on XFS, against create + rebase", 45.0, "missed by 11%"),
        ("plan, reflink copies on XFS, 2 jobs against 1", 0.8, "reached"),
        ("apply, 64 small guests: each, beside QEMU", 0.025, "reached"),
        ("plan, 100% changed, against the read limit", 2.5, "missed by 25%"),
        ("plan and apply, vdi guests, against raw", 1.3125, "missed by 1%"),
        ("plan and apply, qed guests, against raw", None, "not measured"),
        ("that advantage at 64 guests, against the one at 1", 3.0, "reached"),
        ("memory of a worker, 4 GiB", 121.0, "missed by 1%"),
        (TEMPLATE_READS.format(4), 1.0, "reached"),
        (TEMPLATE_READS.format(1), None, "not measured"),
        ("plan, 15 TiB almost empty", None, "not measured"),
    ],
)
def test_promises_are_judged(name, measured, verdict):
    assert verdicts(REPORT)[name] == (measured, verdict)


def test_a_template_that_was_not_seen_to_be_read_proves_nothing():
    """As it would where it was read in a way that the trace does not see."""
    unread = dataclasses.replace(REPORT, facts=(Fact(TEMPLATE_READS.format(4), 0.0, "times"),))
    assert verdicts(unread)[TEMPLATE_READS.format(4)] == (None, "not measured")


def test_every_promise_has_a_name_of_its_own():
    assert len({target.name for target in TARGETS}) == len(TARGETS)


def test_nothing_measured_is_no_promise_kept():
    empty = dataclasses.replace(REPORT, races=(), facts=(), points=())
    assert {verdict for _, verdict in verdicts(empty).values()} == {"not measured"}
    assert "### Races" in markdown(empty)


def test_the_tables_say_it_all():
    text = markdown(REPORT)
    assert "| plan, 4 raw guests, against create + rebase | at least 5 x | 3 x | missed by 67% |" in text
    assert "| create + rebase | 6.00 s | 3.00 to 90.00 s | 3.00 x | 20 MiB |" in text
    assert "| 64 | 10.00 s | 60.00 s | 33 MiB | 44 MiB |" in text
    for part in ("2 x Something", "cold", "121 MiB"):
        assert part in text


def test_a_disturbed_run_says_so():
    warning = "times and ratios are unreliable"
    assert warning not in markdown(REPORT)
    assert warning in markdown(dataclasses.replace(REPORT, others=0.4))


def test_the_work_of_others_is_what_is_left():
    before, after = Work(0.0, 100.0, 10.0), Work(10.0, 100.0 + 8.0, 10.0 + 6.0)
    assert after.others_share_since(before) == 2.0 / (10.0 * (os.cpu_count() or 1))


def test_a_table_has_the_same_number_of_cells_in_every_row():
    for paragraph in markdown(REPORT).split("\n\n"):
        if paragraph.startswith("|"):
            assert len({line.count("|") for line in paragraph.splitlines()}) == 1


def test_figures_replace_those_of_the_page():
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = with_figures(page, "new\n")
    assert once == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert with_figures(once, "new\n") == once
    with pytest.raises(ValueError, match="the page has no"):
        with_figures("a page", "new\n")


def test_the_page_has_a_place_for_them():
    page = PAGE.read_text()
    new = with_figures(page, "new figures\n")
    assert new.count("new figures") == 1
    assert new.partition(BEGIN)[0] == page.partition(BEGIN)[0]
    assert new.partition(END)[2] == page.partition(END)[2]


def test_reads_are_counted_by_file():
    log = (
        'preadv(5</a/template.raw>, [{iov_base="x) = 7", iov_len=65536}], 1, 0) = 65536\n'
        'pread64(6</a/guest0.raw>, "", 4096, 0) = 4096\n'
        'read(5</a/template.raw>, "", 512) = 512\n'
        "pread64(5</a/template.raw>, 0x7f, 10, 0) = -1 EIO (Input/output error)\n"
        "+++ exited with 0 +++\n"
    )
    assert bytes_read(log, "/a/template.raw") == 65536 + 512
