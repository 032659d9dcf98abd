"""Plans on a template that other plans rest on: what batchdiff itself changed of it is no change."""

import dataclasses
import os
from contextlib import closing

import pytest
from recorded_sidecars import PLAN, put_overlay, write_sidecar
from small_fleet import checksum, fresh, manifest

from batchdiff.choices import Verdict
from batchdiff.errors import ImageError
from batchdiff.files.fingerprint import fingerprint_at
from batchdiff.plan.earlier_plans import EarlierPlans, is_done, plan_in
from batchdiff.plan.sidecar import OverlayOrigin, first_state, is_known_state
from batchdiff.planning.checkpoint.checkpoint import Checkpoint
from batchdiff.planning.planner import EarlierResults, make_plan
from batchdiff.planning.scan import one_range

pytestmark = pytest.mark.usefixtures("small_ranges")


@pytest.fixture
def protect(folder):
    """Takes or gives the template's write bits, and notes it as apply does."""
    template = folder / "template.img"
    known = []

    def change(mode=0o400):
        known.append((fingerprint_at(str(template)),))
        os.chmod(template, mode)
        assert known[-1] != (fingerprint_at(str(template)),)
        write_sidecar(template, {}, earlier=tuple(known))

    return change


def reusing(of, older):
    said = []
    return make_plan(of, jobs=1, earlier=EarlierResults(None, older, said.append)), said[0]


@pytest.mark.parametrize("changes", [1, 2])
def test_an_older_plan_counts_across_our_own_protection(folder, protect, changes):
    older = make_plan(manifest(folder), jobs=1)
    between = None
    for mode in (0o400, 0o440)[:changes]:
        protect(mode)
        between = between or make_plan(manifest(folder), jobs=1)
    for earlier in (older, between):
        plan, said = reusing(manifest(folder), earlier)
        assert said.startswith("Reusing the results of 3 of 3 guests")
        assert checksum(plan) == fresh(manifest(folder))


@pytest.mark.parametrize("what", ["touched", "written", "moved"])
def test_any_other_change_of_the_template_counts(folder, protect, what):
    older = make_plan(manifest(folder), jobs=1)
    protect()
    template = folder / "template.img"
    match what:
        case "touched":
            os.utime(template)
        case "written":
            with template.open("r+b") as file:
                file.write(b"x")
        case "moved":
            content = template.read_bytes()
            os.rename(template, folder / "aside")
            template.write_bytes(content)
    assert "the template has changed" in reusing(manifest(folder), older)[1]


def test_device_numbers_mean_nothing(folder):
    """After a reboot they are others."""

    def elsewhere(image):
        prints = tuple(dataclasses.replace(each, device=each.device + 1) for each in image.fingerprints)
        return dataclasses.replace(image, fingerprints=prints)

    older = make_plan(manifest(folder), jobs=1)
    parts = tuple(dataclasses.replace(part, image=elsewhere(part.image)) for part in older.guests)
    moved = dataclasses.replace(older, template=elsewhere(older.template), guests=parts)
    plan, said = reusing(manifest(folder), moved)
    assert said.startswith("Reusing the results of 3 of 3 guests")
    assert checksum(plan) == checksum(older)


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_template_that_changes_while_it_is_scanned(folder, protect, is_ours):
    """Another plan on it is applied meanwhile, which is no reason to throw a scan of hours away."""
    changes = [lambda: protect() if is_ours else os.chmod(folder / "template.img", 0o400)]

    def progress(_done, _total):
        while changes:
            changes.pop()()

    if is_ours:
        plan = make_plan(manifest(folder), jobs=1, progress=progress)
        assert [guest.verdict for guest in plan.guests] == [Verdict.CONVERT] * 3
    else:
        with pytest.raises(ImageError, match="the template changed while the plan was being made"):
            make_plan(manifest(folder), jobs=1, progress=progress)


class Stopped(BaseException):
    pass


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_scan_that_was_stopped_goes_on_across_our_own_protection(folder, protect, is_ours):
    done = []

    def stop(at, _total):
        done.append(at)
        if len(done) > 3:
            raise Stopped

    def planned(**options):
        said = []
        with closing(Checkpoint(str(folder / "p.json"), warn=said.append, begin_after=0.0)) as checkpoint:
            earlier = EarlierResults(checkpoint, None, said.append)
            return make_plan(manifest(folder), jobs=1, earlier=earlier, **options), said

    with pytest.raises(Stopped):
        planned(progress=stop)
    if is_ours:
        protect()
    else:
        os.chmod(folder / "template.img", 0o400)
    plan, said = planned()
    assert any("Resuming an interrupted scan" in text for text in said) is is_ours
    assert checksum(plan) == fresh(manifest(folder))


def done_guests(folder):
    """The manifest, all of its guests converted."""
    of = manifest(folder)
    entries = tuple(dataclasses.replace(each, converted=OverlayOrigin(each.name, PLAN)) for each in of.guests)
    return dataclasses.replace(of, guests=entries)


def test_guests_that_are_done_are_neither_opened_nor_scanned(folder, monkeypatch):
    of = done_guests(folder)
    for name in ("one.img", "two.img"):
        os.unlink(folder / name)
    digest = make_plan(of, jobs=1).template_digest
    assert digest.startswith("xxh3")
    write_sidecar(folder / "template.img", {})
    monkeypatch.setattr(one_range.Scanner, "__init__", None)
    plan = make_plan(of, jobs=1)
    assert plan.template_digest == "digest", "the sidecar's word for the template, which need not be read"
    assert [(guest.verdict, guest.image, guest.diff) for guest in plan.guests] == [(Verdict.SKIP, None, None)] * 3
    assert all(is_done(guest.reason) for guest in plan.guests)
    assert plan.totals.skip == 3


@pytest.mark.parametrize("why", ["changed", "empty", "guest"])
def test_the_sidecars_digest_is_not_taken(folder, why):
    of = done_guests(folder)
    prints = (fingerprint_at(str(folder / "template.img")),)
    digest = make_plan(of, jobs=1).template_digest
    if why == "changed":
        prints = (dataclasses.replace(prints[0], ctime_ns=1),)
    path = write_sidecar(folder / "template.img", {}, prints=prints)
    if why == "empty":
        path.write_text(path.read_text().replace('"digest": "digest"', '"digest": ""'))
    if why == "guest":
        of = dataclasses.replace(of, guests=(*of.guests[:2], manifest(folder).guests[2]))
    assert make_plan(of, jobs=1).template_digest == digest


def test_the_reason_names_the_plan(folder):
    plan = make_plan(manifest(folder), jobs=1)
    assert [plan_in(guest.reason) for guest in plan.guests] == [""] * 3
    assert plan_in("done by /a/b.json") == "/a/b.json"
    assert plan_in("/a/b.json") == plan_in("done by an earlier plan") == plan_in("it is done by /a") == ""
    assert EarlierPlans().reason(OverlayOrigin("x", PLAN)) == "done by an earlier plan, whose file was not found"
    assert not is_done("it is already an overlay of this template")


def test_an_overlay_in_the_guests_place_that_no_sidecar_knows(folder):
    """As before: it is seen that it is one, but not who made it."""
    os.unlink(folder / "one.img")
    put_overlay(folder / "one.img", folder / "template.img")
    of = manifest(folder, ("one.img",))
    entry = dataclasses.replace(of.guests[0], overlay_path=str(folder / "one.img"))
    (guest,) = make_plan(dataclasses.replace(of, guests=(entry,)), jobs=1).guests
    assert guest.verdict is Verdict.SKIP
    assert guest.reason.startswith(
        "it is already an overlay of this template; `rethin: true`, with `format: qcow2`,"
    )


def test_known_states():
    one, two, three = ((number,) for number in range(3))  # any values that compare

    class Recorded:
        fingerprints, earlier = two, (one,)

    assert is_known_state(one, one, None)
    assert not is_known_state(one, two, None)
    assert is_known_state(one, two, Recorded)
    assert not is_known_state(two, one, Recorded), "the sidecar knows nothing of what follows"
    assert not is_known_state(three, two, Recorded)
    assert not is_known_state(one, three, Recorded)
    assert first_state(two, Recorded) == one
    assert first_state(three, Recorded) == three
    assert first_state(two, None) == two
