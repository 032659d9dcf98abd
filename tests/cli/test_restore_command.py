"""restore, purge, status and verify, as their users run them.

Guards cli/verbs/purge.py.
"""

import json
import os
import stat
import subprocess

import notation
import pytest
import real_holders
from commands import COMMAND, GUESTS, MANIFEST, OVERLAYS, TEMPLATE, Fleet, batchdiff, events
from filesystems import mounted
from oracle import assert_same

FORMS = {name: "qcow2" if name.endswith("qcow2") else "raw" for name in GUESTS}


def run(fleet, verb, *arguments, expect=0):
    return batchdiff(verb, "fleet.plan.json", *arguments, cwd=fleet.folder, expect=expect)


def statuses(done):
    return {event["name"]: event["status"] for event in events(done) if event["event"] == "guest"}


def steps(fleet):
    return {e["name"]: e["step"] for e in events(run(fleet, "status", "--json"))}


def assert_originals_are_back(fleet, *names):
    """As before the apply: content, and no overlay or temporary file beside them."""
    for name in names or GUESTS:
        assert_same(notation.qemu_content(fleet.folder / name, FORMS[name]), notation.content(GUESTS[name]))
        assert OVERLAYS[name] not in fleet.names()
    assert not [n for n in fleet.names() if n.endswith(("-tmp", "-deleting", "-overlay"))]


@pytest.mark.parametrize("retire", ["keep", "quarantine", "delete"])
def test_restored(planned, retire):
    """Whatever became of the originals: they are back, in their format, size, owner and mode."""
    before = {}
    for name in GUESTS:
        os.chmod(planned.folder / name, 0o640)
        os.chown(planned.folder / name, 1234, 5678)
        before[name] = (planned.folder / name).stat()
    planned.plan("-q")
    planned.apply("--retire", retire, "--yes")
    done = run(planned, "restore", "--json")
    assert set(statuses(done).values()) == {"restored"}
    assert_originals_are_back(planned)
    for name, old in before.items():
        now = (planned.folder / name).stat()
        assert (now.st_uid, now.st_gid, now.st_mode) == (old.st_uid, old.st_gid, old.st_mode)
        assert retire == "delete" or now.st_ino == old.st_ino
        assert FORMS[name] == "qcow2" or now.st_size == old.st_size
    assert not [n for n in planned.names() if n.endswith("-original")]


def test_applied_again_after_a_restore(planned):
    """Nobody who has restored a guest wants it converted by the next plain apply: it has to be named."""
    planned.apply("--retire", "quarantine")
    run(planned, "restore")
    done = planned.apply("--retire", "delete", "--json")  # without --yes: nothing will be deleted
    assert set(statuses(done).values()) == {"skipped"}
    assert_originals_are_back(planned)
    assert set(steps(planned).values()) == {"restored"}
    done = planned.apply("--retire", "delete", "--yes", "--guest", "raw", "--json")
    assert statuses(done) == {"raw": "converted"}
    done = planned.apply("--retire", "delete", "--yes", "--json")
    assert sorted(statuses(done).values()) == ["skipped", "skipped", "skipped", "unchanged"]
    (reason,) = {each["reason"] for each in events(done) if each.get("status") == "skipped"}
    assert reason.endswith("/fleet.plan.json --guest NAME` converts the guest of that name again")


def test_rebuilt_images_are_planned_again(planned):
    planned.apply("--retire", "delete", "--yes")
    run(planned, "restore")
    done = planned.apply("--retire", "delete", "--yes", "--json")
    assert "to convert an image that was rebuilt, replaced or written to, make a new plan" in next(
        e["reason"] for e in events(done) if e["event"] == "guest"
    )
    assert "another file is in its place" in " ".join(run(planned, "show").stdout.split())
    planned.plan("-q")
    planned.apply("--retire", "delete", "--yes")
    planned.assert_converted()


def test_some_guests_only(planned):
    planned.apply("--retire", "quarantine")
    name = next(guest["name"] for guest in planned.document["guests"] if guest["path"].endswith("raw.img"))
    run(planned, "restore", "--guest", name)
    assert_originals_are_back(planned, "raw.img")
    planned.assert_converted("thick.qcow2", "large.img", "same.img")
    assert steps(planned)[name] == "restored"
    for verb in ("restore", "purge"):
        for options in ([], ["--dry-run"]):
            done = run(planned, verb, "--guest", name, "--json", *options)
            assert statuses(done) == {name: "skipped"}
            assert f"there is nothing to {verb}; `batchdiff status" in done.stdout


@pytest.mark.parametrize("retire", ["quarantine", "delete"])
def test_what_a_vm_wrote_to_its_overlay_comes_back(planned, retire):
    """The newest content counts, and the older original in quarantine is not touched."""
    planned.apply("--retire", retire, "--yes")
    overlay = planned.folder / OVERLAYS["raw.img"]
    notation.qemu_io(overlay, "write -P 7 0 64k")
    expected = notation.qemu_content(overlay, "qcow2")
    name = next(guest["name"] for guest in planned.document["guests"] if guest["path"].endswith("raw.img"))
    run(planned, "restore", "--guest", name)
    assert_same(notation.qemu_content(planned.folder / "raw.img", "raw"), expected)
    assert OVERLAYS["raw.img"] not in planned.names()
    if retire == "quarantine":
        aside = planned.folder / "raw.img.batchdiff-original"
        assert_same(notation.qemu_content(aside, "raw"), notation.content(GUESTS["raw.img"]))


def test_two_contents_are_for_a_person_to_choose_from(planned):
    """The original was kept and the overlay used: neither is deleted."""
    planned.apply()
    notation.qemu_io(planned.folder / OVERLAYS["raw.img"], "write -P 7 0 64k")
    done = run(planned, "restore", "--json", expect=1)
    assert sorted(statuses(done).values()) == ["failed", "restored", "restored", "restored"]
    assert {"raw.img", OVERLAYS["raw.img"]} <= planned.names()


def test_an_overlay_that_is_lost(planned):
    """What its VM wrote is lost with it: only somebody who says so gets the older state."""
    planned.apply("--retire", "quarantine")
    (planned.folder / OVERLAYS["raw.img"]).unlink()
    done = run(planned, "restore", expect=1)
    assert "--discard-changes" in done.stderr
    assert "raw.img.batchdiff-original" in done.stderr
    assert "raw.img" not in planned.names()
    run(planned, "restore", "--discard-changes", "--yes")
    assert_originals_are_back(planned)


def test_a_template_that_was_only_touched_will_do(planned):
    planned.apply("--retire", "delete", "--yes")
    os.utime(planned.folder / "template.img")
    planned.apply("--retire", "delete", "--yes")
    run(planned, "restore")
    assert_originals_are_back(planned)


def test_a_template_that_changed_will_not(planned):
    planned.apply("--retire", "delete", "--yes")
    with (planned.folder / "template.img").open("r+b") as file:
        file.write(b"?")
    before = planned.names()
    run(planned, "restore", expect=5)
    assert planned.names() == before


def test_an_odd_size_comes_back(tmp_path):
    fleet = Fleet(tmp_path)
    with (tmp_path / "large.img").open("ab") as file:
        file.write(b"tail")
    content = (tmp_path / "large.img").read_bytes()
    fleet.plan("-q")
    fleet.apply("--retire", "delete", "--yes")
    run(fleet, "restore")
    assert (tmp_path / "large.img").read_bytes() == content


def test_purged(planned):
    planned.apply("--retire", "quarantine")
    assert set(steps(planned).values()) == {"retired"}
    done = run(planned, "purge", "--yes", "--json")
    assert set(statuses(done).values()) == {"purged"}
    planned.assert_converted()
    assert not [n for n in planned.names() if "original" in n or "deleting" in n]
    assert set(steps(planned).values()) == {"purged"}
    assert events(run(planned, "purge", "--yes", "--json")) == []
    run(planned, "restore")
    assert_originals_are_back(planned)


def test_purging_asks_first(planned):
    planned.apply("--retire", "quarantine")
    before = planned.state()
    assert "--yes" in run(planned, "purge", expect=2).stderr
    assert planned.state() == before


def test_purging_nothing_that_is_not_in_quarantine(planned):
    planned.apply()
    before = planned.state()
    assert events(run(planned, "purge", "--yes", "--json")) == []
    assert planned.state() == before


@pytest.mark.parametrize("what", ["used", "gone", "other original"])
def test_purging_needs_an_overlay_that_is_identical(planned, what):
    planned.apply("--retire", "quarantine")
    overlay, aside = planned.folder / OVERLAYS["raw.img"], planned.folder / "raw.img.batchdiff-original"
    match what:
        case "used":
            notation.qemu_io(overlay, "write -P 7 0 64k")
        case "gone":
            overlay.unlink()
        case "other original":
            content = aside.read_bytes()
            aside.unlink()
            aside.write_bytes(content[:-1] + b"?")
    done = run(planned, "purge", "--yes", "--json", expect=None)
    found = statuses(done)
    name = next(guest["name"] for guest in planned.document["guests"] if guest["path"].endswith("raw.img"))
    assert found[name] == ("failed" if what == "gone" else "kept")
    assert done.returncode == (1 if what == "gone" else 0)
    assert aside.exists()
    assert [status for guest, status in found.items() if guest != name] == ["purged"] * 3


def same_path(tmp_path, retire="quarantine"):
    fleet = Fleet(tmp_path, MANIFEST)
    fleet.plan("-q")
    document = fleet.document
    from batchdiff.plan.file import checksum_of  # noqa: PLC0415

    for guest in document["guests"]:
        guest["overlay"]["path"] = guest["path"]
    document["checksum"] = checksum_of(document)
    (tmp_path / "fleet.plan.json").write_text(json.dumps(document))
    return fleet


@pytest.mark.parametrize("retire", ["quarantine", "delete"])
def test_an_overlay_in_its_guests_place(tmp_path, retire):
    fleet = same_path(tmp_path)
    assert set(statuses(fleet.apply("--json", expect=1)).values()) == {"failed"}  # kept under the same name?
    fleet.apply("--retire", retire, "--yes")
    for name, text in GUESTS.items():
        assert_same(notation.qemu_content(tmp_path / name, "qcow2"), notation.content(text))
        aside = tmp_path / f"{name}.batchdiff-original"
        assert aside.exists() == (retire == "quarantine")
    before = fleet.state()
    fleet.apply("--retire", retire, "--yes")
    assert fleet.state() == before
    run(fleet, "restore")
    for name, text in GUESTS.items():
        assert_same(notation.qemu_content(tmp_path / name, FORMS[name]), notation.content(text))
    assert not [n for n in fleet.names() if ".batchdiff-" in n and not n.endswith("-template.json")]


def test_status_shows_the_next_command(planned):
    assert set(steps(planned).values()) == {"planned"}
    planned.apply()
    assert set(steps(planned).values()) == {"published"}
    said = run(planned, "status").stdout
    assert "verify again and retire the original; or restore" in said
    notation.qemu_io(planned.folder / OVERLAYS["raw.img"], "write -P 7 0 64k")
    planned.apply("--retire", "quarantine", expect=1)
    found = {e["name"]: e for e in events(run(planned, "status", "--json"))}
    failed = [each for each in found.values() if each["failure"]]
    assert len(failed) == 1
    assert "has run on the overlay" in failed[0]["failure"]
    assert failed[0]["since"].endswith("Z")


def health(done):
    return {e["name"]: e["health"] for e in events(done) if e["event"] == "finding"}


def test_verify_finds_all_sound(planned):
    planned.apply("--retire", "quarantine")
    before = planned.state()
    done = run(planned, "verify", "--json")
    assert set(health(done).values()) == {"sound"}
    assert len(health(done)) == 5
    assert planned.state() == before
    assert "identical to its original" in run(planned, "verify").stdout


@pytest.mark.parametrize(("change", "code"), [("touch", 0), ("write", 6), ("set back", 6)])
def test_verify_distinguishes_a_changed_template_from_a_touched_one(planned, change, code):
    planned.apply("--retire", "delete", "--yes")
    path = planned.folder / "template.img"
    times = path.stat()
    if change == "touch":
        os.utime(path)
    else:
        with path.open("r+b") as file:
            file.seek(70_000)
            file.write(b"?")
    if change == "set back":
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = run(planned, "verify", "--json", expect=code)
    assert health(done)["template"] == ("touched" if change == "touch" else "damaged")


def test_verify_before_apply_finds_a_stale_plan_not_damage(planned):
    (planned.folder / "template.img").unlink()
    done = run(planned, "verify", "--json", expect=5)
    assert health(done) == {"template": "stale"}


@pytest.mark.parametrize("retire", ["quarantine", "delete"])
def test_retired_by_a_second_apply(planned, retire):
    """As apply itself recommends: all is known as well as after one apply."""
    planned.apply()
    planned.apply("--retire", retire, "--yes")
    assert "5 files: 5 sound" in run(planned, "verify").stdout
    overlay = planned.folder / OVERLAYS["raw.img"]
    notation.qemu_io(overlay, "write -P 9 0 64k")
    planned.apply("--retire", retire, "--yes")
    overlay.unlink()
    assert "it is missing" in run(planned, "verify", expect=6).stdout


def test_a_retirement_that_was_refused_forgets_nothing(planned):
    """Somebody reads the original, after QEMU has compared: the overlay is in place all the same."""
    planned.apply()
    with real_holders.reader(planned.folder / "raw.img"):
        planned.apply("--retire", "quarantine", expect=1)
    said = run(planned, "status").stdout
    assert "clear up" not in said
    assert "are in place" in planned.show().stdout
    notation.qemu_io(planned.folder / OVERLAYS["raw.img"], "write -P 9 0 64k")
    assert "already exists" not in str(planned.apply(expect=None))


@pytest.mark.parametrize("damage", ["gone", "garbage", "refcounts", "content"])
def test_verify_finds_damaged_overlays(planned, damage):
    planned.apply("--retire", "quarantine")
    path = planned.folder / OVERLAYS["raw.img"]
    content = bytearray(path.read_bytes())
    match damage:
        case "gone":
            path.unlink()
        case "garbage":
            path.write_bytes(b"garbage")
        case "refcounts" | "content":
            times = path.stat()
            at = len(content) - 2 * 65536 + 3 if damage == "refcounts" else 4 * 65536
            content[at] ^= 1
            with path.open("r+b") as file:
                file.write(content)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = run(planned, "verify", "--json", expect=6)
    assert sorted(health(done).values()) == ["damaged", "sound", "sound", "sound", "sound"]


def test_the_sidecar_names_the_overlays(planned):
    planned.apply()
    path = planned.folder / "template.img.batchdiff-template.json"
    document = json.loads(path.read_text())
    assert document["template"]["digest"] == planned.document["template"]["digest"] != ""
    assert set(document["overlays"]) == {str(planned.folder / overlay) for overlay in OVERLAYS.values()}
    assert stat.S_IMODE((planned.folder / "template.img").stat().st_mode) & 0o222 == 0
    run(planned, "restore")
    assert json.loads(path.read_text())["overlays"] == {}


def test_the_digest_of_reflink_copies_is_taken_when_it_is_needed(tmp_path):
    """The plan did not read the template; its sidecar must have a digest all the same."""
    with mounted(tmp_path, "xfs", 600 << 20) as point:
        notation.write_raw(point / "template.img", TEMPLATE)
        notation.run("cp", "--reflink=always", str(point / "template.img"), str(point / "guest.img"))
        with (point / "guest.img").open("r+b") as file:
            file.write(b"?" * 4096)
        (point / "fleet.yaml").write_text(
            "version: 1\ntemplate: {path: template.img, format: raw}\nguests: [{path: guest.img, format: raw}]\n"
        )
        batchdiff("plan", "fleet.yaml", "-q", cwd=point, expect=None)
        plan = json.loads((point / "fleet.plan.json").read_text())
        assert plan["template"]["digest"] == ""
        if plan["guests"][0]["verdict"] != "convert":
            pytest.fail(plan["guests"][0]["reason"])
        batchdiff("apply", "fleet.plan.json", cwd=point)
        document = json.loads((point / "template.img.batchdiff-template.json").read_text())
        assert document["template"]["digest"].startswith("xxh3-128")
        os.utime(point / "template.img")
        done = batchdiff("verify", "fleet.plan.json", "--json", cwd=point)
        assert health(done)["template"] == "touched"


def test_what_was_never_published_leaves_nothing(planned):
    """Killed just before the first overlay gets its name: restore clears up, and the originals are whole."""
    argv = ["strace", "-qq", "-o", "/dev/null", "-e", "trace=renameat2"]
    argv += ["-e", "inject=renameat2:signal=SIGKILL:when=1", *COMMAND, "apply", "fleet.plan.json"]
    subprocess.run(argv, cwd=planned.folder, check=False, capture_output=True, timeout=120)
    assert [name for name in planned.names() if name.endswith("-tmp")]
    run(planned, "restore")
    assert_originals_are_back(planned)


def test_verify_makes_no_file(planned):
    before = planned.state()
    assert health(run(planned, "verify", "--json")) == {"template": "sound"}
    assert planned.state() == before
