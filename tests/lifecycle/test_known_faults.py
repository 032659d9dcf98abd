"""The failures that were known when the life-cycle test was written, each as a short history of its own.

Hypothesis finds most of them by itself within some hundred histories; here each is caught for certain.
"""

from __future__ import annotations

import os

import admin
import promises
import pytest
import verbs
from commands import rarely
from running import Kill
from world import OTHER, PLAN, World

WEB, DB, APP = "web01.img", "db01.qcow2", "app01.img"


@pytest.fixture
def world(pool):
    return World(pool)


def converted(world: World, *files: str, retire: str = "quarantine", style: str = "paths") -> str:
    """Guests that are planned and applied; the plan's path."""
    guests = [world.add_guest(file) for file in files]
    plan = planned(world, *(guest.name for guest in guests), style=style)
    applied(world, plan, retire)
    return plan


def planned(world: World, *names: str, output: str = PLAN, style: str = "paths") -> str:
    done = verbs.plan(world, list(names), output=output, style=style)
    assert done.code == 0, done.said
    return world.plan_path(output)


def applied(world: World, plan: str, retire: str) -> None:
    promises.apply(world, verbs.apply(world, plan, retire))


def act(world: World, action, *arguments) -> None:
    action(world, *arguments)
    world.settle()
    world.check()


def only_vm(world: World):
    return world.vms[0]


def write(world: World, vm=None, letter: int = 77) -> None:
    act(world, admin.write, vm or only_vm(world), 700, 128, letter)


def restored(world: World, plan: str, *, expect: int | None = None, **options):
    done = verbs.execute(world, verbs.restore(world, plan, **options))
    assert expect in {None, done.code}, done.said
    return done


def purged(world: World, plan: str, **options):
    return verbs.execute(world, verbs.purge(world, plan, **options))


# ---- 1: what a VM sees now is the truth


@pytest.mark.parametrize("retire", ["quarantine", "delete"])
@pytest.mark.parametrize("file", [WEB, DB, APP])
@pytest.mark.parametrize("action", [admin.compact, admin.transfer])
def test_an_overlay_that_was_used_and_made_again(world, action, file, retire):
    converted(world, file, retire=retire)
    write(world)
    act(world, action, only_vm(world))
    guest = only_vm(world).guest
    assert promises.can_be_restored(world, guest)
    promises.restore_somehow(world, guest)


def test_an_overlay_that_was_used_and_came_back_from_a_backup(world):
    converted(world, WEB)
    write(world)
    act(world, admin.back_up, only_vm(world))
    write(world, letter=78)
    act(world, admin.from_backup, only_vm(world), "in place")
    promises.restore_somehow(world, only_vm(world).guest)


@pytest.mark.parametrize("how", ["convert", "rebase"])
def test_an_overlay_that_was_used_and_flattened(world, how):
    plan = converted(world, WEB)
    write(world)
    act(world, admin.flatten, only_vm(world), how)
    restored(world, plan)


@pytest.mark.parametrize("file", [WEB, APP])
def test_an_overlay_that_was_moved_away(world, file):
    plan = converted(world, file)
    write(world)
    act(world, admin.move, only_vm(world))
    restored(world, plan)
    if not os.path.exists(only_vm(world).guest.overlay):
        act(world, admin.move_back, only_vm(world))
    promises.restore_somehow(world, only_vm(world).guest)


def test_an_overlay_that_is_lost(world):
    """Only the old state is left, and it comes back if somebody says so."""
    plan = converted(world, WEB)
    write(world)
    act(world, admin.lose, only_vm(world))
    assert restored(world, plan).code != 0
    purged(world, plan, used=True)
    restored(world, plan, discard=True, expect=0)
    assert only_vm(world).disk == only_vm(world).guest.path


def test_the_older_state_on_purpose(world):
    plan = converted(world, WEB)
    write(world)
    restored(world, plan, discard=True, expect=0)
    assert only_vm(world).truth == only_vm(world).guest.old


def test_kept_and_used(world):
    """Only people know which of the two to keep."""
    plan = converted(world, WEB, retire="keep")
    write(world)
    assert restored(world, plan).code == 1
    assert only_vm(world).guest.published
    restored(world, plan, discard=True, expect=0)


# ---- 2: the guards


@pytest.mark.parametrize("retire", ["keep", "quarantine", "delete"])
@pytest.mark.parametrize("what", ["snapshots", "bitmaps"])
def test_snapshots_and_bitmaps_in_an_overlay(world, what, retire):
    plan = converted(world, DB, retire=retire)
    act(world, admin.snapshot if what == "snapshots" else admin.bitmap, only_vm(world))
    restored(world, plan)
    assert only_vm(world).guest.published
    restored(world, plan, allow=frozenset({what}), expect=0)


@pytest.mark.parametrize("retire", ["quarantine", "delete"])
@pytest.mark.parametrize("steps", [4, -1])
@pytest.mark.parametrize("file", ["web02.img", DB, APP])
def test_an_overlay_that_was_resized(world, file, steps, retire):
    converted(world, file, retire=retire)
    act(world, admin.resize, only_vm(world), steps)
    promises.restore_somehow(world, only_vm(world).guest)


# ---- 3: dependents


@pytest.mark.parametrize("how", ["absolute", "relative", "symlink"])
@pytest.mark.parametrize("retire", ["quarantine", "delete"])
@pytest.mark.parametrize("file", [WEB, DB, APP])
def test_a_linked_clone_made_after_planning(world, file, retire, how):
    world.add_guest(file)
    plan = planned(world, only_vm(world).name)
    act(world, admin.clone, only_vm(world), how)
    applied(world, plan, retire)


@pytest.mark.parametrize("how", ["absolute", "relative", "symlink"])
@pytest.mark.parametrize("retire", ["keep", "quarantine", "delete"])
def test_an_external_snapshot_on_an_overlay(world, retire, how):
    plan = converted(world, WEB, retire=retire)
    act(world, admin.external, only_vm(world), how)
    write(world)
    restored(world, plan, discard=True)
    act(world, admin.commit, only_vm(world))
    if retire != "keep":
        promises.restore_somehow(world, only_vm(world).guest)


# ---- 4: identity


@pytest.mark.parametrize("used", [False, True])
def test_other_device_numbers(world, used):
    plan = converted(world, WEB, DB, APP)
    if used:
        for vm in list(world.vms):
            write(world, vm)
    act(world, admin.remount)
    promises.verify(world, verbs.verify(world, plan))
    web, db, app = (vm.guest for vm in world.vms)
    promises.restore_somehow(world, web)
    promises.purge_somehow(world, db)
    promises.restore_somehow(world, app)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("retire", ["quarantine", "delete"])
def test_killed_then_other_device_numbers(world, retire, number):
    world.add_guest(APP)
    plan = planned(world, "app01")
    command = verbs.apply(world, plan, retire)
    verbs.execute(world, command, kill=Kill("renameat2", number))
    act(world, admin.remount)
    verbs.execute(world, command)
    world.unsettled.clear()
    world.check()
    promises.restore_somehow(world, only_vm(world).guest)


@pytest.mark.parametrize("how", admin.TOUCHES)
def test_a_template_that_was_only_touched(world, how):
    world.add_guest(WEB)
    plan = planned(world, "web01")
    act(world, admin.touch_template, how)
    applied(world, plan, "quarantine")
    act(world, admin.touch_template, how)
    promises.verify(world, verbs.verify(world, plan))
    promises.restore_somehow(world, only_vm(world).guest)


def test_a_template_that_changed_and_came_back(world):
    plan = converted(world, WEB, DB)
    write(world, world.vms[1])
    act(world, admin.change_template, 3)
    promises.verify(world, verbs.verify(world, plan))
    for one in ("web01", "db01"):
        assert restored(world, plan, guest=one).code != 0
        purged(world, plan, guest=one, used=True)
    act(world, admin.bring_template_back)
    promises.verify(world, verbs.verify(world, plan))
    promises.restore_somehow(world, world.guests["web01"])
    promises.restore_somehow(world, world.guests["db01"])


def test_a_guest_whose_mode_alone_changed(world):
    world.add_guest(WEB)
    plan = planned(world, "web01")
    act(world, admin.chmod, only_vm(world))
    applied(world, plan, "quarantine")


# ---- 6: the next plan, a lost journal


@pytest.mark.parametrize("style", ["globs", "paths", "open"])
def test_a_plan_over_the_quarantine(world, style):
    """The nightly recipe: the same manifest is planned again, with a new guest."""
    converted(world, WEB, style=style)
    write(world)
    world.add_guest("web02.img")
    names = ["web02"] if style == "open" else ["web01", "web02"]
    verbs.plan(world, names, output=PLAN, style=style)
    if os.path.exists(world.plan_path(PLAN)):
        verbs.execute(world, verbs.apply(world, world.plan_path(PLAN), "quarantine"))
    promises.restore_somehow(world, world.guests["web01"])


@pytest.mark.parametrize("style", ["globs", "paths"])
def test_more_guests_a_month_later(world, style):
    """Guests that are done are no error, and the new ones are converted."""
    converted(world, WEB, DB, APP, style=style)
    for vm in list(world.vms):
        write(world, vm)
    world.add_guest("web02.img")
    plan = planned(world, *world.guests, output=OTHER, style=style)
    applied(world, plan, "quarantine")
    for guest in list(world.guests.values()):
        assert guest.published
        promises.restore_somehow(world, guest)


def test_a_second_plan_on_one_template(world):
    world.add_guest(WEB), world.add_guest(DB)
    one, two = planned(world, "web01"), planned(world, "db01", output=OTHER)
    applied(world, one, "quarantine")
    applied(world, two, "delete")
    promises.restore_somehow(world, world.guests["web01"])
    promises.restore_somehow(world, world.guests["db01"])


@pytest.mark.parametrize("retire", ["keep", "quarantine", "delete"])
@pytest.mark.parametrize("file", [WEB, DB, APP])
def test_a_lost_journal(world, file, retire):
    if file == APP and retire == "keep":
        retire = "quarantine"
    plan = converted(world, file, retire=retire)
    if retire != "keep":
        write(world)
    act(world, admin.lose_journal, plan)
    verbs.execute(world, verbs.status(world, plan))
    only_vm(world).guest.marks.clear()
    promises.restore_somehow(world, only_vm(world).guest)


# ---- 9: dead ends


def test_purge_when_vms_have_run(world):
    """That is the normal life of a quarantine."""
    plan = converted(world, WEB, DB)
    write(world)
    done = purged(world, plan)
    assert done.code == 0, done.said
    assert os.path.exists(world.guests["web01"].quarantine)
    assert not os.path.exists(world.guests["db01"].quarantine)
    promises.purge_somehow(world, world.guests["web01"])


@pytest.mark.parametrize("retire", ["keep", "quarantine", "delete"])
@pytest.mark.parametrize("file", [WEB, APP])
def test_apply_after_a_purge(world, file, retire):
    if file == APP and retire == "keep":
        retire = "delete"
    plan = converted(world, file)
    assert purged(world, plan).code == 0
    for use in (False, True):
        if use:
            write(world)
        done = verbs.execute(world, verbs.apply(world, plan, retire))
        assert done.code == 0, done.said
    promises.restore_somehow(world, only_vm(world).guest)


@pytest.mark.parametrize("file", [WEB, DB, APP])
def test_applied_again_after_the_restore_of_a_used_overlay(world, file):
    """The older original is still in quarantine; it can go, and then all begins anew."""
    plan = converted(world, file)
    write(world)
    promises.restore_somehow(world, only_vm(world).guest)
    guest = only_vm(world).guest
    done = verbs.plan(world, [guest.name], output=OTHER)
    assert done.code in {0, 1}, done.said  # it may say that the older original is in the way
    verbs.execute(world, verbs.apply(world, world.plan_path(OTHER), "quarantine"))
    if not guest.published:
        assert purged(world, plan, used=True).code == 0
        assert not os.path.exists(guest.quarantine)
        promises.plan(world, [guest.name], output=OTHER, style="paths")
        applied(world, world.plan_path(OTHER), "quarantine")
    promises.restore_somehow(world, guest)


@pytest.mark.parametrize("retire", ["quarantine", "delete"])
def test_verify_of_a_running_vm(world, retire):
    plan = converted(world, WEB, DB, retire=retire)
    write(world)
    done = verbs.execute(world, verbs.verify(world, plan), running=only_vm(world))
    assert done.code == 0, done.said


# ---- 6: a pool that moved


@pytest.mark.parametrize("relative", [False, True])
def test_a_pool_that_moved(pool, relative):
    world = World(pool, relative=relative)
    plan = converted(world, WEB, DB, APP)
    write(world)
    act(world, admin.move_pool)
    plan = world.plan_path(PLAN)
    promises.status(world, verbs.status(world, plan))
    promises.verify(world, verbs.verify(world, plan))
    for guest in list(world.guests.values())[:2]:
        promises.restore_somehow(world, guest)
    promises.purge_somehow(world, world.guests["app01"])


# ---- found by hypothesis, in the code that mended those above


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("retire", ["keep", "quarantine", "delete"])
@pytest.mark.parametrize("file", [WEB, APP, *rarely(DB)])
def test_two_plans_of_one_guest(world, file, retire, begun):
    """What another plan has put into quarantine is nothing that an apply which died has left."""
    guest = world.add_guest(file)
    world.add_guest("app02.qcow2")
    one, two = planned(world, guest.name, "app02"), planned(world, guest.name, output=OTHER)
    if begun:
        verbs.execute(world, verbs.apply(world, one, "quarantine"), running=only_vm(world))
    applied(world, two, "quarantine")
    verbs.execute(world, verbs.apply(world, one, retire))
    assert os.path.exists(guest.quarantine) or retire == "delete"
    promises.restore_somehow(world, guest)


@pytest.mark.parametrize("file", [WEB, DB, APP])
def test_lost_overlay_and_journal(world, file):
    """An overlay that is missing is not unused, even if only the sidecar knows of it."""
    plan = converted(world, file)
    write(world)
    act(world, admin.lose, only_vm(world))
    act(world, admin.lose_journal, plan)
    for retire in ("keep", "quarantine", "delete"):
        verbs.execute(world, verbs.apply(world, plan, retire))
    restored(world, plan, discard=True, expect=0)


@pytest.mark.parametrize("verb", ["apply", "purge", "restore"])
@pytest.mark.parametrize("file", [WEB, DB, APP])
def test_original_removed_from_quarantine_by_hand(world, file, verb):
    plan = converted(world, file)
    act(world, admin.remove_aside, only_vm(world).guest.quarantine)
    for command in (
        verbs.apply(world, plan, "quarantine"),
        verbs.apply(world, plan, "delete"),
        verbs.purge(world, plan),
        verbs.purge(world, plan, used=True),
        verbs.apply(world, plan, "quarantine"),
        verbs.restore(world, plan),
    ):
        verbs.execute(world, command)


@pytest.mark.parametrize("discard", [False, True])
@pytest.mark.parametrize("file", [WEB, DB, APP])
def test_restored_by_another_plan(world, file, discard):
    """What the first plan knows of its overlay is not so any longer."""
    guest = world.add_guest(file)
    world.add_guest("app02.qcow2")
    one, two = planned(world, guest.name, "app02"), planned(world, guest.name, output=OTHER)
    verbs.execute(world, verbs.apply(world, two, "quarantine"), running=only_vm(world))
    applied(world, one, "quarantine")
    restored(world, two, discard=discard)
    verbs.execute(world, verbs.apply(world, one, "quarantine"))
    if guest.published:
        promises.restore_somehow(world, guest)


@pytest.mark.parametrize("verb", ["keep", "quarantine", "delete", "restore", "purge"])
@pytest.mark.parametrize("how", ["by hand", "by another plan"])
@pytest.mark.parametrize("file", [WEB, APP, *rarely(DB, "app02.qcow2")])
def test_an_original_that_is_back_without_our_knowing(world, file, how, verb):
    """It is not the overlay, although a qcow2 image stands where the overlay stood."""
    guest = world.add_guest(file)
    one, two = planned(world, guest.name), planned(world, guest.name, output=OTHER)
    applied(world, one, "quarantine")
    if how == "by hand":
        write(world)
        act(world, admin.take_back, only_vm(world))
    else:
        restored(world, two)
    command = {"restore": verbs.restore, "purge": verbs.purge}.get(verb)
    verbs.execute(world, verbs.apply(world, one, verb) if command is None else command(world, one))
