"""Seeded mutations of plans, with a checksum that fits or without, and of manifests: none is a crash or a loss."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
import yaml
from commands import assert_no_traceback
from mutations import as_text, mutated, mutated_bytes
from seeds import seeded

sys.path.append(str(Path(__file__).parents[1] / "faults"))
from scenes import PLAN, assert_nothing_is_lost, make_fleet

from batchdiff.cli import main
from batchdiff.plan.file import checksum_of

READERS = (
    ("show",),
    *(("show", "--format", form) for form in ("json", "markdown", "csv", "html")),
    ("status",),
    ("definitions",),
    ("verify",),
    ("restore", "--dry-run"),
    ("purge", "--dry-run"),
)
WRITERS = (("apply", "--retire", "quarantine"), ("restore", "--yes"), ("purge", "--yes"))
ANSWERS = {0, 1, 2, 4, 5, 6, 7}
SECONDS = 60


def run(*arguments):
    """The exit code and the output of a command that runs in this process."""
    said = io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main.run([*arguments])
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert_no_traceback(said.getvalue())
    return code, said.getvalue()


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A fleet with its plan, before and after an apply."""
    folder = tmp_path_factory.mktemp("sound") / "fleet"
    make_fleet(folder)
    return folder


def forged(document, chosen):
    """The bytes of a mutated plan, and what was done."""
    if chosen.random() < 0.2:
        return mutated_bytes(json.dumps(document).encode(), chosen), "bytes"
    made, done = mutated(document, chosen)
    if chosen.random() < 0.8 and isinstance(made, dict):
        with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
            made["checksum"] = checksum_of(made)
    return as_text(made).encode(), done


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.long)])
def test_verbs_that_only_read(tmp_path, sound, count):
    folder = shutil.copytree(sound, tmp_path / "fleet")
    document = planned(folder, sound)
    chosen, codes = seeded(), set()
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != PLAN}
    for _ in range(count):
        data, done = forged(document, chosen)
        (folder / PLAN).write_bytes(data)
        verb, *options = chosen.choice(READERS)
        print(verb, *options, done)
        code, said = run(verb, str(folder / PLAN), *options)
        assert code in ANSWERS, said
        assert code == 0 or said.strip()
        codes.add(code)
    left = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != PLAN}
    assert before == {name: left[name] for name in before}
    assert 5 in codes


def planned(folder, sound):
    """The plan of a copied fleet, as a document, with the paths of the copy."""
    run("plan", str(folder / "fleet.yaml"), "-q", "-j", "1")
    return json.loads((folder / PLAN).read_text())


@pytest.mark.parametrize("count", [15, pytest.param(400, marks=pytest.mark.long)])
def test_verbs_that_write(tmp_path, count):
    chosen, changed = seeded(), True
    folder = tmp_path / "fleet"
    for number in range(count):
        if changed:
            shutil.rmtree(folder, ignore_errors=True)
            make_fleet(folder)
            document = json.loads((folder / PLAN).read_text())
            if number % 3:
                run("apply", str(folder / PLAN), "-q", "--retire", "quarantine")
        before = state(folder)
        data, done = forged(document, chosen)
        (folder / PLAN).write_bytes(data)
        verb, *options = chosen.choice(WRITERS)
        print(verb, *options, done)
        code, said = run(verb, str(folder / PLAN), *options, "-q")
        assert code in ANSWERS, said
        changed = state(folder) != before
        if changed:
            assert_nothing_is_lost(folder)


def state(folder):
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.iterdir()
        if not path.name.startswith("fleet.")
    }


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.long)])
def test_manifests(tmp_path, sound, count):
    folder = shutil.copytree(sound, tmp_path / "fleet")
    text = (folder / "fleet.yaml").read_text()
    document, chosen, codes = yaml.safe_load(text), seeded(), set()
    document |= {"retire": "keep", "minimum_savings": "5%", "exclude": ["x*"], "allow_loss": ["snapshots"]}
    document["guests"][0]["overlay"] = {"cluster_size": "64KiB", "compression": "none", "path": "thin.qcow2"}
    for each in range(count):
        if each == 0:
            data, done = as_text(document).encode(), "none"
        elif chosen.random() < 0.5:
            data, done = mutated_bytes(text.encode(), chosen), "bytes"
        else:
            made, done = mutated(document, chosen)
            data = as_text(made).encode(errors="surrogatepass")  # JSON is YAML
        (folder / "fleet.yaml").write_bytes(data)
        print(done)
        code, said = run("validate", str(folder / "fleet.yaml"))
        assert code in {0, 1, 3, 4}, said
        codes.add(code)
    assert {0, 3} <= codes
