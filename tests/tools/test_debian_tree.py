"""A fresh Debian for the tests leaves nothing behind, whatever ends it. No package is fetched here."""

import os
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from filesystems import tmpfs
from notation import run
from real_holders import wait_for

TOOL = Path(__file__).parents[2] / "tools/debian-tree"

ENDLESS = """\
#!/bin/sh
# In debootstrap's place: has made and mounted something, and has a long way to go.
cd "$(dirname "$0")"
mkdir trixie/proc
mount -t tmpfs batchdiff-tests trixie/proc
truncate -s 1M trixie/disk
losetup --find "$PWD/trixie/disk"
sleep 1000 &
readlink /proc/self/ns/pid >begun.new
mv begun.new begun
wait
"""
FAILING = "#!/bin/sh\necho E: there is no such mirror >&2\nexit 1\n"


@pytest.fixture
def trees(tmp_path):
    """A folder for trees; in a chroot, too, nobody else sees what is mounted in it."""
    with tmpfs(tmp_path) as point:
        run("mount", "--make-private", str(point))
        yield point


def started(trees, debootstrap, **options):
    """The tool, with another ``debootstrap``."""
    program = trees / "debootstrap"
    program.write_text(debootstrap)
    program.chmod(0o755)
    environment = {"TREES": str(trees), "MIRROR": "file:///", "PATH": f"{trees}:{os.environ['PATH']}"}
    return subprocess.Popen(["sh", TOOL, "trixie", "true"], env=os.environ | environment, text=True, **options)


def loop_devices(folder):
    """The loop devices on files of a folder's filesystem; the names of files change when a namespace goes."""
    number = os.stat(folder).st_dev
    lines = run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-MAJ:MIN").splitlines()
    found = [line.split() for line in lines]
    return [name for name, on in found if on == f"{os.major(number)}:{os.minor(number)}"]


def namespaces():
    """The process namespaces of all processes."""
    found = set()
    for each in Path("/proc").glob("[0-9]*/ns/pid"):
        try:
            found.add(os.readlink(each))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_it_is_interrupted(trees, number):
    with started(trees, ENDLESS, stdout=subprocess.DEVNULL) as tool, ExitStack() as stack:
        stack.callback(tool.kill)
        wait_for(lambda: (trees / "begun").exists() or tool.poll() is not None)
        namespace = (trees / "begun").read_text().strip()
        assert namespace in namespaces()
        assert loop_devices(trees)
        tool.send_signal(number)
        assert tool.wait(timeout=60) == 143
    assert namespace not in namespaces(), "and so are its mounts"
    assert loop_devices(trees) == []
    assert not (trees / "trixie").exists()


def test_it_fails(trees):
    with started(trees, FAILING, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as tool:
        said = tool.communicate(timeout=60)[1]
    assert tool.returncode == 1
    assert said == "E: there is no such mirror\n"
    assert not (trees / "trixie").exists()


def test_another_run_is_left_alone(trees):
    (trees / "trixie").mkdir()
    with started(trees, FAILING, stderr=subprocess.PIPE) as tool:
        said = tool.communicate(timeout=60)[1]
    assert tool.returncode == 1
    assert f"If none is running: rm -r --one-file-system {trees}/trixie" in said
    assert (trees / "trixie").exists()
