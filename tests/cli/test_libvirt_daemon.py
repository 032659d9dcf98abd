"""What plan, apply, restore and definitions see of a real libvirtd, whose domains really start.

Guards definitions/domain_state.py, cli/verbs/restore.py.
"""

import os
import re
import shlex
import signal
import subprocess
import time
from contextlib import contextmanager

import pytest
from commands import run_here
from domains import domain_xml

MANIFEST = """\
version: 1
template: {path: template.img, format: raw}
guests:
  - {path: raw.img, format: raw}
  - {path: thick.qcow2, format: qcow2}
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """A libvirtd in a folder of its own, which takes itself for an ordinary user's and leaves the host's alone."""
    folder = tmp_path_factory.mktemp("lv")
    names = ("HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")
    own = {name: str(folder) for name in names}
    # Otherwise it starts a virtlogd, which stays.
    (folder / "libvirt").mkdir()
    (folder / "libvirt" / "qemu.conf").write_text('stdio_handler = "file"\n')
    as_user = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
    with (folder / "log").open("w") as log:
        started = subprocess.Popen([*as_user, "libvirtd"], env=os.environ | own, stdout=log, stderr=log)
    socket = folder / "libvirt" / "libvirt-sock"
    try:
        deadline = time.monotonic() + 60
        while not socket.exists():
            assert started.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        yield f"qemu+unix:///session?socket={socket}"
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(60)


def virsh(uri, *arguments):
    command = ["virsh", "--quiet", "--connect", uri, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@contextmanager
def domain(uri, path, form):
    """A domain ``web`` with one disk; it ends with all that libvirt keeps of it."""
    document = path.with_name("web.xml")
    document.write_text(domain_xml(path, form=form))
    virsh(uri, "define", str(document))
    try:
        yield
    finally:
        if virsh(uri, "list", "--name").strip():
            virsh(uri, "destroy", "web")
        virsh(uri, "undefine", "web", "--managed-save", "--snapshots-metadata")


@pytest.fixture
def two(fleet):
    """A planned fleet of two guests."""
    fleet.write_manifest(MANIFEST)
    fleet.plan_here()
    return fleet


def commands_in(text):
    """The virsh commands that a message gives to copy."""
    found = re.findall(r"`(virsh [^`]+)`", text)
    return [shlex.split(each) for line in found for each in line.split("; ")]


def test_a_saved_domain_is_refused_that_no_process_has_open(two, daemon):
    plan = two.folder / "fleet.plan.json"
    before = (two.folder / "raw.img").read_bytes()
    with domain(daemon, two.folder / "raw.img", "raw"):
        virsh(daemon, "start", "--paused", "web")
        said = run_here(
            "plan", two.folder / "fleet.yaml", "--connect", daemon, "-o", two.folder / "b.json", expect=1
        )
        assert "raw.img is in use: the domain web is paused. Shut its VM down" in said
        virsh(daemon, "managedsave", "web")
        said = run_here("apply", plan, "--connect", daemon, expect=1)
        assert "raw.img is in use: the domain web will continue from its saved memory" in said
        two.assert_not_converted("raw.img")
        two.assert_converted("thick.qcow2")
        assert (two.folder / "raw.img").read_bytes() == before
        virsh(daemon, "managedsave-remove", "web")
        run_here("apply", plan, "--connect", daemon)
        two.assert_converted("raw.img")


def test_defined_started_and_changed_back_by_restore(two, daemon):
    plan, connect = two.folder / "fleet.plan.json", ("--connect", daemon)
    virsh(daemon, "pool-define-as", "images", "dir", "--target", str(two.folder))
    virsh(daemon, "pool-start", "images")
    try:
        with domain(daemon, two.folder / "raw.img", "raw"):
            run_here("apply", plan)
            assert "raw.qcow2" not in virsh(daemon, "vol-list", "images")
            run_here("definitions", plan, *connect, "--define")
            assert "raw.qcow2" in virsh(daemon, "vol-list", "images")
            virsh(daemon, "start", "--paused", "web")
            said = run_here("restore", plan, *connect, "--yes", expect=1)
            assert "raw.qcow2 is in use: the domain web is paused" in said
            assert f"`batchdiff definitions {plan} --connect" in said, "thick is restored"
            virsh(daemon, "destroy", "web")
            virsh(daemon, "pool-destroy", "images")
            run_here("restore", plan, "--guest", "raw", "--yes")
            said = run_here("restore", plan, *connect, "--define", "--yes")
            assert "defined: web" in said
            assert "warning: the pool images was not refreshed" in said
            assert commands_in(said)[-1] == ["virsh", "--connect", daemon, "pool-start", "--pool", "images"]
            assert f"<source file='{two.folder}/raw.img'/>" in virsh(daemon, "dumpxml", "web")
    finally:
        if virsh(daemon, "pool-list", "--name").strip():
            virsh(daemon, "pool-destroy", "images")
        virsh(daemon, "pool-undefine", "images")


def test_snapshots_and_saved_memory_are_removed_first_each_by_its_command(two, daemon):
    plan, connect = two.folder / "fleet.plan.json", ("--connect", daemon)
    with domain(daemon, two.folder / "thick.qcow2", "qcow2"):
        run_here("apply", plan)
        for name in ("one", "two words"):
            virsh(daemon, "snapshot-create-as", "web", name)
        virsh(daemon, "start", "--paused", "web")
        virsh(daemon, "managedsave", "web")
        shown = run_here("definitions", plan, *connect)
        assert shown.count("$ virsh ") == 3
        said = run_here("definitions", plan, *connect, "--define", expect=1)
        assert "the domain has 2 snapshots" in said
        found = sorted({shlex.join(command) for command in commands_in(said)})
        assert len(found) == 3
        for command in found:
            assert command in shown
            subprocess.run(shlex.split(command), check=True, capture_output=True, timeout=60)
        run_here("definitions", plan, *connect, "--define")
        assert f"<source file='{two.folder}/thick.overlay.qcow2'/>" in virsh(daemon, "dumpxml", "web")
        said = run_here("definitions", plan, *connect)
        assert "1 definition: 0 must change, 1 is right." in said
