"""The order and the selection of guests. Guards report/order.py."""

import pytest
from plans import guest_plan, refused_guest, savings

from batchdiff.choices import Verdict
from batchdiff.report.form import Order
from batchdiff.report.order import chosen, in_order
from batchdiff.units import GIB, MIB

WEB2 = guest_plan("web2", savings=savings(4 * GIB, 100 * MIB))
WEB10 = guest_plan("web10", savings=savings(10 * GIB, 9 * GIB))
DB = guest_plan("db", savings=savings(GIB, MIB), verdict=Verdict.SKIP, reason="small")
LOST = refused_guest("lost")
ALL = [LOST, WEB10, DB, WEB2]


@pytest.mark.parametrize(
    ("order", "names"),
    [
        (Order.NAME, ["db", "lost", "web2", "web10"]),
        (Order.SAVED, ["web2", "web10", "db", "lost"]),
        (Order.SHARE, ["db", "web2", "web10", "lost"]),
        (Order.ALLOCATED, ["web10", "web2", "db", "lost"]),
        (Order.OVERLAY, ["web10", "web2", "db", "lost"]),
    ],
)
def test_orders(order, names):
    assert [guest.name for guest in in_order(ALL, order)] == names


def test_equal_guests_keep_their_order():
    twins = [guest_plan("b"), guest_plan("a")]
    assert in_order(twins, Order.SAVED) == twins


def test_names_with_numbers_of_both_kinds():
    names = ["a1b", "a", "1a", "a01", "b", "2"]
    guests = [guest_plan(name) for name in names]
    assert [guest.name for guest in in_order(guests, Order.NAME)] == ["1a", "2", "a", "a01", "a1b", "b"]


def test_nothing_allocated():
    assert in_order([guest_plan("empty", savings=savings(0, 0))], Order.SHARE)


def test_selection():
    assert chosen(ALL, []) == ALL
    assert chosen(ALL, [Verdict.SKIP]) == [DB]
    assert chosen(ALL, [Verdict.REFUSE, Verdict.SKIP]) == [LOST, DB]
