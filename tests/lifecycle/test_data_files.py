"""Overlays with an external data file, from plan to purge and restore, with QEMU as the judge.

Guards applying/swap/new_files.py, applying/guests/data_files.py.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import notation
import pytest
from commands import COMMAND, batchdiff, events, rarely, run_here
from plans import save

from batchdiff.files.fingerprint import fingerprint_at

TEMPLATE = "1M:A 1M:- 1M:B"
GUESTS = {"web01": "64k:X 960k:A 1M:- 1M:B", "web02": "1M:A 1M:- 512k:0 64k:Y 448k:B"}
QUARANTINE = ".batchdiff-original"


class Fleet:
    """Two guests whose overlays keep their data in files of their own."""

    def __init__(self, folder: Path, retire: str, overlay: str = "data_file: true") -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.plan = folder, folder / "fleet.plan.json"
        notation.write_raw(folder / "template.img", TEMPLATE)
        for name, text in GUESTS.items():
            notation.write_raw(folder / f"{name}.img", text)
        self.manifest = folder / "fleet.yaml"
        self.manifest.write_text(
            "version: 1\ntemplate: {path: template.img, format: raw}\n"
            f"defaults: {{format: raw, overlay: {{{overlay}}}}}\nretire: {retire}\nguests:\n  - glob: web*.*\n"
        )
        run_here("plan", self.manifest, "-q", "-j", "1")

    @property
    def overlays(self) -> list[Path]:
        return [Path(guest["overlay"]["path"]) for guest in json.loads(self.plan.read_text())["guests"]]

    @property
    def data_files(self) -> list[Path]:
        return [Path(guest["overlay"]["data_file"]) for guest in json.loads(self.plan.read_text())["guests"]]

    def run(self, verb: str, *arguments: object, expect: int | None = 0) -> str:
        return run_here(verb, self.plan, *arguments, expect=expect)

    def names(self) -> set[str]:
        return {
            path.name for path in self.folder.iterdir() if not path.name.startswith(("fleet.", "template.img"))
        }

    def assert_overlays(self) -> None:
        for overlay, data, text in zip(self.overlays, self.data_files, GUESTS.values(), strict=True):
            assert notation.qemu_content(overlay, "qcow2") == notation.content(text)
            assert "No errors were found" in notation.run("qemu-img", "check", str(overlay))
            assert data.stat().st_size == len(notation.content(text))
            assert overlay.stat().st_mode == data.stat().st_mode

    def assert_originals(self) -> None:
        assert self.names() == {f"{name}.img" for name in GUESTS}
        for name, text in GUESTS.items():
            assert (self.folder / f"{name}.img").read_bytes() == notation.content(text)


def write(overlay: Path, at: str = "2M") -> None:
    """What a VM does: no new cluster is needed if the overlay has one there."""
    notation.run("qemu-io", "-f", "qcow2", "-c", f"write -q -P 9 {at} 4k", str(overlay))


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("retire", ["keep", "quarantine", "delete"])
@pytest.mark.parametrize("mode", ["full", *rarely("native", "changed")])
def test_there_and_back(tmp_path, retire, mode, in_place):
    if retire == "keep" and in_place:
        return
    if retire == "delete" and mode != "full":
        return
    fleet = Fleet(tmp_path, retire, "data_file: true" + (", path: same" if in_place else ""))
    assert [path.name for path in fleet.data_files] == ["web01.data.raw", "web02.data.raw"]
    fleet.run("apply", "--yes", "--verify", mode)
    fleet.assert_overlays()
    fleet.run("apply", "--yes", "--verify", mode)
    assert fleet.run("verify").count("sound") >= 3
    fleet.run("restore")
    fleet.assert_originals()


def test_purged(tmp_path):
    fleet = Fleet(tmp_path, "quarantine")
    fleet.run("apply")
    fleet.run("purge", "--yes")
    fleet.assert_overlays()
    assert fleet.names() == {path.name for path in (*fleet.overlays, *fleet.data_files)}


def test_figures_include_the_data_files(tmp_path):
    fleet = Fleet(tmp_path, "delete")
    fleet.run("apply", "--yes")
    taken = [
        sum(path.stat().st_blocks * 512 for path in pair)
        for pair in zip(fleet.overlays, fleet.data_files, strict=True)
    ]
    report = json.loads(fleet.run("show", "--format", "json"))
    shown = [guest["conversion"] for guest in report["guests"]]
    assert [each["actual_overlay_disk_bytes"] for each in shown] == taken
    planned = [guest["savings"]["overlay_bytes"] for guest in report["guests"]]
    assert [each["actual_overlay_bytes"] for each in shown] == planned
    fleet.run("status", "--textfile", tmp_path / "out.prom")
    metrics = (tmp_path / "out.prom").read_text()
    assert [f"}} {size}\n" in metrics for size in taken] == [True, True]


def test_a_journal_that_names_another_file_does_not_delete_it(tmp_path):
    """It is read like any other input, though batchdiff wrote it."""
    fleet = Fleet(tmp_path, "keep")
    fleet.run("apply")
    other = tmp_path / "fleet.other"
    other.write_text("needed")
    at_the_data_file = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=unlink:signal=SIGKILL:when=2"]
    killed = subprocess.run(
        [*at_the_data_file, *COMMAND, "restore", str(fleet.plan), "--guest", "web01"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=100,
    )
    assert killed.returncode == -9
    journal = Path(f"{fleet.plan}.journal")
    lines = journal.read_text().splitlines()
    (number,) = (at for at, line in enumerate(lines) if json.loads(line).get("parts"))
    record = json.loads(lines[number])
    found = dataclasses.asdict(fingerprint_at(str(other)))
    record["parts"].append([str(other), found])
    lines[number] = json.dumps(record)
    journal.write_text("\n".join(lines) + "\n")
    fleet.run("restore", expect=None)
    assert other.read_text() == "needed"


def test_a_vms_write_to_the_data_file_alone_is_noticed(tmp_path):
    """Where the overlay has a cluster already, only the data file changes."""
    fleet = Fleet(tmp_path, "quarantine")
    fleet.run("apply")
    before = fleet.overlays[0].stat().st_mtime_ns
    write(fleet.overlays[0], "0")
    assert fleet.overlays[0].stat().st_mtime_ns == before
    assert "the VM has run on its overlay" in fleet.run("status")
    assert "a VM has written to the overlay since the conversion" in fleet.run("verify")
    assert "its VM has run on the overlay since" in fleet.run("purge", "--yes", expect=None)
    fleet.run("restore")
    content = (tmp_path / "web01.img").read_bytes()
    assert content == b"\x09" * 4096 + notation.content(GUESTS["web01"])[4096:]
    assert not [path for path in fleet.data_files if path.exists()]


def test_a_lost_data_file_is_damage(tmp_path):
    fleet = Fleet(tmp_path, "quarantine")
    fleet.run("apply")
    fleet.data_files[0].unlink()
    said = fleet.run("verify", expect=6)
    assert f"its data file {fleet.data_files[0]} is missing" in said
    fleet.run("restore", "--discard-changes", "--yes")
    assert (tmp_path / "web01.img").read_bytes() == notation.content(GUESTS["web01"])


@pytest.mark.parametrize("retire", ["quarantine", "delete"])
def test_two_overlays_with_one_data_file(tmp_path, retire):
    """QEMU opens both without a word, and nothing else shows it before a restore refuses, or would."""
    fleet = Fleet(tmp_path, retire)
    fleet.run("apply", "--yes")
    first, second = fleet.data_files
    notation.run("qemu-img", "amend", "-f", "qcow2", "-o", f"data_file={second}", str(fleet.overlays[0]))
    done = batchdiff("verify", fleet.plan, "--json", cwd=tmp_path, expect=6)
    found = {event["name"]: event for event in events(done) if event["event"] == "finding"}
    assert (found["web01"]["health"], found["web02"]["health"]) == ("damaged", "sound")
    assert f"{second} belongs to web02, so the VM of web01 writes to the disk of web02" in found["web01"]["why"]
    assert f"The overlay's own data file is {first}." in found["web01"]["why"]
    for options in ((), ("--dry-run",)):
        assert f"{second} belongs to web02" in fleet.run("restore", "--guest", "web01", *options, expect=6)
    notation.run("qemu-img", "amend", "-f", "qcow2", "-o", f"data_file={first}", str(fleet.overlays[0]))
    assert "damaged" not in fleet.run("verify")


def test_a_data_file_that_is_another_one_is_named(tmp_path):
    """There is no original that could show whether it is right."""
    fleet = Fleet(tmp_path, "delete")
    fleet.run("apply", "--yes")
    assert "data file" not in fleet.run("verify")
    first, second = fleet.data_files
    shutil.copy2(first, tmp_path / "copy")  # as a moved pool: another file with the same content
    (tmp_path / "copy").rename(first)
    moved = tmp_path / "web02.moved"
    shutil.copy2(second, moved)
    notation.run("qemu-img", "amend", "-f", "qcow2", "-o", f"data_file={moved}", str(fleet.overlays[1]))
    said = fleet.run("verify")
    assert f"the overlay's data is in {moved}, not in {second} as planned" in " ".join(said.split())
    assert f"data file {first}" not in said
    os.utime(first)
    assert f"the overlay's data file {first} is not the file that apply wrote" in " ".join(
        fleet.run("verify").split()
    )


def test_a_data_file_in_use_is_not_deleted(tmp_path):
    fleet = Fleet(tmp_path, "quarantine")
    fleet.run("apply")
    with fleet.data_files[0].open("r+b"):
        assert "open" in fleet.run("restore", "--guest", "web01", expect=1)
        assert fleet.overlays[0].exists()
    clone = tmp_path / "fleet.clone"
    notation.run(
        "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(fleet.data_files[0]), str(clone)
    )
    assert str(clone) in fleet.run("restore", "--guest", "web01", expect=1)
    assert fleet.data_files[0].exists()
    clone.unlink()
    fleet.run("restore")
    fleet.assert_originals()


def test_a_data_file_that_was_exchanged_stays(tmp_path):
    """Its operator has moved the data elsewhere since: what the plan does not name is not deleted."""
    fleet = Fleet(tmp_path, "quarantine")
    fleet.run("apply")
    mine = tmp_path / "web01.mine"
    shutil.copy(fleet.data_files[0], mine)
    notation.run("qemu-img", "amend", "-f", "qcow2", "-o", f"data_file={mine}", str(fleet.overlays[0]))
    fleet.run("restore")
    assert mine.exists()
    assert fleet.names() == {"web01.img", "web02.img", mine.name, fleet.data_files[0].name}


def test_the_name_is_taken_between_plan_and_apply(tmp_path):
    fleet = Fleet(tmp_path, "delete")
    fleet.data_files[0].write_bytes(b"mine")
    assert f"{fleet.data_files[0]} already exists" in fleet.run("apply", "--yes", expect=1)
    assert fleet.data_files[0].read_bytes() == b"mine"
    assert (tmp_path / "web01.img").exists()
    assert not fleet.overlays[0].exists()
    assert not [name for name in fleet.names() if "batchdiff" in name]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/etc/cron.d/x", "not beside the overlay"),
        ("../x", "not beside the overlay"),
        ("template.img", "another file in the plan"),
        ("web02.img", "another file in the plan"),
        ("web02.qcow2", "another file in the plan"),
        ("web02.data.raw", "another file in the plan"),
        ("x.batchdiff-original", "reserved for batchdiff"),
    ],
)
def test_a_forged_plan_names_no_other_file(tmp_path, name, words):
    fleet = Fleet(tmp_path, "keep")
    document = json.loads(fleet.plan.read_text())
    document["guests"][0]["overlay"]["data_file"] = os.path.join(tmp_path, name)
    save(document, fleet.plan)
    assert words in fleet.run("apply", expect=5)
    fleet.assert_originals()


def test_made_thinner(tmp_path):
    """A second plan replaces an overlay and its data file by an overlay that has another data file."""
    fleet = Fleet(tmp_path, "quarantine")
    fleet.run("apply")
    overlay, data = fleet.overlays[0], fleet.data_files[0]
    template = notation.content(TEMPLATE)
    (tmp_path / "fleet.bytes").write_bytes(template[:65536])
    notation.run("qemu-io", "-f", "qcow2", "-c", f"write -q -s {tmp_path}/fleet.bytes 0 64k", str(overlay))
    manifest = tmp_path / "fleet.thin.yaml"
    text = (
        "version: 1\ntemplate: {path: template.img, format: raw}\nretire: delete\nminimum_savings: none\nguests:\n"
    )
    manifest.write_text(
        f"{text}  - {{path: web01.qcow2, format: qcow2, rethin: true, overlay: {{data_file: true}}}}\n"
    )
    assert "already exists" in run_here("plan", manifest, expect=3)
    manifest.write_text(manifest.read_text().replace("data_file: true", "data_file: web01.thin.raw"))
    run_here("plan", manifest, "-q", "-j", "1")
    run_here("apply", tmp_path / "fleet.thin.plan.json", "--yes")
    assert not data.exists()
    assert notation.qemu_content(overlay, "qcow2") == template
    run_here("restore", tmp_path / "fleet.thin.plan.json")
    assert notation.qemu_content(overlay, "qcow2") == template
    assert not (tmp_path / "web01.thin.raw").exists()


def test_moved(tmp_path):
    """The header names the data file by an absolute path: the error has the command that corrects it."""
    fleet = Fleet(tmp_path / "old", "quarantine")
    fleet.run("apply")
    (tmp_path / "old").rename(tmp_path / "new")
    new, arguments = tmp_path / "new", ("--map", f"{tmp_path}/old={tmp_path}/new")
    fleet.plan = new / fleet.plan.name
    done = batchdiff("verify", fleet.plan, *arguments, "--json", cwd=tmp_path, expect=None)
    reasons = [event["why"] for event in events(done) if event.get("health") == "unknown"]
    assert len(reasons) == 2, done.stdout
    for reason in reasons:
        notation.run("sh", "-c", reason.split("correct the header: `")[1].split("`")[0])
    for name in GUESTS:
        notation.run(
            *("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw"),
            *("-b", str(new / "template.img"), str(new / f"{name}.qcow2")),
        )
    assert "damaged" not in fleet.run("verify", *arguments)
    fleet.run("restore", *arguments)
    fleet.folder = new
    fleet.assert_originals()


def test_globs_leave_data_files_out(tmp_path):
    """A manifest lives on: what it matches later is not the data of its own overlays."""
    fleet = Fleet(tmp_path, "delete")
    fleet.run("apply", "--yes")
    assert os.path.exists(fleet.data_files[0])
    run_here("plan", fleet.manifest, "-o", tmp_path / "fleet.again.json")
    names = [guest["name"] for guest in json.loads((tmp_path / "fleet.again.json").read_text())["guests"]]
    assert names == ["web01", "web02"]
