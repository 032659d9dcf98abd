import shlex

import pytest

from batchdiff.applying.guests.commands import command, commands, commands_for


def words(text):
    assert text.startswith("`")
    assert text.endswith("`")
    return shlex.split(text[1:-1])


def test_the_plan_at_hand_and_where_images_have_moved():
    with commands_for("/images/my plan.json", ["/old pool=/new pool"]):
        moved = ["--map", "/old pool=/new pool"]
        found = words(command("restore", "web 01", "--discard-changes"))
        plan = "/images/my plan.json"
        assert found == ["batchdiff", "restore", plan, *moved, "--guest", "web 01", "--discard-changes"]
        assert words(commands("status", [])) == ["batchdiff", "status", plan, *moved]
        assert words(command("apply", "web")) == ["batchdiff", "apply", plan, "--guest", "web"]  # it has no --map
    assert words(command("apply", "web")) == ["batchdiff", "apply", "PLAN", "--guest", "web"]
    assert command("apply", "-web 01") == "`batchdiff apply PLAN --guest='-web 01'`"


def test_many_guests_are_all_of_the_plan():
    assert words(commands("restore", [f"g{number}" for number in range(6)])) == ["batchdiff", "restore", "PLAN"]


@pytest.mark.parametrize("option", ["--used", "--discard-changes"])
def test_what_is_discarded_is_named_however_many_guests(option):
    """Without the names, the changes of all other guests would be lost, too."""
    guests = [f"g{number}" for number in range(100)]
    found = words(commands("restore", guests, option))
    assert found[3:-1] == [word for guest in guests for word in ("--guest", guest)]
