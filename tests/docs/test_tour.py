"""docs/tour.md, command by command: its fleet, made small, gives the output that the page shows."""

import re

import notation
from page_runner import PageRunner, page_fences
from test_docs import ROOT

RETIRE = "batchdiff apply manifest.plan.json --retire quarantine\n"
TEMPLATE = "2M:A 1M:- 1M:B"
GUESTS = {
    "build01": "64k:X 1984k:A 1M:- 1M:B",
    "legacy": "1M:A",
    "spare": TEMPLATE,
    "web01": "2M:A 64k:Y 960k:- 1M:B",
    "web02": "2M:A 512k:Z 512k:- 1M:B",
}
LARGEST = 150 << 10


def masked(text: str) -> str:
    """A text in one line, without its numbers: those of the page are of larger images."""
    line = " ".join(text.split())
    return re.sub(r"(?<![\w./-])\d[\d.:TZ-]*(%| [KMG]?i?B)?", "N", line)


def test_the_output_is_real(tmp_path):
    page = PageRunner(tmp_path)
    (manifest,) = page_fences("tour", "yaml")
    page.write("manifest.yaml", manifest)
    (page.images / "clones").mkdir()
    notation.write_raw(page.images / "debian-12.img", TEMPLATE)
    for name, text in GUESTS.items():
        notation.write_raw(page.images / "clones" / f"{name}.img", text)
    notation.write_qcow2(page.images / "clones" / "db01.qcow2", "2M:A 4k:W 1020k:- 1M:B")
    for fence in page_fences("tour", "console"):
        command, _, shown = fence.partition("\n")
        printed = masked(page.run(command.removeprefix("$ "), expect=None) + page.messages)
        # Small images have notes between the paragraphs, such as one on another cluster size.
        for part in re.split(r"^(?:\.\.\.)?\n", shown, flags=re.MULTILINE):
            assert masked(part) in printed
    for commands in page_fences("tour", "sh"):
        page.run(commands, expect=1 if commands == RETIRE else 0)  # legacy is refused
    assert (page.images / "report.html").exists()
    assert (page.images / "clones" / "web01.img.batchdiff-original").exists()


def test_pictures_are_small():
    for path in (ROOT / "docs" / "pictures").iterdir():
        assert path.stat().st_size <= LARGEST, f"{path.name}: run `make docs-pictures` and look at it"
