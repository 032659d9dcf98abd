"""Templates on block devices: what is under them is never deleted, and nothing is where that cannot be told."""

import os
import subprocess

import notation
import pytest
from commands import batchdiff
from notation import run

from batchdiff.errors import EXIT_DONE


@pytest.fixture
def template(tmp_path):
    """A loop device over a file that has no name any more."""
    path = notation.write_raw(tmp_path / "gone.img", "2M:A")
    device = run("losetup", "--find", "--show", str(path)).strip()
    path.unlink()
    yield device
    subprocess.run(["losetup", "--detach", device], check=True, timeout=60)


def test_nothing_is_deleted_where_the_template_cannot_be_traced(tmp_path, template):
    guest = notation.write_raw(tmp_path / "guest.img", "1M:A 4k:B 1020k:A")
    manifest = tmp_path / "m.yaml"
    manifest.write_text(
        f"version: 1\ntemplate: {{path: {template}, format: raw}}\n"
        "guests: [{path: guest.img, format: raw}]\nprotect_template: false\n"
    )
    batchdiff("plan", "-q", manifest, cwd=tmp_path)
    done = batchdiff("apply", "--retire", "delete", "--yes", "m.plan.json", cwd=tmp_path, expect=None)
    assert done.returncode != EXIT_DONE
    assert "cannot be traced" in done.stdout + done.stderr
    assert guest.exists()
    assert not os.path.exists(tmp_path / "guest.qcow2")
    batchdiff("apply", "--retire", "quarantine", "m.plan.json", cwd=tmp_path)
    assert os.path.exists(tmp_path / "guest.img.batchdiff-original")
