"""Advice is true of the verb that gives it: each cause is real, and the advice is followed before the next try.

Guards applying/guests/whole_originals.py.
"""

from __future__ import annotations

import ast
import errno
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import access
import notation
import pytest
from stage import ASIDE, DELETING, NAME, Stage, failed, status

import batchdiff
from batchdiff.applying.checks.no_dependents import require_no_dependents
from batchdiff.applying.guests.guest_files import on_disk
from batchdiff.applying.guests.status import TemplateIs
from batchdiff.applying.health_check import check_health
from batchdiff.applying.journal.file import Journal, read_history
from batchdiff.applying.results.finding import Health
from batchdiff.applying.results.outcome import Status
from batchdiff.applying.session.stop import Stop
from batchdiff.choices import Retire
from batchdiff.dependents.dependents import Dependents
from batchdiff.errors import BatchdiffError, GuestError, PlanError
from batchdiff.plan.path_map import Move, PathMap

ROOT = Path(batchdiff.__file__).parent

VERBS = ("apply", "restore", "purge")
ENDS = {"apply": Status.RETIRED, "restore": Status.RESTORED, "purge": Status.PURGED}


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """A guest that is ready for each verb: converted, and its original in quarantine unless the verb is apply."""
    folder = tmp_path / "images"
    folder.mkdir()
    yield Stage(folder, monkeypatch)
    subprocess.run(["chattr", "-R", "-i", "-a", str(folder)], check=False, capture_output=True, timeout=60)


def prepared(stage, verb):
    """The file that this verb renames or deletes."""
    stage.apply(Retire.KEEP if verb == "apply" else Retire.QUARANTINE)
    return {"apply": stage.original(), "restore": stage.overlay(), "purge": stage.original(suffix=ASIDE)}[verb]


def carried_out(stage, verb):
    return stage.apply(Retire.QUARANTINE) if verb == "apply" else getattr(stage, verb)()


def follow(reason):
    """Run the command that a remedy gives."""
    notation.run("sh", "-c", re.findall(r"`((?:chattr|mount) [^`]*)`", reason)[-1])


# What stops a file from being renamed.


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("attribute", "of_folder"), [("i", False), ("a", False), ("a", True)])
def test_attributes(stage, verb, attribute, of_folder):
    file = prepared(stage, verb)
    locked = stage.folder if of_folder else file
    notation.run("chattr", f"+{attribute}", str(locked))
    before = stage.judge.comparisons
    reason = failed(carried_out(stage, verb))
    word = {"i": "immutable", "a": "append-only"}[attribute]
    assert f"{locked} is {word}" in reason
    assert reason.endswith("then run the same command again.")
    assert stage.judge.comparisons == before, "it was found out only after a long comparison"
    follow(reason)
    assert status(carried_out(stage, verb)) is ENDS[verb]


@pytest.mark.parametrize("verb", VERBS)
def test_a_file_that_is_mounted_by_itself(stage, verb):
    file = str(prepared(stage, verb))
    notation.run("mount", "--bind", file, file)
    try:
        reason = failed(carried_out(stage, verb))
    finally:
        notation.run("umount", file)
    assert f"{file} is a mount point" in reason
    assert status(carried_out(stage, verb)) is ENDS[verb]


def test_an_overlay_whose_name_is_too_long(tmp_path, monkeypatch):
    """Its original's is not. What apply would be advised, which is to keep the original, is of no use."""
    name = "x" * 231
    stage = Stage(tmp_path, monkeypatch, names=(name,))
    stage.apply(Retire.QUARANTINE)
    reason = failed(stage.restore())
    assert reason.endswith(f"the name {f'{name}.qcow2{DELETING}'!r} would be too long. {SHORTER}")
    short = stage.folder / "short.qcow2"
    stage.overlay(name).rename(short)
    stage.plan = PathMap((Move(str(stage.overlay(name)), str(short)),)).plan(stage.plan)
    assert status(stage.restore()) is Status.RESTORED
    assert stage.images() == {stage.original(name).name}


SHORTER = (
    "Give it a shorter name, then run the same command with `--map OLD=NEW`, where OLD and NEW are its old and new"
    " paths."
)


def test_an_original_that_cannot_get_its_name_back(stage):
    """The file that comes in has its own obstacles."""
    prepared(stage, "restore")
    notation.run("chattr", "+i", str(stage.original(suffix=ASIDE)))
    reason = failed(stage.restore())
    assert f"{stage.original(suffix=ASIDE)} is immutable" in reason
    follow(reason)
    assert status(stage.restore()) is Status.RESTORED


def test_a_folder_that_takes_names_but_changes_none(stage):
    """Said before the overlay is written: its temporary file could not even be removed."""
    notation.run("chattr", "+a", str(stage.folder))
    os.close(os.open(stage.journal_file, os.O_CREAT | os.O_WRONLY, 0o600))
    reason = failed(stage.apply())
    assert f"the folder {stage.folder} is append-only" in reason
    assert stage.images() == {stage.original().name}
    follow(reason)
    assert status(stage.apply()) is Status.CONVERTED


def test_an_immutable_template(stage):
    """Nothing protects it better, and no guest is to blame for it."""
    notation.run("chattr", "+i", str(stage.template))
    (outcome,) = stage.apply()
    assert (outcome.status, outcome.remarks) == (Status.CONVERTED, ())
    assert stage.notices == [
        f"the template's file {stage.template} is already immutable, which protects it better than its mode could"
    ]
    assert stage.history.protecting == set()


# A template or an overlay that is lost or damaged.


def lose(stage):
    stage.template.rename(stage.folder / "lost")


def change(stage):
    stage.swap_template()


def told(stage, verb):
    """What a verb says of the template."""
    if verb == "verify":
        found = next(iter(check_health(stage.plan, stage.history, None, Stop())))
        assert found.health is Health.DAMAGED
        return found.why
    with pytest.raises(BatchdiffError) as caught:
        carried_out(stage, verb)
    return str(caught.value)


@pytest.mark.parametrize("verb", [*VERBS, "verify"])
@pytest.mark.parametrize("harm", [lose, change])
def test_originals_come_first(stage, verb, harm):
    prepared(stage, "purge")
    harm(stage)
    said = told(stage, verb)
    whole = said.index(f"The original {stage.original(suffix=ASIDE)} is intact, as before the conversion.")
    assert whole < said.lower().index("bring ")
    assert f"`batchdiff restore PLAN --guest {NAME} --discard-changes` goes back to it, and discards" in said
    assert status(stage.restore(guests=(NAME,), discard_changes=True)) is Status.RESTORED
    assert stage.original().read_bytes() == notation.content("256k:A 64k:X 192k:B 512k:C")


@pytest.mark.parametrize("verb", [*VERBS, "verify"])
def test_without_originals_none_are_promised(stage, verb):
    prepared(stage, "purge")
    stage.original(suffix=ASIDE).unlink()
    lose(stage)
    assert "whole" not in told(stage, verb)


@pytest.mark.parametrize(("harm", "found"), [(lose, TemplateIs.MISSING), (change, TemplateIs.WRITTEN_TO)])
def test_status_does_not_suggest_to_purge_what_is_left(stage, harm, found):
    prepared(stage, "purge")
    stage.template.chmod(0o400)  # of no matter
    assert on_disk(stage.plan, stage.history)[NAME].template is TemplateIs.THERE
    harm(stage)
    assert on_disk(stage.plan, stage.history)[NAME].template is found


def test_a_template_in_a_closed_folder_is_not_called_missing(stage, monkeypatch):
    prepared(stage, "purge")
    lstat = os.lstat

    def closed(path, **options):
        if path == str(stage.template):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return lstat(path, **options)

    monkeypatch.setattr(os, "lstat", closed)
    monkeypatch.setattr("batchdiff.applying.guests.guest_files.fingerprint_at", lambda path: None)
    assert on_disk(stage.plan, stage.history)[NAME].template is TemplateIs.UNKNOWN


def test_originals_of_guests_that_were_not_converted_are_of_no_matter(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch, names=(NAME, "web"))
    stage.apply(Retire.QUARANTINE, guests=(NAME,))
    lose(stage)
    said = told(stage, "apply")
    assert str(stage.original(suffix=ASIDE)) in said
    assert str(stage.original("web")) not in said


@pytest.mark.parametrize("verb", ["restore", "purge", "verify"])
def test_a_damaged_overlay(stage, verb):
    prepared(stage, "purge")
    os.truncate(stage.overlay(), 300_000)
    if verb == "verify":
        _, found = check_health(stage.plan, stage.history, None, Stop())
        assert found.health is Health.DAMAGED
        said = found.why
    else:
        said = failed(carried_out(stage, verb))
    assert f"The original {stage.original(suffix=ASIDE)} is intact, as before the conversion." in said
    assert status(stage.restore(discard_changes=True)) is Status.RESTORED


@pytest.mark.parametrize("goes_on", ["restore", "purge"])
def test_a_copy_of_an_overlay_is_as_good(stage, goes_on):
    """`cp` and rsync make another inode with other times, and the same bytes."""
    prepared(stage, "purge")
    copy = stage.folder / "copy"
    shutil.copyfile(stage.overlay(), copy)
    os.utime(copy, (1, 1))
    copy.rename(stage.overlay())
    assert [each.health for each in check_health(stage.plan, stage.history, None, Stop())] == [Health.SOUND] * 2
    assert status(carried_out(stage, goes_on)) is ENDS[goes_on]


def test_an_original_that_was_written_to_after_the_conversion(stage):
    """A converted guest cannot be planned again, so that is not the advice."""
    prepared(stage, "apply")
    with stage.original().open("r+b") as file:
        file.write(b"written")
    reason = failed(stage.apply(Retire.QUARANTINE))
    assert "only you know which of the two to keep" in reason
    assert "plan again" not in reason
    assert status(stage.restore(discard_changes=True)) is Status.RESTORED
    assert stage.original().read_bytes().startswith(b"written")


@pytest.mark.parametrize("discard", [False, True])
def test_another_image_in_the_place_of_the_original(stage, discard):
    """Whether it was asked for or not, only `--discard-changes` goes back to an image that nothing proves."""
    stage.apply(Retire.QUARANTINE)
    stage.original(suffix=ASIDE).unlink()
    stage.write_guest("other")
    (stage.folder / "other.img").rename(stage.original())
    before = stage.original().read_bytes()
    reason = failed(stage.restore(discard_changes=discard))
    assert f"{stage.original()} is not its original" in reason
    again = f"`batchdiff restore PLAN --guest {NAME} --discard-changes`"
    assert reason.endswith(f"To go back to {stage.original()}, move the overlay away and run {again}.")
    stage.overlay().rename(stage.folder / "fleet.moved")
    assert status(stage.restore(guests=(NAME,), discard_changes=True)) is Status.RESTORED
    assert stage.original().read_bytes() == before


def test_a_template_that_changed_before_anything_was_converted(stage):
    stage.swap_template()
    with pytest.raises(PlanError, match="then plan again"):
        stage.apply()


def test_a_template_that_changed_while_an_older_original_is_left(stage):
    """Then another plan would be of no use."""
    prepared(stage, "purge")
    stage.use()
    assert status(stage.restore()) is Status.RESTORED
    stage.swap_template()
    with pytest.raises(PlanError, match="Bring the template back from a backup, then run the same command again"):
        stage.purge()


# Other users.


def test_an_image_that_may_not_be_read_might_rest_on_anything(stage):
    """So it is the one to look at; to convert or remove it would be bad advice."""
    prepared(stage, "purge")
    stage.folder.chmod(0o777)
    clone = stage.linked_clone(stage.overlay(), "secret.qcow2")
    clone.chmod(0o600)
    stage.folder.parent.chmod(0o755)

    def refused():
        require_no_dependents(Dependents(["/images"]), "/images/vm.img.batchdiff-original")

    with pytest.raises(GuestError) as caught:
        access.as_user(3001, stage.folder.parent, refused)
    assert "it may be needed by /images/secret.qcow2" in caught.value.why
    assert caught.value.remedy.startswith("If you are not allowed to read that file or folder")


def test_a_journal_that_may_not_be_read_is_not_taken_for_an_empty_one(stage):
    prepared(stage, "purge")
    stage.folder.parent.chmod(0o755)
    stage.folder.chmod(0o755)
    checksum = stage.plan.checksum
    path = "/images/fleet.plan.json"

    def history():
        return read_history(path, checksum).published

    stage.journal_file.chmod(0o644)
    assert access.as_user(3001, stage.folder.parent, history) == [NAME]
    stage.journal_file.chmod(0o600)
    with pytest.raises(PlanError, match=r"cannot read the journal .* may not read .* has mode 600. Run the"):
        access.as_user(3001, stage.folder.parent, history)
    with pytest.raises(PlanError, match=r"cannot open the journal .* may not write to"):
        access.as_user(3001, stage.folder.parent, lambda: Journal(path, checksum).close())
    stage.journal_file.unlink()
    with pytest.raises(PlanError, match=r"cannot open the journal .* may not write to the folder /images"):
        access.as_user(3001, stage.folder.parent, lambda: Journal(path, checksum).close())


# All texts in the code.

SHARED = ("applying", "dependents", "files", "image", "linux", "plan", "qemu")

MAY_PLAN_AGAIN = {
    "applying/swap/refusals.py",  # under apply only
    "applying/apply.py",
    "applying/swap/apply_task.py",
    "applying/swap/retire.py",  # an original whose name is too long, before apply has begun with it
    "applying/checks/space.py",  # of all overlays, before apply writes any
    "applying/checks/staleness.py",
    "applying/guests/status.py",  # a guest that was refused when it was planned
    "applying/template/check.py",  # while nothing is converted
    "applying/template/template_health.py",  # the same
    "qemu/qemu_img.py",  # QEMU's last word, before anything rests on a template
    "applying/share_guests.py",
    "linux/dedupe_range.py",  # under apply only
    "plan/file.py",
    "plan/recognise.py",
}
"""Modules that only planning and apply reach, or that see to it that nothing is converted yet."""


def texts(source: str) -> Iterator[str]:
    """All strings of a module but its docstrings, f-strings with {} for what is filled in."""
    tree = ast.parse(source)
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(each.value) if isinstance(each, ast.Constant) else "{}" for each in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node.value


def wrong_advice(name: str, source: str) -> list[str]:
    found = []
    for text in texts(source):
        if re.search(r"(?i)\b(apply|restore|purge|try) (it |that )?again\b|--verify native", text):
            found.append(text)
        if (
            re.search(r"(?i)\bplan(ned)? again\b|`batchdiff plan MANIFEST` again", text)
            and name not in MAY_PLAN_AGAIN
        ):
            found.append(text)
    return found


@pytest.mark.parametrize(
    "path",
    [path for room in SHARED for path in sorted((ROOT / room).rglob("*.py"))],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_shared_code_names_no_verb_to_run_again(path):
    name = path.relative_to(ROOT).as_posix()
    if name == "applying/apply.py":  # the verb is apply, and the choice is its own
        assert wrong_advice(name, path.read_text()) == [
            "Or use `--verify native`, which does not allow originals to be deleted."
        ]
    else:
        assert wrong_advice(name, path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        'remedy="Make room; then apply again."',
        'remedy=f"End {it}, then try again."',
        'remedy="Shut it down and plan again."',
        'remedy=_AGAIN if x else "or restore again"',
        'remedy="Install it, or use `--verify native`."',
    ],
)
def test_the_rule_is_not_blind(line):
    assert wrong_advice("applying/pipeline.py", f'"""Doc: apply again."""\n{line}') != []
