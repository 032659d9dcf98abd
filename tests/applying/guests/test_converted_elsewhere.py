"""Guests that another plan has converted: it is named, with the command to run."""

from __future__ import annotations

import plans
import pytest

from batchdiff.applying.guests.converted_elsewhere import done_elsewhere, require_done_here
from batchdiff.choices import Verdict
from batchdiff.errors import UsageError


def skipped(name, reason):
    return plans.guest_plan(name, verdict=Verdict.SKIP, reason=reason)


PLAN = plans.small_plan(
    plans.guest_plan("web01"),
    skipped("web02", "done by /srv/old plan.json"),
    skipped("web03", "done by /srv/old plan.json"),
    skipped("web04", "done by /srv/older.json"),
    skipped("web05", "done by an earlier plan, whose file was not found"),
    skipped("web06", "it would save 3.1%"),
)


@pytest.mark.parametrize("names", [None, [], ["web01"], ["web01", "web05", "web06"]])
def test_guests_of_this_plan_or_of_one_that_is_not_known(names):
    require_done_here(PLAN, names, "restore")


def test_guests_of_other_plans():
    with pytest.raises(UsageError) as caught:
        require_done_here(PLAN, ["web04", "web01", "web03", "web02"], "purge")
    assert caught.value.what == "this plan did not convert web02, web03 and web04"
    assert "web02 was converted by /srv/old plan.json" in caught.value.why
    assert caught.value.remedy == (
        "Run `batchdiff purge '/srv/old plan.json' --guest web02 --guest web03` and `batchdiff purge"
        " /srv/older.json --guest web04`."
    )


def test_a_name_that_begins_with_a_hyphen():
    with pytest.raises(UsageError) as caught:
        require_done_here(plans.small_plan(skipped("-web", "done by /srv/old.json")), ["-web"], "purge")
    assert caught.value.remedy == "Run `batchdiff purge /srv/old.json --guest=-web`."


def test_the_plans_that_have_done_it_are_named():
    one, two = skipped("web01", "done by /srv/older plan.json"), skipped("web02", "done by /srv/old.json")
    command = "`batchdiff purge '/srv/older plan.json' --guest NAME`"
    expected = f"An earlier plan has converted 1 of this plan's guests. For that guest, run {command}."
    assert done_elsewhere(plans.small_plan(one), "purge") == expected
    both = f"{command} or `batchdiff purge /srv/old.json --guest NAME`"
    expected = f"Earlier plans have converted 2 of this plan's guests. For those guests, run {both}."
    assert done_elsewhere(plans.small_plan(one, two), "purge") == expected
    assert not done_elsewhere(plans.small_plan(), "purge")
