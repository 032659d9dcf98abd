import json
import os
import subprocess

import pytest
from commands import COMMAND, GUESTS, MANIFEST, assert_no_traceback, batchdiff, events, rarely


def test_text(planned):
    done = planned.show()
    assert done.stderr == ""
    assert "template.img" in done.stdout
    assert all(name.split(".")[0] in done.stdout for name in GUESTS)
    assert "total" in done.stdout
    assert "WARNING" not in done.stdout


def test_json(planned):
    report = json.loads(planned.show("--format", "json").stdout)
    assert report["totals"]["convert"] == 4
    assert report["stale"] == []
    (event,) = events(planned.show("--json"))
    assert event == {"event": "report", "report": report}


def test_the_commands_of_a_report_work_in_any_folder(planned):
    """Somebody copies them from a page that was opened elsewhere."""
    report = planned.show("--format", "markdown").stdout
    assert f"    batchdiff apply {planned.folder}/fleet.plan.json\n" in report


def test_it_shows_from_any_folder(planned, tmp_path):
    done = batchdiff("show", planned.folder / "fleet.plan.json", cwd=tmp_path)
    assert done.stdout == planned.show().stdout


@pytest.mark.parametrize("form", ["text", "json"])
def test_into_a_file(planned, form):
    done = planned.show("--format", form, "-o", "report")
    assert done.stdout == ""
    assert (planned.folder / "report").read_text() == planned.show("--format", form).stdout


@pytest.mark.parametrize("place", ["raw.img", "none/report", *rarely(".", "fleet.plan.json")])
def test_nothing_is_replaced(planned, place):
    before = planned.state()
    done = planned.show("-o", place, expect=2)
    assert place in done.stderr
    assert planned.state() == before


@pytest.mark.parametrize(
    ("name", "change"),
    [("raw.img", "touched"), ("template.img", "gone"), *rarely(("raw.img", "gone"), ("template.img", "replaced"))],
)
def test_a_stale_plan_warns_and_shows(planned, name, change):
    path = planned.folder / name
    match change:
        case "touched":
            os.utime(path)
        case "gone":
            path.unlink()
        case "replaced":
            content = path.read_bytes()
            path.rename(planned.folder / "aside")
            path.write_bytes(content)
    done = planned.show()
    assert "stale" in done.stdout
    assert name in done.stdout
    (notice,) = json.loads(planned.show("--format", "json").stdout)["stale"]
    assert str(path) in notice


def test_the_templates_lost_write_bits_are_not_stale(planned):
    planned.apply()
    assert json.loads(planned.show("--format", "json").stdout)["stale"] == []
    os.utime(planned.folder / "template.img")
    assert len(json.loads(planned.show("--format", "json").stdout)["stale"]) == 1


def test_show_changes_nothing(planned):
    before = planned.state()
    planned.show()
    assert planned.state() == before


@pytest.mark.parametrize("damage", ["cut", "edited", "newer", *rarely("garbage", "gone", "folder", "deep")])
def test_no_plan(planned, damage):
    path = planned.folder / "fleet.plan.json"
    text = path.read_text()
    path.unlink()
    match damage:
        case "cut":
            path.write_text(text[:-20])
        case "edited":
            path.write_text(text.replace('"retire": "keep"', '"retire": "delete"'))
        case "garbage":
            path.write_bytes(os.urandom(1000))
        case "newer":
            path.write_text(text.replace('"format_version": "1.', '"format_version": "2.'))
        case "folder":
            path.mkdir()
        case "deep":
            path.write_text("[" * 100_000)
    for command in (planned.show, planned.apply):
        done = command("--json", expect=5)
        assert "fleet.plan.json" in done.stderr
        assert events(done)[-1]["exit_code"] == 5
    planned.assert_not_converted(*GUESTS)
    assert "fleet.plan.json.journal" not in planned.names()


def test_reasons_are_shown(fleet):
    fleet.write_manifest(MANIFEST + "minimum_savings: 99%\n")
    os.truncate(fleet.folder / "raw.img", 4096)
    fleet.plan("-q", expect=1)
    said = " ".join(fleet.show().stdout.split())
    assert "below the minimum of 99.0%" in said
    assert "smaller than the template" in said


def test_a_reader_that_goes_away(planned):
    script = f"{' '.join(COMMAND)} show fleet.plan.json | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=planned.folder, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
    assert_no_traceback(done.stderr)
