"""Headless Chromium: opens a page, runs a script in it, and returns what that found."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

_POLICY = re.compile(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>")
_RESULT = re.compile(r'<html[^>]* data-result="([^"]*)"')
_SECONDS = 120


def run(page: Path, *options: str, profile: Path) -> subprocess.CompletedProcess[str]:
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-background-networking", "--enable-logging=stderr", f"--user-data-dir={profile}"]
    done = subprocess.run(
        [*command, *options, page.as_uri()], capture_output=True, text=True, timeout=_SECONDS, check=True
    )
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    assert console == [], console
    return done


def evaluate(page: Path, script: str) -> Any:
    """Return the value of a function's body that runs in a copy of the page, once its own script has run."""
    text = _POLICY.sub("", page.read_text())
    probe = page.with_name(f"{page.stem}-probe.html")
    call = f"document.documentElement.dataset.result = JSON.stringify((() => {{{script}}})());"
    probe.write_text(text.replace("</body>", f"<script>{call}</script></body>"))
    dom = run(probe, "--dump-dom", profile=page.with_name("profile")).stdout
    found = _RESULT.search(dom)
    assert found, dom[-500:]
    return json.loads(html.unescape(found[1]))
