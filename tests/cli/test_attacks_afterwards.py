"""What could lose a disk in the months after an apply: strange files in the way, VMs that run after a kill."""

import contextlib
import os
import shutil
import subprocess
import sys

import notation
import pytest
from commands import GUESTS, OVERLAYS, Fleet, batchdiff, rarely
from oracle import assert_same

ONE = "version: 1\ntemplate: {path: template.img, format: raw}\nguests: [{path: raw.img, format: raw}]\n"
IN_PLACE = ONE.replace("format: raw}]", "format: raw, overlay: {path: same}}]").replace(
    "guests", "retire: quarantine\nguests"
)
ORIGINAL = "raw.img.batchdiff-original"
DISCARD = ("--discard-changes", "--yes")


@pytest.fixture
def one(tmp_path):
    """A fleet of one raw guest, planned."""
    return planned(tmp_path, ONE)


def planned(folder, manifest):
    fleet = Fleet(folder, manifest)
    fleet.plan("-q")
    return fleet


def run(fleet, verb, *arguments, expect=0):
    return batchdiff(verb, "fleet.plan.json", *arguments, cwd=fleet.folder, expect=expect)


def dies(fleet, where, *arguments):
    """Runs a command that is killed where it calls that function: ``module:name``, or ``module:name:after`` it."""
    module, name, *after = where.split(":")
    program = f"""
import importlib, os
module = importlib.import_module({module!r})
real = getattr(module, {name!r})
def dying(*arguments, **options):
    if {bool(after)}:
        real(*arguments, **options)
    os._exit(137)
setattr(module, {name!r}, dying)
from batchdiff.__main__ import main
main()
"""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=fleet.folder, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 137, done


AT_THE_UNLINK = "batchdiff.applying.swap.retire:delete"
AFTER_THE_UNLINK = "batchdiff.applying.swap.retire:delete:after"


def overlay(fleet):
    return fleet.folder / OVERLAYS["raw.img"]


def use(path, pattern=7):
    """A VM writes to a qcow2 image; what it sees then."""
    notation.qemu_io(path, f"write -P {pattern} 1M 64k")
    return notation.qemu_content(path, "qcow2")


def assert_original_is_back(fleet):
    assert_same((fleet.folder / "raw.img").read_bytes(), notation.content(GUESTS["raw.img"]))


# Something else stands where the original was.


@pytest.mark.parametrize("how", ["delete", "quarantine"])
@pytest.mark.parametrize("arguments", [(), DISCARD])
def test_a_file_that_took_the_name_of_an_original_is_not_the_original(one, how, arguments):
    """To take it for that would delete the overlay, the last that is left of the guest."""
    one.apply("--retire", how, *(["--yes"] if how == "delete" else []))
    expected = use(overlay(one))
    (one.folder / ORIGINAL).unlink(missing_ok=True)
    (one.folder / "raw.img").write_bytes(b"something else" * 100_000)
    done = run(one, "restore", *arguments, expect=1)
    assert "is not its original, or was written to after the conversion" in done.stderr
    assert "move the overlay away and run `batchdiff restore" in done.stderr
    run(one, "restore", *DISCARD, expect=1)  # the overlay is still there
    assert_same(notation.qemu_content(overlay(one), "qcow2"), expected)
    (one.folder / "raw.img").rename(one.folder / "elsewhere")
    run(one, "restore")
    assert_same((one.folder / "raw.img").read_bytes(), expected)


def test_changes_are_not_thrown_away_for_a_file_in_quarantine_that_is_another_one(one):
    one.apply("--retire", "quarantine")
    expected = use(overlay(one))
    (one.folder / ORIGINAL).write_bytes(b"a bad copy" * 100_000)
    done = run(one, "restore", *DISCARD, expect=1)
    assert f"{ORIGINAL} is not its original" in done.stderr
    assert_same(notation.qemu_content(overlay(one), "qcow2"), expected)
    run(one, "restore")
    assert_same((one.folder / "raw.img").read_bytes(), expected)


def test_a_copy_of_the_original_with_its_times_may_take_its_place(one):
    one.apply("--retire", "quarantine")
    use(overlay(one))
    shutil.copy2(one.folder / ORIGINAL, one.folder / "copy")
    (one.folder / "copy").rename(one.folder / ORIGINAL)
    run(one, "restore", *DISCARD)
    assert_original_is_back(one)
    assert not overlay(one).exists()


def test_an_original_that_was_removed_from_quarantine(one):
    one.apply("--retire", "quarantine")
    (one.folder / ORIGINAL).unlink()
    done = run(one, "purge", "--yes")
    assert "moved it" in done.stdout
    assert "Nothing to purge" in run(one, "purge", "--yes").stdout
    assert "gone" in one.apply("--retire", "quarantine").stdout
    run(one, "restore")
    assert_original_is_back(one)


@contextlib.contextmanager
def bound(source, target):
    notation.run("mount", "--bind", str(source), str(target))
    try:
        yield
    finally:
        subprocess.run(["umount", str(target)], check=True, timeout=60)


def test_an_overlay_that_is_the_original_by_a_bind_mount_does_not_let_it_go(tmp_path):
    fleet = planned(tmp_path, ONE.replace("raw.img, format: raw", "thick.qcow2, format: qcow2"))
    fleet.apply("--retire", "quarantine")
    original = tmp_path / "thick.qcow2.batchdiff-original"
    with bound(original, tmp_path / OVERLAYS["thick.qcow2"]):
        refused = run(fleet, "purge", "--yes", expect=1).stderr
        assert "is the same file by another name" in refused
        assert "its second name (bind mount, hard or symbolic link), and undo that" in refused
        assert "is the same file by another name" in run(fleet, "purge", "--used", "--yes", expect=1).stderr
    assert original.exists()


# The overlay cannot be read, or is not where it was.


@pytest.mark.parametrize("manifest", [ONE, *rarely(IN_PLACE)])
@pytest.mark.parametrize("damage", ["emptied", "marked corrupt", "another backing file", *rarely("cut")])
def test_an_overlay_that_cannot_be_read(tmp_path, manifest, damage):
    fleet = planned(tmp_path, manifest)
    fleet.apply("--retire", "quarantine")
    path = overlay(fleet) if manifest is ONE else fleet.folder / "raw.img"
    if damage == "emptied":
        os.truncate(path, 0)
    elif damage == "cut":
        os.truncate(path, 70_000)
    elif damage == "marked corrupt":
        with path.open("r+b") as file:
            file.seek(72)
            file.write((2).to_bytes(8, "big"))
    else:
        notation.run("qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "other.qcow2"), "8M")
        other = ("-F", "qcow2", "-b", str(tmp_path / "other.qcow2"), str(path))
        notation.run("qemu-img", "rebase", "-u", "-f", "qcow2", *other)
    left = path.read_bytes()
    done = run(fleet, "restore", expect=4)
    assert f"The original {fleet.folder / ORIGINAL} is intact, as before the conversion" in done.stderr
    assert path.read_bytes() == left
    assert "would be restored" in run(fleet, "restore", "--dry-run", "--discard-changes").stdout
    assert "was not deleted: it cannot be read. " in run(fleet, "restore", *DISCARD).stderr
    assert_original_is_back(fleet)
    kept = path if manifest is ONE else fleet.folder / "raw.img.batchdiff-overlay"
    assert kept.read_bytes() == left


def test_a_snapshot_under_the_overlay_is_not_cut_away_by_what_the_message_says(one):
    """`rebase -u` would leave the overlay without what was written to the snapshot's base."""
    one.apply("--retire", "quarantine")
    use(overlay(one))
    base = one.folder / "base.qcow2"
    overlay(one).rename(base)
    notation.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(overlay(one)))
    expected = use(overlay(one), pattern=9)
    done = run(one, "restore", expect=4)
    command = done.stderr.split("`")[1]
    assert command.startswith("qemu-img rebase -f qcow2 -F raw -b ")
    subprocess.run(["sh", "-c", command], check=True, timeout=60)
    run(one, "restore")
    assert_same((one.folder / "raw.img").read_bytes(), expected)


def test_an_overlay_behind_a_symbolic_link_is_said_to_be_one(one):
    one.apply("--retire", "quarantine")
    expected = use(overlay(one))
    fast = one.folder / "fast"
    fast.mkdir()
    overlay(one).rename(fast / "raw.qcow2")
    overlay(one).symlink_to(fast / "raw.qcow2")
    assert f"a symbolic link to {fast}/raw.qcow2 is in its place" in run(one, "restore", expect=1).stderr
    assert "a symbolic link to" in run(one, "verify", expect=6).stdout
    run(one, "restore", "--map", f"{overlay(one)}={fast}/raw.qcow2")
    assert_same((one.folder / "raw.img").read_bytes(), expected)


# A command is killed, and the VM runs before it is run again.


def test_a_snapshot_that_is_taken_after_a_kill_is_not_lost(one):
    one.apply("--retire", "quarantine")
    use(overlay(one))
    dies(one, AT_THE_UNLINK, "restore", "fleet.plan.json")
    aside = overlay(one).with_name(f"{overlay(one).name}.batchdiff-deleting")
    aside.rename(overlay(one))
    notation.run("qemu-img", "snapshot", "-c", "before-update", str(overlay(one)))
    assert "--allow-loss snapshots" in run(one, "restore", expect=1).stderr
    assert "before-update" in notation.run("qemu-img", "snapshot", "-l", str(overlay(one)))
    run(one, "restore", "--allow-loss", "snapshots")
    assert not overlay(one).exists()


@pytest.mark.parametrize("used", [False, True])
def test_a_guest_in_place_that_runs_after_a_kill_between_the_unlink_and_its_note(tmp_path, used):
    fleet = planned(tmp_path, IN_PLACE)
    fleet.apply("--retire", "quarantine")
    if used:
        use(fleet.folder / "raw.img")
    dies(fleet, AFTER_THE_UNLINK, "restore", "fleet.plan.json")
    notation.run("qemu-io", "-f", "raw", "-c", "write -P 9 2M 64k", str(fleet.folder / "raw.img"))
    expected = (fleet.folder / "raw.img").read_bytes()
    run(fleet, "restore")
    assert_same((fleet.folder / "raw.img").read_bytes(), expected)
    assert "Nothing to restore" in run(fleet, "restore").stdout
    # The original from before the conversion is in quarantine still, and can be purged.
    assert (fleet.folder / ORIGINAL).exists() is used
    if used:
        run(fleet, "purge", "--used", "--yes")
        assert not (fleet.folder / ORIGINAL).exists()


def test_an_overlay_that_goes_missing_after_a_kill_does_not_hide_that_its_image_was_rebuilt(one):
    one.apply("--retire", "quarantine")
    expected = use(overlay(one))
    dies(one, "batchdiff.applying.swap.retire:move:after", "restore", "fleet.plan.json")
    overlay(one).unlink()
    assert_same((one.folder / "raw.img").read_bytes(), expected)
    done = run(one, "restore", expect=1)
    assert f"had rebuilt {one.folder / 'raw.img'} from it" in done.stderr
    assert ORIGINAL not in done.stderr
    run(one, "restore", *DISCARD)
    assert_same((one.folder / "raw.img").read_bytes(), expected)
    assert (one.folder / ORIGINAL).exists()


def test_a_vm_that_runs_on_its_overlay_before_apply_has_noted_that_it_was_published(one):
    dies(one, "batchdiff.applying.swap.retire:move:after", "apply", "fleet.plan.json")
    expected = use(overlay(one))
    done = run(one, "restore", expect=1)
    assert "only you know which of the two to keep" in done.stderr
    (one.folder / "raw.img").rename(one.folder / "elsewhere")
    run(one, "restore")
    assert_same((one.folder / "raw.img").read_bytes(), expected)


# The journal lacks its last lines.


@pytest.mark.parametrize("left", [2, 4, *rarely(1, 3)])
@pytest.mark.parametrize("how", ["keep", "quarantine"])
def test_a_journal_that_was_cut_brings_no_older_state_back(one, how, left):
    one.apply("--retire", how)
    expected = use(overlay(one))
    journal = one.folder / "fleet.plan.json.journal"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:left]))
    assert "planned" not in run(one, "status").stdout
    done = run(one, "restore", expect=1 if how == "keep" else 0)
    if how == "keep":
        assert "only you know which of the two to keep" in done.stderr
        (one.folder / "raw.img").unlink()
        run(one, "restore")
    assert_same((one.folder / "raw.img").read_bytes(), expected)


def test_a_guest_of_which_the_journal_has_nothing_is_not_forgotten(tmp_path):
    fleet = planned(tmp_path, ONE.replace("}]", "}, {path: large.img, format: raw}]"))
    fleet.apply("--retire", "quarantine")
    journal = fleet.folder / "fleet.plan.json.journal"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if '"large"' not in line))
    expected = use(fleet.folder / OVERLAYS["large.img"])
    assert "lacks its last lines" in run(fleet, "status").stderr
    run(fleet, "restore")
    assert_same((fleet.folder / "large.img").read_bytes(), expected)
    # What a restore has ended is not recovered again.
    assert "lacks" not in run(fleet, "status").stderr
