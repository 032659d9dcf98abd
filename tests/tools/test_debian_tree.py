"""A fresh Debian for the tests leaves nothing behind, whatever ends it. No package is fetched here."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from notation import run

TOOL = Path(__file__).parents[2] / "tools/debian-tree"

ENDLESS = """\
#!/bin/sh
# In debootstrap's place: has made and mounted something, and has a long way to go.
cd "$(dirname "$0")"
mkdir trees/trixie/proc
mount -t tmpfs batchdiff-tests trees/trixie/proc
truncate -s 1M trees/trixie/disk
losetup --find "$PWD/trees/trixie/disk"
sleep 1000 &
readlink /proc/self/ns/pid >begun
wait
"""
FAILING = "#!/bin/sh\necho E: there is no such mirror >&2\nexit 1\n"


def started(folder, debootstrap, **options):
    """The tool, with another ``debootstrap``, in a folder of its own."""
    program = folder / "debootstrap"
    program.write_text(debootstrap)
    program.chmod(0o755)
    environment = {"TREES": f"{folder}/trees", "MIRROR": "file:///", "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.Popen(["sh", TOOL, "trixie", "true"], env=os.environ | environment, text=True, **options)


def loop_devices(folder):
    files = run("losetup", "--list", "--noheadings", "--output", "BACK-FILE").splitlines()
    return [file for file in files if file.startswith(str(folder))]


def namespaces():
    """The process namespaces of all processes."""
    found = set()
    for each in Path("/proc").glob("[0-9]*/ns/pid"):
        try:
            found.add(os.readlink(each))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_it_is_interrupted(tmp_path, number, code):
    os.mkfifo(tmp_path / "begun")
    with started(tmp_path, ENDLESS, stdout=subprocess.DEVNULL) as tool:
        namespace = (tmp_path / "begun").read_text().strip()
        assert namespace in namespaces()
        assert loop_devices(tmp_path)
        tool.send_signal(number)
        assert tool.wait(timeout=60) == code
    assert namespace not in namespaces(), "and so are its mounts"
    assert loop_devices(tmp_path) == []
    assert list((tmp_path / "trees").iterdir()) == []


def test_it_fails(tmp_path):
    with started(tmp_path, FAILING, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as tool:
        said = tool.communicate(timeout=60)[1]
    assert tool.returncode == 1
    assert said == "E: there is no such mirror\n"
    assert list((tmp_path / "trees").iterdir()) == []


def test_another_run_is_left_alone(tmp_path):
    (tmp_path / "trees/trixie").mkdir(parents=True)
    with started(tmp_path, ENDLESS, stderr=subprocess.PIPE) as tool:
        said = tool.communicate(timeout=60)[1]
    assert tool.returncode == 1
    assert f"If none runs: rm -r --one-file-system {tmp_path}/trees/trixie" in said
    assert (tmp_path / "trees/trixie").exists()
