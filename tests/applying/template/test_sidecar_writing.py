"""The sidecar of a template is written: by two processes at once, over older versions, and never over doubt.

Guards applying/template/sidecar.py.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import notation
import pytest
from oracle import source
from plans import guest_plan, planned_image, small_plan
from real_holders import wait_for
from stage import ASIDE, NAME, Stage, failed

from batchdiff.applying.template import sidecar as sidecar_module
from batchdiff.applying.template.sidecar import (
    check_other_overlays,
    discard_unfinished,
    forget_overlay,
    record_overlay,
)
from batchdiff.choices import Retire
from batchdiff.errors import PlanError
from batchdiff.files.fingerprint import fingerprint_at
from batchdiff.image.open import open_image
from batchdiff.plan.sidecar import OverlayOrigin, read_sidecar, sidecar_path

ORIGIN = OverlayOrigin("vm", "sha256:...", "/fleet.plan.json", "/vm.img")


class Template:
    """A template file, and overlays that are only names of files."""

    def __init__(self, folder):
        self.path = notation.write_raw(folder / "template.img", "64k:A")
        self.folder = folder
        self.sidecar = sidecar_path(str(self.path), str(folder / "vm.qcow2"))
        self.file = Path(self.sidecar)

    def overlay(self, name):
        path = self.folder / name
        path.touch()
        return str(path)

    def record(self, name, digest="digest", earlier=(), origin=ORIGIN):
        with closing(open_image(source(self.path))) as image:
            record_overlay(image, digest, self.overlay(name), origin, earlier=earlier)

    def forget(self, name, origin=ORIGIN):
        forget_overlay(str(self.path), str(self.folder / name), plan=origin.plan, guest=origin.guest)

    @property
    def now(self):
        return (fingerprint_at(str(self.path)),)

    @property
    def known(self):
        return read_sidecar(self.sidecar)

    def names(self):
        return {os.path.basename(path) for path in self.known.overlays}

    def touch(self, time):
        os.utime(self.path, (time, time))
        return self.now


@pytest.fixture
def template(tmp_path):
    return Template(tmp_path)


def test_the_first_overlay(template):
    origin = dataclasses.replace(ORIGIN, fingerprint=template.now[0])
    template.record("vm.qcow2", origin=origin)
    known = template.known
    assert (known.digest, known.fingerprints, known.earlier) == ("digest", template.now, ())
    assert known.overlays == {str(template.folder / "vm.qcow2"): origin}
    document = json.loads(template.file.read_text())
    assert document["template"]["path"] == str(template.path)
    assert (document["template"]["format"], document["template"]["virtual_size"]) == ("raw", 65536)


def test_more_overlays(template):
    template.record("a.qcow2")
    template.record("b.qcow2")
    template.record("a.qcow2", origin=dataclasses.replace(ORIGIN, plan="another"))
    assert template.names() == {"a.qcow2", "b.qcow2"}
    assert template.known.overlays[str(template.folder / "a.qcow2")].plan == "another"


def test_what_is_recorded_already_is_not_written_again(template):
    template.record("a.qcow2", earlier=(template.now,))
    before = os.stat(template.sidecar)
    template.record("a.qcow2", earlier=(template.now,))
    assert os.stat(template.sidecar) == before


def test_earlier_states(template):
    """Each once, in their order, without the present one; those of a chain that is not known are left out."""
    first, second, third = template.now, template.touch(2), template.touch(3)
    template.record("a.qcow2", earlier=(first, second, third, ()))
    assert template.known.fingerprints == third
    assert template.known.earlier == (first, second)
    fourth = template.touch(4)
    template.record("a.qcow2", earlier=(second, fourth))
    assert template.known.earlier == (first, second, third)


def test_only_so_many_earlier_states_are_kept(template):
    states = [template.touch(number) for number in range(1, 31)]
    for number, state in enumerate(states[:-1]):
        template.record("a.qcow2", earlier=(state,))
        assert len(template.known.earlier) <= 16, number
    assert template.known.earlier == tuple(states[-17:-1])


@pytest.mark.parametrize("others", [True, False])
def test_another_content(template, others):
    """As long as an overlay rests on the older content nobody may cover that up."""
    template.record("a.qcow2")
    template.record("b.qcow2")
    for name in ("a.qcow2", "b.qcow2"):
        if not others:
            os.unlink(template.folder / name)
    if others:
        before = template.known
        with pytest.raises(PlanError, match="changed after overlays were created on it") as caught:
            template.record("c.qcow2", "another")
        assert "a.qcow2" in caught.value.why
        assert template.known == before
        return
    earlier = template.touch(5)
    template.record("c.qcow2", "another", earlier=(earlier,))
    assert template.known.digest == "another"
    assert template.known.earlier == ()


def test_its_own_older_self_is_no_other_overlay(template):
    """It was written anew on the new content."""
    template.record("a.qcow2")
    template.record("a.qcow2", "another")
    assert template.known.digest == "another"


@pytest.mark.parametrize(
    ("digest", "there", "refused"),
    [("digest", True, False), ("another", True, True), ("another", False, False), ("", True, False)],
)
def test_asked_before_an_overlay_is_written(template, digest, there, refused):
    check_other_overlays(str(template.path), digest, "/vm.qcow2")
    template.record("a.qcow2")
    if not there:
        os.unlink(template.folder / "a.qcow2")
    if refused:
        with pytest.raises(PlanError, match="changed after overlays were created on it"):
            check_other_overlays(str(template.path), digest, "/vm.qcow2")
    else:
        check_other_overlays(str(template.path), digest, "/vm.qcow2")


def test_of_four_overlays_two_are_named(template):
    for name in "abcd":
        template.record(f"{name}.qcow2")
    with pytest.raises(PlanError) as caught:
        template.record("e.qcow2", "another")
    folder = template.path.parent
    assert str(caught.value) == (
        f"the content of {template.path} changed after overlays were created on it: {folder}/a.qcow2,"
        f" {folder}/b.qcow2 and 2 more need the former content, as"
        f" {template.path}.batchdiff-template.json records."
        " Bring the template back from a backup; do not start a VM on those overlays until then."
    )
    assert "c.qcow2" not in caught.value.why


# Overlays that go.


def test_forgotten(template):
    template.record("a.qcow2")
    template.record("b.qcow2")
    template.path.unlink()  # it need not be there
    template.forget("a.qcow2")
    assert template.names() == {"b.qcow2"}
    assert template.known.digest == "digest"
    template.forget("b.qcow2")
    assert template.names() == set()


def test_what_is_not_recorded_cannot_be_forgotten(template):
    template.forget("a.qcow2")
    assert not os.path.exists(template.sidecar)
    template.record("a.qcow2")
    before = os.stat(template.sidecar)
    template.forget("b.qcow2")
    assert os.stat(template.sidecar) == before


def test_what_a_newer_version_has_recorded_is_not_lost(template):
    """Of the same major version: values that this one does not know stay as they are."""
    template.record("a.qcow2")
    template.record("b.qcow2")
    document = json.loads(template.file.read_text()) | {"format_version": "1.7", "new": {"key": [1]}}
    document["overlays"][str(template.folder / "b.qcow2")]["new"] = "value"
    template.file.write_text(json.dumps(document))
    template.forget("a.qcow2")
    del document["overlays"][str(template.folder / "a.qcow2")]
    assert json.loads(template.file.read_text()) == document


def thinner(template, plan):
    """The origin of a thinner overlay: it was made from the overlay that had its path before."""
    return OverlayOrigin("vm", plan, "/again.json", str(template.folder / "vm.qcow2"))


def test_an_overlay_that_replaces_another_keeps_its_origin(template):
    template.record("vm.qcow2")
    for plan in ("sha256:2", "sha256:2", "sha256:3"):  # the second time after a crash
        template.record("vm.qcow2", origin=thinner(template, plan))
    (found,) = template.known.overlays.values()
    assert [each.plan for each in found.lineage] == ["sha256:3", "sha256:2", ORIGIN.plan]
    assert found.before[-1] == ORIGIN


def test_no_more_origins_are_written_than_are_read(template):
    for number in range(20):
        template.record("vm.qcow2", origin=thinner(template, str(number)))
    (written,) = json.loads(template.file.read_text())["overlays"].values()
    (found,) = template.known.overlays.values()
    assert [each["plan"] for each in written["before"]] == [each.plan for each in found.before]
    assert [each.plan for each in found.before] == [str(number) for number in range(18, 2, -1)]


@pytest.mark.parametrize(("undone", "left"), [("3", ["2", "1"]), ("2", ["1"]), ("1", []), ("unknown", [])])
def test_an_overlay_that_replaced_another_is_forgotten(template, undone, left):
    template.record("vm.qcow2", origin=OverlayOrigin("vm", "1", "/fleet.plan.json", "/vm.img"))
    for plan in ("2", "3"):
        template.record("vm.qcow2", origin=thinner(template, plan))
    template.forget("vm.qcow2", thinner(template, undone))
    assert [each.plan for found in template.known.overlays.values() for each in found.lineage] == left


# Two processes.


@pytest.mark.parametrize("second", ["record", "forget"])
def test_two_at_once_lose_nothing(template, monkeypatch, second):
    """The second begins when the first has read and not yet written; each has a descriptor of its own."""
    template.record("a.qcow2")
    others = []
    real = sidecar_module.read_sidecar

    def waits():
        with open("/proc/locks", encoding="ascii") as file:
            inode = os.stat(template.folder).st_ino
            return any("->" in line and f":{inode} " in line for line in file)

    def read(path):
        found = real(path)
        if not others:
            work = template.record if second == "record" else template.forget
            others.append(threading.Thread(target=work, args=("c.qcow2" if second == "record" else "a.qcow2",)))
            others[0].start()
            wait_for(lambda: waits() or not others[0].is_alive())
        return found

    monkeypatch.setattr(sidecar_module, "read_sidecar", read)
    template.record("b.qcow2")
    others[0].join()
    expected = {"a.qcow2", "b.qcow2", "c.qcow2"} if second == "record" else {"b.qcow2"}
    assert template.names() == expected


def left_behind(template):
    path = template.folder / ".template.img.batchdiff-template.json.0123abcd.batchdiff-tmp"
    path.write_text("half")
    return path


def test_what_a_process_that_died_has_left(template):
    template.record("a.qcow2")
    path = left_behind(template)
    discard_unfinished(plan_on(template.path))
    assert not path.exists()
    assert template.names() == {"a.qcow2"}


def test_a_failure_to_discard_is_ignored(tmp_path):
    discard_unfinished(plan_on(tmp_path / "no folder" / "t.img"))


def plan_on(path):
    return small_plan(guest_plan(overlay_path=str(path.parent / "vm.qcow2")), template=planned_image(str(path)))


# A sidecar that cannot be read may name overlays that nobody else knows.

UNREADABLE = {
    "cut off": '{"format_version": "1.1", "template": ',
    "a newer version": json.dumps({"format_version": "2.0", "layers": []}),
    "not a sidecar": "[]",
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_a_sidecar_that_cannot_be_read_is_not_replaced(template, content):
    template.file.write_text(content)
    with pytest.raises(PlanError, match="cannot be read") as caught:
        template.record("a.qcow2")
    assert "move it away" in caught.value.remedy
    with pytest.raises(PlanError, match="cannot be read"):
        check_other_overlays(str(template.path), "", "/vm.qcow2")
    template.forget("a.qcow2")
    assert template.file.read_text() == content


@pytest.mark.parametrize("kind", ["a folder", "a link to nothing", "a pipe"])
def test_something_else_in_place_of_a_sidecar_is_named_as_a_cause(template, kind):
    make = {"a folder": os.mkdir, "a link to nothing": partial(os.symlink, "gone"), "a pipe": os.mkfifo}
    make[kind](template.sidecar)
    with pytest.raises(PlanError, match="is not a regular file, "):
        template.record("a.qcow2")


def test_nothing_is_written_then(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch)
    stage.sidecar.write_text("garbage")
    assert "cannot be read" in failed(stage.apply(Retire.DELETE))
    assert stage.images() == {stage.original().name}
    stage.sidecar.unlink()
    stage.apply(Retire.QUARANTINE)
    stage.sidecar.write_text("garbage")
    with pytest.raises(PlanError, match="cannot be read"):
        stage.apply(Retire.DELETE)
    assert stage.original(suffix=ASIDE).exists()
    assert stage.purge()[0].exit_code == 0


def test_what_is_recorded_of_a_published_overlay(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch)
    stage.apply()
    origin = read_sidecar(str(stage.sidecar)).overlays[str(stage.overlay())]
    assert (origin.guest, origin.plan, origin.plan_path) == (NAME, stage.plan.checksum, stage.plan_path)
    assert origin.original == str(stage.original())
    assert origin.fingerprint == fingerprint_at(str(stage.overlay()))
    known = read_sidecar(str(stage.sidecar))
    assert known.fingerprints == (fingerprint_at(str(stage.template)),)
    assert known.earlier == (stage.plan.template.fingerprints,)
    assert known.digest == stage.plan.template_digest


def test_a_sidecar_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    """The overlay is there, and other guests go on."""
    stage = Stage(tmp_path, monkeypatch)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sidecar_module, "write_whole", full)
    (outcome,) = stage.apply()
    assert outcome.exit_code == 0
    assert "the sidecar of the template" in stage.notices[0]
