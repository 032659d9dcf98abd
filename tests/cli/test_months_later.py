"""What an operator meets in the months after an apply: used overlays, lost journals, second plans, running VMs."""

import json
import os
import shutil
import subprocess

import notation
import pytest
import real_holders
from commands import COMMAND, GUESTS, OVERLAYS, Fleet, batchdiff, events, on_terminal, rarely
from filesystems import mounted
from oracle import assert_same

ONE = "version: 1\ntemplate: {path: template.img, format: raw}\nguests: [{path: raw.img, format: raw}]\n"
OTHER = ONE.replace("raw.img", "large.img")
ORIGINAL = "raw.img.batchdiff-original"


@pytest.fixture
def one(tmp_path):
    """A fleet of one raw guest, planned."""
    fleet = Fleet(tmp_path, ONE)
    fleet.plan("-q")
    return fleet


def run(fleet, verb, *arguments, expect=0, plan="fleet.plan.json", **options):
    return batchdiff(verb, plan, *arguments, cwd=fleet.folder, expect=expect, **options)


def overlay(fleet):
    return fleet.folder / OVERLAYS["raw.img"]


def use(fleet):
    """Its VM writes to the overlay; what it sees then."""
    notation.qemu_io(overlay(fleet), "write -P 7 1M 64k")
    return notation.qemu_content(overlay(fleet), "qcow2")


def outcome(done):
    return next(event for event in events(done) if event["event"] == "guest")


def assert_original_is_back(fleet):
    assert_same((fleet.folder / "raw.img").read_bytes(), notation.content(GUESTS["raw.img"]))
    assert not overlay(fleet).exists()


# What a VM sees now is the truth.


def compacted(path):
    """As people do it to get rid of holes in the overlay."""
    template = path.parent / "template.img"
    other = path.with_name("compact.qcow2")
    arguments = ["-f", "qcow2", "-O", "qcow2", "-B", str(template), "-F", "raw", str(path), str(other)]
    notation.run("qemu-img", "convert", *arguments)
    other.rename(path)


def copied_back(path):
    shutil.copyfile(path, path.with_name("copy"))
    path.unlink()
    path.with_name("copy").rename(path)


def flattened(path):
    notation.run("qemu-img", "rebase", "-f", "qcow2", "-b", "", str(path))


def touched(path):
    os.utime(path)


def time_set_back(path):
    before = path.stat()
    notation.qemu_io(path, "write -P 9 2M 4k")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("used", [True, *rarely(False)])
@pytest.mark.parametrize("change", [compacted, copied_back, flattened, touched, time_set_back])
def test_restore_gives_back_what_the_vm_sees(one, change, used):
    one.apply("--retire", "quarantine")
    if used:
        use(one)
    change(overlay(one))
    expected = notation.qemu_content(overlay(one), "qcow2")
    run(one, "restore")
    assert_same((one.folder / "raw.img").read_bytes(), expected)
    assert not overlay(one).exists()
    rebuilt = used or change is time_set_back
    assert (one.folder / ORIGINAL).exists() is rebuilt


@pytest.mark.parametrize("how", ["moved away", "deleted"])
def test_an_overlay_that_is_missing_is_not_unused(one, how):
    one.apply("--retire", "quarantine")
    expected = use(one)
    elsewhere = one.folder / "elsewhere"
    overlay(one).rename(elsewhere)
    done = run(one, "restore", expect=1)
    assert "is missing, and with it everything that its VM wrote" in done.stderr
    assert ORIGINAL in done.stderr
    assert "raw.img" not in one.names()
    assert "its overlay is missing" in run(one, "status").stdout
    assert str(one.folder / ORIGINAL) in run(one, "verify", expect=6).stdout.replace("\n           ", "")
    if how == "moved away":
        elsewhere.rename(overlay(one))
        run(one, "restore")
        assert_same((one.folder / "raw.img").read_bytes(), expected)
    else:
        elsewhere.unlink()
        assert "there is no terminal" in run(one, "restore", "--discard-changes", expect=2).stderr
        run(one, "restore", "--discard-changes", "--yes")
        assert_original_is_back(one)


def test_an_overlay_that_is_not_an_image_is_not_taken_for_one(one):
    one.apply("--retire", "quarantine")
    overlay(one).write_bytes(b"a note to myself")
    run(one, "restore", expect=4)
    assert overlay(one).read_bytes() == b"a note to myself"
    assert ORIGINAL in one.names()


def test_changes_are_thrown_away_on_purpose_only(one):
    one.apply("--retire", "quarantine")
    use(one)
    run(one, "restore", "--discard-changes", "--yes")
    assert_original_is_back(one)
    assert ORIGINAL not in one.names()


def test_a_kept_original_and_a_used_overlay(one):
    one.apply()
    expected = use(one)
    done = run(one, "restore", expect=1)
    assert "only you know which of the two to keep" in done.stderr
    assert_same(notation.qemu_content(overlay(one), "qcow2"), expected)
    run(one, "restore", "--discard-changes", "--yes")
    assert_original_is_back(one)


def test_changes_cannot_be_discarded_without_an_original(one):
    one.apply("--retire", "delete", "--yes")
    expected = use(one)
    assert (
        " cannot go back to its original: the original was deleted or moved"
        in run(one, "restore", "--discard-changes", "--yes", expect=1).stderr
    )
    assert (
        "raw cannot go back to its original: the original was deleted or moved. Run the same command without"
        in run(one, "restore", "--discard-changes", expect=2).stderr  # before any question
    )
    run(one, "restore")
    assert_same((one.folder / "raw.img").read_bytes(), expected)


# restore and purge have the guards of apply.


@pytest.mark.parametrize("retire", ["quarantine", "delete"])
def test_a_disk_that_grew_comes_back_grown(one, retire):
    one.apply("--retire", retire, "--yes")
    notation.run("qemu-img", "resize", "-q", "-f", "qcow2", str(overlay(one)), "16M")
    notation.qemu_io(overlay(one), "write -P 8 12M 64k")
    expected = notation.qemu_content(overlay(one), "qcow2")
    run(one, "restore")
    assert_same((one.folder / "raw.img").read_bytes(), expected)


@pytest.mark.parametrize("loss", ["snapshots", "bitmaps"])
@pytest.mark.parametrize("retire", ["quarantine", "delete"])
def test_what_an_image_cannot_hold_is_not_dropped(one, loss, retire):
    one.apply("--retire", retire, "--yes")
    if loss == "snapshots":
        notation.run("qemu-img", "snapshot", "-c", "before-upgrade", str(overlay(one)))
    else:
        notation.run("qemu-img", "bitmap", "--add", "-f", "qcow2", str(overlay(one)), "backup")
    done = run(one, "restore", expect=1)
    assert f"--allow-loss {loss}" in done.stderr
    assert overlay(one).exists()
    other = "bitmaps" if loss == "snapshots" else "snapshots"
    run(one, "restore", "--allow-loss", other, expect=1)
    run(one, "restore", "--allow-loss", loss)
    assert_original_is_back(one)


@pytest.mark.parametrize("retire", ["keep", "quarantine", "delete"])
def test_a_snapshot_on_the_overlay(one, retire):
    """As `virsh snapshot-create --disk-only` makes it: the overlay is its backing file."""
    one.apply("--retire", retire, "--yes")
    snapshot = one.folder / "snap1.qcow2"
    arguments = ["-f", "qcow2", "-F", "qcow2", "-b", OVERLAYS["raw.img"], str(snapshot)]
    notation.run("qemu-img", "create", "-q", *arguments)
    before = notation.qemu_content(snapshot, "qcow2")
    for options in ([], ["--discard-changes", "--yes"], ["--dry-run"]):
        if retire == "delete" and "--yes" in options:
            continue
        assert "snap1.qcow2" in run(one, "restore", *options, expect=1).stderr
    assert_same(notation.qemu_content(snapshot, "qcow2"), before)


@pytest.mark.parametrize("verb", ["restore", "purge"])
def test_something_rests_on_the_quarantined_original(one, verb):
    one.apply("--retire", "quarantine")
    clone = one.folder / "rescue.qcow2"
    notation.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", ORIGINAL, str(clone))
    before = notation.qemu_content(clone, "qcow2")
    assert "rescue.qcow2" in run(one, verb, "--yes", expect=1).stderr
    assert_same(notation.qemu_content(clone, "qcow2"), before)


@pytest.mark.parametrize("retire", ["quarantine", "delete"])
def test_a_linked_clone_that_is_made_after_planning(one, retire):
    clone = one.folder / "dev01.qcow2"
    notation.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "raw.img", str(clone))
    before = notation.qemu_content(clone, "qcow2")
    assert "dev01.qcow2" in one.apply("--retire", retire, "--yes", expect=1).stderr
    assert_same(notation.qemu_content(clone, "qcow2"), before)


def test_hard_links_of_what_would_go(one):
    one.apply("--retire", "quarantine")
    os.link(one.folder / ORIGINAL, one.folder / "backup-1")
    assert "hard links" in run(one, "purge", "--yes", expect=1).stderr
    os.link(overlay(one), one.folder / "backup-2")
    assert "hard links" in run(one, "restore", expect=1).stderr
    assert {ORIGINAL, OVERLAYS["raw.img"]} <= one.names()


def test_a_rebuilt_image_that_does_not_fit(tmp_path):
    """Nothing is written: not even a part that would fill the disk."""
    with mounted(tmp_path, "ext4", 64 << 20) as point:
        fleet = Fleet(point, ONE)
        fleet.plan("-q")
        fleet.apply("--retire", "delete", "--yes")
        expected = notation.qemu_content(overlay(fleet), "qcow2")
        status = os.statvfs(point)
        filler = point / "filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, status.f_bfree * status.f_frsize - (3 << 20))
        before = fleet.names()
        for options in ([], ["--dry-run"]):
            done = run(fleet, "restore", *options, expect=1)
            assert "not enough space" in done.stderr
            assert "apply again" not in done.stderr
        assert fleet.names() == before
        assert_same(notation.qemu_content(overlay(fleet), "qcow2"), expected)
        filler.unlink()
        run(fleet, "restore")
        assert_original_is_back(fleet)


def test_what_a_rebuilt_qcow2_does_not_have(tmp_path):
    fleet = Fleet(tmp_path, ONE.replace("raw.img, format: raw", "thick.qcow2, format: qcow2"))
    fleet.plan("-q")
    fleet.apply("--retire", "delete", "--yes")
    assert "uncompressed" in run(fleet, "restore").stderr


# Ends.


def test_purge_keeps_what_a_vm_has_run_on(one):
    one.apply("--retire", "quarantine")
    expected = use(one)
    done = run(one, "purge", "--yes", "--json")
    assert outcome(done)["status"] == "kept"
    assert "its VM has run on the overlay since" in outcome(done)["reason"]
    assert ORIGINAL in one.names()
    assert "--used" not in run(one, "purge", "--dry-run", "--used").stdout
    assert ORIGINAL in one.names()
    run(one, "purge", "--used", "--yes")
    assert ORIGINAL not in one.names()
    assert_same(notation.qemu_content(overlay(one), "qcow2"), expected)
    run(one, "restore")
    assert_same((one.folder / "raw.img").read_bytes(), expected)


def reported(fleet):
    """What `show` reports of the only guest: the overlay's length when written, its use, and what came back."""
    (guest,) = json.loads(run(fleet, "show", "--format", "json").stdout)["guests"]
    return tuple(guest["conversion"][key] for key in ("actual_overlay_bytes", "used", "came_back_bytes"))


@pytest.mark.parametrize("how", ["written to", "snapshot"])
def test_what_a_vm_writes_is_no_part_of_a_conversion_after_a_purge_either(one, how):
    one.apply("--retire", "quarantine")
    length, _, _ = reported(one)
    assert reported(one) == (length, False, 0)
    if how == "snapshot":
        notation.run("qemu-img", "snapshot", "-c", "before", str(overlay(one)))
    else:
        use(one)
    assert overlay(one).stat().st_size > length
    assert reported(one) == (length, True, 0)
    run(one, "purge", *(["--used"] if how == "written to" else []), "--yes")
    assert reported(one) == (length, True, one.document["totals"]["saved_bytes"])


def test_purge_of_a_used_overlay_that_is_damaged(one):
    one.apply("--retire", "quarantine")
    use(one)
    content = bytearray(overlay(one).read_bytes())
    table = int.from_bytes(content[48:56], "big")
    block = int.from_bytes(content[table : table + 8], "big")
    content[block + 1] = 0  # the refcount of the header
    with overlay(one).open("r+b") as file:
        file.write(content)
    run(one, "purge", "--used", "--yes", expect=6)
    assert ORIGINAL in one.names()


def test_purge_of_another_file_in_quarantine(one):
    one.apply("--retire", "quarantine")
    (one.folder / ORIGINAL).unlink()
    (one.folder / ORIGINAL).write_bytes(b"somebody's last copy")
    for options in ([], ["--used"]):
        run(one, "purge", "--yes", *options, expect=None)
        assert (one.folder / ORIGINAL).read_bytes() == b"somebody's last copy"


def test_apply_and_purge_after_a_purge(one):
    one.apply("--retire", "quarantine")
    run(one, "purge", "--yes")
    before = one.state()
    assert outcome(one.apply("--retire", "quarantine", "--json"))["status"] == "unchanged"
    assert "no original of this plan is known to be in quarantine" in run(one, "purge", "--yes").stdout
    assert one.state() | {"fleet.plan.json.journal": ...} == before | {"fleet.plan.json.journal": ...}
    assert "nothing; or restore" in run(one, "status").stdout


def test_an_older_original_after_a_restore(one):
    """It is not forgotten: status names it, purge ends it, and until then no other takes its name."""
    one.apply("--retire", "quarantine")
    expected = use(one)
    assert ORIGINAL in run(one, "restore").stderr
    shown = " ".join(run(one, "show").stdout.split())
    assert "raw was restored, and no total includes it" in shown
    assert "The older original of raw, still in quarantine, takes 7.5 MiB on disk" in shown
    assert "will write" not in shown
    assert f"purge --used: delete the older original {one.folder / ORIGINAL}" in run(one, "status").stdout
    refused = one.apply("--guest", "raw", expect=1).stderr
    assert "another file is at" in refused
    assert "To delete the original in quarantine: `batchdiff purge" in refused
    assert outcome(run(one, "purge", "--yes", "--json"))["status"] == "kept"
    one.plan("-q", "-o", "second.plan.json")
    refused = run(one, "apply", "--retire", "quarantine", plan="second.plan.json", expect=1)
    ends = f"delete it with `batchdiff purge {one.folder}/fleet.plan.json --guest raw --used`"
    assert "already exists" in refused.stderr
    assert ends in refused.stderr
    one.write_manifest(f"{ONE}retire: quarantine\n")
    assert ends in guest_reason(one, "third.plan.json")
    run(one, "purge", "--used", "--yes")
    assert ORIGINAL not in one.names()
    assert_same((one.folder / "raw.img").read_bytes(), expected)
    assert "restored" in run(one, "status").stdout


def guest_reason(one, plan):
    """Plan for a guest that is refused, and return why."""
    one.plan("-q", "-o", plan, expect=1)
    (guest,) = json.loads((one.folder / plan).read_text())["guests"]
    return guest["reason"]


def test_planning_says_that_the_name_in_quarantine_is_taken(one):
    """Even if no plan has put the file there."""
    (one.folder / ORIGINAL).write_bytes(b"an older one")
    one.write_manifest(f"{ONE}retire: quarantine\n")
    found = guest_reason(one, "other.plan.json")
    assert "its name in quarantine is taken" in found
    search = f"find out which plan put it there (no journal in {one.folder} names it), and purge it with that plan"
    assert f"{search}, or move it away" in found


def test_a_vm_that_runs(one):
    one.apply("--retire", "quarantine")
    with real_holders.vm(overlay(one)):
        done = run(one, "verify", "--json")
        found = {event["name"]: event for event in events(done)}
        assert found["raw"]["health"] == "in-use"
        assert "qemu-system" in found["raw"]["why"]
        assert outcome(run(one, "purge", "--yes", "--json"))["status"] == "kept"
        assert "in use" in run(one, "restore", expect=1).stderr
        run(one, "restore", "--discard-changes", "--yes", expect=1)
        assert ORIGINAL in one.names()
        assert outcome(run(one, "purge", "--used", "--yes", "--json"))["status"] == "purged"
    run(one, "restore")
    assert_original_is_back(one)


@pytest.mark.parametrize("verb", ["restore", "purge"])
def test_a_dry_run_changes_nothing(planned, verb):
    planned.apply("--retire", "quarantine")
    notation.qemu_io(planned.folder / OVERLAYS["raw.img"], "write -P 7 0 64k")
    before = planned.state()
    done = run(planned, verb, "--dry-run", "--json")
    assert planned.state() == before
    found = [event["status"] for event in events(done) if event["event"] == "guest"]
    assert found == (["would-restore"] * 4 if verb == "restore" else ["kept", *["would-purge"] * 3])


@pytest.mark.parametrize(("answer", "code"), [("yes", 0), ("no", 2)])
def test_restoring_all_asks_on_a_terminal(planned, answer, code):
    planned.apply("--retire", "quarantine")
    typed = f"{answer}\n".encode()
    found, said = on_terminal("restore", "fleet.plan.json", cwd=planned.folder, typed=typed)
    assert found == code
    assert "all 4 guests, whose VMs must be shut down, will be restored" in said
    assert (ORIGINAL in planned.names()) is (answer == "no")


def test_the_bytes_that_df_got_back(tmp_path):
    with mounted(tmp_path, "ext4", 64 << 20) as point:
        fleet = Fleet(point)
        fleet.plan("-q")

        def free():
            os.sync()
            status = os.statvfs(point)
            return status.f_bfree * status.f_frsize

        for verb, options in (("apply", ["--retire", "quarantine"]), ("purge", ["--yes"]), ("restore", [])):
            before = free()
            done = run(fleet, verb, *options, "--json")
            grown = next(event for event in events(done) if event["event"] == "space")["grown_bytes"]
            assert abs(grown - (free() - before)) <= 64 << 10  # the journal's own blocks
            assert (grown > 0) is (verb == "purge")


# Plans, journals and templates.


@pytest.mark.parametrize("retire", ["keep", "quarantine", "delete"])
def test_a_lost_journal(one, retire):
    one.apply("--retire", retire, "--yes")
    expected = use(one) if retire != "keep" else None
    (one.folder / "fleet.plan.json.journal").unlink()
    for verb in ("status", "verify"):
        assert "is missing, or has no record of this plan" in run(one, verb).stderr
        assert "fleet.plan.json.journal" not in one.names()
    if retire == "quarantine":
        assert outcome(run(one, "purge", "--yes", "--json"))["status"] == "kept"
    assert outcome(one.apply("--retire", retire, "--yes", "--json"))["status"] in {"unchanged"}
    run(one, "restore")
    if expected is None:
        assert_original_is_back(one)
    else:
        assert_same((one.folder / "raw.img").read_bytes(), expected)


def test_a_lost_journal_and_a_lost_sidecar(one):
    """The name in quarantine and the identity of what has it prove enough."""
    one.apply("--retire", "quarantine")
    for name in ("fleet.plan.json.journal", "template.img.batchdiff-template.json"):
        (one.folder / name).unlink()
    run(one, "restore")
    assert_original_is_back(one)


def test_a_foreign_overlay_is_not_recovered(one):
    """No sidecar names it for this plan: it is left alone."""
    arguments = ["-f", "qcow2", "-F", "raw", "-b", str(one.folder / "template.img"), str(overlay(one))]
    notation.run("qemu-img", "create", "-q", *arguments)
    assert "Nothing to restore" in run(one, "restore").stdout
    assert overlay(one).exists()


@pytest.mark.parametrize("change", ["touch", "copied", *rarely("nothing", "chmod")])
def test_a_second_plan_on_the_same_template(one, change):
    """Made before the first apply, which takes the template's write permission."""
    one.write_manifest(OTHER)
    one.plan("-q", "-o", "second.plan.json")
    one.apply("--retire", "quarantine")
    template = one.folder / "template.img"
    match change:
        case "chmod":
            template.chmod(0o640)
        case "touch":
            os.utime(template)
        case "copied":
            shutil.copyfile(template, one.folder / "copy")
            (one.folder / "copy").rename(template)
    assert outcome(run(one, "apply", "--json", plan="second.plan.json"))["status"] == "converted"
    for plan in ("fleet.plan.json", "second.plan.json"):
        run(one, "verify", plan=plan)
        run(one, "restore", plan=plan)


@pytest.mark.parametrize("retire", ["keep", "delete"])
def test_a_plan_on_a_template_that_changed_under_older_overlays(one, retire):
    """Its own guests would be right; but the older ones are damaged, and nobody may cover that up."""
    one.apply("--retire", retire, "--yes")
    template = one.folder / "template.img"
    template.chmod(0o600)
    with template.open("r+b") as file:
        file.write(b"?")
    one.write_manifest(OTHER)
    one.plan("-q", "-o", "second.plan.json")
    done = run(one, "apply", plan="second.plan.json", expect=5)
    assert OVERLAYS["raw.img"] in done.stderr
    assert "large.qcow2" not in one.names()
    run(one, "verify", expect=6)


@pytest.mark.parametrize("what", ["template.img", "raw.img"])
def test_a_change_of_owner_is_no_change_of_content(one, what):
    """libvirt gives files to its own user while a VM runs, and may not give them back."""
    os.chown(one.folder / what, 1234, 5678)
    assert outcome(one.apply("--retire", "quarantine", "--json"))["status"] == "converted"


@pytest.mark.parametrize("verify", ["full", "changed"])
def test_a_guest_that_was_written_to_with_its_time_set_back(one, verify):
    path = one.folder / "raw.img"
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"?")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = one.apply("--verify", verify, expect=5)
    assert "(ctime)" in done.stderr
    assert not overlay(one).exists()


@pytest.mark.parametrize("place", ["beside", "same"])
def test_a_template_that_is_lost(tmp_path, place):
    overlay_at = "" if place == "beside" else ", overlay: {path: same}"
    manifest = ONE.replace("format: raw}]", f"format: raw{overlay_at}}}]") + "retire: quarantine\n"
    fleet = Fleet(tmp_path, manifest)
    fleet.plan("-q")
    fleet.apply("--retire", "quarantine")
    (tmp_path / "template.img").unlink()
    for verb, code in (("restore", 4), ("verify", 6)):
        said = run(fleet, verb, expect=code)
        assert str(tmp_path / ORIGINAL) in (said.stdout + said.stderr).replace("\n           ", "")
    names = fleet.names()
    run(fleet, "restore", "--discard-changes", "--dry-run")
    assert fleet.names() == names
    run(fleet, "restore", "--discard-changes", "--yes")
    assert_same((tmp_path / "raw.img").read_bytes(), notation.content(GUESTS["raw.img"]))
    assert ORIGINAL not in fleet.names()
    left = OVERLAYS["raw.img"] if place == "beside" else "raw.img.batchdiff-overlay"
    assert left in fleet.names()


def test_a_template_whose_content_changed_names_the_whole_originals(one):
    one.apply("--retire", "quarantine")
    template = one.folder / "template.img"
    template.chmod(0o600)
    with template.open("r+b") as file:
        file.write(b"?")
    assert str(one.folder / ORIGINAL) in run(one, "restore", expect=5).stderr
    run(one, "restore", "--discard-changes", "--yes")
    assert_same((one.folder / "raw.img").read_bytes(), notation.content(GUESTS["raw.img"]))


def test_the_sidecar_knows_where_each_overlay_comes_from(one):
    one.apply("--retire", "quarantine")
    document = json.loads((one.folder / "template.img.batchdiff-template.json").read_text())
    origin = document["overlays"][str(overlay(one))]
    assert origin["original"] == str(one.folder / "raw.img")
    assert origin["plan_path"] == str(one.folder / "fleet.plan.json")
    assert origin["fingerprint"]["inode"] == overlay(one).stat().st_ino
    assert len(document["template"]["earlier"]) == 1


@pytest.mark.parametrize("call", ["renameat2", "unlink"])
def test_a_purge_of_an_older_original_that_is_killed_goes_on(one, call):
    """The restored image stands where the overlay stood, also for the second purge."""
    one.apply("--retire", "quarantine")
    expected = use(one)
    run(one, "restore")
    argv = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
    argv += ["-e", f"inject={call}:signal=SIGKILL:when=1"]
    argv += [*COMMAND, "purge", "fleet.plan.json", "--used", "--yes"]
    subprocess.run(argv, cwd=one.folder, check=False, capture_output=True, timeout=120)
    left = [name for name in one.names() if name.startswith("raw.img.batchdiff-")]
    assert len(left) == 1
    assert "purge: finish the purge that was started" in run(one, "status").stdout
    assert "Nothing to restore" in run(one, "restore").stdout
    run(one, "purge", "--used", "--yes")
    assert not [name for name in one.names() if name.startswith("raw.img.batchdiff-")]
    assert_same((one.folder / "raw.img").read_bytes(), expected)


def test_deleting_asks_for_quarantined_originals_too(one):
    one.apply("--retire", "quarantine")
    before = one.names()
    assert "--yes" in one.apply("--retire", "delete", expect=2).stderr
    assert one.names() == before
    one.apply("--retire", "delete", "--yes")
    assert ORIGINAL not in one.names()
    one.apply("--retire", "delete")  # nothing is left to ask for


@pytest.mark.parametrize("lost", ["the overlay", "the overlay, after a restore"])
def test_a_lost_journal_and_no_overlay(one, lost):
    """The original in quarantine is its planned self, which proves where the guest stood."""
    one.apply("--retire", "quarantine")
    expected = use(one)
    if lost == "the overlay":
        overlay(one).unlink()
    else:
        run(one, "restore")
    (one.folder / "fleet.plan.json.journal").unlink()
    said = run(one, "status").stdout
    if lost == "the overlay":
        assert "its overlay is missing" in said
        assert ORIGINAL in run(one, "restore", expect=1).stderr
        run(one, "restore", "--discard-changes", "--yes")
        assert_original_is_back(one)
    else:
        assert "delete the older original" in said
        run(one, "purge", "--used", "--yes")
        assert ORIGINAL not in one.names()
        assert_same((one.folder / "raw.img").read_bytes(), expected)


def test_planning_on_a_template_that_changed_under_overlays(one):
    one.apply()
    template = one.folder / "template.img"
    template.chmod(0o600)
    with template.open("r+b") as file:
        file.write(b"?")
    one.write_manifest(OTHER)
    assert "so the overlay is damaged" in one.plan("-q", "-o", "second.plan.json").stderr


def test_changes_of_an_image_that_is_not_the_overlay_are_not_discarded(one):
    """Without a comparison only what surely is the overlay may go."""
    one.apply("--retire", "quarantine")
    other = one.folder / "other.qcow2"  # first, or it might get the inode number of the overlay
    notation.write_qcow2(other, "1M:K 1M:L")
    other.rename(overlay(one))
    before = overlay(one).read_bytes()
    done = run(one, "restore", "--discard-changes", "--yes", expect=1)
    assert "it is not the file that apply published" in done.stderr
    assert overlay(one).read_bytes() == before
    assert ORIGINAL in one.names()


# An overlay that restore left.


@pytest.mark.parametrize("named", [(), ("--guest", "raw")])
def test_plan_names_the_command_for_an_overlay_that_restore_left(one, named):
    template = one.folder / "template.img"
    one.apply("--retire", "quarantine")
    template.rename(one.folder / "elsewhere")
    run(one, "restore", "--discard-changes", "--yes")
    (one.folder / "elsewhere").rename(template)
    said = one.plan(*named, expect=3).stderr
    assert "A restore left it behind, and it is needed only to recover what the VM wrote" in said
    assert "disk in use" not in said
    command = said.split("`")[1]
    assert command == f"rm {overlay(one)}"
    subprocess.run(["sh", "-c", command], check=True, timeout=60)
    one.plan("-q", *named)
    one.apply()
