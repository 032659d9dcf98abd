"""Take the pictures of the documents: Chromium opens the HTML report of the demo's images.

python tools/docsite/pictures.py FOLDER
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

TOOLS = Path(__file__).parents[1]
sys.path[:0] = [str(TOOLS), str(TOOLS.parent / "tests" / "browser")]

import chromium  # noqa: E402 - found by the line above
import demo  # noqa: E402

FIRST = 'id="g0"'
ONE_GUEST = "<style>header, main > section:not(:has(#g0)), #disks > :not(#g0) { display: none }</style></head>"
"""Hides all of the report but its first guest. Headless Chromium pictures only the top of a page."""


def main(folder: Path) -> None:
    """Make the demo's images and their report in a temporary folder, and take the pictures of it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        page = _report(Path(name))
        _picture(page, folder / "report.png", 960)
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace("</head>", ONE_GUEST).replace(FIRST, f"{FIRST} open"), encoding="utf-8")
        _picture(page, folder / "report-guest.png", 660)


def _report(folder: Path) -> Path:
    """Return the report's page, in which the temporary folder is called /images."""
    demo.make_images(str(folder))
    (folder / "manifest.yaml").write_text(demo.MANIFEST, encoding="ascii")
    for command in ("plan manifest.yaml --quiet", "show manifest.plan.json --format html -o report.html"):
        program = [sys.executable, "-m", "batchdiff", *command.split()]
        subprocess.run(program, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    page = folder / "report.html"
    page.write_text(page.read_text(encoding="utf-8").replace(str(folder), "/images"), encoding="utf-8")
    return page


def _picture(page: Path, picture: Path, height: int) -> None:
    size = f"--window-size=1000,{height}"
    chromium.run(page, f"--screenshot={picture}", size, "--hide-scrollbars", profile=page.with_name("profile"))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
