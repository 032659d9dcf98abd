import contextlib
import fcntl
import json
import os
import random
import re
import signal
import stat
import subprocess
import sys
import time

import fake_judge
import notation
import pytest
from commands import (
    COMMAND,
    GUESTS,
    MANIFEST,
    OVERLAYS,
    TEMPLATE,
    Fleet,
    assert_no_traceback,
    batchdiff,
    events,
    on_terminal,
    rarely,
    without_qemu,
)
from filesystems import mounted
from oracle import assert_same
from real_holders import wait_for
from seeds import seeded

from batchdiff.files.fingerprint import fingerprint_at
from batchdiff.plan.file import checksum_of

ORIGINALS = set(GUESTS)


def name_of(fleet, file):
    """The name that the plan has for a guest's file."""
    return next(guest["name"] for guest in fleet.document["guests"] if guest["path"].endswith(file))


def outcomes(done):
    return {event["name"]: event for event in events(done) if event["event"] == "guest"}


def test_the_whole_way(planned):
    planned.show()
    done = planned.apply()
    planned.assert_converted()
    assert {*ORIGINALS, "template.img"} <= planned.names()
    for name, text in {**GUESTS, "template.img": TEMPLATE}.items():
        form = "qcow2" if name.endswith("qcow2") else "raw"
        assert_same(notation.qemu_content(planned.folder / name, form), notation.content(text))
    assert "4 guests: 4 converted" in done.stdout
    for name in GUESTS:
        path = planned.folder / name
        assert f"{path} ({'qcow2' if name.endswith('qcow2') else 'raw'})" in done.stderr
    assert not [name for name in planned.names() if name.endswith("tmp")]


@pytest.mark.parametrize(
    ("verify", "options"),
    [
        ("changed", ""),
        ("full", "compression: zstd"),
        ("full", "extended_l2: true"),
        *rarely(("native", ""), ("full", "compression: zlib"), ("native", "compression: zlib")),
    ],
)
def test_predicted_is_actual(tmp_path, verify, options):
    manifest = MANIFEST.replace("{format: raw}", f"{{format: raw, overlay: {{{options}}}}}")
    fleet = Fleet(tmp_path, manifest.replace("cluster_size: auto", "cluster_size: 128KiB"))
    fleet.plan_here()
    planned = {guest["name"]: guest["savings"] for guest in fleet.document["guests"]}
    for name, event in outcomes(fleet.apply("--json", "--verify", verify)).items():
        assert event["status"] == "converted"
        assert event["actual_overlay_bytes"] == event["predicted_overlay_bytes"] == planned[name]["overlay_bytes"]
        assert os.path.getsize(fleet.folder / OVERLAYS[file_of(fleet, name)]) == event["actual_overlay_bytes"]
    fleet.assert_converted()


def file_of(fleet, name):
    return next(os.path.basename(guest["path"]) for guest in fleet.document["guests"] if guest["name"] == name)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_blocks_are_as_predicted(tmp_path, kind):
    """Holes of the guests stay holes in the overlays. ext4 lists the extents in a block where they are many."""
    with mounted(tmp_path, kind) as point:
        (point / "fleet").mkdir()
        fleet = Fleet(point / "fleet")
        fleet.plan_here()
        for event in outcomes(fleet.apply("--json")).values():
            assert event["actual_overlay_disk_bytes"] == event["predicted_overlay_disk_bytes"], event


def test_applying_twice_changes_nothing(planned):
    planned.apply()
    before = planned.state()
    done = planned.apply("--json")
    assert {event["status"] for event in outcomes(done).values()} == {"unchanged"}
    assert planned.state() == before


@pytest.mark.parametrize("retire", ["delete", *rarely("quarantine")])
def test_retiring_twice_changes_nothing(planned, retire):
    planned.apply("--retire", retire, "--yes")
    before = planned.state()
    done = planned.apply("--retire", retire, "--yes", "--json")
    assert {event["status"] for event in outcomes(done).values()} == {"unchanged"}
    assert planned.state() == before
    planned.assert_converted()


def test_quarantine(planned):
    planned.apply("--retire", "quarantine")
    planned.assert_converted()
    names = planned.names()
    assert not ORIGINALS & names
    for name, text in GUESTS.items():
        aside = planned.folder / f"{name}.batchdiff-original"
        form = "qcow2" if name.endswith("qcow2") else "raw"
        assert_same(notation.qemu_content(aside, form), notation.content(text))


def test_delete(planned):
    planned.apply("--retire", "delete", "--yes")
    planned.assert_converted()
    expected = {*OVERLAYS.values(), "template.img", "template.img.batchdiff-template.json"}
    expected |= {"fleet.yaml", "fleet.plan.json", "fleet.plan.json.journal"}
    assert planned.names() == expected


@pytest.mark.parametrize("retire", ["delete", *rarely("quarantine")])
def test_the_manifest_says_how_to_retire(tmp_path, retire):
    fleet = Fleet(tmp_path, MANIFEST + f"retire: {retire}\n")
    fleet.plan_here()
    fleet.apply("--yes")
    assert not ORIGINALS & fleet.names()
    fleet.assert_converted()


def test_the_command_line_overrules_the_manifest(tmp_path):
    fleet = Fleet(tmp_path, MANIFEST + "retire: delete\n")
    fleet.plan_here()
    fleet.apply("--retire", "keep")
    assert fleet.names() >= ORIGINALS


@pytest.mark.parametrize("later", ["delete", *rarely("quarantine")])
def test_keep_first_and_retire_later(planned, later):
    planned.apply()
    done = planned.apply("--retire", later, "--yes", "--json")
    assert {event["status"] for event in outcomes(done).values()} == {"retired"}
    assert not ORIGINALS & planned.names()
    planned.assert_converted()


@pytest.mark.parametrize("later", ["delete", *rarely("quarantine")])
def test_an_overlay_in_use_since_keeps_its_original(planned, later):
    """What the VM wrote to it cannot be compared: the original stays, whatever was asked."""
    planned.apply()
    overlay = planned.folder / OVERLAYS["raw.img"]
    notation.qemu_io(overlay, "write -P 7 0 64k")
    done = planned.apply("--retire", later, "--yes", "--json", expect=1)
    assert "has run on the overlay" in outcomes(done)[name_of(planned, "raw.img")]["reason"]
    assert ORIGINALS & planned.names() == {"raw.img"}


def test_deleting_needs_a_yes(planned):
    before = planned.state()
    done = planned.apply("--retire", "delete", expect=2)
    assert "--yes" in done.stderr
    assert planned.state() == before


def answering(fleet, answer):
    """Apply with delete on a terminal, where somebody types an answer."""
    return on_terminal("apply", "fleet.plan.json", "--retire", "delete", cwd=fleet.folder, typed=answer)


@pytest.mark.parametrize("answer", [b"yes\n", *rarely(b" YES \n")])
def test_yes_deletes(planned, answer):
    code, said = answering(planned, answer)
    assert code == 0
    assert all(str(planned.folder / name) in said for name in GUESTS)
    assert "note: if an image of a qcow2 guest has to be rebuilt, it will be qcow2 version 3" in said
    assert not ORIGINALS & planned.names()
    planned.assert_converted()


@pytest.mark.parametrize("answer", [b"y\n", b"\x04", *rarely(b"no\n", b"\xff\xfe\n")])
def test_anything_else_does_nothing(planned, answer):
    before = planned.state()
    code, said = answering(planned, answer)
    assert code == 2
    assert "nothing was done" in said
    assert planned.state() == before


def test_ctrl_c_at_the_question(planned):
    before = planned.state()
    arguments = ("apply", "fleet.plan.json", "--retire", "delete")
    code, said = on_terminal(*arguments, cwd=planned.folder, typed=b"\x03", at=b"Type yes to delete")
    assert code == 130
    assert "\nbatchdiff: interrupted" in said
    assert planned.state() == before


def test_no_question_that_nobody_sees(planned):
    """On a terminal, with `2>FILE`."""
    ours, theirs = os.openpty()
    done = planned.apply("--retire", "delete", expect=2, stdin=theirs)
    os.close(theirs)
    os.close(ours)
    assert "asks for confirmation, but there is no terminal to ask on" in done.stderr


@pytest.mark.parametrize("verify", ["native", "changed"])
def test_only_full_verification_may_delete(planned, verify):
    before = planned.state()
    done = planned.apply("--retire", "delete", "--yes", "--verify", verify, expect=2)
    assert "full verification" in done.stderr
    planned.assert_not_converted(*GUESTS)
    assert {name: kept for name, kept in planned.state().items() if name in before} == before


def test_some_guests(planned):
    planned.apply("--guest", name_of(planned, "raw.img"), "--guest", name_of(planned, "same.img"))
    planned.assert_converted("raw.img", "same.img")
    planned.assert_not_converted("thick.qcow2", "large.img")
    planned.apply()
    planned.assert_converted()


def test_an_unknown_guest(planned):
    done = planned.apply("--guest", "unheard-of", expect=2)
    assert "unheard-of" in done.stderr
    planned.assert_not_converted(*GUESTS)


@pytest.mark.parametrize("change", ["touch", "same size and time", "gone", *rarely("chmod", "replace", "link")])
def test_a_stale_guest_does_not_stop_the_others(planned, change):
    path = planned.folder / "raw.img"
    before = path.stat()
    match change:
        case "touch":
            os.utime(path)
        case "same size and time":
            with path.open("r+b") as file:
                file.write(b"?")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        case "chmod":
            path.chmod(0o600)
        case "replace" | "link":
            path.rename(planned.folder / "aside")
            if change == "link":
                path.symlink_to("aside")
            else:
                path.write_bytes((planned.folder / "aside").read_bytes())
        case "gone":
            path.rename(planned.folder / "aside")
    done = planned.apply("--retire", "quarantine", "--json", expect=None)
    assert done.returncode == (4 if change in {"gone", "link"} else 5)
    found = outcomes(done)
    failed = found.pop(name_of(planned, "raw.img"))
    assert failed["status"] == "failed"
    assert "raw.img" in failed["reason"]
    assert {event["status"] for event in found.values()} == {"converted"}
    planned.assert_converted("thick.qcow2", "large.img", "same.img")
    assert OVERLAYS["raw.img"] not in planned.names()
    assert "raw.img.batchdiff-original" not in planned.names()


@pytest.mark.parametrize("change", ["write", "gone", *rarely("replace", "cut")])
def test_a_stale_template_stops_all(planned, change):
    path = planned.folder / "template.img"
    match change:
        case "write":
            with path.open("r+b") as file:
                file.write(b"?")
        case "cut":
            os.truncate(path, 1 << 20)
        case "replace":
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(b"?" + content[1:])
        case "gone":
            path.rename(planned.folder / "aside")
    before = planned.state()
    done = planned.apply("--retire", "delete", "--yes", expect=4 if change == "gone" else 5)
    assert "template.img" in done.stderr
    after = planned.state()
    after.pop("fleet.plan.json.journal")
    assert after == before


def edited(fleet, change, *, checksum):
    """The plan with something else in it, perhaps with a checksum that fits."""
    document = fleet.document
    change(document)
    if checksum:
        document["checksum"] = checksum_of(document)
    (fleet.folder / "fleet.plan.json").write_text(json.dumps(document))


def test_an_edited_plan(planned):
    edited(planned, lambda plan: plan["guests"].pop(), checksum=False)
    before = planned.state()
    assert "edited" in planned.apply("--retire", "delete", "--yes", expect=5).stderr
    assert planned.state() == before


def test_a_forged_plan_cannot_delete_the_template(planned):
    """Its checksum fits, and it says that the template is a guest: refused all the same."""

    def forge(plan):
        guest = plan["guests"][3]
        for key in ("path", "virtual_size", "fingerprint"):
            guest[key] = plan["template"][key]

    edited(planned, forge, checksum=True)
    planned.apply("--retire", "delete", "--yes", expect=5)
    assert_same((planned.folder / "template.img").read_bytes(), notation.content(TEMPLATE))


def test_a_forged_plan_cannot_delete_another_file(planned):
    victim = planned.folder / "victim.img"
    victim.write_bytes((planned.folder / "same.img").read_bytes())

    def forge(plan):
        plan["guests"][3]["path"] = str(victim)

    edited(planned, forge, checksum=True)
    planned.apply("--retire", "delete", "--yes", expect=5)
    assert victim.exists()


def test_a_forged_plan_cannot_lose_a_difference(planned):
    """Extents that leave something out: QEMU finds it, and the original stays."""

    def forge(plan):
        plan["guests"][0]["extents"]["data"].pop()

    edited(planned, forge, checksum=True)
    done = planned.apply("--retire", "delete", "--yes", "--json", expect=6)
    assert outcomes(done)[name_of(planned, "raw.img")]["status"] == "failed"
    planned.assert_not_converted("raw.img")
    planned.assert_converted("thick.qcow2", "large.img", "same.img")
    assert not [name for name in planned.names() if name.endswith("tmp")]


@pytest.mark.parametrize("kind", ["file", *rarely("link", "folder")])
def test_a_target_that_exists(planned, kind):
    target = planned.folder / OVERLAYS["raw.img"]
    match kind:
        case "file":
            target.write_text("theirs")
        case "link":
            target.symlink_to("nowhere")
        case "folder":
            target.mkdir()
    before = fingerprint_at(str(target))
    done = planned.apply("--retire", "delete", "--yes", "--json", expect=1)
    assert "already exists" in outcomes(done)[name_of(planned, "raw.img")]["reason"]
    assert fingerprint_at(str(target)) == before
    assert ORIGINALS & planned.names() == {"raw.img"}
    planned.assert_converted("thick.qcow2", "large.img", "same.img")


def test_a_quarantine_that_exists(planned):
    (planned.folder / "raw.img.batchdiff-original").write_text("theirs")
    done = planned.apply("--retire", "quarantine", "--json", expect=1)
    assert "already exists" in outcomes(done)[name_of(planned, "raw.img")]["reason"]
    assert (planned.folder / "raw.img.batchdiff-original").read_text() == "theirs"
    planned.assert_not_converted("raw.img")


def test_a_hard_linked_original_is_not_deleted(planned):
    """The link was made before the plan, else it would be stale; quarantine goes."""
    os.link(planned.folder / "raw.img", planned.folder / "second.img")
    planned.plan_here()
    document = planned.document
    assert document["guests"][0]["verdict"] == "skip"


def test_an_overlay_folder_that_went_away(tmp_path):
    (tmp_path / "thin").mkdir()
    fleet = Fleet(
        tmp_path, MANIFEST.replace("{path: large.img, overlay: {", "{path: large.img, overlay: {path: thin/o, ")
    )
    fleet.plan_here()
    (tmp_path / "thin").rmdir()
    done = fleet.apply("--json", expect=1)
    assert "thin" in outcomes(done)[name_of(fleet, "large.img")]["reason"]
    fleet.assert_converted("raw.img", "thick.qcow2", "same.img")


def test_no_space(tmp_path):
    """Said before anything is written."""
    with mounted(tmp_path, "ext4", 8 << 20) as point:
        fleet_folder = tmp_path / "fleet"
        fleet_folder.mkdir()
        manifest = MANIFEST.replace("path: raw.img", f"path: raw.img\n    overlay: {{path: {point}/o.qcow2}}")
        fleet = Fleet(fleet_folder, manifest)
        fleet.plan_here()
        with contextlib.suppress(OSError), (point / "ballast").open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        done = fleet.apply(expect=1)
        assert "not enough space" in done.stderr
        fleet.assert_not_converted("thick.qcow2", "large.img", "same.img")
        assert {path.name for path in point.iterdir()} == {"lost+found", "ballast"}


def test_a_disk_that_fills_up(tmp_path):
    """Space that is gone by the time it is needed: that guest fails, no trace is left, the others go on."""
    with mounted(tmp_path, "ext4", 8 << 20) as point:
        fleet_folder = tmp_path / "fleet"
        fleet_folder.mkdir()
        manifest = MANIFEST.replace("path: raw.img", f"path: raw.img\n    overlay: {{path: {point}/o.qcow2}}")
        fleet = Fleet(fleet_folder, manifest)
        fleet.plan_here()
        with contextlib.suppress(OSError), (point / "ballast").open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()

        def lie(plan):
            plan["guests"][0]["savings"]["overlay_disk_bytes"] = 0

        edited(fleet, lie, checksum=True)
        done = fleet.apply("--json", "--retire", "quarantine", expect=None)
        if done.returncode == 5:  # plans that contradict themselves are refused before that
            return
        assert done.returncode == 1
        assert "no space left" in outcomes(done)[name_of(fleet, "raw.img")]["reason"]
        assert {path.name for path in point.iterdir()} == {"lost+found", "ballast"}
        fleet.assert_converted("thick.qcow2", "large.img", "same.img")
        assert "raw.img" in fleet.names()


def test_without_qemu(planned, tmp_path):
    path = without_qemu(tmp_path)
    done = planned.apply(path=path, expect=7)
    assert "qemu-img is not installed" in done.stderr
    assert "--verify native" in done.stderr
    planned.assert_not_converted(*GUESTS)
    assert "--verify native" in planned.apply("--verify", "native", path=path).stderr
    planned.assert_converted()


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 2", 6), *rarely(("kill -SEGV $$", 7), ("[ $1 = check ]", 7))],
)
def test_a_judge_that_refuses(planned, tmp_path, script, code):
    path = fake_judge.install(tmp_path, script)
    before = planned.state()
    planned.apply("--retire", "delete", "--yes", path=path, expect=code)
    after = planned.state()
    after.pop("fleet.plan.json.journal")
    assert after == before
    planned.apply("--retire", "delete", "--yes")
    planned.assert_converted()


def changed_while_verified(fleet, folder, command, retire="delete"):
    """Applies while a shell's command changes something that QEMU is comparing, and then finds equal.

    The original stays, and has no overlay. Gives the exit code and the reason.
    """
    path = fake_judge.install(folder, fake_judge.COMPARES_UNTIL_TOLD)
    options = ("--guest", "raw", "--retire", retire, "--yes", "--json")
    with fake_judge.applying(fleet.folder, path, *options) as (process, _):
        subprocess.run(["sh", "-c", command], cwd=fleet.folder, check=True, timeout=60)
        fake_judge.let_it_end(path)
        out, err = process.communicate(timeout=60)
    assert_no_traceback(err)
    found = {event["name"]: event for event in map(json.loads, out.splitlines()) if event["event"] == "guest"}
    assert found["raw"]["status"] == "failed"
    assert "raw.img" in fleet.names()
    assert OVERLAYS["raw.img"] not in fleet.names()
    assert not [name for name in fleet.names() if name.endswith(("tmp", "deleting"))]
    return process.returncode, found["raw"]["reason"]


@pytest.mark.parametrize("name", ["raw.img", "template.img"])
@pytest.mark.parametrize("change", ["touch ", *rarely("printf ? | dd conv=notrunc status=none of=")])
def test_who_writes_while_it_is_verified_is_noticed_by_the_lease(planned, tmp_path, change, name):
    """A VM was started meanwhile: it waits for the lease, so it has not written anything yet."""
    code, reason = changed_while_verified(planned, tmp_path, f"{change}{name}")
    assert code in {1, 4}
    assert re.search(rf"/{name}\b.* is in use", reason)


@pytest.mark.parametrize("retire", ["delete", "keep", *rarely("quarantine")])
@pytest.mark.parametrize("name", ["raw.img", "template.img"])
@pytest.mark.parametrize("how", ["mv raw.copy {}", "mv {0} {0}.aside && mv raw.copy {0}"])
def test_a_file_that_is_put_in_the_place_of_one_that_is_compared(planned, tmp_path, retire, name, how):
    """A rename breaks no lease, and the descriptors that QEMU compared are those of the old file."""
    copy = f"cp --preserve=all {name} raw.copy && "
    code, reason = changed_while_verified(planned, tmp_path, copy + how.format(name), retire)
    assert code == 5
    assert re.search(rf"/{name}\b.*another file is in its place|/raw.img\b.*\(ctime\)", reason)
    assert_same((planned.folder / "raw.img").read_bytes(), notation.content(GUESTS["raw.img"]))


def test_owner_mode_and_attributes(fleet):
    path = fleet.folder / "raw.img"
    os.chown(path, 1234, 5678)
    path.chmod(0o640)
    os.setxattr(path, "user.note", b"mine")
    os.setxattr(path, "trusted.libvirt.security.ref_dac", b"1")
    fleet.plan_here()
    fleet.apply()
    overlay = fleet.folder / OVERLAYS["raw.img"]
    info = overlay.stat()
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (1234, 5678, 0o640)
    assert os.listxattr(overlay) == ["user.note"]


@pytest.mark.parametrize("protect", [True, False])
def test_the_template_loses_its_write_bits(tmp_path, protect):
    fleet = Fleet(tmp_path, MANIFEST + f"protect_template: {str(protect).lower()}\n")
    template = tmp_path / "template.img"
    template.chmod(0o664)
    fleet.plan_here()
    fleet.apply("--guest", name_of(fleet, "raw.img"))
    assert stat.S_IMODE(template.stat().st_mode) == (0o444 if protect else 0o664)
    fleet.apply()
    fleet.assert_converted()


def test_a_template_that_cannot_be_protected(fleet):
    """chattr +i: that protects it better; no guest is to blame, and with --json it is an event."""
    notation.run("chattr", "+i", str(fleet.folder / "template.img"))
    try:
        fleet.plan_here()
        done = fleet.apply("--json")
        notices = [event["message"] for event in events(done) if event["event"] == "notice"]
        assert notices == [
            f"the template's file {fleet.folder / 'template.img'} is already immutable, which protects it better"
            " than its mode could"
        ]
        assert all(event["notes"] == [] for event in events(done) if event["event"] == "guest")
        fleet.assert_converted()
    finally:
        notation.run("chattr", "-i", str(fleet.folder / "template.img"))


def test_json(planned):
    found = events(planned.apply("--json"))
    names = [guest["name"] for guest in planned.document["guests"]]
    steps = [(event["guest"], event["step"]) for event in found if event["event"] == "step"]
    for name in names:
        assert [step for guest, step in steps if guest == name] == ["checked", "written", "verified", "published"]
    for step in ("checked", "written", "verified", "published"):
        assert [guest for guest, reached in steps if reached == step] == names
    assert len([event for event in found if event["event"] == "guest"]) == 4


def test_quiet(planned):
    done = planned.apply("-q")
    assert done.stderr == ""
    assert "4 converted" in done.stdout


def test_verbose(planned):
    said = planned.apply("-v").stderr
    assert "raw: verified" in said or "raw.img: verified" in said


def test_guests_that_are_not_to_be_converted(fleet):
    fleet.write_manifest(MANIFEST + "minimum_savings: 60%\n")
    os.truncate(fleet.folder / "same.img", 4096)
    fleet.plan_here(expect=1)
    done = fleet.apply("--json", expect=1)
    statuses = {event["status"] for event in outcomes(done).values()}
    assert "refused" in statuses
    assert statuses <= {"refused", "skipped", "converted"}


def test_what_a_dying_apply_left_beside_the_template(planned):
    """A sidecar that never got its name goes; what only looks like one stays."""
    left = ".template.img.batchdiff-template.json.0123abcd.batchdiff-tmp"
    others = {left.replace("0123abcd", "0123abc"), left[1:], left.replace("template.img", "a.img"), f"{left}2"}
    for name in (left, *others):
        (planned.folder / name).touch()
    planned.apply()
    assert left not in planned.names()
    assert others <= planned.names()


def test_from_another_folder(planned, tmp_path):
    batchdiff("apply", planned.folder / "fleet.plan.json", cwd=tmp_path)
    planned.assert_converted()


def test_two_at_once(planned):
    """One waits for nobody: it is refused, and the other is not disturbed."""
    with (planned.folder / "fleet.plan.json.journal").open("wb") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        done = planned.apply(expect=5)
        assert "another batchdiff command" in done.stderr
    planned.assert_not_converted(*GUESTS)
    planned.apply()
    planned.assert_converted()


DAMAGED = {
    "no journal": ("5\n", "is not a journal"),
    "another beginning": ('{"step": "begin", "plan": "CHECKSUM"}\n[]\n', "is not a journal"),
    "no plan": ('{"time": "", "step": "begin"}\n[]\n', "is damaged"),
    "a line that is no object": ('{"time": "", "step": "begin", "plan": "CHECKSUM"}\n[]\n', "is damaged"),
    "a line that is no JSON": ('{"time": "", "step": "begin", "plan": "CHECKSUM"}\n{"gue\n', "is damaged"),
}


@pytest.mark.parametrize(("content", "said"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_journal(planned, content, said):
    """What was begun cannot be known: nothing is done, and the journal stays for somebody to look at."""
    journal = planned.folder / "fleet.plan.json.journal"
    journal.write_text(content.replace("CHECKSUM", planned.document["checksum"]))
    before = planned.state()
    assert said in planned.apply("--retire", "delete", "--yes", expect=5).stderr
    assert planned.state() == before


def test_the_journal_of_another_plan_is_set_aside(planned):
    """Whatever it says, nothing of it is about this plan."""
    journal = planned.folder / "fleet.plan.json.journal"
    content = b'{"time": "", "step": "begin", "plan": "sha256:another"}\n[]\n'
    journal.write_bytes(content)
    planned.apply()
    planned.assert_converted()
    (older,) = planned.folder.glob("fleet.plan.json.journal.*")
    assert older.read_bytes() == content
    assert planned.document["checksum"].encode() in journal.read_bytes()


def test_a_reader_that_goes_away_does_not_stop_the_work(planned):
    script = f"{' '.join(COMMAND)} apply fleet.plan.json --json -v 2>&1 | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=planned.folder, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0"
    planned.assert_converted()


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGHUP, *rarely(signal.SIGTERM)])
def test_interrupted(planned, tmp_path, signal_number):
    """While QEMU compares: qemu-img ends too, nothing half-done is left, the next apply finishes."""
    path = fake_judge.install(tmp_path, fake_judge.COMPARES)
    before = planned.state()
    with fake_judge.applying(planned.folder, path, "--retire", "delete", "--yes") as (process, judge):
        time.sleep(0.1)
        process.send_signal(signal_number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert_no_traceback(out + err)
    after_it = planned.state()
    after_it.pop("fleet.plan.json.journal")
    assert after_it == before
    with pytest.raises(ProcessLookupError):
        os.kill(judge, 0)
    planned.apply("--retire", "delete", "--yes")
    planned.assert_converted()


def test_a_terminal_that_is_closed_rolls_back(planned, tmp_path):
    """As when an SSH connection breaks: with a progress bar, and all output on that terminal."""
    path = fake_judge.install(tmp_path, fake_judge.COMPARES)
    before = planned.state()
    ours, theirs = os.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", "--wait", *COMMAND, "apply", "fleet.plan.json", "--retire", "delete", "--yes"],
        cwd=planned.folder,
        env=os.environ | {"PATH": path, "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        fake = path.split(":", maxsplit=1)[0] + "/qemu-img"
        wait_for(lambda: fake_judge.comparing(fake) != [])
        judge = fake_judge.comparing(fake)[0]
        os.close(ours)
        assert process.wait(60) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(judge, 0)
    after_it = planned.state()
    after_it.pop("fleet.plan.json.journal")
    assert after_it == before
    planned.apply("--retire", "delete", "--yes")
    planned.assert_converted()


def test_nohup_is_respected(planned, tmp_path):
    path = fake_judge.install(tmp_path, fake_judge.COMPARES_UNTIL_TOLD)
    with subprocess.Popen(
        ["nohup", *COMMAND, "apply", "fleet.plan.json"],
        cwd=planned.folder,
        env=os.environ | {"PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_for(lambda: fake_judge.comparing(path.split(":", maxsplit=1)[0] + "/qemu-img") != [])
        process.send_signal(signal.SIGHUP)
        fake_judge.let_it_end(path)
        assert process.wait(60) == 0
    planned.assert_converted()


def killed_apply(fleet, seconds, *arguments):
    """An apply that is killed after a while; whether it was."""
    with subprocess.Popen(
        [*COMMAND, "apply", "fleet.plan.json", *arguments],
        cwd=fleet.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    ) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return True
    return False


def assert_nothing_is_lost(fleet):
    """The invariant: each guest is its untouched original, under its name or aside, or a verified overlay."""
    for name, text in GUESTS.items():
        form = "qcow2" if name.endswith("qcow2") else "raw"
        places = [(OVERLAYS[name], "qcow2")]
        places += [(name + suffix, form) for suffix in ("", ".batchdiff-original", ".batchdiff-deleting")]
        there = [(fleet.folder / place, form) for place, form in places if (fleet.folder / place).exists()]
        assert there, f"{name} is lost"
        for path, kind in there:
            assert_same(notation.qemu_content(path, kind), notation.content(text))


def converted_state(fleet):
    """What an apply ends in, but for times and the journal's words."""
    return {
        name: kept[:2]
        for name, kept in fleet.state().items()
        if not name.startswith("fleet.") or name == "fleet.yaml"
    }


@pytest.mark.parametrize("retire", ["delete", *rarely("keep", "quarantine")])
def test_killed_at_random_times(planned, retire):
    """Killed again and again until one comes through; then the state is that of an apply that nobody killed."""
    rng = seeded()
    arguments = ("--retire", retire, "--yes", "-q")
    for _ in range(8):
        if not killed_apply(planned, rng.uniform(0.15, 0.6), *arguments):
            break
        assert_nothing_is_lost(planned)
    planned.apply(*arguments)
    planned.assert_converted()
    expected = {*OVERLAYS.values(), "template.img", "template.img.batchdiff-template.json"}
    expected |= ORIGINALS if retire == "keep" else set()
    expected |= {f"{name}.batchdiff-original" for name in ORIGINALS} if retire == "quarantine" else set()
    assert {name for name in planned.names() if not name.startswith("fleet.")} == expected
    assert stat.S_IMODE((planned.folder / "template.img").stat().st_mode) & 0o222 == 0


KILL_POINTS = [
    ("renameat2", 8),
    ("fsync", 40),
    ("fchmod", 5),
    ("unlink", 4),
    ("copy_file_range", 3),
    ("pwrite64", 40),
]


@pytest.mark.long
@pytest.mark.parametrize("retire", ["keep", "quarantine", "delete"])
@pytest.mark.parametrize(("call", "count"), KILL_POINTS, ids=[call for call, _ in KILL_POINTS])
def test_killed_at_every_call(tmp_path, retire, call, count):
    """At each of the calls that change something: then the same apply again finishes the work."""
    assert_finishes_after_kills(tmp_path, retire, call, range(1, count + 1))


@pytest.mark.parametrize(
    ("retire", "call", "number"),
    [
        ("quarantine", "renameat2", 2),  # the original is about to be put aside
        ("delete", "unlink", 1),
        *rarely(("delete", "renameat2", 2), ("keep", "renameat2", 1)),
    ],
)
def test_killed_at_a_chosen_call(tmp_path, retire, call, number):
    assert_finishes_after_kills(tmp_path, retire, call, [number])


KILLED_AFTER_IT = """
import os, signal, sys
from batchdiff.cli.main import run

def fchmod(fd, mode, real=os.fchmod):
    real(fd, mode)
    if os.readlink(f"/proc/self/fd/{fd}").endswith("/template.img"):
        os.kill(os.getpid(), signal.SIGKILL)

os.fchmod = fchmod
sys.exit(run(sys.argv[1:]))
"""


def test_killed_when_the_template_has_just_lost_its_write_bits(planned):
    """Its ctime is another one then, and no note says that this was us. strace would kill before the call."""
    argv = [sys.executable, "-c", KILLED_AFTER_IT, "apply", "fleet.plan.json", "--retire", "delete", "--yes"]
    done = subprocess.run(argv, cwd=planned.folder, capture_output=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert stat.S_IMODE((planned.folder / "template.img").stat().st_mode) & 0o222 == 0
    assert_nothing_is_lost(planned)
    planned.apply("--retire", "delete", "--yes")
    planned.assert_converted()
    assert not ORIGINALS & planned.names()


def assert_finishes_after_kills(tmp_path, retire, call, numbers):
    arguments = ["apply", "fleet.plan.json", "--retire", retire, "--yes", "-q"]
    for number in numbers:
        folder = tmp_path / f"{call}-{number}"
        folder.mkdir()
        fleet = Fleet(folder)
        fleet.plan_here()
        inject = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
        inject += ["-e", f"inject={call}:signal=SIGKILL:when={number}"]
        done = subprocess.run(
            [*inject, *COMMAND, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode == 0:
            break
        assert_nothing_is_lost(fleet)
        fleet.apply(*arguments[2:])
        fleet.assert_converted()
        assert not [name for name in fleet.names() if name.endswith(("tmp", "deleting"))]
        if retire != "keep":
            assert not ORIGINALS & fleet.names()


@pytest.mark.long
def test_the_state_does_not_depend_on_kills(tmp_path):
    """Two fleets, one of them killed on the way: the same files with the same bytes."""
    states = []
    for kills in (0, 3):
        folder = tmp_path / "fleet"
        folder.mkdir()
        fleet = Fleet(folder)
        fleet.plan_here()
        for number in range(kills):
            killed_apply(fleet, 0.2 + 0.1 * number, "--retire", "quarantine", "-q")
        fleet.apply("--retire", "quarantine", "-q")
        states.append(converted_state(fleet))
        folder.rename(tmp_path / f"done-{kills}")
    assert states[0] == states[1]


@pytest.mark.parametrize("fleets", [1, *rarely(20)])
def test_random_fleets(tmp_path, fleets):
    """Random guests, every option by chance: QEMU finds each overlay identical, as large as predicted."""
    rng = seeded()
    for number in range(fleets):
        folder = tmp_path / str(number)
        folder.mkdir()
        texts = random_fleet(folder, rng)
        batchdiff("plan", "fleet.yaml", "-q", "-j", rng.choice([1, 2]), cwd=folder)
        guests = json.loads((folder / "fleet.plan.json").read_text())["guests"]
        errors = {guest["name"]: (guest.get("savings") or {}).get("overlay_error_bytes", 0) for guest in guests}
        for name, event in outcomes(batchdiff("apply", "fleet.plan.json", "--json", cwd=folder)).items():
            assert event["status"] in {"converted", "skipped"}, event
            if event["status"] == "converted":
                off = abs(event["predicted_overlay_bytes"] - event["actual_overlay_bytes"])
                assert off <= errors[name], event  # 0 unless compressed clusters were sampled
        for name, text in texts.items():
            overlay = folder / f"{name}.overlay"
            if overlay.exists():
                expected = notation.content(text)
                assert_same(
                    notation.qemu_content(overlay, "qcow2"), expected.ljust(-(-len(expected) // 512) * 512, b"\0")
                )


def random_fleet(folder, rng: random.Random):
    sizes = [rng.choice([4, 12, 64, 100, 512, 1024]) for _ in range(rng.randrange(5, 20))]
    parts = [rng.choice("ABC-0") for _ in sizes]
    form = rng.choice(["raw", "qcow2"])

    def text(kinds, tail=""):
        return " ".join(f"{size}k:{kind}" for size, kind in zip(sizes, kinds, strict=True)) + tail

    def make(name, form, what):
        (notation.write_raw if form == "raw" else notation.write_qcow2)(folder / name, what)

    make("t", form, text(parts))
    lines, texts = [], {}
    for number in range(5):
        kinds = [rng.choice("XY-0") if rng.random() < 0.2 else kind for kind in parts]
        name, guest_form = f"g{number}", rng.choice(["raw", "qcow2"])
        texts[name] = text(kinds, rng.choice(["", " 300k:-", " 1M:Z", " 513:Q"]))
        make(name, guest_form, texts[name])
        overlay = {"path": f"{name}.overlay", "cluster_size": rng.choice([512, 4096, 65536, 2 << 20, "auto"])}
        overlay |= {"compression": rng.choice(["none", "zlib", "zstd"])}
        overlay |= {"backing_path": rng.choice(["absolute", "relative"])}
        lines.append(json.dumps({"path": name, "format": guest_form, "overlay": overlay}))
    guests = "\n".join(f"  - {line}" for line in lines)
    (folder / "fleet.yaml").write_text(
        f"version: 1\ntemplate: {{path: t, format: {form}}}\nguests:\n{guests}\nminimum_savings: 0\n"
    )
    return texts


SPOILED = {
    "removed": lambda path: path.unlink(),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "replaced": lambda path: path.write_bytes(b"hello"),
    "used": lambda path: notation.qemu_io(path, "write -P 9 0 4k"),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_deletion_that_was_begun_does_not_end_without_its_overlay(planned, spoil):
    """As a kill between rename and unlink leaves it; then the overlay is not what was verified any more."""
    name = name_of(planned, "raw.img")
    planned.apply("--guest", name)
    original, aside = planned.folder / "raw.img", planned.folder / "raw.img.batchdiff-deleting"
    content = original.read_bytes()
    original.rename(aside)
    spoil(planned.folder / OVERLAYS["raw.img"])
    done = planned.apply("--guest", name, "--retire", "delete", "--yes", expect=None)
    assert done.returncode != 0
    assert original.read_bytes() == content
    assert not aside.exists()


def test_a_deletion_that_was_begun_is_ended_after_another_verification(planned):
    name = name_of(planned, "raw.img")
    planned.apply("--guest", name)
    original = planned.folder / "raw.img"
    original.rename(planned.folder / "raw.img.batchdiff-deleting")
    planned.apply("--guest", name, "--retire", "delete", "--yes")
    assert not [left for left in planned.names() if left.startswith("raw.img")]


def test_an_original_and_its_overlay_both_gone_are_not_called_converted(planned):
    name = name_of(planned, "raw.img")
    planned.apply("--guest", name)
    (planned.folder / "raw.img").rename(planned.folder / "elsewhere")
    (planned.folder / OVERLAYS["raw.img"]).write_bytes(b"garbage")
    before = planned.state()
    done = planned.apply("--guest", name, "--retire", "delete", "--yes", "--json", expect=1)
    outcome = outcomes(done)[name]
    assert outcome["status"] == "failed"
    for path in ("raw.img", OVERLAYS["raw.img"]):
        assert str(planned.folder / path) in outcome["reason"]
    assert planned.state() | {"fleet.plan.json.journal": ...} == before | {"fleet.plan.json.journal": ...}


@pytest.mark.parametrize("size", [1 << 53, 1 << 60, 1 << 62])
def test_a_plan_that_lies_about_a_size_is_refused_before_anything_is_written(planned, size):
    document = planned.document
    guest = next(guest for guest in document["guests"] if guest["path"].endswith("raw.img"))
    guest["virtual_size"] = size
    document["checksum"] = checksum_of(document)
    (planned.folder / "fleet.plan.json").write_text(json.dumps(document))
    done = planned.apply("--guest", guest["name"], "--json", expect=5)
    assert "virtual size" in outcomes(done)[guest["name"]]["reason"]
    planned.assert_not_converted("raw.img")


def test_output_that_cannot_be_written_fails_no_guest(planned):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "apply", "fleet.plan.json", "--json"],
            cwd=planned.folder,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert_no_traceback(done.stderr)
    assert done.returncode != 0
    assert any(path in planned.names() for path in OVERLAYS.values())
    assert not [name for name in planned.names() if name.endswith("tmp")]
