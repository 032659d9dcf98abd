"""Images whose names are not UTF-8, have commas or control characters, from plan to restore."""

from __future__ import annotations

import json
import os
import subprocess

import notation
import pytest
from commands import batchdiff

NAMES = [b"caf\xe9.img", b"comma,=.img", b"line\nbreak.img", b"web-1.0"]
MANIFEST = """\
version: 1
template: {path: t.img, format: raw}
guests: [{glob: "guests-?/*", format: raw}]
"""


@pytest.fixture
def folder(tmp_path):
    notation.write_raw(tmp_path / "t.img", "1M:A 1M:B")
    inside = tmp_path / os.fsdecode(b"guests-\xff")
    inside.mkdir()
    for name in NAMES:
        notation.write_raw(inside / os.fsdecode(name), "1M:A 64k:X 960k:B")
    (tmp_path / "m.yaml").write_text(MANIFEST)
    return tmp_path


def names(folder) -> set[bytes]:
    return set(os.listdir(os.fsencode(folder) + b"/guests-\xff"))


def test_from_plan_to_restore(folder):
    before = names(folder)
    planned = batchdiff("plan", "m.yaml", cwd=folder, expect=1)
    assert "refuse  line\\nbreak: its name has a line break (\\n); rename it, or `exclude` it" in planned.stdout
    assert "3 of 4" in planned.stdout
    applied = batchdiff("apply", "m.plan.json", "--retire", "quarantine", cwd=folder, expect=1)
    assert "4 guests: 3 converted, 1 refused." in applied.stdout
    assert names(folder) == {
        b"line\nbreak.img",
        *(name + b".batchdiff-original" for name in NAMES if b"\n" not in name),
        b"caf\xe9.qcow2",
        b"comma,=.qcow2",
        b"web-1.0.qcow2",
    }
    verified = batchdiff("verify", "m.plan.json", cwd=folder)
    assert "sound    caf\\udce9: identical to its original" in verified.stdout
    by_bytes = batchdiff("verify", "m.plan.json", "--guest", os.fsdecode(b"caf\xe9"), cwd=folder)
    assert "sound    caf\\udce9: identical" in by_bytes.stdout
    (folder / "m.plan.json.journal").unlink()  # the sidecar has these names, too
    batchdiff("restore", "m.plan.json", "--guest", r"caf\udce9", cwd=folder)
    assert "2 restored" in batchdiff("restore", "m.plan.json", "-y", cwd=folder).stdout
    assert names(folder) == before


def test_advised_commands_do_not_take_names_for_options(tmp_path):
    notation.write_raw(tmp_path / "t.img", "1M:A 1M:B")
    notation.write_raw(tmp_path / "-web.img", "1M:A 64k:X 960k:B")
    manifest = "version: 1\ntemplate: {path: t.img, format: raw}\nguests: [{path: -web.img, format: raw}]\n"
    (tmp_path / "-m.yaml").write_text(manifest)
    said = batchdiff("estimate", "--guest=-web", "--", "-m.yaml", cwd=tmp_path).stderr
    assert said == "Next: batchdiff plan ./-m.yaml --guest=-web\n"
    said = batchdiff("plan", "--guest=-web", "-o", "./-m.json", "--", "-m.yaml", cwd=tmp_path).stderr
    assert " Next: batchdiff apply ./-m.json\n" in said
    said = batchdiff("apply", "--", "-m.json", cwd=tmp_path).stderr
    assert "`batchdiff definitions ./-m.json`" in said
    assert "`batchdiff apply ./-m.json --retire quarantine`" in said
    assert "`batchdiff plan ./-m.yaml`" in batchdiff("show", "--", "-m.yaml", cwd=tmp_path, expect=5).stderr
    assert "`batchdiff show ./-m.json`" in batchdiff("plan", "--", "-m.json", cwd=tmp_path, expect=3).stderr
    batchdiff("restore", "./-m.json", "--guest=-web", cwd=tmp_path)
    assert "apply --guest=-web," in batchdiff("status", "./-m.json", cwd=tmp_path).stdout
    assert "/-m.json --guest=-web`" in batchdiff("show", "./-m.json", cwd=tmp_path).stdout


def test_advised_commands_work_with_such_names(folder):
    plan = os.fsdecode(b"\xe9.plan.json")
    said = batchdiff("plan", "m.yaml", "-o", plan, cwd=folder, expect=1).stderr
    assert r"Next: batchdiff apply $'\351.plan.json'" in said
    batchdiff("apply", plan, cwd=folder, expect=1)
    moved = folder / os.fsdecode(b"moved-\xe9")
    moved.mkdir()
    for name in (os.fsdecode(b"guests-\xff"), "t.img"):
        (folder / name).rename(moved / name)
    map_ = ["--map", f"{folder}={moved}"]
    report = batchdiff("verify", plan, *map_, "--json", cwd=folder, expect=1).stdout
    reasons = [json.loads(line).get("why", "") for line in report.splitlines()]
    advised = [part for text in reasons for part in text.split("`") if part.startswith("qemu-img rebase")]
    assert len(advised) == 3
    for command in advised:
        subprocess.run(["bash", "-c", command], check=True, capture_output=True)
    assert "unknown" not in batchdiff("verify", plan, *map_, cwd=folder).stdout
