"""docs/estimate.md, command by command, on a small fleet, and its figures about samples."""

from __future__ import annotations

import random
import re

from clumped_fleets import write_fleet
from page_runner import PageRunner, page_fences
from test_docs import ROOT

from batchdiff.estimation.guest_sample import first_probes
from batchdiff.sampling.interval import Probe, share_of
from batchdiff.units import MIB


def test_each_command_prints_what_the_page_shows(tmp_path):
    page = PageRunner(tmp_path)
    write_fleet(page.images, 9, size=64 * MIB, guests=2)
    names = {"guest0": "web01", "guest1": "db01"}
    text = (page.images / "fleet.yaml").read_text()
    for old, new in names.items():
        (page.images / f"{old}.img").rename(page.images / f"{new}.img")
        text = text.replace(f"{old}.img", f"{new}.img")
    (page.images / "fleet.yaml").write_text(text)
    first, errors, script = page_fences("estimate", "sh")
    said = page.run(first)
    (shown,) = page_fences("estimate", "text")
    assert shape(said) == shape(shown)
    *_, last = page.run(errors).split("Estimate for ")
    assert "a plan would give the same figures" in last
    assert int(page.run(script)) > MIB


def shape(text: str) -> str:
    """A text without its numbers, sizes and paths, on one line."""
    return " ".join(re.sub(r"~?[\d.]+\s([KMG]iB|)|[\d.]+%|/images/\S+|\d+", " ", " ".join(text.split())).split())


def test_the_number_of_samples():
    """The table's numbers for a tenth and for a half, in samples that differ one by one; doubling overshoots."""
    page = (ROOT / "docs" / "estimate.md").read_text()
    rows = re.findall(r"^\| (\d)% .*?\| ([\d,]+) \| ([\d,]+) \|$", page, re.M)
    assert len(rows) == 3
    for percent, of_a_tenth, most in rows:
        error = int(percent) / 100
        enough, at_most = (int(number.replace(",", "")) for number in (of_a_tenth, most))
        assert half_width(enough, 0.1) <= error * 1.06
        assert half_width(at_most // 2, 0.5) <= error * 1.06
    assert (
        f"no fewer than {first_probes(1)} for each guest, or {first_probes(300)} if there are hundreds"
        in " ".join(page.split())
    )


def half_width(count: int, share: float) -> float:
    """That of samples in which every tenth, or second, differs, in an order without any pattern."""
    order = [number < round(count * share) for number in range(count)]
    random.Random(count).shuffle(order)
    return share_of([Probe(float(hit), 1.0) for hit in order], population=10**6).half_width
