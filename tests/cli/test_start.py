"""A verb loads what it needs and no more: a start is most of what a short command takes.

Guards __main__.py.
"""

import json
import subprocess
import sys

import notation
import pytest

from batchdiff.signals import HELD

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
UNTIL_AN_IMAGE_IS_OPENED = """
import json, os, sys
images = sys.argv[1].split(":")
def watch(event, details):
    if event == "open" and details[0] in images and not details[2] & os.O_PATH:
        os.write(1, json.dumps(sorted(sys.modules)).encode())
        os._exit(0)
sys.addaudithook(watch)
from batchdiff.cli.main import run
run(sys.argv[2:])
"""
COLLECTIONS = """
import gc, sys
from batchdiff import __main__
looked = []
gc.callbacks.append(lambda phase, _info: looked.append(phase))
__main__._end = lambda code: print("\\n", code, len(looked))
__main__.main()
"""
MOST_MODULES = 253
"""That a plan of raw and qcow2 images loads, of batchdiff's own."""

EACH_ALONE = """
import importlib, os, pkgutil
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy, yaml
import batchdiff.cli.verbs
failed = []
for found in pkgutil.iter_modules(batchdiff.cli.verbs.__path__):
    child = os.fork()
    if child == 0:
        importlib.import_module(f"batchdiff.cli.verbs.{found.name}")
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(found.name)
print(failed)
"""
HEAVY = {
    "jsonschema",
    "lzma",
    "multiprocessing",
    "numpy",
    "numpy.ma",
    "shutil",
    "subprocess",
    "tqdm",
    "xxhash",
    "yaml",
    "zstandard",
}


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


def test_each_verb_loads_whatever_was_loaded_before():
    """The fork server of the tests loads all modules in one order; here each verb is the first to load any."""
    done = subprocess.run([sys.executable, "-c", EACH_ALONE], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n", done.stderr


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


def modules_before_an_image(manifest):
    """Return batchdiff's modules that a plan has loaded when it opens the first image."""
    images = ":".join(str(manifest.with_name(name)) for name in ("template.img", "guest.img"))
    argv = [sys.executable, "-c", UNTIL_AN_IMAGE_IS_OPENED, images, "plan", "-q", str(manifest)]
    before = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
    return {name for name in before if name.startswith("batchdiff")}


@pytest.mark.parametrize("image_format", ["raw", "vdi"])
def test_a_plan_loads_nothing_after_it_has_opened_an_image(manifest, image_format):
    """A scan may take hours, and batchdiff be updated meanwhile; what follows must be of the same version."""
    guest = manifest.with_name("guest.img")
    if image_format != "raw":
        template = str(manifest.with_name("template.img"))
        notation.run("qemu-img", "convert", "-f", "raw", "-O", image_format, template, str(guest))
    manifest.write_text(
        manifest.read_text().replace("guest.img, format: raw", f"guest.img, format: {image_format}")
    )
    before = modules_before_an_image(manifest)
    whole = [sys.executable, "-c", LOADED, "plan", "-q", str(manifest)]
    after = json.loads(subprocess.run(whole, capture_output=True, check=True).stdout.splitlines()[-1])
    assert {name for name in set(after) - before if name.startswith("batchdiff")} == set()
    assert ("batchdiff.foreign.vmdk" in before) is (image_format != "raw")


@pytest.mark.parametrize("write", [notation.write_raw, notation.write_qcow2])
def test_a_plan_loads_few_modules_before_it_opens_an_image(manifest, write):
    """Each takes a third of a millisecond. It needs neither QEMU nor other formats, hosts and limits."""
    write(manifest.with_name("guest.img"), "64k:B 64k:-")
    manifest.write_text(
        manifest.read_text().replace("guest.img, format: raw", f"guest.img, format: {write.__name__[6:]}")
    )
    loaded_first = modules_before_an_image(manifest)
    assert len(loaded_first) <= MOST_MODULES
    rare = (
        "batchdiff.qemu",
        "batchdiff.planning.remote",
        "batchdiff.image.formats",
        "batchdiff.throttle.page_cache",
    )
    assert [name for name in loaded_first if name.startswith(rare)] == []


def test_a_wrong_manifest_is_reported_without_what_scans(manifest):
    assert "numpy" in loaded("plan", "-q", str(manifest))
    manifest.write_text(manifest.read_text().replace("guest.img", "none.img"))
    assert loaded("plan", "-q", str(manifest)) == {"yaml"}


def test_a_plan_where_none_was_needs_nothing_that_knows_journals(manifest):
    argv = [sys.executable, "-c", LOADED, "plan", "-q", str(manifest)]
    for expected in (False, True):
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        assert ("batchdiff.applying.journal.file" in json.loads(done.stdout.splitlines()[-1])) is expected


def test_a_manifest_is_validated_without_what_scans(manifest):
    assert loaded("validate", str(manifest)) == {"yaml"}


def test_python_looks_for_no_garbage_while_a_verb_is_loaded(manifest):
    for verb in (("plan", "-q", str(manifest)), ("show", str(manifest.with_suffix(".plan.json")))):
        argv = [sys.executable, "-c", COLLECTIONS, *verb]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1].split() == ["0", "0"]


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


@pytest.mark.parametrize("number", HELD)
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


@pytest.mark.parametrize("closed", ["", ">&-", "2>&-", ">&- 2>&-"])
def test_ctrl_c_while_the_command_line_is_loaded_is_no_bug(closed):
    """Whichever standard stream the caller has closed."""
    script = """
import sys

class Interruption:
    def find_spec(name, *_):
        if name == "batchdiff.cli.main":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interruption)
from batchdiff.__main__ import main
main()
"""
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", script]
    done = subprocess.run(shell, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
