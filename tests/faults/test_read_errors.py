"""A disk that cannot give some bytes: that guest fails with a clear message, the others are converted."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import notation
import pytest
from commands import COMMAND, assert_no_traceback, batchdiff
from notation import run
from real_holders import wait_for

TEMPLATE = "512k:A 256k:- 256k:B"
SOUND, FAULTY = "512k:A 64k:X 192k:- 256k:B", "512k:A 64k:Y 192k:- 192k:B 64k:Z"


@contextlib.contextmanager
def faulty(disk: Path, folder: Path) -> Iterator[tuple[Path, Path]]:
    """A file that shows ``disk``, and one whose presence makes it unreadable."""
    point, trigger = folder / "faulty", folder / "broken"
    point.mkdir()
    server = ["nbdkit", "-s", "--filter=error", "file", str(disk)]
    server += ["error-pread-rate=100%", f"error-file={trigger}"]
    with subprocess.Popen(["nbdfuse", "-r", str(point), "--command", *server]) as daemon:
        try:
            wait_for((point / "nbd").exists)
            yield point / "nbd", trigger
        finally:
            trigger.unlink(missing_ok=True)
            subprocess.run(["fusermount3", "-u", str(point)], check=False, timeout=60)
            daemon.wait(60)


def manifest(folder: Path, template: Path, faulty_guest: Path) -> None:
    (folder / "fleet.yaml").write_text(
        f"version: 1\ntemplate: {{path: {template}, format: raw}}\ndefaults: {{format: raw}}\n"
        f"guests: [{{path: {faulty_guest}, name: bad, overlay: {{path: bad.thin}}}}, {{path: sound.img}}]\n"
    )


def drop_caches() -> None:
    run("sync")
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


@pytest.fixture
def folder(tmp_path):
    notation.write_raw(tmp_path / "template.img", TEMPLATE)
    notation.write_raw(tmp_path / "sound.img", SOUND)
    notation.write_raw(tmp_path / "disk", FAULTY)
    return tmp_path


def test_a_guest_that_cannot_be_read_is_refused(folder):
    with faulty(folder / "disk", folder) as (guest, trigger):
        manifest(folder, folder / "template.img", guest)
        trigger.touch()
        drop_caches()
        done = batchdiff("plan", "fleet.yaml", cwd=folder, expect=1)
    assert "Input/output error" in " ".join(done.stdout.split())  # wherever the report breaks its lines
    assert [event.split()[0] for event in done.stdout.splitlines() if event.startswith("refuse")] == ["refuse"]


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("name", ["disk", "bad.thin", "template.img"])
def test_a_read_fails_in_apply(folder, name, first):
    """From the first or second read on, ours or QEMU's: nothing is retired that has no sound overlay."""
    manifest(folder, folder / "template.img", folder / "disk")
    batchdiff("plan", "fleet.yaml", "-q", cwd=folder)
    path = next(folder.glob(f".{name}.*"), folder / name)
    reads = "pread64,preadv,preadv2,copy_file_range"
    inject = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(path), "-e", f"trace={reads}"]
    inject += ["-e", f"inject={reads}:error=EIO:when={first}+"]
    argv = [*inject, *COMMAND, "apply", "fleet.plan.json", "--retire", "delete", "--yes"]
    done = subprocess.run(argv, cwd=folder, check=False, capture_output=True, text=True, timeout=120)
    assert_no_traceback(done.stderr)
    if name == "disk":
        assert done.returncode in {1, 4, 6, 7}
        assert "Input/output error" in " ".join(done.stdout.split())
        assert (folder / "disk").exists()
        assert not (folder / "bad.thin").exists()
    for guest, overlay, text in (("disk", "bad.thin", FAULTY), ("sound.img", "sound.qcow2", SOUND)):
        kept, thin = folder / guest, folder / overlay
        assert kept.exists() or thin.exists()
        if thin.exists():
            assert notation.qemu_content(thin, "qcow2") == notation.content(text)
    # Who cannot read the other's new overlay cannot know whether it rests on this original, and leaves it alone.
    left_alone = f"{folder / 'bad.thin'} (unreadable: " in " ".join(done.stderr.split())
    assert name == "template.img" or left_alone is (folder / "sound.img").exists()
    assert not left_alone or name == "bad.thin"
    assert not [left for left in folder.iterdir() if left.name.endswith("-tmp")]


def test_a_template_that_cannot_be_read(folder):
    with faulty(folder / "template.img", folder) as (template, trigger):
        manifest(folder, template, folder / "disk")
        trigger.touch()
        drop_caches()
        done = batchdiff("plan", "fleet.yaml", cwd=folder, expect=4)
    assert "Input/output error" in done.stderr
    assert not (folder / "fleet.plan.json").exists()
