"""docs/monitoring.md and docs/adding-guests.md, command by command: what happens after the first apply."""

import re

import notation
import pytest
from page_runner import PageRunner, page_fences
from test_docs import ROOT
from test_tour import masked

TEMPLATE = "2M:A 1M:- 1M:B"
FLEET = """\
version: 1
template: {path: template.img, format: raw}
defaults: {format: raw}
retire: quarantine
guests: [{glob: "web*.img"}]
"""


@pytest.fixture
def page(tmp_path):
    """A machine with /images, and with the folders of Prometheus' collector and of logs."""
    page = PageRunner(tmp_path, "/var/lib/prometheus", "/var/log")
    notation.write_raw(page.images / "template.img", TEMPLATE)
    add(page, 1)
    page.write("fleet.yaml", FLEET)
    for folder in ("var/lib/prometheus/node-exporter", "var/log"):
        (page.folder / folder).mkdir(parents=True)
    return page


def add(page, number):
    notation.write_raw(page.images / f"web{number:03}.img", f"64k:{chr(66 + number % 20)} 1984k:A 1M:- 1M:B")


def test_monitoring(page):
    page.run("batchdiff plan -q fleet.yaml")
    (apply,) = page_fences("monitoring", "console")
    (nightly,) = page_fences("monitoring", "sh")
    log, alerts = page_fences("monitoring", "text")
    page.run(apply.removeprefix("$ "))
    written = (page.images / "apply.log").read_text().replace(str(page.folder), "")
    for line in log.replace("web01", "web001").splitlines():
        assert line == "..." or shape(line) in map(shape, written.splitlines()), written
    page.run("batchdiff purge -q --yes fleet.plan.json")  # the space is freed now, which is a metric, too
    page.run(nightly)
    metrics = "".join(path.read_text() for path in (page.folder / "var/lib/prometheus/node-exporter").iterdir())
    assert re.search(r"^batchdiff_verify_success\{.*\} 1$", metrics, re.MULTILINE), metrics
    named = re.findall(r"^\| `(batchdiff_\w+)`", (ROOT / "docs" / "monitoring.md").read_text(), re.MULTILINE)
    named += re.findall(r"batchdiff_\w+", alerts)
    assert [name for name in named if not re.search(rf"^{name}\b", metrics, re.MULTILINE)] == []
    assert '{plan="' in metrics
    assert 'verb="verify"' in metrics
    assert "exit code 0" in (page.folder / "var/log/batchdiff.log").read_text()


def shape(line):
    """A line of a log without times, numbers and versions."""
    line = re.sub(r"Linux \S+", "Linux N,", line)
    return masked(re.sub(r"^\S+ \d+ ", "", line))


def test_adding_guests(page):
    for number in range(2, 8):
        (page.images / f"web{number:03}.img").write_bytes((page.images / "web001.img").read_bytes())
    page.run("batchdiff plan -q fleet.yaml")
    page.run("batchdiff apply -q --verify native fleet.plan.json")
    add(page, 101)
    (fence,) = page_fences("adding-guests", "console")
    plan, shown, apply = re.split(r"^\$ (.+)\n", fence, flags=re.MULTILINE)[1:4]
    said = page.run(plan)
    printed = shape_of_plan(page.messages + said)
    for line in shown.splitlines():
        assert line == "..." or shape_of_plan(line) in printed, printed
    page.run(apply)
    assert (page.images / "web101.qcow2").exists()
    (kept,) = page.images.glob("fleet.2*.plan.json")
    page.run(f"batchdiff restore -q --guest web001 {kept.name}")
    assert (page.images / "web001.img").exists()


def shape_of_plan(text):
    """A text without numbers, and without the time in the name of a plan that was kept."""
    return masked(re.sub(r"\d{4}-\d\d-\d\dT\d{6}Z", "TIME", text))
