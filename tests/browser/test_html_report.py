"""The HTML report in Chromium: it is drawn, sorts, filters, and hostile names do nothing.

Guards report/plan/page/page.js.
"""

import chromium
import pytest
from plans import guest_plan, refused_guest, savings, small_plan

from batchdiff.applying.journal.records import Fate
from batchdiff.applying.results.conversion import Conversion
from batchdiff.choices import Verdict
from batchdiff.report.facts import PlanFacts
from batchdiff.report.plan.html_form import plan_html
from batchdiff.units import GIB, MIB

HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=1</script>'

SHOWN = """const shown = (selector) => Array.from(document.querySelectorAll(selector))
    .filter((each) => !each.hidden).map((each) => each.querySelector("th, .name").textContent.trim());
  const both = () => [shown("#table tbody tr"), shown("#disks > details")];
  const press = (key) => document.querySelector(`th[data-key=${key}] button`).click();
"""


@pytest.fixture
def report(tmp_path):
    plan = small_plan(
        guest_plan("web10", savings=savings(10 * GIB, 9 * GIB)),
        guest_plan("web2", savings=savings(4 * GIB, 100 * MIB)),
        guest_plan(HOSTILE, savings=savings(GIB, 100 * MIB)),
        guest_plan("small", verdict=Verdict.SKIP, reason="it is small", savings=savings(GIB, GIB)),
        refused_guest("lost", HOSTILE),
    )
    path = tmp_path / "report.html"
    path.write_text(plan_html(PlanFacts(plan, [HOSTILE], path="fleet.plan.json")))
    return path


def test_it_opens_without_an_error_and_runs_no_foreign_script(report):
    """With its policy: a script that somebody brought into it would not run."""
    dom = chromium.run(report, "--dump-dom", profile=report.with_name("profile")).stdout
    assert "<title>5 guests on the template" in dom
    assert "onerror" in dom


def test_what_is_on_it(report):
    found = chromium.evaluate(
        report,
        """return {
          title: document.title,
          images: document.images.length,
          scripts: document.scripts.length,
          maps: document.querySelectorAll("svg.map").length,
          wide: document.querySelector("#g1 svg.map").getBoundingClientRect().width,
          background: getComputedStyle(document.querySelector("#g1 .data4")).fill,
          overflow: document.documentElement.scrollWidth > innerWidth,
        };""",
    )
    assert found["title"].startswith("5 guests")
    assert (found["images"], found["scripts"], found["maps"]) == (0, 2, 5)  # the second script is this one
    assert found["wide"] > 100
    assert found["background"] != "rgb(0, 0, 0)"
    assert not found["overflow"]


def test_it_sorts_by_numbers_and_names(report):
    first, second, third = chromium.evaluate(
        report,
        SHOWN
        + """const found = [];
        press("saved"); found.push(both());
        press("saved"); found.push(both());
        press("name"); found.push(both());
        return found;""",
    )
    assert first[0] == ["web2", "web10", HOSTILE, "small", "lost"]
    assert second[0] == ["lost", "small", HOSTILE, "web10", "web2"]
    assert third[0] == [HOSTILE, "lost", "small", "web2", "web10"]
    assert all(table == disks for table, disks in (first, second, third))


def test_the_sorted_column_is_announced(report):
    found = chromium.evaluate(
        report,
        SHOWN
        + """press("saved"); press("name");
        return Array.from(document.querySelectorAll("thead th"), (each) => each.getAttribute("aria-sort"));""",
    )
    assert found == ["ascending", None, None, None, None, None, None]


def test_it_filters_by_name_and_verdict(report):
    by_name, by_verdict, count = chromium.evaluate(
        report,
        SHOWN
        + """const find = document.getElementById("find");
        const change = (element) => element.dispatchEvent(new Event("input", {bubbles: true}));
        find.value = "WEB"; change(find);
        const byName = both();
        const count = document.getElementById("count").textContent;
        find.value = ""; change(find);
        const box = document.querySelector("[value=convert]"); box.checked = false; change(box);
        return [byName, both(), count];""",
    )
    assert by_name == [["web10", "web2"]] * 2
    assert by_verdict == [["lost", "small"]] * 2
    assert count == "2 of 5"


def test_a_link_to_a_guest_opens_it(report):
    found = chromium.evaluate(
        report,
        """location.hash = "#g1"; window.dispatchEvent(new Event("hashchange"));
        return [document.getElementById("g1").open, document.getElementById("g0").open];""",
    )
    assert found == [True, False]


IN_A_FRAME = """const frame = document.createElement("iframe");
  const text = document.documentElement.outerHTML.replace(/<script[^]*?<\\/script>/g, "");
  const framed = (width) => {
    frame.style.width = `${width}px`;
    document.body.append(frame);
    const inner = frame.contentDocument;
    inner.open(); inner.write(text); inner.close();
    return inner;
  };
"""
"""A function that shows the page, without its scripts, in a frame of some width, such as that of a phone."""


def wide_plan(*, after):
    """A plan with the longest words that are common; ``after``: an apply has converted its guests."""
    guests = [
        guest_plan(f"customer-database-{number:02}.example.org", savings=savings(1008 * GIB, 1001 * MIB))
        for number in range(3)
    ]
    aside = "/var/lib/libvirt/images/customer-database.img.batchdiff-original"
    done = {
        guest.name: Conversion(
            Fate.QUARANTINED, 1001 * MIB, 1001 * MIB, used=False, came_back_bytes=0, aside=aside
        )
        for guest in guests
    }
    return PlanFacts(small_plan(*guests), path="/images/fleet.plan.json", conversions=done if after else {})


@pytest.mark.parametrize("after", [False, True])
def test_a_phone_shows_it_without_scrolling_sideways(tmp_path, after):
    """With the details of a guest open, too; the last column is the verdict."""
    page = tmp_path / "report.html"
    page.write_text(plan_html(wide_plan(after=after)))
    found = chromium.evaluate(
        page,
        IN_A_FRAME
        + """const wide = (width) => {
          const inner = framed(width);
          for (const each of inner.querySelectorAll("details")) each.open = true;
          const scroll = inner.querySelector(".scroll");
          return {
            page: inner.documentElement.scrollWidth - width,
            table: scroll.scrollWidth - scroll.clientWidth,
            last: inner.querySelector("tbody td:last-child").getBoundingClientRect().right - width,
            optional: inner.querySelector(".optional").offsetWidth,
            sizes: inner.querySelectorAll(".sizes").length,
            bar: inner.querySelector(".sizes .bar").offsetWidth,
          };
        };
        return [360, 390].map(wide);""",
    )
    for each in found:
        assert each["page"] <= 0, found
        assert each["table"] <= 0, found
        assert each["last"] <= 0, found
        assert each["optional"] == 0
        assert each["sizes"] == 3
        assert each["bar"] == 0, "less important columns and bars give way to the verdict"


def test_the_end_of_a_long_name_is_shown(tmp_path):
    """The names of a fleet often differ only there."""
    page = tmp_path / "report.html"
    page.write_text(plan_html(wide_plan(after=False)))
    found = chromium.evaluate(
        page,
        """return Array.from(document.querySelectorAll(".guest .name"), (each) => {
          const range = document.createRange();
          range.selectNodeContents(each);
          return range.getBoundingClientRect().right <= each.getBoundingClientRect().right + 1;
        });""",
    )
    assert found == [True] * 4


def test_unknown_savings_sort_below_negative_ones(tmp_path):
    page = tmp_path / "report.html"
    plan = small_plan(
        refused_guest("lost"),
        guest_plan("worse", verdict=Verdict.SKIP, reason="it costs", savings=savings(MIB, GIB)),
        guest_plan("better", savings=savings(GIB, MIB)),
    )
    page.write_text(plan_html(PlanFacts(plan)))
    found = chromium.evaluate(page, SHOWN + 'press("saved"); return both();')
    assert found == [["better", "worse", "lost"]] * 2


def test_after_an_apply_predicted_and_actual_can_be_sorted(tmp_path):
    guests = [guest_plan(name, savings=savings(4 * GIB, 100 * MIB)) for name in ("a", "b")]
    done = {
        guest.name: Conversion(Fate.QUARANTINED, number * MIB, number * MIB, used=False, came_back_bytes=0)
        for number, guest in enumerate(guests, start=100)
    }
    path = tmp_path / "after.html"
    plan = small_plan(*guests, refused_guest("old"))
    path.write_text(plan_html(PlanFacts(plan, path="fleet.plan.json", conversions=done)))
    found = chromium.evaluate(
        path,
        SHOWN
        + """const all = (selector) => Array.from(document.querySelectorAll(selector));
        const texts = (selector) => all(selector).map((each) => each.textContent);
        press("actual");
        return {
          heads: texts("thead th"),
          sorted: both(),
          row: texts("#table tbody tr:first-child > *"),
          total: texts("tfoot tr > *"),
          code: texts("#next ~ p code"),
        };""",
    )
    assert found["heads"] == ["guest", "now", "allocated", "predicted", "actual", "saved", "share"]
    assert found["sorted"] == [["b", "a", "old"]] * 2
    assert [text.strip() for text in found["row"]] == [
        "b", "quarantined", "4 GiB", "100 MiB", "101 MiB", "3.9 GiB", "97.6%",
    ]  # fmt: skip
    assert found["total"] == ["total", "2 of 2 done", "8 GiB", "200 MiB", "201 MiB", "7.8 GiB", "97.6%"]
    assert found["code"][0] == "batchdiff purge fleet.plan.json --used"
