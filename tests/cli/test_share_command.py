"""The strategy `share` from manifest to journal, as users see it, on XFS and btrfs; and who is refused it.

Guards applying/share_guests.py, planning/share_in_place.py, planning/sharing_objections.py,
report/plan/strategies.py, manifest/text/written.py, plan/savings_document.py.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import encrypted
import notation
import pytest
from access import as_user
from commands import Done, batchdiff, run_here
from filesystems import mounted, settle
from notation import run
from oracle import source
from plans import save, shared_guest

from batchdiff.applying.results.finding import Health
from batchdiff.applying.share_guests import shared_finding
from batchdiff.applying.sharing import share
from batchdiff.image.storage import sharing_gain
from batchdiff.units import GIB, MIB

TEMPLATE = "3M:A 1M:- 2M:B 2M:C"
MANIFEST = """\
version: 1
template: {path: template.img, format: raw}
defaults: {format: raw}
strategy: share
guests:
  - path: web.img
  - {path: db.qcow2, format: qcow2}
"""
TREES = 256 << 10
"""What a filesystem's own trees may grow by, much beside images this small."""


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def disk(request, tmp_path_factory):
    with mounted(tmp_path_factory.mktemp("share"), request.param, GIB) as point:
        yield point


@pytest.fixture(scope="module")
def xfs(tmp_path_factory):
    with mounted(tmp_path_factory.mktemp("share"), "xfs") as point:
        yield point


@pytest.fixture(scope="module")
def ext4(tmp_path_factory):
    with mounted(tmp_path_factory.mktemp("share"), "ext4", 64 << 20) as point:
        yield point


def write_fleet(folder: Path, manifest: str = MANIFEST) -> Path:
    """A template, a raw copy that has changed since, and a qcow2 copy; returns the manifest."""
    folder.mkdir()
    notation.write_raw(folder / "template.img", TEMPLATE)
    run("cp", "--reflink=never", "--sparse=always", str(folder / "template.img"), str(folder / "web.img"))
    run("sync", "-f", str(folder))
    with (folder / "web.img").open("r+b") as file:
        file.seek(MIB)
        file.write(notation.content("100k:X"))
    run("qemu-img", "convert", "-O", "qcow2", str(folder / "web.img"), str(folder / "db.qcow2"))
    in_small_extents(folder / "db.qcow2")
    return with_manifest(folder, manifest)


def in_small_extents(path: Path) -> None:
    """Writes a file anew, a little at a time: btrfs frees an extent only once no part of it is used."""
    content = path.read_bytes()
    with path.open("wb") as file:
        for at in range(0, len(content), 64 << 10):
            file.write(content[at : at + (64 << 10)])
            os.fsync(file.fileno())


def with_manifest(folder: Path, manifest: str) -> Path:
    (folder / "fleet.yaml").write_text(manifest)
    return folder / "fleet.yaml"


@pytest.fixture
def fleet(disk, request):
    yield write_fleet(disk / request.node.name.translate(str.maketrans("[]/", "---")))
    shutil.rmtree(disk / request.node.name.translate(str.maketrans("[]/", "---")))


@pytest.fixture
def on_xfs(xfs, request):
    folder = xfs / request.node.name.translate(str.maketrans("[]/", "---"))[:60]
    yield write_fleet(folder)
    shutil.rmtree(folder)


def plan_of(manifest: Path) -> Path:
    return manifest.with_suffix(".plan.json")


def guests_of(manifest: Path) -> dict[str, dict]:
    return {guest["name"]: guest for guest in json.loads(plan_of(manifest).read_text())["guests"]}


def records(manifest: Path) -> list[tuple[str, str]]:
    """The guests and steps in the journal."""
    lines = map(json.loads, plan_of(manifest).with_suffix(".json.journal").read_text().splitlines())
    return [(line.get("guest", ""), line["step"]) for line in lines]


def state(folder: Path, *names: str) -> list[tuple[bytes, int, int, int]]:
    """Content, inode, mode and mtime."""
    paths = [folder / name for name in names or ("web.img", "db.qcow2", "template.img")]
    return [(p.read_bytes(), p.stat().st_ino, p.stat().st_mode, p.stat().st_mtime_ns) for p in paths]


def free_bytes(point: Path) -> int:
    settle(point)
    return os.statvfs(point).f_bfree * os.statvfs(point).f_frsize


def json_of(done: Done) -> list[dict]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_progress_on_a_terminal(on_xfs):
    run_here("plan", on_xfs)
    done = batchdiff("apply", plan_of(on_xfs).name, "--progress", "always", cwd=on_xfs.parent)
    assert "sharing" in done.stderr
    assert done.returncode == 0


def test_from_manifest_to_what_df_shows(disk, fleet):
    folder, plan = fleet.parent, plan_of(fleet)
    assert "will share blocks in place with the template" in run_here("validate", fleet, "-v")
    said = run_here("plan", fleet)
    assert "let 2 guests share blocks in place with the template" in said
    found = guests_of(fleet)
    assert {guest["verdict"] for guest in found.values()} == {"share"}
    # Of the raw guest all but what has changed and the hole, in units of 4 KiB.
    assert found["web"]["sharing"]["runs"] == [[0, 256], [281, 487], [1024, 1024]]
    assert found["web"]["sharing"]["shareable_bytes"] == 7 * MIB - 25 * 4096
    predicted = json.loads(plan.read_text())["totals"]["saved_bytes"]
    assert predicted == sum(guest["sharing"]["saved_bytes"] for guest in found.values())
    assert "planned" in run_here("status", plan)
    before, free = state(folder), free_bytes(disk)
    said = run_here("apply", plan)
    assert abs(free_bytes(disk) - free - predicted) <= TREES + predicted // 50
    assert "2 guests: 2 shared." in said
    assert said.count("it now shares") == 2, "once for each guest, although there is no terminal"
    assert "definition" not in said, "no VM's definition changes"
    assert state(folder) == before, "content, inode, mode and mtime stay; the template keeps its write permission"
    assert not list(folder.glob("*.batchdiff-*")), "nothing rests on the template, so it gets no sidecar"
    assert records(fleet)[1:] == [("web", "sharing"), ("web", "shared"), ("db", "sharing"), ("db", "shared")]
    run("qemu-img", "check", str(folder / "db.qcow2"))
    # Afterwards there is nothing to do or to undo, and the template may even go.
    (folder / "template.img").rename(folder / "gone.img")
    assert "2 guests: 2 unchanged." in run_here("apply", plan)
    said = run_here("status", plan)
    assert "the guest does not need the template" in said
    assert "does not exist" not in said, "a template that nothing rests on is not missed"
    assert "2 files: 2 sound" in run_here("verify", plan)
    for verb, why in (("restore", "there is nothing to undo"), ("purge", "there is no original to delete")):
        assert f"web and db: {why}" in run_here(verb, plan, "--yes")
        assert run_here(verb, plan, "--yes").count(why) == 1, "once, although stderr is not a terminal"
        assert why in run_here(verb, plan, "--guest", "web")
    assert "2 of 2 done" in run_here("show", plan)
    assert "this plan is stale" not in run_here("show", plan)
    (folder / "gone.img").rename(folder / "template.img")
    # A new plan finds that everything is shared, and keeps nothing of the old one.
    assert "it already shares all blocks that equal" in guests_after_planning(fleet)["web"]["reason"].replace(
        "  ", " "
    )
    assert len(list(folder.glob("*plan.json"))) == 1
    said = run_here("status", plan)
    assert "web skipped" in said
    assert "it already shares all blocks that equal" in said
    assert "so it was not checked 1 file: 1 sound." in run_here("verify", plan)


def guests_after_planning(manifest: Path) -> dict[str, dict]:
    run_here("plan", manifest)
    return guests_of(manifest)


def test_a_guest_whose_users_cannot_be_looked_up(tmp_path, monkeypatch):
    """Perhaps its VM is running, so nothing is said of its tables; and verify goes on."""

    def limited(_path):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("batchdiff.applying.share_guests.users", limited)
    image = notation.write_raw(tmp_path / "db.img", "1M:A")
    found = shared_finding(shared_guest(path=str(image)))
    assert found.health is Health.UNKNOWN
    assert found.why.startswith("Too many open files. Raise the limit on open files")


def test_each_form_of_the_report_compares_the_strategies(on_xfs):
    with_manifest(on_xfs.parent, MANIFEST.replace("db.qcow2, format", "db.qcow2, strategy: overlay, format"))
    found, plan = guests_after_planning(on_xfs), plan_of(on_xfs)
    assert (found["web"]["verdict"], found["db"]["verdict"]) == ("share", "convert")
    text = run_here("show", plan)
    heading = "What each strategy would save"
    for form in ("text", "markdown", "html"):
        assert heading in run_here("show", plan, "--format", form), form
    assert text.index(heading) < text.index("let 1 guest share blocks") < text.index("will write 1 overlay")
    report = json.loads(run_here("show", plan, "--format", "json"))
    both = {
        guest["name"]: (guest["strategy"], bool(guest["sharing"]), bool(guest["savings"]))
        for guest in report["guests"]
    }
    assert both == {"web": ("share", True, True), "db": ("overlay", True, True)}
    assert (report["totals"]["share"], report["totals"]["convert"]) == (1, 1)
    out = on_xfs.parent / "report.csv"
    run_here("show", plan, "--format", "csv", "-o", out)
    rows = {row["guest"]: row for row in csv.DictReader(io.StringIO(out.read_text()))}
    assert int(rows["db"]["sharing_saved_bytes"]) == report["guests"][1]["sharing"]["saved_bytes"] > 6 * MIB
    assert rows["web"]["strategy"] == "share"
    # Both in one apply: the overlay protects the template, and sharing comes first.
    run_here("apply", plan)
    steps = [step for _, step in records(on_xfs)]
    assert steps.index("shared") < steps.index("published")
    assert not (on_xfs.parent / "template.img").stat().st_mode & 0o222
    assert "2 of 2 done" in run_here("show", plan)
    assert "1 sound" not in run_here("verify", plan)


@pytest.mark.parametrize("journal", ["of now", "of an older version"])
def test_a_stopped_apply_goes_on(on_xfs, monkeypatch, journal):
    """It shares what is left; even without a journal, which blocks are shared already is seen on disk."""
    planned = guests_after_planning(on_xfs)["web"]["sharing"]["saved_bytes"]
    plan, before = plan_of(on_xfs), state(on_xfs.parent)

    def stopping(*arguments: int) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return share_it(*arguments)

    share_it = share.dedupe
    with monkeypatch.context() as patch:
        patch.setattr(share, "dedupe", stopping)
        run_here("apply", plan, expect=130)
    assert records(on_xfs)[-1] == ("web", "sharing")
    assert "share the rest of its blocks" in run_here("status", plan)
    assert state(on_xfs.parent) == before
    shutil.copy(plan, on_xfs.parent / "copy.plan.json")
    if journal == "of an older version":
        without_keys(plan.with_suffix(".json.journal"), "came_back_bytes", "to_free_bytes", "exactness")
    assert "2 guests: 2 shared." in run_here("apply", plan)
    report = json.loads(run_here("show", plan, "--format", "json"))
    assert report["guests"][0]["sharing"]["came_back_bytes"] == planned, "of both runs"
    assert state(on_xfs.parent) == before
    assert "2 guests: 2 shared. 0 B came back." in run_here("apply", on_xfs.parent / "copy.plan.json")


def without_keys(journal: Path, *names: str) -> None:
    lines = map(json.loads, journal.read_text().splitlines())
    kept = [{key: line[key] for key in line if key not in names} for line in lines]
    journal.write_text("".join(json.dumps(line) + "\n" for line in kept))


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_what_a_run_gave_back_although_more_is_left_afterwards(xfs, on_xfs, monkeypatch, end):
    """Another guest has let go of the same blocks meanwhile, so only a run that recorded its end is counted."""
    folder, plan = on_xfs.parent, plan_of(on_xfs)
    run("cp", "--reflink=always", str(folder / "web.img"), str(folder / "web2.img"))
    with (folder / "web.img").open("r+b") as file:  # so that its first MiB is its own
        first = file.read(MIB)
        file.seek(0)
        file.write(first)
    with_manifest(
        folder,
        MANIFEST.replace("{path: db.qcow2, format: qcow2}", "path: web2.img") + "minimum_savings: none\n",
    )
    run_here("plan", on_xfs)
    free = free_bytes(xfs)

    def stopping(*arguments: int) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return share_it(*arguments)

    share_it = share.dedupe
    if end == "killed":
        apply_and_die(plan, 2, "--guest", "web")
    else:
        with monkeypatch.context() as patch:
            patch.setattr(share, "dedupe", stopping)
            run_here("apply", plan, "--guest", "web", expect=130)
    assert abs(free_bytes(xfs) - free - MIB) <= TREES
    run_here("apply", plan, "--guest", "web2")
    run_here("apply", plan)
    given_back = free_bytes(xfs) - free
    report = json.loads(run_here("show", plan, "--format", "json"))
    exactness = "unknown" if end == "killed" else "exact"
    assert [guest["sharing"]["came_back_exactness"] for guest in report["guests"]] == [exactness, "exact"]
    assert report["totals"]["came_back_exactness"] == exactness
    if end == "killed":
        return
    assert abs(report["totals"]["came_back_bytes"] - given_back) <= TREES + given_back // 50


def test_who_cannot_see_the_extents_of_btrfs_gets_no_number(disk, fleet, monkeypatch):
    """Only root may search its tree; what XFS frees, anyone can see."""

    def refused(fd: int, path: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", path)

    monkeypatch.setattr(sharing_gain, "stored_extents", refused)
    plan, exactness = plan_of(fleet), {"btrfs": "unknown", "xfs": "exact"}[disk.name]
    predicted = guests_after_planning(fleet)["web"]["sharing"]
    assert predicted["exactness"] == exactness
    said = run_here("apply", plan)
    report = json.loads(run_here("show", plan, "--format", "json"))
    assert {guest["sharing"]["came_back_exactness"] for guest in report["guests"]} == {exactness}
    assert report["totals"]["came_back_exactness"] == exactness
    assert ("came back" in said) == (exactness == "exact"), "a number that is not known is left out"
    assert ("freed an unknown amount of space" in run_here("status", plan)) == (exactness == "unknown")
    assert ("in place with the template: an unknown amount" in run_here("show", plan)) == (exactness == "unknown")


def test_a_program_that_wants_to_write_is_let_in(on_xfs, monkeypatch):
    """It waits for the lease, which ends the work on that guest between two calls of the kernel."""
    guests_after_planning(on_xfs)
    guest, writers = on_xfs.parent / "web.img", []

    def writing(source: int, offset: int, target: int, at: int, length: int) -> int:
        if not writers:
            writers.append(subprocess.Popen(["dd", "if=/dev/null", f"of={guest}", "conv=notrunc"]))
            while fcntl.fcntl(target, fcntl.F_GETLEASE) == fcntl.F_RDLCK:
                time.sleep(0.01)
        return share_it(source, offset, target, at, length)

    share_it = share.dedupe
    monkeypatch.setattr(share, "dedupe", writing)
    said = run_here("apply", plan_of(on_xfs), expect=1)
    assert writers[0].wait(timeout=60) == 0
    assert f"{guest} is in use" in said
    assert "1 shared, 1 failed" in said


def apply_and_die(plan: Path, call: int, *options: str) -> None:
    """Applies in another process, which is killed right before that call of the kernel, or at the end."""
    calls = itertools.count(1)

    def killing(*arguments: int) -> int:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return share_it(*arguments)

    share_it = share.dedupe
    child = os.fork()
    if not child:
        share.dedupe = killing
        run_here("apply", plan, *options)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_killed_apply_goes_on(on_xfs, call):
    """SIGKILL right before a call of the kernel, or after the last one and before that is recorded."""
    guests_after_planning(on_xfs)
    plan, before = plan_of(on_xfs), state(on_xfs.parent)
    apply_and_die(plan, call)
    assert state(on_xfs.parent) == before
    left = 2 - sum(step == "shared" for _, step in records(on_xfs))
    said = run_here("apply", plan)
    assert f"{left} shared" in said or not left
    assert state(on_xfs.parent) == before
    assert {"web", "db"} == {guest for guest, step in records(on_xfs) if step == "shared"}
    report = json.loads(run_here("show", plan, "--format", "json"))
    for guest in report["guests"]:
        sharing = guest["sharing"]
        assert (sharing["came_back_bytes"], sharing["came_back_exactness"]) == (sharing["saved_bytes"], "exact")
    assert "it already shares all blocks that equal" in guests_after_planning(on_xfs)["db"]["reason"]


def test_a_ctime_that_changes_makes_nothing_stale(on_xfs, monkeypatch):
    """No kernel is known to change it, but none promises that it does not."""
    guests_after_planning(on_xfs)
    plan, guest = plan_of(on_xfs), on_xfs.parent / "web.img"

    def changing(*arguments: int) -> int:
        guest.chmod(guest.stat().st_mode)
        return share_it(*arguments)

    share_it = share.dedupe
    shutil.copy(plan, on_xfs.parent / "copy.plan.json")
    before = guest.stat().st_ctime_ns
    monkeypatch.setattr(share, "dedupe", changing)
    run_here("apply", plan, "--guest", "web")
    assert guest.stat().st_ctime_ns != before
    assert ("", "changed") in records(on_xfs)
    assert "this plan is stale" not in run_here("show", plan)
    assert "1 shared, 1 unchanged" in run_here("apply", plan).replace(
        "1 unchanged, 1 shared", "1 shared, 1 unchanged"
    )
    # Without the journal, that only the ctime has changed is seen, and the kernel compares anyway.
    assert "2 shared" in run_here("apply", on_xfs.parent / "copy.plan.json")


def test_verify_opens_the_guests(on_xfs):
    guests_after_planning(on_xfs)
    run_here("apply", plan_of(on_xfs))
    assert "2 sound" in run_here("verify", plan_of(on_xfs))
    guest = on_xfs.parent / "web.img"
    with guest.open("r+b") as file:
        file.truncate(MIB)
    assert "damaged" in run_here("verify", plan_of(on_xfs), expect=6)
    guest.unlink()
    assert "unknown web: it is gone; if it was moved, add" in run_here("verify", plan_of(on_xfs), expect=1)
    guest.symlink_to("/nowhere")
    assert "unknown" in run_here("verify", plan_of(on_xfs), expect=1)


def test_a_guest_in_a_folder_that_may_not_be_entered_is_not_called_gone(tmp_path):
    """It would be of no use to say where it was moved."""
    path = notation.write_raw(tmp_path / "web.img", TEMPLATE)
    tmp_path.chmod(0o700)
    guest = shared_guest("web", source=source(path))
    found = as_user(3001, "/", lambda: shared_finding(guest))
    assert found.health is Health.UNKNOWN
    assert found.why.startswith(f"cannot examine {path}: the user with uid 3001 may not enter the folder ")


def test_a_guest_that_changed_since_is_refused_and_the_others_go_on(on_xfs):
    guests_after_planning(on_xfs)
    with (on_xfs.parent / "web.img").open("r+b") as file:
        file.write(b"x")
    said = run_here("apply", plan_of(on_xfs), expect=5)
    assert "the plan is stale" in said
    assert "its modification time changed (mtime)" in said
    assert "1 shared, 1 failed" in said
    assert "the plan is stale" in run_here("status", plan_of(on_xfs))


def test_a_guest_in_use_is_refused_by_plan_and_by_apply(on_xfs):
    guest = on_xfs.parent / "web.img"
    with guest.open("r+b"):
        run_here("plan", on_xfs, expect=1)
        assert guests_of(on_xfs)["web"]["verdict"] == "refuse"
    guests_after_planning(on_xfs)
    with guest.open("r+b"):
        assert "is in use" in run_here("apply", plan_of(on_xfs), expect=1)
    run_here("apply", plan_of(on_xfs))


def test_bytes_that_only_the_kernel_finds_to_differ_stay(on_xfs):
    """Something wrote to the guest and set its mtime back: only these bytes stay as they are."""
    guests_after_planning(on_xfs)
    guest = on_xfs.parent / "web.img"
    before = guest.stat()
    with guest.open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"changed")
    os.utime(guest, ns=(before.st_atime_ns, before.st_mtime_ns))
    content = guest.read_bytes()
    assert "some of it differs from the template, although all of it was" in run_here("apply", plan_of(on_xfs))
    assert guest.read_bytes() == content


def test_what_cannot_share_blocks_is_refused_with_the_alternative(xfs, ext4, tmp_path):
    manifest = write_fleet(ext4 / "fleet")
    said = run_here("plan", manifest, expect=1)
    assert said.count("ext4 cannot let existing files share blocks") == 1, "once for both guests"
    assert "refuse web and db: ext4 cannot let existing files share blocks" in said
    assert "Use `strategy: overlay` for these guests, or move template and guests to XFS or btrfs" in said
    reason = guests_of(manifest)["web"]["reason"]
    assert "ext4 cannot let existing files share blocks" in reason
    assert "`strategy: overlay`" in reason
    assert "the plan has no" not in run_here("apply", plan_of(manifest), expect=1)
    (xfs / "two").mkdir()
    shutil.copy(ext4 / "fleet/template.img", xfs / "two/template.img")
    with_manifest(ext4 / "fleet", MANIFEST.replace("path: template.img", f"path: {xfs}/two/template.img"))
    run_here("plan", manifest, expect=1)
    assert "is on another filesystem, and blocks" in guests_of(manifest)["web"]["reason"]
    # Overlays there are planned as ever, and nothing is said of sharing.
    with_manifest(ext4 / "fleet", MANIFEST.replace("strategy: share\n", ""))
    run_here("plan", manifest)
    assert "sharing" not in guests_of(manifest)["web"]
    assert "strategy" not in run_here("show", plan_of(manifest))


def test_a_template_on_two_filesystems(on_xfs, ext4):
    """Its upper layer is on ext4, and has 1 MiB of its own; what is below can be shared."""
    top = notation.write_qcow2(ext4 / "top.qcow2", "1M:D 7M:-", backing=on_xfs.parent / "template.img")
    template = f"{{path: {top}, format: qcow2, backing: [{{path: template.img, format: raw}}]}}"
    with_manifest(on_xfs.parent, MANIFEST.replace("{path: template.img, format: raw}", template))
    found = guests_after_planning(on_xfs)["web"]
    assert found["verdict"] == "share"
    assert found["sharing"]["shareable_bytes"] == 6 * MIB - 25 * 4096
    before = state(on_xfs.parent)
    run_here("apply", plan_of(on_xfs))
    assert state(on_xfs.parent) == before


def test_guests_whose_blocks_cannot_be_exchanged(on_xfs, xfs):
    guest = on_xfs.parent / "web.img"
    run("chattr", "+i", str(guest))
    try:
        run_here("plan", on_xfs, expect=1)
        assert "is immutable" in guests_of(on_xfs)["web"]["reason"]
    finally:
        run("chattr", "-i", str(guest))
    plan = xfs.parent / "elsewhere.plan.json"
    run("mount", "-o", "remount,ro", str(xfs))
    try:
        run_here("plan", on_xfs, "-o", plan, expect=1)
    finally:
        run("mount", "-o", "remount,rw", str(xfs))
    assert "mounted read-only" in json.loads(plan.read_text())["guests"][0]["reason"]


def test_compressed_clusters_are_left_out_and_counted(on_xfs):
    guest = on_xfs.parent / "db.qcow2"
    run("qemu-img", "convert", "-c", "-O", "qcow2", str(on_xfs.parent / "web.img"), str(guest))
    found = guests_after_planning(on_xfs)["db"]
    assert found["verdict"] == "skip"
    assert "compressed or encrypted" in found["reason"]
    assert found["sharing"]["left_out_bytes"] > 6 * MIB
    assert found["sharing"]["shareable_bytes"] == 0


@pytest.mark.long  # QEMU takes seconds to measure the CPU for a new LUKS header
def test_what_only_qemu_can_read_is_refused(on_xfs):
    secret = encrypted.secret_file(on_xfs.parent / "secret")
    encrypted.convert(on_xfs.parent / "web.img", on_xfs.parent / "db.luks", "luks", secret)
    entry = "{path: db.luks, format: luks, secret_file: secret}"
    with_manifest(on_xfs.parent, MANIFEST.replace("{path: db.qcow2, format: qcow2}", entry))
    run_here("plan", on_xfs, expect=1)
    assert "only QEMU can read its data" in guests_of(on_xfs)["db.luks"]["reason"]
    assert guests_of(on_xfs)["web"]["verdict"] == "share"


def test_too_little_to_gain_is_skipped(on_xfs):
    with_manifest(on_xfs.parent, MANIFEST + "minimum_savings: 99%\n")
    assert "below the minimum of 99.0%" in guests_after_planning(on_xfs)["web"]["reason"]
    with_manifest(on_xfs.parent, MANIFEST + "minimum_savings: none\n")
    assert guests_after_planning(on_xfs)["web"]["verdict"] == "share"


def test_guests_that_are_reflinked_copies_of_each_other(disk, fleet):
    """Each is judged on its own; shared anyway, the last one to let go of a block gives it back."""
    folder, plan = fleet.parent, plan_of(fleet)
    in_small_extents(folder / "web.img")
    run("cp", "--reflink=always", str(folder / "web.img"), str(folder / "web2.img"))
    manifest = MANIFEST.replace("{path: db.qcow2, format: qcow2}", "path: web2.img")
    with_manifest(folder, manifest)
    run_here("plan", fleet)
    assert {guest["verdict"] for guest in guests_of(fleet).values()} == {"skip"}
    (reason,) = {guest["reason"] for guest in guests_of(fleet).values()}
    assert "freed only once no file uses them; if those files are guests" in reason
    assert reason.endswith("with `minimum_savings: none`, its blocks are shared anyway")
    with_manifest(folder, manifest + "minimum_savings: none\n")
    assert "at least 0 B comes back immediately" in run_here("plan", fleet)
    before, free = state(folder, "web.img", "web2.img"), free_bytes(disk)
    # Killed with the first, then the second: what this gives back is of the blocks that both have let go of.
    apply_and_die(plan, call=3)
    run_here("apply", plan, "--guest", "web2")
    assert MIB / 2 < (in_between := free_bytes(disk) - free) < 6 * MIB
    assert "2 guests: 1 shared, 1 unchanged." in run_here("apply", plan)
    given_back = free_bytes(disk) - free
    assert given_back > in_between + MIB
    report = json.loads(run_here("show", plan, "--format", "json"))
    web, web2 = (guest["sharing"]["came_back_bytes"] for guest in report["guests"])
    assert min(web, web2) > MIB / 2
    assert abs(web + web2 - given_back) <= TREES + given_back // 50
    assert "came back (at least 0 B predicted)" in run_here("show", plan)
    assert state(folder, "web.img", "web2.img") == before


def test_events_and_a_forged_plan(on_xfs):
    folder, plan = on_xfs.parent, plan_of(on_xfs)
    web, template = guests_after_planning(on_xfs)["web"], json.loads(plan.read_text())["template"]
    assert batchdiff("plan", on_xfs, "--detailed-exitcode", cwd=folder, expect=10).returncode == 10
    done = batchdiff("apply", plan, "--json", "--guest", "web", cwd=folder)
    events = [event for event in json_of(done) if event["event"] in {"step", "guest"}]
    assert [event.get("step") or event["status"] for event in events] == ["sharing", "shared", "shared"]
    assert events[-1]["overlay"] is None
    report = json_of(batchdiff("show", plan, "--json", cwd=folder))[-2]["report"]  # its schema is checked, too
    assert report["guests"][0]["sharing"]["came_back_bytes"] == web["sharing"]["saved_bytes"]
    assert report["totals"]["shared"] == 1
    for name, change, why in (
        ("far", {"sharing": web["sharing"] | {"runs": [[0, 1 << 40]]}}, "past the end of the disk"),
        ("bare", {"sharing": None}, "guests[0].sharing"),
        (
            "same",
            {"path": str(folder / "template.img"), "fingerprint": template["fingerprint"]},
            "is the template",
        ),
    ):
        forged = json.loads(plan.read_text())
        forged["guests"][0] |= change
        save(forged, str(folder / f"{name}.plan.json"))
        assert why in run_here("apply", folder / f"{name}.plan.json", expect=5), name
