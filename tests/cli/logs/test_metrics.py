"""Metrics are what the collector of node_exporter takes; Prometheus' own Python client is the judge.

Guards cli/logs/metrics.py, cli/logs/textfile.py, cli/verbs/status.py, cli/verbs/verify.py, files/atomic_write.py,
cli/logs/options.py.
"""

import os
import stat
import subprocess

import access
import pytest
from commands import Fleet, run_here
from plans import guest_plan, refused_guest, small_plan
from prometheus_client.parser import text_string_to_metric_families

from batchdiff.applying.guests.status import OnDisk
from batchdiff.applying.results.finding import Finding, Health
from batchdiff.applying.results.status_row import StatusRow
from batchdiff.cli.logs import textfile
from batchdiff.cli.logs.metrics import metrics_text, status_metrics, verify_metrics
from batchdiff.errors import UsageError
from batchdiff.files import own_files
from batchdiff.plan.file import write_plan

UNITS = ("_bytes", "_seconds")
HOSTILE = ['q"q', "back\\slash", "a b", '{x="y"}', "ü", "line\nbreak", "\udc80", "\\n", 'a"} 7\n#']


def parsed(text: str) -> dict[tuple, float]:
    """The values by name and labels; no series may occur twice, and each family has its help and type."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.type == "gauge"
        assert family.documentation.endswith(".")
        assert family.name.startswith("batchdiff_")
        assert family.samples
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    assert text.endswith("\n")
    return found


def value(found: dict, metric: str, /, **labels: str) -> float:
    (each,) = [v for key, v in found.items() if key[0] == metric and labels.items() <= dict(key[1:]).items()]
    return each


def test_status_and_verify_of_a_fleet(tmp_path):
    folder = tmp_path / "fleet"
    folder.mkdir()
    fleet = Fleet(folder)
    fleet.plan_here()
    plan, prom = folder / "fleet.plan.json", tmp_path / "s.prom"
    run_here("status", plan, "--textfile", prom)
    assert value(parsed(prom.read_text()), "batchdiff_guests", state="planned") == 4
    run_here("apply", plan, "-q", "--guest", "raw", "--guest", "thick", "--retire", "quarantine")
    (folder / "thick.qcow2.batchdiff-original").unlink()
    os.chmod(prom, 0o600)
    run_here("status", plan, "--textfile", prom)
    assert stat.S_IMODE(prom.stat().st_mode) == 0o644
    found = parsed(prom.read_text())
    overlay = (folder / "raw.qcow2").stat().st_blocks * 512
    assert value(found, "batchdiff_guest_state", guest="raw", state="retired", plan=str(plan)) == 1
    assert value(found, "batchdiff_guests", state="planned") == 2
    assert value(found, "batchdiff_overlay_bytes", guest="raw") == overlay
    # An original in quarantine takes its space; one that is gone has given it back.
    saved = [key for key in found if key[0] == "batchdiff_saved_bytes"]
    assert [dict(key[1:])["guest"] for key in saved] == ["thick"]
    planned = {each["name"]: each["savings"]["saved_bytes"] for each in fleet.document["guests"]}
    assert value(found, "batchdiff_saved_bytes") == planned["thick"]
    assert value(found, "batchdiff_planned_saved_bytes") == fleet.document["totals"]["saved_bytes"]
    run_here("verify", plan, "--textfile", tmp_path / "v.prom")
    good = parsed((tmp_path / "v.prom").read_text())
    assert value(good, "batchdiff_verify_success") == 1
    assert not found.keys() & good.keys(), "the collector refuses a series that is in two files"
    (folder / "raw.qcow2").unlink()
    run_here("verify", plan, "--textfile", tmp_path / "v.prom", expect=6)
    bad = parsed((tmp_path / "v.prom").read_text())
    assert value(bad, "batchdiff_verify_success") == 0
    assert value(bad, "batchdiff_verify_health", name="raw", health="damaged") == 1
    assert value(bad, "batchdiff_verify_files", health="damaged") == 1
    assert value(bad, "batchdiff_last_run_timestamp_seconds", verb="verify") >= value(
        good, "batchdiff_last_run_timestamp_seconds"
    )


def test_names_are_escaped_and_come_back():
    rows = [StatusRow(name, "planned", "", "", "") for name in HOSTILE]
    plan = small_plan(guest_plan("a"), refused_guest("b", "why"))
    text = "".join(metrics_text("/a\nb", "status", 7, status_metrics(plan, rows, {}, {})))
    labels = [dict(key[1:]) for key in parsed(text) if key[0] == "batchdiff_guest_state"]
    shown = [*HOSTILE[:5], r"line\nbreak", r"\udc80", r"\n", r'a"} 7\n#']
    assert [each["guest"] for each in labels] == shown
    assert {each["plan"] for each in labels} == {r"/a\nb"}
    text.encode()


def test_names_have_units():
    plan = small_plan(guest_plan("a"))
    rows = [StatusRow("a", "retired", "", "it failed", "")]
    metrics = status_metrics(plan, rows, {"a": OnDisk("/a", None)}, {"a": 4096})
    for metric in (*metrics, *verify_metrics([], success=True)):
        assert metric.name.endswith(UNITS) == any(word in metric.help for word in ("space", "Space"))
    found = parsed("".join(metrics_text("/p", "status", 7, metrics)))
    savings = plan.to_convert[0].diff.savings
    assert value(found, "batchdiff_saved_bytes") == savings.saved_bytes + savings.overlay_disk_bytes - 4096
    assert value(found, "batchdiff_guest_failed") == 1


def test_of_several_findings_the_worst_counts():
    kinds = (Health.SOUND, Health.DAMAGED, Health.TOUCHED)
    findings = [Finding("a", "/a", health, "") for health in kinds] + [Finding("template", "/t", Health.SOUND, "")]
    found = parsed("".join(metrics_text("/p", "verify", 7, verify_metrics(findings, success=False))))
    assert value(found, "batchdiff_verify_health", name="a", health="damaged") == 1
    assert value(found, "batchdiff_verify_files", health="sound") == 1


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_plan(small_plan(guest_plan("web01")), "fleet.plan.json")
    return tmp_path / "fleet.plan.json"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no/x.prom", "its folder does not exist"),
        ("/proc/x.prom", "no file can be created in its folder (No such file or directory)"),
        ("folder.prom", "it exists and is not a regular file"),
        ("link.prom", "it exists and is not a regular file"),
        ("other.prom", "it exists and does not contain metrics of batchdiff"),
    ],
)
@pytest.mark.parametrize("verb", ["status", "verify"])
def test_a_file_that_cannot_be_replaced_is_refused_before_the_work(plan, monkeypatch, verb, name, why):
    (plan.parent / "folder.prom").mkdir()
    (plan.parent / "other.prom").write_text("# HELP node_load1 1m load average.\n")
    (plan.parent / "link.prom").symlink_to("other.prom")
    monkeypatch.setattr(f"batchdiff.cli.verbs.{verb}.history_of", lambda *_: pytest.fail("it began"))
    assert f"cannot write metrics to {name}: {why}. " in run_here(verb, plan, "--textfile", name, expect=2)
    assert (plan.parent / "other.prom").read_text().startswith("# HELP node_load1")


def test_a_file_that_cannot_be_read_is_not_said_to_contain_something_else(plan):
    run_here("status", plan, "--textfile", "x.prom")
    (plan.parent / "x.prom").chmod(0o600)
    plan.parent.chmod(0o777)

    def refused():
        with pytest.raises(UsageError) as caught:
            textfile.check_textfile("/x.prom")
        return caught.value

    error = access.as_user(3001, plan.parent, refused)
    assert error.what == "cannot write metrics to /x.prom"
    assert " may not read /x.prom, which belongs to " in error.why


def test_a_file_that_no_other_may_replace_is_refused_before_the_work(plan, monkeypatch):
    """New files can be made in its folder."""
    run_here("status", plan, "--textfile", "x.prom")
    monkeypatch.setattr("batchdiff.cli.verbs.verify.history_of", lambda *_: pytest.fail("it began"))
    subprocess.run(["chattr", "+i", "x.prom"], check=True)
    try:
        text = run_here("verify", plan, "--textfile", "x.prom", expect=2)
    finally:
        subprocess.run(["chattr", "-i", "x.prom"], check=True)
    assert "cannot replace x.prom: " in text
    assert "chattr -i x.prom" in text


def test_what_verify_found_counts_more_than_its_metrics(plan, monkeypatch):
    def vanish(*_):
        (plan.parent / "x").rmdir()
        yield Finding("web01", "/a", Health.DAMAGED, "it is missing")

    (plan.parent / "x").mkdir()
    monkeypatch.setattr("batchdiff.cli.verbs.verify.check_health", lambda *_, **__: vanish())
    text = run_here("verify", plan, "--textfile", "x/v.prom", expect=6)
    assert "cannot write metrics to x/v.prom" in text


def test_the_collector_never_sees_half_a_file(plan, monkeypatch):
    """It reads what ends with .prom: at the time of the rename that is the old content, and then the new."""
    run_here("status", plan, "--textfile", "x.prom")
    before, seen, rename = (plan.parent / "x.prom").read_text(), [], os.rename

    def look(old, new):
        names = [name for name in os.listdir(plan.parent) if name.endswith(".prom")]
        seen.append((names, (plan.parent / "x.prom").read_text(), stat.S_IMODE(os.stat(old).st_mode)))
        rename(old, new)

    monkeypatch.setattr(os, "rename", look)
    monkeypatch.setattr(textfile.time, "time", lambda: 7.9)
    run_here("status", plan, "--textfile", "x.prom")
    assert seen == [(["x.prom"], before, 0o644)]
    found = parsed((plan.parent / "x.prom").read_text())
    assert value(found, "batchdiff_last_run_timestamp_seconds") == 7
    assert not [name for name in os.listdir(plan.parent) if name.endswith(own_files.TEMPORARY)]
