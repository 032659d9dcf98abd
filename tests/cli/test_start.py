"""A verb loads what it needs and no more: a start is most of what a short command takes."""

import json
import signal
import subprocess
import sys

import notation
import pytest

LOADED = """
import json, sys
from batchdiff.cli.main import run
try:
    run(sys.argv[1:])
finally:
    print("\\n" + json.dumps(sorted(sys.modules)))
"""
THREADS = """
import os, sys
from batchdiff.__main__ import main
sys.argv[1:] = ["--version"]
try:
    main()
except SystemExit:
    import numpy
    print(len(os.listdir("/proc/self/task")))
"""
HEAVY = {"jsonschema", "multiprocessing", "numpy", "numpy.ma", "subprocess", "tqdm", "xxhash", "yaml", "zstandard"}


def loaded(*arguments):
    done = subprocess.run([sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=False)
    return HEAVY & set(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture
def manifest(tmp_path):
    for name in ("template.img", "guest.img"):
        notation.write_raw(tmp_path / name, "64k:A 64k:-")
    path = tmp_path / "manifest.yaml"
    path.write_text(
        "version: 1\ntemplate: {path: template.img, format: raw}\nguests: [{path: guest.img, format: raw}]\n"
    )
    return path


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_help_loads_nothing(option):
    assert loaded(option) == set()


@pytest.mark.parametrize("write", [notation.write_raw, notation.write_qcow2])
def test_planning_loads_no_progress_bar_and_no_validator(manifest, write):
    write(manifest.with_name("guest.img"), "64k:B 64k:-")
    manifest.write_text(
        manifest.read_text().replace("guest.img, format: raw", f"guest.img, format: {write.__name__[6:]}")
    )
    assert not loaded("plan", "-q", str(manifest)) & {"jsonschema", "numpy.ma", "tqdm"}


def test_a_wrong_manifest_needs_the_validator(manifest):
    manifest.write_text(manifest.read_text() + "other: 1\n")
    assert "jsonschema" in loaded("validate", str(manifest))


def test_a_report_loads_nothing(manifest):
    loaded("plan", "-q", str(manifest))
    plan = str(manifest.with_suffix(".plan.json"))
    assert loaded("show", plan) == loaded("status", plan) == set()


def test_numpy_starts_no_threads():
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "1"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_verb_is_loaded_is_no_bug(number):
    """numpy, interrupted in the middle of its import, says that its installation is broken."""
    script = f"""
import importlib, os, signal, sys
from batchdiff.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)

def loading(name, real=importlib.import_module):
    try:
        os.kill(os.getpid(), {int(number)})
        return real(name)
    except KeyboardInterrupt:
        raise ImportError("the installation is broken") from None

importlib.import_module = loading
sys.exit(main.run(["show", "none"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.startswith("batchdiff: interrupted")
