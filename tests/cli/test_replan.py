"""Planning again: guests that are done are skipped, and what an earlier plan can undo stays so.

Guards cli/earlier_plans.py, plan/earlier_plans.py.
"""

import fcntl
import json
import os
import shutil
from argparse import Namespace
from pathlib import Path

import notation
import pytest
from commands import batchdiff, events, rarely
from oracle import assert_same
from recorded_sidecars import VERSIONS, write_sidecar

from batchdiff.cli.console import Console
from batchdiff.cli.run_session import carry_out
from batchdiff.errors import PlanError
from batchdiff.files.fingerprint import fingerprint_at
from batchdiff.plan.file import read_plan
from batchdiff.plan.sidecar import OverlayOrigin, read_sidecar

TEMPLATE = "2M:A 1M:- 1M:B"
GUEST = "64k:{} 1984k:A 1M:- 1M:B"
LETTERS = {"web01": "U", "web02": "V", "web03": "W", "web04": "X", "web05": "Y"}
MANIFEST = """\
version: 1
template: {{path: template.img, format: raw}}
defaults: {{format: raw}}
guests: [{guests}]
retire: {retire}
"""
GLOB = '{glob: "web*.img"}'


class Pool:
    """A folder with a template, guests, and a manifest that takes them in by a glob or lists them."""

    def __init__(self, folder: Path, *, guests: str = GLOB, retire: str = "quarantine") -> None:
        self.folder = folder
        notation.write_raw(folder / "template.img", TEMPLATE)
        self.add("web01", "web02")
        self.write(guests, retire)

    def add(self, *names):
        for name in names:
            notation.write_raw(self.folder / f"{name}.img", GUEST.format(LETTERS[name]))

    def write(self, guests=GLOB, retire="quarantine"):
        (self.folder / "fleet.yaml").write_text(MANIFEST.format(guests=guests, retire=retire))

    def run(self, verb, *arguments, expect=0, **options):
        return batchdiff(verb, *arguments, cwd=self.folder, expect=expect, **options)

    def plan(self, *arguments, expect=0):
        return self.run("plan", "fleet.yaml", "-j", "1", *arguments, expect=expect)

    def apply(self, *arguments, plan="fleet.plan.json", expect=0):
        return self.run("apply", plan, "--verify", "native", *arguments, expect=expect)

    def document(self, plan="fleet.plan.json"):
        return json.loads((self.folder / plan).read_text())

    def verdicts(self):
        return {guest["name"]: guest["verdict"] for guest in self.document()["guests"]}

    def reasons(self):
        return {guest["name"]: guest["reason"] for guest in self.document()["guests"] if guest["reason"]}

    def kept(self):
        """The names of the plans that were kept, oldest first."""
        return sorted(path.name for path in self.folder.glob("fleet.2*.plan.json"))

    def has(self, name, letter=None):
        content = notation.content(GUEST.format(letter or LETTERS[name.split(".")[0]]))
        path = self.folder / name
        found = notation.qemu_content(path, "qcow2") if name.endswith("qcow2") else path.read_bytes()
        assert_same(found, content)


def flat(text):
    return " ".join(text.split())


@pytest.fixture
def pool(tmp_path):
    """Two guests that were converted and are in quarantine."""
    found = Pool(tmp_path)
    found.plan("-q")
    found.apply("-q")
    return found


def test_a_guest_is_added_and_everything_planned_again(pool):
    before = pool.document()
    pool.add("web03")
    done = pool.plan("--detailed-exitcode", expect=10)
    (kept,) = pool.kept()
    assert kept == f"fleet.{before['created'].replace(':', '')}.plan.json"
    assert f"renamed to {pool.folder}/{kept} (web01 and web02: original in quarantine)" in done.stderr
    assert pool.document(kept) == before
    assert pool.verdicts() == {"web01": "skip", "web02": "skip", "web03": "convert"}
    assert pool.reasons() == dict.fromkeys(("web01", "web02"), f"done by {pool.folder}/{kept}")
    assert f"skip web01 and web02: done by {pool.folder}/{kept} note With" in flat(done.stdout)
    pool.apply()
    for name in ("web01", "web02", "web03"):
        pool.has(f"{name}.qcow2")
    # The undo of both plans works.
    pool.run("restore", kept, "--guest", "web01")
    pool.run("restore", "fleet.plan.json", "--guest", "web03")
    for name in ("web01.img", "web03.img", "web02.img.batchdiff-original"):
        pool.has(name)
    pool.run("purge", kept, "--yes")
    assert not (pool.folder / "web02.img.batchdiff-original").exists()


def test_a_plan_of_guests_that_are_all_done(pool):
    done = pool.plan("--detailed-exitcode")
    assert "There is nothing to convert." in done.stdout
    assert "Next: batchdiff apply" not in done.stderr
    (kept,) = pool.kept()
    assert f"fleet.yaml skip web01 and web02: done by {pool.folder}/{kept} There is nothing" in flat(done.stdout)
    again = pool.plan()
    assert pool.kept() == [kept], "the new plan has nothing to undo"
    assert "kept" not in again.stderr
    assert pool.reasons()["web01"] == f"done by {pool.folder}/{kept}"
    assert "valid: 2 guests; converted by earlier plans: 2" in pool.run("validate", "fleet.yaml").stdout


def test_what_is_done_is_not_scanned_for(pool, monkeypatch):
    """Not even the template is read: its sidecar has the digest."""
    digest = pool.document()["template"]["digest"]
    pool.plan("-q", "--limit-rate", "1MiB")  # the template alone would take seconds of it
    assert pool.document()["template"]["digest"] == digest


@pytest.mark.parametrize("guests", [GLOB, "{path: web01.img}, {path: web02.img, overlay: {path: thin.qcow2}}"])
@pytest.mark.parametrize("how", ["quarantine", "delete", *rarely("keep", "purge")])
def test_whatever_became_of_the_originals(tmp_path, guests, how):
    pool = Pool(tmp_path, guests=guests, retire="quarantine" if how == "purge" else how)
    pool.plan("-q")
    pool.run("apply", "fleet.plan.json", "-q", "--yes")
    if how == "purge":
        pool.run("purge", "fleet.plan.json", "--yes")
    pool.plan("--detailed-exitcode")
    (kept,) = pool.kept()
    assert pool.reasons() == dict.fromkeys(("web01", "web02"), f"done by {pool.folder}/{kept}")


def test_in_place(tmp_path):
    pool = Pool(tmp_path, guests=GLOB[:-1] + ", overlay: {path: same}}")
    pool.plan("-q")
    pool.apply("-q")
    done = pool.plan("--detailed-exitcode")
    (kept,) = pool.kept()
    assert pool.reasons() == dict.fromkeys(("web01", "web02"), f"done by {pool.folder}/{kept}")
    assert "still has the format raw" not in done.stderr
    assert "begins like" not in done.stderr


def test_chosen_by_name(pool):
    pool.add("web03")
    pool.plan("-q", "--guest", "web01", "--guest", "web03")
    assert pool.verdicts() == {"web01": "skip", "web03": "convert"}
    assert len(pool.kept()) == 1


def test_a_guest_that_was_restored_is_planned_again(pool):
    pool.run("restore", "fleet.plan.json", "--guest", "web01")
    pool.plan("-q")
    assert pool.verdicts() == {"web01": "convert", "web02": "skip"}


def test_restored_altogether_there_is_nothing_left_to_undo(pool):
    pool.run("restore", "fleet.plan.json", "--guest", "web01", "--guest", "web02")
    pool.plan("-q")
    assert pool.kept() == []
    assert pool.verdicts() == {"web01": "convert", "web02": "convert"}
    pool.apply("-q")
    pool.has("web01.qcow2")


def test_plans_of_several_months(pool):
    pool.add("web03")
    pool.plan("-q")
    first = pool.kept()
    pool.apply("-q")
    second_created = pool.document()["created"]
    pool.add("web04")
    done = pool.plan()
    (second,) = set(pool.kept()) - set(first)
    assert second.startswith(f"fleet.{second_created.replace(':', '')}")  # -2 if both were made in one second
    assert pool.reasons() == {
        **dict.fromkeys(("web01", "web02"), f"done by {pool.folder}/{first[0]}"),
        "web03": f"done by {pool.folder}/{second}",
    }
    assert f"skip web01 and web02: done by {pool.folder}/{first[0]} skip web03: done by" in flat(done.stdout)
    for plan, guest in ((first[0], "web02"), (second, "web03")):
        pool.run("restore", plan, "--guest", guest)
        pool.has(f"{guest}.img")


@pytest.mark.parametrize("verb", ["restore", "purge"])
def test_undoing_a_guest_by_the_wrong_plan_names_the_right_one(pool, verb):
    pool.add("web03")
    pool.plan("-q")
    (kept,) = pool.kept()
    done = pool.run(verb, "fleet.plan.json", "--guest", "web01", "--json", expect=2)
    (error,) = events(done)
    assert error["message"].endswith(f"web01 was converted by {pool.folder}/{kept}")
    assert error["remedy"] == f"Run `batchdiff {verb} {pool.folder}/{kept} --guest web01`."
    assert "web01" in pool.run("status", "fleet.plan.json").stdout
    words = error["remedy"].split("`")[1].split()
    pool.run(*words[1:], *(["--yes"] if verb == "purge" else []))


def test_the_plan_event_names_what_was_kept(pool):
    (event,) = events(pool.plan("--json", "-q"))
    assert event["kept"] == f"{pool.folder}/{pool.kept()[0]}"
    (event,) = events(pool.plan("--json", "-q"))
    assert event["kept"] is None


def test_while_an_apply_of_the_plan_is_running(pool):
    before = sorted(os.listdir(pool.folder))
    with (pool.folder / "fleet.plan.json.journal").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = pool.plan(expect=5)
        assert "another batchdiff command for this plan is running" in done.stderr
        pool.plan("-o", "other.plan.json")
    assert sorted(os.listdir(pool.folder)) == sorted([*before, "other.plan.json"])


def test_where_the_older_plan_cannot_be_kept_nothing_is_scanned(pool):
    long = "x" * 240 + ".json"
    for suffix in ("", ".journal"):
        os.rename(pool.folder / f"fleet.plan.json{suffix}", pool.folder / f"{long}{suffix}")
    before = sorted(os.listdir(pool.folder))
    done = pool.plan("-o", long, expect=2)
    assert "cannot rename the plan" in done.stderr
    assert "Write the new plan elsewhere with `-o`" in done.stderr
    assert done.stdout == ""
    assert sorted(os.listdir(pool.folder)) == before
    pool.plan()
    assert pool.reasons()["web01"] == f"done by {pool.folder}/{long}"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plan_that_is_not_found(pool, version):
    overlays = {
        f"{pool.folder}/{name}.qcow2": OverlayOrigin(
            name, "sha256:" + "00" * 32, "/elsewhere/x", f"{pool.folder}/{name}.img"
        )
        for name in ("web01", "web02")
    }
    write_sidecar(pool.folder / "template.img", overlays, version=version)
    done = pool.plan()
    where = " (recorded as /elsewhere/x)" if version == "1.1" else ""
    assert set(pool.reasons().values()) == {f"done by an earlier plan, whose file was not found{where}"}
    assert "There is nothing to convert." in done.stdout
    assert "nothing to restore" in pool.run("restore", "fleet.plan.json", "--guest", "web01").stdout


def test_a_plan_that_lies_elsewhere_is_found(pool, tmp_path_factory):
    """By the path that the sidecar has, by the manifest's folder, and by that of the new plan."""
    there = tmp_path_factory.mktemp("plans")
    for suffix in ("", ".journal"):
        shutil.move(pool.folder / f"fleet.plan.json{suffix}", there / f"first.json{suffix}")
    pool.run("plan", "fleet.yaml", "-q", "-o", str(there / "next.json"))
    document = json.loads((there / "next.json").read_text())
    assert document["guests"][0]["reason"] == f"done by {there}/first.json"
    pool.plan("-q")
    assert "not found" in pool.reasons()["web01"]
    overlays = read_sidecar(f"{pool.folder}/template.img.batchdiff-template.json").overlays
    known = {path: OverlayOrigin(each.guest, each.plan, f"{there}/gone.json") for path, each in overlays.items()}
    write_sidecar(pool.folder / "template.img", known)
    pool.plan("-q")
    assert pool.reasons()["web01"] == f"done by {there}/first.json"


def test_a_copy_without_a_journal_is_not_the_plan_to_undo_with(pool):
    shutil.copy(pool.folder / "fleet.plan.json", pool.folder / "a-copy.json")
    pool.plan("-q")
    assert pool.reasons()["web01"] == f"done by {pool.folder}/{pool.kept()[0]}"


def test_a_lost_journal_takes_the_plan_not_away(pool):
    (pool.folder / "fleet.plan.json.journal").unlink()
    done = pool.plan()
    (kept,) = pool.kept()
    assert f"renamed to {pool.folder}/{kept} (web01 and web02: converted)" in done.stderr
    assert pool.reasons()["web01"] == f"done by {pool.folder}/{kept}"


def test_a_plan_that_was_replaced_while_it_was_read_is_not_applied(pool):
    """Between its reading and the lock on its journal, `plan` put another one in its place."""
    path = str(pool.folder / "fleet.plan.json")
    older = read_plan(path)
    pool.add("web03")
    pool.plan("-q")

    def never(_session):
        raise AssertionError

    with pytest.raises(PlanError, match="has been replaced by another plan"):
        carry_out(Console(), Namespace(plan=path, unseen=False, connect=None), older, never)


# A second plan on the same template


@pytest.fixture
def second(tmp_path):
    """Two plans on one template, of which the first is applied then."""
    pool = Pool(tmp_path, guests="{path: web01.img}", retire="keep")
    (pool.folder / "second.yaml").write_text(MANIFEST.format(guests="{path: web02.img}", retire="keep"))
    pool.plan("-q")
    pool.run("plan", "second.yaml", "-q")
    template = str(pool.folder / "template.img")
    before = (fingerprint_at(template),)
    pool.apply("-q")
    assert before != (fingerprint_at(template),)
    return pool


def stale(pool, plan):
    return json.loads(pool.run("show", plan, "--format", "json").stdout)["stale"]


def test_our_own_protection_is_not_stale(second):
    assert stale(second, "second.plan.json") == []
    assert "stale" not in second.run("show", "second.plan.json").stdout
    os.utime(second.folder / "template.img")
    (notice,) = stale(second, "second.plan.json")
    assert "template.img" in notice


def test_without_the_sidecars_word_it_is(second):
    template = second.folder / "template.img"
    write_sidecar(template, read_sidecar(f"{template}.batchdiff-template.json").overlays)
    assert len(stale(second, "second.plan.json")) == 1


def test_guests_are_taken_over_across_our_own_protection(second):
    second.add("web03")
    (second.folder / "second.yaml").write_text(
        MANIFEST.format(guests="{path: web02.img}, {path: web03.img}", retire="keep")
    )
    done = second.run("plan", "second.yaml", "--reuse", "second.plan.json", "-o", "third.plan.json")
    assert "results of 1 of 2 guests from the older plan" in done.stderr
    second.run("plan", "second.yaml", "-q", "-o", "fresh.plan.json")
    assert second.document("third.plan.json")["checksum"] == second.document("fresh.plan.json")["checksum"]
    os.utime(second.folder / "template.img")
    done = second.run("plan", "second.yaml", "--reuse", "second.plan.json", "-o", "third.plan.json")
    assert "Nothing is reused from the older plan: the template has changed" in done.stderr


def test_the_second_plan_is_applied(second):
    second.apply(plan="second.plan.json")
    second.has("web02.qcow2")
    # A manifest that has both: each is done by its own plan.
    second.write("{path: web01.img}, {path: web02.img}", retire="keep")
    second.run("plan", "fleet.yaml", "-q", "-o", "third.plan.json")
    reasons = [guest["reason"] for guest in second.document("third.plan.json")["guests"]]
    assert reasons == [f"done by {second.folder}/{name}.plan.json" for name in ("fleet", "second")]
