"""The HTML report as a document. Guards report/plan/html_form.py. (tests/browser opens it in Chromium.)"""

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser

import pytest
from plans import guest_plan, refused_guest, savings, small_plan

from batchdiff.errors import PlanError
from batchdiff.image.storage.exactness import Exactness
from batchdiff.plan.runs import Runs
from batchdiff.report.facts import PlanFacts
from batchdiff.report.plan import html_form
from batchdiff.report.plan.html_form import plan_html

VOID = {"meta", "input", "br"}
HOSTILE = "<script>alert(1)</script>\"'&amp;{{ 7*7 }}</title>"


class Outline(HTMLParser):
    """Collects the elements and the text, and checks that each element is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.seen if name == tag]


def page(*guests, **facts):
    return plan_html(PlanFacts(small_plan(*guests), **facts))


def test_it_is_one_file_that_needs_nothing_else():
    outline = Outline(page(guest_plan("web01"), refused_guest("old")))
    assert not any({"src", "action"} & set(attributes) for _, attributes in outline.seen)
    assert all(link["href"].startswith("#") for link in outline.all("a"))
    assert not outline.all("link")
    assert not outline.all("img")


def test_what_matters_comes_first():
    text = page(guest_plan("web01"), refused_guest("old", "it is in use"), stale=["/srv/x.img: it is gone"])
    places = [
        text.index(part) for part in ("comes back", "/srv/x.img: it is gone", "old: it is in use", 'id="table"')
    ]
    assert places == sorted(places)


def test_hostile_names_are_text():
    outline = Outline(page(guest_plan(HOSTILE), refused_guest("old", HOSTILE), stale=[HOSTILE]))
    assert len(outline.all("script")) == 1
    assert outline.text.count(HOSTILE) >= 3
    assert [attributes["data-name"] for attributes in outline.all("tr") if "data-name" in attributes] == [
        "old",
        HOSTILE,
    ]


def test_names_that_are_not_utf8_do_not_prevent_the_report():
    assert r"caf\udce9" in page(guest_plan("caf\udce9"))
    page(guest_plan("caf\udce9")).encode("utf-8")


def test_the_browser_runs_this_script_only():
    text = page(guest_plan())
    (script,) = re.findall(r"<script>(.*)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in text


def test_every_guest_has_a_row_a_map_and_the_sizes():
    outline = Outline(page(guest_plan("web01"), guest_plan("web02"), refused_guest("old")))
    assert len([row for row in outline.all("tr") if "data-n" in row]) == 3
    assert [found["id"] for found in outline.all("details")] == ["g0", "g1", "g2"]
    maps = [found["aria-label"] for found in outline.all("svg") if found.get("class") == "map"]
    assert len(maps) == 3  # of all guests, web01 and web02
    assert maps[1] == "data differs in 3.1% of the disk, and zeros cover data of the template in 1.6%"
    assert "128 KiB" in outline.text


def test_a_plan_without_guests_to_compare():
    outline = Outline(page(refused_guest("old")))
    assert "refuse: not compared" in outline.text


def test_invalid_extents_are_an_error():
    with pytest.raises(PlanError, match=r"guest 'web01': .* not sorted"):
        page(guest_plan(data=Runs("[[7,1],[0,1]]")))


def test_a_plan_that_was_applied_is_not_to_be_made_again(tmp_path):
    path = tmp_path / "p.json"
    invalid = guest_plan(data=Runs("[[7,1],[0,1]]"))
    with pytest.raises(PlanError, match=r"\. Run `batchdiff plan MANIFEST` again\.$"):
        page(invalid, path=str(path))
    (tmp_path / "p.json.journal").touch()
    with pytest.raises(PlanError, match="guests may have been converted: restore the plan from a backup"):
        page(invalid, path=str(path))


def test_commands_are_there_to_copy():
    assert "<code>batchdiff apply &#39;my plan.json&#39;</code>" in page(guest_plan(), path="my plan.json")


def test_no_more_than_the_disk_differs():
    """The last unit may reach past its end."""
    diff = guest_plan().diff
    units = diff.data.units
    assert html_form._described(diff, units * diff.unit - 1).startswith("data differs in 100.0% of the disk")


def test_unknown_savings_have_no_share():
    guest = guest_plan(
        "web01", savings=dataclasses.replace(savings(4 << 20, 1 << 20), exactness=Exactness.UNKNOWN)
    )
    facts = PlanFacts(small_plan(guest))
    assert html_form._view(1, guest, facts, None, 1).share == -1
