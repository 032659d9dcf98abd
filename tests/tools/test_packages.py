"""Packages hold what they need and no trace of this machine, and what describes them agrees.

No package is installed here; `make test-packages` does that.
"""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from notation import run

from batchdiff import __version__

ROOT = Path(__file__).parents[2]
CONTROL = (ROOT / "debian/control").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SPEC = (ROOT / "packaging/batchdiff.spec").read_text()
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
IN_THE_ARCHIVE = ("batchdiff", "debian", "docs", "manifests", "packaging", "tests", "tools", ".github")


def files(folder: str) -> set[str]:
    """The files of a folder of the checkout, except those that running its programs leaves behind."""
    found = (path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file())
    return {str(path) for path in found if not {"__pycache__", ".hypothesis"} & set(path.parts)}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with the source archive and the wheel."""
    folder = tmp_path_factory.mktemp("packages")
    command = ["sh", ROOT / "tools/make-packages", sys.executable, folder, "wheel"]
    subprocess.run(command, check=True, timeout=300)
    return folder


@pytest.fixture(scope="module")
def archive(made) -> dict[str, tarfile.TarInfo]:
    """The files in the source archive, without its top folder."""
    with tarfile.open(made / f"batchdiff-{__version__}.tar.gz") as tar:
        return {member.name.partition("/")[2]: member for member in tar if member.isfile()}


@pytest.fixture(scope="module")
def wheel(made) -> dict[str, bytes]:
    with zipfile.ZipFile(made / f"batchdiff-{__version__}-py3-none-any.whl") as opened:
        return {name: opened.read(name) for name in opened.namelist()}


@pytest.mark.parametrize("folder", IN_THE_ARCHIVE)
def test_the_archive_has_every_file_of(folder: str, archive):
    inside = {name for name in archive if name.startswith(f"{folder}/")}
    assert inside == files(folder)


def test_the_archive_can_make_and_test_packages(archive):
    assert {"Makefile", "MANIFEST.in", "pyproject.toml", "LICENSE", ".gitignore"} <= archive.keys()
    assert archive["debian/rules"].mode == 0o755


def test_man_pages_and_completions_are_in_the_archive_and_in_the_wheel(archive, wheel):
    inside = {name for name in archive if name.startswith("share/")}
    assert {"share/man/man1/batchdiff.1", "share/bash-completion/completions/batchdiff"} < inside
    in_the_wheel = {name for name in wheel if ".data/data/share/" in name}
    assert in_the_wheel == {f"batchdiff-{__version__}.data/data/{name}" for name in inside}


def test_the_archive_names_no_user_and_no_time_of_this_machine(archive):
    assert {(each.uid, each.gid, each.uname, each.gname) for each in archive.values()} == {(0, 0, "", "")}
    assert len({each.mtime for each in archive.values()}) == 1


def test_the_wheel_has_the_whole_package_and_no_tests(wheel):
    inside = {name for name in wheel if not re.match(r"batchdiff-[\d.]+\.(dist-info|data)/", name)}
    assert inside == files("batchdiff")
    assert {"batchdiff/py.typed", "batchdiff/plan/schemas/plan.schema.json"} < inside


def test_the_wheel_names_no_folder_of_this_machine(wheel):
    folders = (str(ROOT).encode(), sys.prefix.encode(), b"/tmp/tmp.")
    assert [name for name, data in wheel.items() if any(folder in data for folder in folders)] == []


def test_the_spec_file_is_accepted():
    done = subprocess.run(
        ["rpmlint", ROOT / "packaging/batchdiff.spec"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"1 specfiles checked; 0 errors", done.stdout), done.stdout


def test_all_have_the_same_version():
    assert run("head", "-n", "1", str(ROOT / "debian/changelog")).startswith(f"batchdiff ({__version__}-")
    assert re.search(r"^Version: +(.+)$", SPEC, re.MULTILINE)[1] == __version__
    assert re.search(r"^## \[(.+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == __version__


def test_all_have_the_same_address():
    home = PROJECT["urls"]["Homepage"]
    assert all(url.startswith(home) for url in PROJECT["urls"].values())
    assert re.search(r"^URL: +(.+)$", SPEC, re.MULTILINE)[1] == home
    assert re.search(r"^Homepage: (.+)$", CONTROL, re.MULTILINE)[1] == home


def test_all_need_the_same_python():
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert f"X-Python3-Version: >= {oldest}\n" in CONTROL
    assert f"BuildRequires:  python3-devel >= {oldest}\n" in SPEC
    tested = [each["python"] for each in WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["include"]]
    assert tested[0] == oldest


def test_the_workflow_runs_targets_that_there_are():
    steps = [step.get("run", "") for job in WORKFLOW["jobs"].values() for step in job["steps"]]
    run_there = {word for step in steps for word in re.findall(r"^make ([\w-]+)$", step)}
    targets = set(re.findall(r"^([a-z\d -]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert run_there == {"lint", "demo", "test", "test-packages"}
    assert run_there <= {name for line in targets for name in line.split()}
