"""docs/proxmox.md, command by command, in a folder like a host's, with a stand-in for ``qm``; QEMU is the judge.

Guards cli/verbs/definitions.py.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import notation
import pytest
from commands import events
from page_runner import page_fences

APPLY, ELSEWHERE, PURGE, BACK = page_fences("proxmox", "sh")
(MANIFEST,) = page_fences("proxmox", "yaml")
(SHOWN,) = page_fences("proxmox", "console")
SHOW = "batchdiff definitions /srv/thin.plan.json --proxmox /etc/pve/qemu-server"

TEMPLATE = "2M:A 2M:- 2M:B 2M:C"
GUESTS = {
    "101/vm-101-disk-0.raw": "2M:A 1M:- 64k:X 960k:- 2M:B 2M:C",
    "103/vm-103-disk-0.qcow2": "2M:A 2M:- 64k:Y 1984k:B 2M:C",
}
CONFIGS = {
    "101": "#web server\nboot: order=scsi0\ncores: 2\n"
    "scsi0: local:101/vm-101-disk-0.raw,discard=on,iothread=1,size=8M\n",
    "103": "virtio1: local:103/vm-103-disk-0.qcow2,format=qcow2,size=8M\n",
    "9000": "scsi0: local:9000/base-9000-disk-0.qcow2,size=8M\ntemplate: 1\n",
}
PLACES = ("/var/lib/vz", "/etc/pve", "/srv")
BASE = "../9000/base-9000-disk-0.qcow2"


@pytest.fixture
def host(tmp_path):
    """Stands in for a host: its storage, its configurations, and the programs batchdiff and qm."""
    for folder in ("images/9000", "images/101", "images/103"):
        (tmp_path / "var/lib/vz" / folder).mkdir(parents=True)
    images = tmp_path / "var/lib/vz/images"
    notation.write_qcow2(images / "9000/base-9000-disk-0.qcow2", TEMPLATE)
    (images / "9000/base-9000-disk-0.qcow2").chmod(0o444)
    for name, text in GUESTS.items():
        (notation.write_raw if name.endswith("raw") else notation.write_qcow2)(images / name, text)
    configs = tmp_path / "etc/pve/nodes/pve2/qemu-server"
    configs.mkdir(parents=True)
    (tmp_path / "etc/pve/qemu-server").symlink_to("nodes/pve2/qemu-server")
    for vmid, text in CONFIGS.items():
        (configs / f"{vmid}.conf").write_text(text)
    (tmp_path / "etc/pve/storage.cfg").write_text("dir: local\n\tpath /var/lib/vz\n\tcontent images,iso\n")
    (tmp_path / "srv").mkdir()
    (tmp_path / "srv/thin.yaml").write_text(MANIFEST)
    for path in (tmp_path / "etc/pve/storage.cfg", tmp_path / "srv/thin.yaml"):
        path.write_text(located(tmp_path, path.read_text()))
    program = tmp_path / "bin/batchdiff"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m batchdiff "$@"\n')
    program.chmod(0o755)
    return tmp_path


def located(host, text):
    return re.sub(rf"(?<![\w.])({'|'.join(PLACES)})(?=[/ \n])", rf"{host}\1", text)


def run(host, text):
    environment = os.environ | {"PATH": f"{host}/bin:{os.environ['PATH']}"}
    command = ["sh", "-ec", located(host, text)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def qm_set(host, line):
    """Does what ``qm set VMID --DRIVE VALUE`` does to the configuration of a VM."""
    _, _, vmid, option, value = line.split()
    path = host / f"etc/pve/qemu-server/{vmid}.conf"
    key = option.removeprefix("--")
    old = re.search(rf"^{key}: ([^,\n]*)", path.read_text(), re.MULTILINE)[1]
    text = re.sub(rf"^{key}: .*", f"{key}: {value}", path.read_text(), flags=re.MULTILINE)
    path.write_text(f"{text}unused0: {old}\n")


def change_the_vms(host):
    for line in re.findall(r"^  \$ (.*)$", run(host, SHOW), re.MULTILINE):
        qm_set(host, line)


def seen_by_proxmox(host):
    """The volumes that Proxmox VE lists, by the rule of ``list_images``: QEMU reads the header."""
    found = set()
    for path in sorted((host / "var/lib/vz/images").glob("[0-9]*/*")):
        if re.search(r"\.(raw|qcow2|vmdk)$", path.name):
            form = "qcow2" if path.suffix == ".qcow2" else "raw"
            said = json.loads(notation.run("qemu-img", "info", "-f", form, "--output=json", str(path)))
            parent = re.fullmatch(r"../(\d+)/([^/]+\.(raw|qcow2|vmdk))", said.get("backing-filename", ""))
            base = f"{parent[1]}/{parent[2]}/" if parent else ""
            found.add(f"local:{base}{path.parent.name}/{path.name}")
    return found


def test_the_page(host):
    images = host / "var/lib/vz/images"
    heard = run(host, f"({APPLY}) 2>&1")
    assert heard.count("--proxmox /etc/pve/qemu-server` prints the command") == 2
    assert "keeps its path" not in heard
    clones = {f"local:9000/base-9000-disk-0.qcow2/{vm}/vm-{vm}-disk-0.qcow2" for vm in ("101", "103")}
    assert seen_by_proxmox(host) == {*clones, "local:9000/base-9000-disk-0.qcow2"}
    for name, text in GUESTS.items():
        overlay = (images / name).with_suffix(".qcow2")
        assert notation.qemu_content(overlay, "qcow2") == notation.content(text)
    # The page shows the first of the two VMs, and the summary.
    said = run(host, SHOW).replace(str(host), "")
    shown = SHOWN.split("\n", 1)[1].split("...\n")
    assert SHOWN.startswith(f"$ {SHOW}\n")
    assert [unfolded(part) in unfolded(said) for part in shown] == [True, True]
    assert run(host, ELSEWHERE).count("qm set") == said.count("qm set")
    (event,) = [
        each
        for each in events(subprocess.CompletedProcess([], 0, run(host, f"{SHOW} --json"), ""))
        if each.get("domain") == "103"
    ]
    assert event["commands"] == [
        "qm set 103 --virtio1 local:9000/base-9000-disk-0.qcow2/103/vm-103-disk-0.qcow2,format=qcow2,size=8M"
    ]
    run(host, f"{SHOW} --write {host}/changed")
    assert sorted(path.name for path in (host / "changed").iterdir()) == ["101.conf", "103.conf"]
    change_the_vms(host)
    for vmid in ("101", "103"):
        written = (host / "changed" / f"{vmid}.conf").read_text()
        assert (host / f"etc/pve/qemu-server/{vmid}.conf").read_text().startswith(written)
    # The former disks are listed as unused now; the drives are right.
    assert "3 definitions: 0 must change, 2 are right, 1 uses no guest of the plan." in run(host, SHOW)
    run(host, PURGE)
    assert {path.name for path in images.glob("10*/*")} == {"vm-101-disk-0.qcow2", "vm-103-disk-0.qcow2"}
    again = run(host, "batchdiff plan /srv/thin.yaml -o /srv/again.plan.json")
    assert "vm-101-disk-0 and vm-103-disk-0: done by" in unfolded(again)


def unfolded(text):
    return " ".join(text.split())


def test_back_to_full_clones(host):
    before = {name: (host / "var/lib/vz/images" / name).read_bytes() for name in GUESTS}
    run(host, APPLY)
    for vmid, text in CONFIGS.items():
        assert Path(host / f"etc/pve/qemu-server/{vmid}.conf").read_text() == text
    folder = host / "etc/pve/qemu-server"
    run(host, f"{SHOW} --write {host}/changed")
    for path in (host / "changed").iterdir():
        (folder / path.name).write_text(path.read_text())
    heard = run(host, f"({BACK}) 2>&1")
    assert "thin.plan.json --proxmox /etc/pve/qemu-server` shows what must change.\n" in heard
    assert "--define" not in heard
    change_back = run(host, f"{SHOW} --write {host}/back")
    assert "3 definitions: 2 must change" in change_back
    for vmid in ("101", "103"):
        assert (host / "back" / f"{vmid}.conf").read_text() == CONFIGS[vmid]
    assert {name: (host / "var/lib/vz/images" / name).read_bytes() for name in GUESTS} == before
