"""Guests that must not be converted because something else would be lost with them."""

import subprocess

import notation
import pytest
from notation import run

from batchdiff.model.manifest_file import read_manifest
from batchdiff.model.plan import Verdict
from batchdiff.planning.planner import make_plan


def planned(folder, template, *guests):
    lines = [
        f"  - {{path: {path}, format: {kind}, overlay: {{path: {n}.thin}}}}"
        for n, (path, kind) in enumerate(guests)
    ]
    manifest = folder / "manifest.yaml"
    manifest.write_text(
        f"version: 1\ntemplate: {{path: {template}, format: raw}}\nguests:\n" + "\n".join(lines) + "\n"
    )
    return make_plan(read_manifest(str(manifest)), jobs=1).guests


def test_a_guest_that_another_guest_rests_on(tmp_path):
    notation.write_raw(tmp_path / "template.img", "2M:A")
    lower = notation.write_raw(tmp_path / "lower.img", "1M:A 1M:B")
    notation.write_qcow2(tmp_path / "upper.qcow2", "64k:C 1984k:-", backing=lower, backing_format="raw")
    below, above = planned(tmp_path, "template.img", ("lower.img", "raw"), ("upper.qcow2", "qcow2"))
    assert (below.verdict, above.verdict) == (Verdict.REFUSE, Verdict.REFUSE)
    assert "backing file of the guest upper" in below.reason


@pytest.fixture
def loop(tmp_path):
    """A loop device over a guest's file, detached by its own name."""
    notation.write_raw(tmp_path / "guest.img", "2M:A")
    device = run("losetup", "--find", "--show", str(tmp_path / "guest.img")).strip()
    yield device
    subprocess.run(["losetup", "--detach", device], check=True, timeout=60)


def test_a_guest_that_the_template_is_a_loop_device_over(tmp_path, loop):
    notation.write_raw(tmp_path / "other.img", "1M:A 1M:B")
    guest, other = planned(tmp_path, loop, ("guest.img", "raw"), ("other.img", "raw"))
    assert guest.verdict is Verdict.REFUSE
    assert "loop device" in guest.reason
    assert other.verdict is not Verdict.REFUSE
