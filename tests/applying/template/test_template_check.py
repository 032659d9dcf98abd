"""Whether a template still has the planned content: by fingerprints, by what the sidecar knows, by its digest."""

from __future__ import annotations

import dataclasses
import errno
import os
import types

import plans
import pytest
from recorded_sidecars import write_sidecar
from stage import Stage

from batchdiff.applying.journal.records import GuestState, History, Step
from batchdiff.applying.template import check as template_module
from batchdiff.applying.template.check import accept_template, doubt, known_digest, require_content, sync
from batchdiff.choices import Retire
from batchdiff.errors import ImageError, PlanError
from batchdiff.image.open import open_image
from batchdiff.plan.sidecar import OverlayOrigin
from batchdiff.progress import Meter
from batchdiff.units import MIB

OVERLAY = {"/vm.qcow2": OverlayOrigin("vm", "sha256:...")}
BEFORE = (plans.fingerprint(1), plans.fingerprint(2))
"""What was planned: the template and its own backing file."""

CTIME = (BEFORE[0], dataclasses.replace(BEFORE[1], ctime_ns=7))
MTIME = (dataclasses.replace(BEFORE[0], mtime_ns=7), BEFORE[1])
OTHER = (dataclasses.replace(BEFORE[0], inode=7), BEFORE[1])
DEVICE = (dataclasses.replace(BEFORE[0], inode=0), BEFORE[1])


class Template:
    """A plan's template: what stands there ``now``, and what its sidecar has."""

    def __init__(self, folder):
        image = plans.planned_image(str(folder / "t.img"))
        backing = (plans.planned_image(str(folder / "base.img")).source,)
        source = dataclasses.replace(image.source, backing=backing)
        planned = dataclasses.replace(image, source=source, fingerprints=BEFORE)
        guest = plans.guest_plan(path=str(folder / "vm.img"))
        self.plan = plans.small_plan(guest, template=planned, template_digest="digest")
        self.history = History()
        self.now = BEFORE
        self.virtual_size = planned.virtual_size

    def fingerprints(self):
        return self.now

    def sidecar(self, now, *earlier):
        write_sidecar(self.plan.template.source.path, OVERLAY, prints=now, earlier=earlier)

    def doubt(self):
        return doubt(self, self.plan, self.history)

    def without_digest(self):
        self.plan = dataclasses.replace(self.plan, template_digest="")


@pytest.fixture
def template(tmp_path):
    return Template(tmp_path)


def test_as_planned(template):
    assert template.doubt() == ""


@pytest.mark.parametrize("now", [CTIME, MTIME, OTHER], ids=["ctime", "mtime", "another file"])
@pytest.mark.parametrize("ours", [False, True])
def test_what_changed(template, now, ours):
    """What batchdiff itself did to the ctime does not count; anything else does, whoever did it."""
    template.now = now
    if ours:
        template.history.changed.update(now)
    assert (template.doubt() == "") is (ours and now is CTIME)
    if template.doubt():
        assert str(template.plan.template.paths[now is CTIME]) in template.doubt()


def test_another_size(template):
    template.virtual_size += 512
    template.sidecar(BEFORE, BEFORE)
    size = template.plan.template.virtual_size
    assert template.doubt() == f"its virtual size changed from {size} to {size + 512} bytes"


@pytest.mark.parametrize("known", [False, True])
def test_of_a_block_device_no_fingerprint_says_anything(template, known):
    template.now = DEVICE
    if known:
        template.sidecar(DEVICE, BEFORE)
    assert "it is, or depends on, a block device" in template.doubt()


def test_a_state_that_the_sidecar_knows(template):
    """Another plan's apply has taken the write bits: planned and present state are of one content."""
    template.now = CTIME
    template.without_digest()
    template.sidecar(CTIME, BEFORE)
    assert template.doubt() == ""


@pytest.mark.parametrize(
    ("now", "earlier"),
    [(MTIME, [BEFORE]), (CTIME, [MTIME]), (CTIME, [])],
    ids=["now", "planned", "nothing earlier"],
)
def test_a_state_that_the_sidecar_does_not_know(template, now, earlier):
    template.now = CTIME
    template.without_digest()
    template.sidecar(now, *earlier)
    assert template.doubt()


@pytest.mark.parametrize("digest", ["digest", "another digest", ""])
def test_the_digest_that_the_sidecar_has_of_what_is_there_now(template, digest):
    """That of the plan: then it is the planned content, whatever states there were in between."""
    template.now = MTIME
    template.sidecar(MTIME)
    template.plan = dataclasses.replace(template.plan, template_digest=digest)
    assert (template.doubt() == "") is (digest == "digest")


# The digest decides.


@pytest.fixture
def digest_is(monkeypatch):
    """Lets the template's content have a digest; gives how often it was taken."""
    taken = []

    def install(value):
        def content_digest(_template, *, check, report):
            check()
            taken.append(value)
            return value

        monkeypatch.setattr(template_module, "content_digest", content_digest)
        return taken

    return install


def require(template, check=lambda: None):
    require_content(template, template.plan, template.history, "it was touched", check=check)


def test_the_planned_content(template, digest_is):
    taken = digest_is("digest")
    asked = []
    require(template, check=lambda: asked.append(1))
    assert (taken, asked) == (["digest"], [1])


def test_another_content(template, digest_is):
    digest_is("another")
    with pytest.raises(PlanError, match="the plan is stale, because the content of the template") as caught:
        require(template)
    assert caught.value.why == "it was touched; its digest differs from the planned one"


def test_another_content_below_overlays(template, digest_is):
    digest_is("another")
    template.history.states.update(
        {name: GuestState(Step.PUBLISHED, published=name != "db") for name in ("web02", "web01", "db")}
    )
    with pytest.raises(PlanError, match="changed after overlays were created on it") as caught:
        require(template)
    assert "the overlays of web01 and web02 are damaged" in caught.value.why
    assert "it was touched" in caught.value.why


def test_the_digest_was_not_taken(template, digest_is):
    """Nothing is read in vain, and nothing is taken on trust."""
    taken = digest_is("digest")
    template.without_digest()
    with pytest.raises(PlanError, match=r"cannot determine whether the template .* is still as planned") as caught:
        require(template)
    assert caught.value.why == (
        "it was touched; the plan has no digest of the template, because the template shared blocks with other"
        " files when the plan was made"
    )
    assert taken == []


def test_another_size_without_a_digest(template, digest_is):
    """The size alone shows that it is another template."""
    digest_is("digest")
    template.without_digest()
    template.plan = dataclasses.replace(
        template.plan, template=dataclasses.replace(template.plan.template, virtual_size=512)
    )
    with pytest.raises(PlanError, match=r"the template .* is not as planned"):
        require(template)


@pytest.mark.parametrize(
    ("now", "earlier", "known"),
    [
        (BEFORE, [], True),
        (CTIME, [BEFORE], True),
        (CTIME, [MTIME, BEFORE], True),
        (CTIME, [], False),
        (MTIME, [CTIME], False),
        ((BEFORE[0],), [], False),
    ],
)
def test_a_digest_of_the_sidecar_counts_for_the_very_state_that_was_planned(template, now, earlier, known):
    """The same file may have had another content at another time."""
    template.without_digest()
    template.sidecar(now, *earlier)
    assert known_digest(template.plan) == ("digest" if known else "")


def test_the_plans_own_digest_comes_first(template):
    template.sidecar(BEFORE)
    template.plan = dataclasses.replace(template.plan, template_digest="mine")
    assert known_digest(template.plan) == "mine"


# On real files.


def plan_without_digest(stage):
    """As of reflink copies, which are planned without reading the template."""
    stage.plan = dataclasses.replace(stage.plan, template_digest="")


def test_a_template_that_changed_and_changed_back(tmp_path, monkeypatch):
    """A plan was made of it in between, without a digest: the sidecar's is that of the content before."""
    stage = Stage(tmp_path, monkeypatch)
    content = stage.template.read_bytes()
    stage.apply(Retire.QUARANTINE)
    stage.overlay().unlink()  # so that nothing rests on the first content
    stage.original(suffix=".batchdiff-original").rename(stage.original())
    stage.template.chmod(0o644)
    stage.template.write_bytes(content[: -MIB // 2] + b"?" * (MIB // 2))
    stage.plan = stage.planned()
    plan_without_digest(stage)
    stage.template.write_bytes(content)
    with pytest.raises(PlanError, match="cannot determine whether the template"):
        stage.apply()
    assert stage.images() == {stage.original().name}


def test_no_byte_is_read_where_fingerprints_prove_it(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch)
    monkeypatch.setattr(template_module, "content_digest", lambda *_, **__: pytest.fail("it is read"))
    stage.apply(Retire.QUARANTINE)
    stage.restore()
    stage.template.chmod(0o600)
    with pytest.raises(pytest.fail.Exception):
        stage.apply()


@pytest.mark.parametrize("doubtful", [False, True])
def test_what_is_accepted_must_not_change_from_then_on(doubtful, monkeypatch):
    """It is looked at before its content is read, and after."""
    looks = []
    run = types.SimpleNamespace(
        session=types.SimpleNamespace(plan=None, meter=Meter()),
        template=types.SimpleNamespace(virtual_size=1),
        journal=types.SimpleNamespace(history=None),
        stop=types.SimpleNamespace(check=None),
        check_template=lambda: looks.append("looked"),
    )
    monkeypatch.setattr(template_module, "doubt", lambda *_: "touched" if doubtful else "")
    monkeypatch.setattr(template_module, "require_content", lambda *_, **__: looks.append("read"))
    monkeypatch.setattr(template_module, "inspect", lambda _: None)
    accept_template(run)
    assert looks == (["looked", "read", "looked"] if doubtful else ["looked"])


def test_a_template_that_cannot_be_made_durable(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch)

    def fsync(_):
        raise OSError(errno.EIO, "Input/output error")

    with open_image(stage.plan.template.source) as image:
        sync(image)
        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(ImageError, match=r"cannot sync .*template.img to disk"):
            sync(image)
